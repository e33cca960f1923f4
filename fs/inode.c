/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "inode.h"
#include "handle.h"
#include "lost_version.h"
#include "replicate/base/cleanup.h"
#include "replicate/content.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/*
 * DESIGN: three hashes over the same objects: by node id (what the kernel sends), by device and
 * number (what the backing file system says), and names by parent and text. A name holds its
 * parent, so a path can be built from any inode that has one. An inode is freed when neither the
 * kernel nor a handler nor a handle nor a name below it refers to it; its own names go with it.
 *
 * Node ids are a counter. A file system that reuses its inode numbers therefore cannot make the
 * kernel take a new file for an old one: deletion removes the key, and a handle that differs under
 * the same number shows a deletion that was made behind our back.
 */

struct inode_table {
	int root;
	struct inode *top; /* the root's inode */
	_Atomic uint64_t epoch;
	pthread_mutex_t lock;
	struct inode *by_id; /* these, and what the structs say; guarded by lock */
	struct inode *by_key;
	struct name *by_name;
	uint64_t next_id;
};

struct name_key {
	size_t len;
	union {
		struct {
			uint64_t parent_id;
			char text[TANDEMFS_NAME_MAX];
		};
		char bytes[sizeof(uint64_t) + TANDEMFS_NAME_MAX];
	};
};

static int name_key(const struct inode *parent, const char *text, size_t len, struct name_key *ret)
{
	if (len > TANDEMFS_NAME_MAX)
		return -ENAMETOOLONG;
	ret->len = sizeof(uint64_t) + len;
	ret->parent_id = parent->id;
	memcpy(ret->text, text, len);
	return 0;
}

static struct name *name_find(
	struct inode_table *t, const struct inode *parent, const char *text, size_t len)
{
	struct name_key key;
	struct name *n;

	if (name_key(parent, text, len, &key) < 0)
		return NULL;
	HASH_FIND(hh, t->by_name, key.bytes, key.len, n);
	return n;
}

static void inode_put(struct inode_table *t, struct inode *i);

/* Takes the name from its child; the child itself stays. Lock held. */
static void name_remove(struct inode_table *t, struct name *n)
{
	struct name **p = &n->child->names;

	while (*p != n)
		p = &(*p)->next;
	*p = n->next;
	HASH_DEL(t->by_name, n);
	n->parent->refs--;
	inode_put(t, n->parent);
	free(n);
}

static int name_insert(
	struct inode_table *t, struct inode *parent, const char *text, struct inode *child)
{
	size_t len = strlen(text);
	struct name *n = name_find(t, parent, text, len);

	if (n && n->child == child)
		return 0;
	if (n)
		name_remove(t, n);
	if (len > TANDEMFS_NAME_MAX)
		return -ENAMETOOLONG;
	while (child->type == S_IFDIR && child->names)
		name_remove(t, child->names); /* moved behind our back */
	n = calloc(1, sizeof(*n) + len + 1);
	if (!n)
		return -ENOMEM;
	n->parent = parent;
	n->child = child;
	n->len = len;
	n->parent_id = parent->id;
	memcpy(n->text, text, len);
	HASH_ADD(hh, t->by_name, parent_id, sizeof(uint64_t) + len, n);
	if (!n->hh.tbl) {
		free(n);
		return -ENOMEM;
	}
	n->next = child->names;
	child->names = n;
	parent->refs++;
	return 0;
}

static void inode_unkey(struct inode_table *t, struct inode *i)
{
	if (!i->keyed)
		return;
	HASH_DELETE(hh_key, t->by_key, i);
	i->keyed = false;
}

/* Frees the inode if nothing refers to it any more. Lock held. */
static void inode_put(struct inode_table *t, struct inode *i)
{
	if (i->nlookup || i->refs || i == t->top)
		return;
	while (i->names) {
		struct name *n = i->names;

		i->names = n->next;
		HASH_DEL(t->by_name, n);
		n->parent->refs--;
		inode_put(t, n->parent);
		free(n);
	}
	inode_unkey(t, i);
	HASH_DELETE(hh_id, t->by_id, i);
	dirty_free(i->dirty);
	lost_version_free(i->lost);
	(void)pthread_mutex_destroy(&i->lock);
	free(i);
}

static struct inode *inode_alloc(const struct stat *st, const struct fid *fid)
{
	struct inode *i = calloc(1, sizeof(*i) + fid->len);

	if (!i)
		return NULL;
	(void)pthread_mutex_init(&i->lock, NULL);
	i->key = (struct inode_key){.dev = st->st_dev, .ino = st->st_ino};
	i->type = st->st_mode & S_IFMT;
	i->fid_type = fid->type;
	i->fid_len = fid->len;
	memcpy(i->fid_bytes, fid->bytes, fid->len);
	return i;
}

