/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "lost_name.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/clock.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <utlist.h>

/*
 * DESIGN: a walk over the directories that compares inode numbers, without any lock; what it finds
 * is entered under the locks of that path, or the walk is made again when somebody was quicker.
 * Directories are opened by path one after the other, so the walk needs one descriptor whatever the
 * depth. How many links the inode had when no name was found is kept with it: a hard link outside
 * the root is looked for once and not at each write.
 */

#define TRIES 3
#define LIMIT_MS 20000

struct todo {
	struct todo *next;
	char path[]; /* of a directory, from the root */
};

struct walk {
	struct mount *m;
	const struct inode_key *key;
	struct todo *todo;
	uint64_t end_ms;
	char found[TANDEMFS_PATH_MAX + 1];
};

static int walk_push(struct walk *w, const char *path)
{
	struct todo *t = malloc(sizeof(*t) + strlen(path) + 1);

	if (!t)
		return -ENOMEM;
	(void)stpcpy(t->path, path);
	LL_PREPEND(w->todo, t);
	return 0;
}

/* The path of an entry; false when it is too long to have been replicated. */
static bool join(const char *dir, const char *name, char dst[TANDEMFS_PATH_MAX + 1])
{
	return snprintf(dst, TANDEMFS_PATH_MAX + 1, "%s%s%s", dir, *dir ? "/" : "", name) <=
	       TANDEMFS_PATH_MAX;
}

static bool is_dir(DIR *d, const struct dirent *e)
{
	struct stat st;

	if (e->d_type != DT_UNKNOWN)
		return e->d_type == DT_DIR;
	return fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* 1: found, 0: go on, or -errno. */
static int walk_entry(struct walk *w, DIR *d, const char *dir, const struct dirent *e)
{
	char path[TANDEMFS_PATH_MAX + 1];

	if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		(!*dir && strcmp(e->d_name, TANDEMFS_DIR) == 0) || !join(dir, e->d_name, path))
		return 0;
	if (is_dir(d, e))
		return walk_push(w, path);
	if (e->d_ino != w->key->ino)
		return 0;
	(void)stpcpy(w->found, path);
	return 1;
}

static int walk_dir(struct walk *w, const char *path)
{
	_cleanup_close_ int fd = confine_open(w->m->root, path, O_RDONLY | O_DIRECTORY, 0);
	_cleanup_closedir_ DIR *d = NULL;
	struct dirent *e;
	struct stat st;
	int r = 0;

	/* gone meanwhile, or another file system: no link of ours */
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_dev != w->key->dev)
		return 0;
	d = fdopendir(fd);
	if (!d)
		return -errno;
	(void)steal_fd(&fd);
	while (r == 0 && (e = readdir(d)))
		r = walk_entry(w, d, path, e);
	return r;
}

/* 1: w->found, 0: none, or -errno. */
static int walk(struct walk *w)
{
	int r = walk_push(w, "");

	while (w->todo) {
		struct todo *t = w->todo;

		LL_DELETE(w->todo, t);
		if (r == 0 && clock_mono_ms() > w->end_ms)
			r = -ETIMEDOUT;
		if (r == 0)
			r = walk_dir(w, t->path);
		free(t);
	}
	return r;
}

/* Whether @path was that inode's and is known as such now. */
static bool adopt(struct mount *m, const struct inode *i, const char *path)
{
	struct tree_guard guard;
	struct inode *there = NULL;
	bool same;

	tree_lock(m->tree, TREE_CHANGE);
	tree_guard(m->tree, path, NULL, &guard);
	same = inode_resolve(m->inodes, path, &there) == 0 && there == i;
	tree_unguard(&guard);
	tree_unlock(m->tree);
	inode_unpin(m->inodes, there);
	return same;
}

static int search(struct mount *m, struct inode *i)
{
	struct walk w = {.m = m, .key = &i->key, .end_ms = clock_mono_ms() + LIMIT_MS};
	int r = 0;

	for (int tries = 0; tries < TRIES; tries++) {
		r = walk(&w);
		if (r <= 0)
			break;
		if (adopt(m, i, w.found))
			return 0;
	}
	return r < 0 ? r : -ENOENT;
}

/* Links that it has and that were not looked for before. */
static nlink_t links_unknown(struct mount *m, struct inode *i)
{
	_cleanup_close_ int fd = inode_open(m->inodes, i, O_PATH);
	struct stat st;
	bool known;

	if (fd < 0 || fstat(fd, &st) < 0)
		return 0;
	(void)pthread_mutex_lock(&i->lock);
	known = i->orphan || i->links_searched == st.st_nlink;
	(void)pthread_mutex_unlock(&i->lock);
	return known ? 0 : st.st_nlink;
}

void lost_name_find(struct mount *m, struct inode *i)
{
	char path[TANDEMFS_PATH_MAX + 1];
	nlink_t links;
	int r;

	if (inode_path(m->inodes, i, NULL, path) != -ENOENT || S_ISDIR(i->type))
		return;
	links = links_unknown(m, i);
	if (!links)
		return;
	r = search(m, i);
	if (r == 0)
		return;
	(void)pthread_mutex_lock(&i->lock);
	i->links_searched = links;
	(void)pthread_mutex_unlock(&i->lock);
	log_warning(
		"inode %ju is changed, and none of its %ju names was found (%s): the change stays "
		"on this server",
		(uintmax_t)i->key.ino, (uintmax_t)links, strerror(-r));
}
