/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * After conflicts: the names that took part are compared once more.
 *
 * Questions and restatements (restate.c) make two trees equal name by name while both go on to
 * change, with crashes in between; what a hard link or a rename of something above a name does to
 * that is easily missed. So the node that does not decide remembers each name that it asked for or
 * was told of. Once nothing is under way in either direction it asks again, with a digest of what
 * stands there (OP_COMPARE): where the other node finds the same, it has nothing to say. What it
 * says replaces what is here, which goes into the vault first.
 *
 * The digest is of what stat(2) and readlink(2) tell, not of the bytes: two versions of one size
 * and mtime (ns) were written by one writer.
 *
 * In memory only, and for REVIEW_MAX names: what a crash or a larger conflict takes away is left to
 * verify and resync.
 */

#include "receiver.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/log.h"
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>
#include <xxhash.h>

#define REVIEW_MAX 4096

/* ---- the names ---- */

static bool is_known_locked(const struct replica *r, const char *path, bool deep)
{
	const struct ask *a;

	DL_FOREACH (r->reviews, a)
		if ((a->deep || !deep) && strcmp(a->path, path) == 0)
			return true;
	return false;
}

void review_add_locked(struct replica *r, const char *path, bool deep)
{
	struct ask *a;

	if (!path[0] || r->n_reviews >= REVIEW_MAX || is_known_locked(r, path, deep))
		return;
	a = calloc(1, sizeof(*a));
	if (!a || !(a->path = strdup(path))) {
		free(a);
		log_warning("no memory to compare %s again", path);
		return;
	}
	a->deep = deep;
	DL_APPEND(r->reviews, a);
	r->n_reviews++;
}

static void drop_locked(struct replica *r, struct ask *a)
{
	DL_DELETE(r->reviews, a);
	r->n_reviews--;
	free(a->path);
	free(a);
}

void review_clear_locked(struct replica *r)
{
	while (r->reviews)
		drop_locked(r, r->reviews);
}

void review_follow_locked(struct replica *r, const char *from, const char *to)
{
	struct ask *a, *last = r->reviews ? r->reviews->prev : NULL;

	DL_FOREACH (r->reviews, a) {
		_cleanup_free_ char *path =
			confine_below(a->path, from) ? confine_moved(a->path, from, to) : NULL;

		if (path)
			review_add_locked(r, path, a->deep);
		if (a == last)
			break;
	}
}

bool review_is_open(struct replica *r)
{
	const struct ask *a;
	bool open = false;

	(void)pthread_mutex_lock(&r->lock);
	DL_FOREACH (r->asks, a)
		open = open || a->compare;
	(void)pthread_mutex_unlock(&r->lock);
	return open;
}

void review_told(struct replica *r, const struct op *op)
{
	if (op->type == OP_SETATTR || op->type == OP_SETXATTR || review_is_open(r))
		return;
	(void)pthread_mutex_lock(&r->lock);
	review_add_locked(r, op->path, false);
	if (op->type == OP_LINK)
		review_add_locked(r, op->path2, false);
	(void)pthread_mutex_unlock(&r->lock);
}

/* ---- digests ---- */

struct facts {
	uint32_t mode, uid, gid, links;
	uint64_t size, mtime, rdev, target;
};

static uint64_t target_of(int root, const char *path)
{
	_cleanup_close_ int fd = confine_open(root, path, O_PATH | O_NOFOLLOW, 0);
	char target[4096];
	ssize_t n = fd < 0 ? -1 : readlinkat(fd, "", target, sizeof(target));

	return n < 0 ? 0 : XXH64(target, (size_t)n, 0);
}

/* Of the name alone. The order in which they are added up does not matter. */
static uint64_t digest_name(struct replica *r, const char *path, const struct stat *st)
{
	struct facts f = {.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.mtime = (uint64_t)clock_ns_of(&st->st_mtim)};

	if (!S_ISDIR(st->st_mode)) {
		f.links = (uint32_t)st->st_nlink;
		f.size = (uint64_t)st->st_size;
		f.rdev = st->st_rdev;
	}
	if (S_ISLNK(st->st_mode))
		f.target = target_of(r->root, path);
	return XXH64(path, strlen(path), XXH64(&f, sizeof(f), 0));
}