/* Lock held. Takes over @i, or frees it. */
static int inode_insert(struct inode_table *t, struct inode *i)
{
	i->id = ++t->next_id;
	HASH_ADD(hh_id, t->by_id, id, sizeof(i->id), i);
	if (!i->hh_id.tbl)
		goto fail;
	HASH_ADD(hh_key, t->by_key, key, sizeof(i->key), i);
	if (!i->hh_key.tbl) {
		HASH_DELETE(hh_id, t->by_id, i);
		goto fail;
	}
	i->keyed = true;
	return 0;
fail:
	(void)pthread_mutex_destroy(&i->lock);
	free(i);
	return -ENOMEM;
}

static bool inode_is(const struct inode *i, const struct stat *st, const struct fid *fid)
{
	return i->type == (st->st_mode & S_IFMT) && i->fid_len == fid->len &&
	       i->fid_type == fid->type && memcmp(i->fid_bytes, fid->bytes, fid->len) == 0;
}

/* The inode with this identity, found or new. Lock held. */
static int inode_get(
	struct inode_table *t, const struct stat *st, const struct fid *fid, struct inode **ret)
{
	struct inode_key key = {.dev = st->st_dev, .ino = st->st_ino};
	struct inode *i;
	int r;

	HASH_FIND(hh_key, t->by_key, &key, sizeof(key), i);
	if (i && !inode_is(i, st, fid)) {
		inode_unkey(t, i);
		i = NULL;
	}
	if (!i) {
		i = inode_alloc(st, fid);
		if (!i)
			return -ENOMEM;
		r = inode_insert(t, i);
		if (r < 0)
			return r;
	}
	*ret = i;
	return 0;
}

/* Handles of what is mounted below the backing directory cannot be opened through the root. */
static int identity(struct inode_table *t, int fd, struct stat *ret_stat, struct fid *ret_fid)
{
	if (fstat(fd, ret_stat) < 0)
		return -errno;
	if (t->top && ret_stat->st_dev != t->top->key.dev) {
		ret_fid->len = 0;
		ret_fid->type = 0;
		ret_fid->ino = ret_stat->st_ino;
		return 0;
	}
	return fid_of_fd(fd, ret_fid);
}

int inode_table_new(int root, struct inode_table **ret)
{
	struct inode_table *t = calloc(1, sizeof(*t));
	struct stat st;
	struct fid fid;
	int r;

	if (!t)
		return -ENOMEM;
	t->root = root;
	t->epoch = 1;
	(void)pthread_mutex_init(&t->lock, NULL);
	r = identity(t, root, &st, &fid);
	if (r == 0)
		r = inode_get(t, &st, &fid, &t->top);
	if (r < 0) {
		(void)pthread_mutex_destroy(&t->lock);
		free(t);
		return r;
	}
	*ret = t;
	return 0;
}

void inode_table_free(struct inode_table *t)
{
	struct inode *i, *next_inode;
	struct name *n, *next_name;

	if (!t)
		return;
	HASH_ITER (hh, t->by_name, n, next_name) {
		HASH_DEL(t->by_name, n);
		free(n);
	}
	HASH_CLEAR(hh_key, t->by_key);
	HASH_ITER (hh_id, t->by_id, i, next_inode) {
		HASH_DELETE(hh_id, t->by_id, i);
		handles_close(i);
		dirty_free(i->dirty);
		lost_version_free(i->lost);
		(void)pthread_mutex_destroy(&i->lock);
		free(i);
	}
	(void)pthread_mutex_destroy(&t->lock);
	free(t);
}

struct inode *inode_root(struct inode_table *t)
{
	return t->top;
}

struct inode *inode_find(struct inode_table *t, uint64_t id)
{
	struct inode *i;

	if (id == t->top->id)
		return t->top;
	(void)pthread_mutex_lock(&t->lock);
	HASH_FIND(hh_id, t->by_id, &id, sizeof(id), i);
	(void)pthread_mutex_unlock(&t->lock);
	return i;
}

uint64_t inode_epoch(struct inode_table *t)
{
	return t->epoch;
}

void inode_epoch_advance(struct inode_table *t)
{
	t->epoch++;
}

int inode_enter(struct inode_table *t, struct inode *parent, const char *name, int fd,
	uint64_t epoch, struct stat *ret_stat, struct inode **ret)
{
	struct fid fid;
	struct inode *i;
	int r = identity(t, fd, ret_stat, &fid);

	if (r < 0)
		return r;
	(void)pthread_mutex_lock(&t->lock);
	r = epoch && epoch != t->epoch ? -EAGAIN : inode_get(t, ret_stat, &fid, &i);
	if (r == 0) {
		i->nlookup++;
		r = parent ? name_insert(t, parent, name, i) : 0;
		if (r < 0) {
			i->nlookup--;
			inode_put(t, i);
		}
	}
	(void)pthread_mutex_unlock(&t->lock);
	if (r == 0)
		*ret = i;
	return r;
}

