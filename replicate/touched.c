/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "touched.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

struct name {
	UT_hash_handle hh;
	bool below; /* all below it as well */
	char path[];
};

struct touched {
	atomic_bool on;
	pthread_mutex_t lock;
	/* guarded by lock */
	struct name *names;
	bool lost; /* a name could not be kept */
};

struct touched *touched_new(void)
{
	struct touched *t = calloc(1, sizeof(*t));

	if (t)
		(void)pthread_mutex_init(&t->lock, NULL);
	return t;
}

static void forget_locked(struct touched *t)
{
	struct name *n, *next;

	HASH_ITER (hh, t->names, n, next) {
		HASH_DEL(t->names, n);
		free(n);
	}
	t->lost = false;
}

void touched_free(struct touched *t)
{
	if (!t)
		return;
	forget_locked(t);
	(void)pthread_mutex_destroy(&t->lock);
	free(t);
}

static void set(struct touched *t, bool on)
{
	(void)pthread_mutex_lock(&t->lock);
	forget_locked(t);
	atomic_store(&t->on, on);
	(void)pthread_mutex_unlock(&t->lock);
}

void touched_begin(struct touched *t)
{
	set(t, true);
}

void touched_end(struct touched *t)
{
	set(t, false);
}

static void add_locked(struct touched *t, const char *path, bool below)
{
	size_t len = strlen(path);
	struct name *n;

	HASH_FIND(hh, t->names, path, len, n);
	if (!n) {
		n = calloc(1, sizeof(*n) + len + 1);
		t->lost |= !n;
		if (!n)
			return;
		memcpy(n->path, path, len);
		HASH_ADD_KEYPTR(hh, t->names, n->path, len, n);
	}
	n->below |= below;
}

void touched_add(struct touched *t, const struct op *op)
{
	bool rename = op->type == OP_RENAME;

	if (!atomic_load(&t->on))
		return;
	(void)pthread_mutex_lock(&t->lock);
	add_locked(t, op->path, rename);
	if (rename || op->type == OP_LINK)
		add_locked(t, op->path2, rename);
	(void)pthread_mutex_unlock(&t->lock);
}

static const struct name *find_locked(const struct touched *t, const char *path, size_t len)
{
	struct name *n;

	HASH_FIND(hh, t->names, path, len, n);
	return n;
}

bool touched_has(struct touched *t, const char *path)
{
	const struct name *n;
	bool found;

	(void)pthread_mutex_lock(&t->lock);
	found = t->lost || find_locked(t, path, strlen(path));
	for (const char *p = strchr(path, '/'); p && !found; p = strchr(p + 1, '/')) {
		n = find_locked(t, path, (size_t)(p - path));
		found = n && n->below;
	}
	(void)pthread_mutex_unlock(&t->lock);
	return found;
}
