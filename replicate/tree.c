/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tree.h"
#include "base/confine.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

/*
 * DESIGN: a reader-writer lock whose waiting writers go first (glibc's default lets renames starve
 * under a steady stream of changes), and 64 mutexes that stand for all names, chosen by a hash of
 * the path's text. The stripes of one change are collected as bits and locked from the lowest up,
 * so two changes cannot wait for each other; two names that fall on one stripe merely wait.
 *
 * Because waiting writers go first, a thread must not lock the tree twice: its second lock could
 * wait for a rename that waits for its first.
 */

struct tree {
	pthread_rwlock_t lock;
	pthread_mutex_t stripes[TREE_STRIPES]; /* a name's parent and presence; under lock */
};

int tree_new(struct tree **ret)
{
	struct tree *t = calloc(1, sizeof(*t));
	pthread_rwlockattr_t attr;
	int r;

	if (!t)
		return -ENOMEM;
	r = pthread_rwlockattr_init(&attr);
	if (r == 0) {
		/* The plain PREFER_WRITER is the default in disguise, see its manual page. */
		(void)pthread_rwlockattr_setkind_np(
			&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
		r = pthread_rwlock_init(&t->lock, &attr);
		(void)pthread_rwlockattr_destroy(&attr);
	}
	if (r) {
		free(t);
		return -r;
	}
	for (int i = 0; i < TREE_STRIPES; i++)
		(void)pthread_mutex_init(&t->stripes[i], NULL); /* never fails without attributes */
	*ret = t;
	return 0;
}

void tree_free(struct tree *t)
{
	if (!t)
		return;
	for (int i = 0; i < TREE_STRIPES; i++)
		(void)pthread_mutex_destroy(&t->stripes[i]);
	(void)pthread_rwlock_destroy(&t->lock);
	free(t);
}

void tree_lock(struct tree *t, enum tree_mode mode)
{
	if (mode == TREE_RENAME)
		(void)pthread_rwlock_wrlock(&t->lock);
	else
		(void)pthread_rwlock_rdlock(&t->lock);
}

void tree_unlock(struct tree *t)
{
	(void)pthread_rwlock_unlock(&t->lock);
}

static uint64_t stripe_bit(const char *path, size_t len)
{
	return 1ull << (XXH3_64bits(path, len) % TREE_STRIPES);
}

static uint64_t stripe_bits(const char *path)
{
	return stripe_bit(path, strlen(path)) | stripe_bit(path, confine_parent_len(path));
}

void tree_guard(struct tree *t, const char *path, const char *path2, struct tree_guard *ret)
{
	uint64_t bits = stripe_bits(path) | (path2 ? stripe_bits(path2) : 0);

	for (uint64_t left = bits; left; left &= left - 1)
		(void)pthread_mutex_lock(&t->stripes[__builtin_ctzll(left)]);
	*ret = (struct tree_guard){.tree = t, .held = bits};
}

void tree_unguard(struct tree_guard *g)
{
	for (uint64_t left = g->held; left; left &= left - 1)
		(void)pthread_mutex_unlock(&g->tree->stripes[__builtin_ctzll(left)]);
	g->held = 0;
}