void inode_forget(struct inode_table *t, struct inode *i, uint64_t n)
{
	(void)pthread_mutex_lock(&t->lock);
	i->nlookup -= n < i->nlookup ? n : i->nlookup;
	inode_put(t, i);
	(void)pthread_mutex_unlock(&t->lock);
}

void inode_pin(struct inode_table *t, struct inode *i)
{
	(void)pthread_mutex_lock(&t->lock);
	i->refs++;
	(void)pthread_mutex_unlock(&t->lock);
}

void inode_unpin(struct inode_table *t, struct inode *i)
{
	if (!i)
		return;
	(void)pthread_mutex_lock(&t->lock);
	i->refs--;
	inode_put(t, i);
	(void)pthread_mutex_unlock(&t->lock);
}

/* Writes "/TEXT" before @at, the text's end being at @at; NULL when there is no room. */
static char *path_prepend(char *start, char *at, const char *text, size_t len)
{
	if ((size_t)(at - start) < len + 1)
		return NULL;
	at -= len;
	memcpy(at, text, len);
	*--at = '/';
	return at;
}

int inode_path(
	struct inode_table *t, struct inode *i, const char *name, char dst[TANDEMFS_PATH_MAX + 1])
{
	char *end = dst + TANDEMFS_PATH_MAX, *at = end;
	int r = 0;

	if (name)
		at = path_prepend(dst, at, name, strlen(name));
	(void)pthread_mutex_lock(&t->lock);
	for (; at && i != t->top; i = i->names->parent) {
		if (!i->names) {
			r = -ENOENT;
			break;
		}
		at = path_prepend(dst, at, i->names->text, i->names->len);
	}
	(void)pthread_mutex_unlock(&t->lock);
	if (r < 0)
		return r;
	if (!at)
		return -ENAMETOOLONG;
	if (at < end)
		at++; /* the first slash */
	memmove(dst, at, (size_t)(end - at));
	dst[end - at] = 0;
	return 0;
}

struct inode *inode_child(struct inode_table *t, struct inode *parent, const char *name)
{
	struct inode *i = NULL;
	struct name *n;

	(void)pthread_mutex_lock(&t->lock);
	n = name_find(t, parent, name, strlen(name));
	if (n) {
		i = n->child;
		i->refs++;
	}
	(void)pthread_mutex_unlock(&t->lock);
	return i;
}

struct inode *inode_by_path(struct inode_table *t, const char *path)
{
	struct inode *i = t->top;

	(void)pthread_mutex_lock(&t->lock);
	while (i && *path) {
		size_t len = strcspn(path, "/");
		struct name *n = name_find(t, i, path, len);

		i = n ? n->child : NULL;
		path += len;
		path += *path == '/';
	}
	if (i)
		i->refs++;
	(void)pthread_mutex_unlock(&t->lock);
	return i;
}

/* The inode open at @fd as @name in @parent, pinned instead of looked up. */
static int inode_enter_pinned(
	struct inode_table *t, struct inode *parent, const char *name, int fd, struct inode **ret)
{
	struct stat st;
	int r = inode_enter(t, parent, name, fd, 0, &st, ret);

	if (r < 0)
		return r;
	inode_pin(t, *ret);
	inode_forget(t, *ret, 1);
	return 0;
}

int inode_resolve(struct inode_table *t, const char *path, struct inode **ret)
{
	struct inode *i = t->top;
	char prefix[TANDEMFS_PATH_MAX + 1], name[TANDEMFS_NAME_MAX + 1];
	size_t done = 0;
	int r;

	inode_pin(t, i);
	while (path[done]) {
		size_t start = done + (done > 0), len = strcspn(path + start, "/");
		struct inode *child;

		if (len > TANDEMFS_NAME_MAX || start + len > TANDEMFS_PATH_MAX) {
			inode_unpin(t, i);
			return -ENAMETOOLONG;
		}
		memcpy(name, path + start, len);
		name[len] = 0;
		done = start + len;
		child = inode_child(t, i, name);
		if (!child) {
			_cleanup_close_ int fd = -1;

			memcpy(prefix, path, done);
			prefix[done] = 0;
			fd = confine_open(t->root, prefix, O_PATH, 0);
			r = fd < 0 ? fd : inode_enter_pinned(t, i, name, fd, &child);
			if (r < 0) {
				inode_unpin(t, i);
				return r;
			}
		}
		inode_unpin(t, i);
		i = child;
	}
	*ret = i;
	return 0;
}

struct inode *inode_by_ino(struct inode_table *t, uint64_t dev, uint64_t ino)
{
	struct inode_key key = {.dev = dev, .ino = ino};
	struct inode *i;

