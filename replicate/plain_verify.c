/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * `tandemfs verify` with a plain peer: names, types, sizes, mtimes to the second, modes and the
 * targets of links, by listings; its server computes no digests of ours. What it cannot be given
 * (owners, devices) is no difference.
 *
 * The walk is done once; what differs is looked at again by the caller, path by path.
 */

#include "plain_verify.h"

#include "base/cleanup.h"
#include "base/confine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

struct there {
	UT_hash_handle hh;
	struct stat st;
	char *name; /* owned */
};

struct listing {
	struct there *table;
	bool failed; /* no memory */
};

static void listing_clear(struct listing *l)
{
	struct there *t, *next;

	HASH_ITER (hh, l->table, t, next) {
		HASH_DEL(l->table, t);
		free(t->name);
		free(t);
	}
}
#define _cleanup_listing_ _cleanup_(listing_clear)

static void take(void *ctx, const char *name, const struct stat *st)
{
	struct listing *l = ctx;
	struct there *t = calloc(1, sizeof(*t));

	if (!t || !(t->name = strdup(name))) {
		free(t);
		l->failed = true;
		return;
	}
	t->st = *st;
	HASH_ADD_KEYPTR(hh, l->table, t->name, strlen(t->name), t);
}

/* @name in the directory @dir of the tree. */
static char *join(const char *dir, const char *name)
{
	char *path;

	return asprintf(&path, "%s%s%s", dir, dir[0] ? "/" : "", name) < 0 ? NULL : path;
}

static char *name_there(const struct plain_verify *v, const char *path)
{
	char *there;

	return asprintf(&there, "%s%s%s", v->there, path[0] ? "/" : "", path) < 0 ? NULL : there;
}

static bool is_absent(int error)
{
	return error == -ENOENT || error == -ENOTDIR || error == -ELOOP;
}

static bool is_carried(mode_t mode)
{
	return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode);
}

static int compare_links(const struct plain_verify *v, const char *path, const char **ret_what)
{
	_cleanup_close_ int fd = confine_open(v->root, path, O_PATH, 0);
	_cleanup_free_ char *there = name_there(v, path), *target = NULL;
	char here[4096];
	ssize_t len = fd < 0 ? -1 : readlinkat(fd, "", here, sizeof(here) - 1);
	int r;

	if (!there)
		return -ENOMEM;
	if (len < 0)
		return 0; /* gone by now */
	here[len] = '\0';
	r = v->remote->ops->readlink(v->remote, there, &target);
	if (r == 0 && strcmp(here, target) != 0)
		*ret_what = "target";
	return r;
}

/* NULL in *ret_what when they are the same. */
static int compare(const struct plain_verify *v, const char *path, const struct stat *here,
	const struct stat *there, const char **ret_what)
{
	bool owned = here->st_uid == there->st_uid && here->st_gid == there->st_gid;
	mode_t bits = owned || S_ISDIR(here->st_mode) ? 07777 : 01777;

	*ret_what = NULL;
	if ((here->st_mode & S_IFMT) != (there->st_mode & S_IFMT))
		*ret_what = "type";
	else if (S_ISLNK(here->st_mode))
		return compare_links(v, path, ret_what);
	else if (S_ISREG(here->st_mode) && here->st_size != there->st_size)
		*ret_what = "size";
	else if (path[0] && (uint32_t)here->st_mtim.tv_sec != (uint32_t)there->st_mtim.tv_sec)
		*ret_what = "mtime";
	else if (path[0] && (here->st_mode ^ there->st_mode) & bits)
		*ret_what = "mode";
	return 0;
}

int plain_verify_path(const struct plain_verify *v, const char *path, const char **ret_what)
{
	_cleanup_free_ char *full = name_there(v, path);
	struct stat here, there;
	int r = confine_stat(v->root, path, &here), e;

	*ret_what = NULL;
	if (!full)
		return -ENOMEM;
	if (r < 0 && !is_absent(r))
		return r;
	e = v->remote->ops->stat(v->remote, full, &there);
	if (e < 0 && e != -ENOENT)
		return e;
	if (r < 0 || !is_carried(here.st_mode)) {
		*ret_what = e == 0 ? "only there" : NULL;
		return 0;
	}
	if (e < 0) {
		*ret_what = "only here";
		return 0;
	}
	return compare(v, path, &here, &there, ret_what);
}

static int walk(struct plain_verify *v, const char *dir);

static int compare_name(struct plain_verify *v, const char *path, struct there *t)
{
	const char *what = NULL;
	struct stat here;
	int r = confine_stat(v->root, path, &here);

	if (r < 0)
		return is_absent(r) ? 0 : r;
	v->done++;
	if (!is_carried(here.st_mode))
		return 0;
	if (!t)
		what = "only here";
	else
		r = compare(v, path, &here, &t->st, &what);
	if (r == 0 && what)
		v->found(v->ctx, path, what);
	if (r == 0 && t && S_ISDIR(here.st_mode) && S_ISDIR(t->st.st_mode))
		r = walk(v, path);
	return r;
}

static int walk_names(struct plain_verify *v, const char *dir, DIR *here, struct listing *l)
{
	struct dirent *entry;
	int r = 0;

	while (r == 0 && (errno = 0, entry = readdir(here))) {
		const char *name = entry->d_name;
		_cleanup_free_ char *path = join(dir, name);
		struct there *t;

		if (!path)
			return -ENOMEM;
		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
			strcmp(path, TANDEMFS_DIR) == 0)
			continue;
		HASH_FIND_STR(l->table, name, t);
		r = compare_name(v, path, t);
		if (t) {
			HASH_DEL(l->table, t);
			free(t->name);
			free(t);
		}
		if (r == 0)
			r = v->go_on(v->ctx, v->done);
	}
	return r < 0 ? r : -errno;
}

static int report_rest(struct plain_verify *v, const char *dir, const struct listing *l)
{
	struct there *t, *next;

	HASH_ITER (hh, l->table, t, next) {
		_cleanup_free_ char *path = join(dir, t->name);

		if (!path)
			return -ENOMEM;
		if (strcmp(path, TANDEMFS_DIR) != 0)
			v->found(v->ctx, path, "only there");
	}
	return 0;
}

static int walk(struct plain_verify *v, const char *dir)
{
	_cleanup_free_ char *there = name_there(v, dir);
	_cleanup_listing_ struct listing l = {0};
	_cleanup_closedir_ DIR *here = NULL;
	int r;

	if (!there)
		return -ENOMEM;
	r = v->remote->ops->scan(v->remote, there, take, &l);
	if (r < 0)
		return r == -ENOENT ? 0 : r; /* gone by now */
	if (l.failed)
		return -ENOMEM;
	r = confine_opendir(v->root, dir, &here);
	if (r < 0)
		return is_absent(r) ? 0 : r;
	r = walk_names(v, dir, here, &l);
	return r < 0 ? r : report_rest(v, dir, &l);
}

int plain_verify_tree(struct plain_verify *v)
{
	return walk(v, "");
}