struct sum {
	struct replica *r;
	uint64_t digest;
};

static int add_tree(void *ctx, const char *path);

static int add_at(struct sum *sum, const char *path, bool deep)
{
	struct stat st;
	int e = confine_stat(sum->r->root, path, &st);

	if (e < 0)
		return e == -ENOENT || e == -ENOTDIR ? 0 : e;
	sum->digest += digest_name(sum->r, path, &st);
	return deep && S_ISDIR(st.st_mode) ? confine_each(sum->r->root, path, add_tree, sum) : 0;
}

static int add_tree(void *ctx, const char *path)
{
	return add_at(ctx, path, true);
}

static int add_name(void *ctx, const char *path)
{
	return add_at(ctx, path, false);
}

int review_digest(struct replica *r, const char *path, bool deep, uint64_t *ret)
{
	struct sum sum = {.r = r};
	int e = add_at(&sum, path, deep);

	if (e == 0)
		e = restate_each_above(path, add_name, &sum);
	if (e == 0)
		*ret = sum.digest;
	return e;
}

/* ---- what differs ---- */

static bool is_kept(struct replica *r, const char *path, const struct stat *st)
{
	struct vault_entry *list;
	bool found = false;
	size_t n;

	if (vault_list(r->vault, &list, &n) < 0)
		return false;
	for (size_t i = 0; i < n && !found; i++)
		found = strcmp(list[i].path, path) == 0 && list[i].mode == st->st_mode &&
			list[i].mtime == clock_ns_of(&st->st_mtim) &&
			(!S_ISREG(st->st_mode) || list[i].size == (uint64_t)st->st_size);
	vault_list_free(list, n);
	return found;
}

int review_keep(struct receiver *v, const char *path, const struct stat *st, uint64_t other)
{
	struct replica *r = v->replica;
	struct keep k = {.path = path, .winner = v->sender.name, .other = other, .leaves = true};

	if (!review_is_open(r) || is_kept(r, path, st))
		return 0;
	return keep_version(r, &k);
}

/* ---- when all is quiet ---- */

static bool is_quiet_locked(const struct replica *r)
{
	if (r->asks || r->dirty)
		return false;
	for (size_t i = 0; i < r->n_peers; i++)
		if (!r->peers[i].is_plain &&
			position_contiguous(&r->peers[i].applied) < atomic_load(&r->last_local))
			return false;
	return true;
}

static char *take(struct replica *r, bool *ret_deep)
{
	struct ask *a;
	char *path = NULL;

	(void)pthread_mutex_lock(&r->lock);
	a = r->reviews;
	if (a) {
		path = steal_pointer(&a->path);
		*ret_deep = a->deep;
		drop_locked(r, a);
	}
	(void)pthread_mutex_unlock(&r->lock);
	return path;
}

static int ask_again(struct replica *r)
{
	int e = 0;

	for (unsigned i = 0; i < REVIEW_MAX && e == 0; i++) {
		bool deep;
		_cleanup_free_ char *path = take(r, &deep);
		uint64_t digest;

		if (!path)
			break;
		e = review_digest(r, path, deep, &digest);
		if (e == 0)
			e = replica_compare(r, path, deep, digest);
	}
	return e;
}

void review_turn(struct receiver *v)
{
	struct replica *r = v->replica;
	bool quiet, decides = strcmp(r->node.id, v->origin->id) < 0;
	int e = 0;

	(void)pthread_mutex_lock(&r->lock);
	if (decides)
		review_clear_locked(r);
	quiet = r->reviews && is_quiet_locked(r);
	(void)pthread_mutex_unlock(&r->lock);
	if (!quiet)
		return;
	tree_lock(r->tree, TREE_RENAME);
	(void)pthread_mutex_lock(&r->lock);
	quiet = is_quiet_locked(r);
	(void)pthread_mutex_unlock(&r->lock);
	if (quiet)
		e = ask_again(r);
	tree_unlock(r->tree);
	if (e < 0)
		log_warning(
			"names that took part in conflicts cannot be compared: %s", strerror(-e));
}