	(void)pthread_mutex_lock(&t->lock);
	HASH_FIND(hh_key, t->by_key, &key, sizeof(key), i);
	if (i)
		i->refs++;
	(void)pthread_mutex_unlock(&t->lock);
	return i;
}

int inode_name_add(
	struct inode_table *t, struct inode *parent, const char *name, struct inode *child)
{
	int r;

	(void)pthread_mutex_lock(&t->lock);
	r = name_insert(t, parent, name, child);
	(void)pthread_mutex_unlock(&t->lock);
	return r;
}

/* Takes a name away and keeps its child, which the caller puts. Lock held. */
static struct inode *name_take(struct inode_table *t, struct inode *parent, const char *name)
{
	struct name *n = name_find(t, parent, name, strlen(name));
	struct inode *child;

	if (!n)
		return NULL;
	child = n->child;
	child->refs++;
	name_remove(t, n);
	return child;
}

static void name_untake(struct inode_table *t, struct inode *child)
{
	if (!child)
		return;
	child->refs--;
	inode_put(t, child);
}

void inode_name_drop(struct inode_table *t, struct inode *parent, const char *name)
{
	(void)pthread_mutex_lock(&t->lock);
	name_untake(t, name_take(t, parent, name));
	(void)pthread_mutex_unlock(&t->lock);
}

int inode_name_move(struct inode_table *t, struct inode *parent, const char *name,
	struct inode *parent2, const char *name2)
{
	struct inode *child, *over;
	int r = 0;

	(void)pthread_mutex_lock(&t->lock);
	child = name_take(t, parent, name);
	over = name_take(t, parent2, name2);
	if (child)
		r = name_insert(t, parent2, name2, child);
	name_untake(t, over);
	name_untake(t, child);
	(void)pthread_mutex_unlock(&t->lock);
	return r;
}

int inode_name_swap(struct inode_table *t, struct inode *parent, const char *name,
	struct inode *parent2, const char *name2)
{
	struct inode *a, *b;
	int r = 0, r2 = 0;

	(void)pthread_mutex_lock(&t->lock);
	a = name_take(t, parent, name);
	b = name_take(t, parent2, name2);
	if (a)
		r = name_insert(t, parent2, name2, a);
	if (b)
		r2 = name_insert(t, parent, name, b);
	name_untake(t, a);
	name_untake(t, b);
	(void)pthread_mutex_unlock(&t->lock);
	return r < 0 ? r : r2;
}

void inode_detach(struct inode_table *t, struct inode *i)
{
	(void)pthread_mutex_lock(&t->lock);
	inode_unkey(t, i);
	(void)pthread_mutex_unlock(&t->lock);
}

void inode_fid(const struct inode *i, struct fid *ret)
{
	*ret = (struct fid){.ino = i->key.ino, .type = i->fid_type, .len = i->fid_len};
	memcpy(ret->bytes, i->fid_bytes, i->fid_len);
}

/* Once more through the descriptor of somebody who has it open. */
static int open_by_descriptor(struct inode *i, int flags)
{
	char path[32];
	int fd = -ESTALE;

	(void)pthread_mutex_lock(&i->lock);
	if (i->handles) {
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", i->handles->fd);
		fd = open(path, flags | O_CLOEXEC);
		if (fd < 0)
			fd = -errno;
	}
	(void)pthread_mutex_unlock(&i->lock);
	return fd;
}

static int open_by_path(struct inode_table *t, struct inode *i, int flags)
{
	char path[TANDEMFS_PATH_MAX + 1];
	struct stat st;
	int fd, r = inode_path(t, i, NULL, path);

	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	fd = confine_open(t->root, path, flags, 0);
	if (fd < 0)
		return fd == -ENOENT ? -ESTALE : fd;
	r = fstat(fd, &st) < 0 ? -errno : 0;
	if (r == 0 && (st.st_ino != i->key.ino || st.st_dev != i->key.dev))
		r = -ESTALE;
	if (r == 0)
		return fd;
	(void)close(fd);
	return r;
}

int inode_open(struct inode_table *t, struct inode *i, int flags)
{
	int fd = -ESTALE;

	if (i->fid_len)
		fd = fid_open_handle(
			t->root, i->fid_type, i->fid_bytes, i->fid_len, flags | O_NOFOLLOW);
	if (fd == -ESTALE)
		fd = open_by_descriptor(i, flags);
	if (fd == -ESTALE)
		fd = open_by_path(t, i, flags);
	return fd;
}

size_t inode_count(struct inode_table *t)
{
	size_t n;

	(void)pthread_mutex_lock(&t->lock);
	n = HASH_CNT(hh_id, t->by_id);
	(void)pthread_mutex_unlock(&t->lock);
	return n;
}
