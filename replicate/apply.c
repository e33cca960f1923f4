/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "apply.h"

#include "apply_steps.h"
#include "base/cleanup.h"
#include "base/confine.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/*
 * DESIGN: one function per type of op (apply_names.c, apply_rename.c, apply_attr.c,
 * apply_content.c), one table here.
 *
 * What an op makes is put together in scratch, with its owner, mode, xattrs and times, and then
 * renamed into place: nobody sees it half made, a default ACL or a setgid bit of the directory
 * where it goes has no effect on it, and a crash leaves either all of it or nothing. Scratch is out
 * of reach of everybody else. What a crash leaves there is the owner's of scratch to remove, after
 * the op that was in flight was done again.
 *
 * The mtime of a parent is read before the change and set after it, since the change itself sets it
 * to now. The locks of the paths, which include the parents', keep others out between.
 */

static const struct {
	apply_fn *apply;
	bool on_root;  /* may be applied to the root itself */
	bool may_void; /* OP_GONE makes it nothing */
} appliers[OP_TYPE_END] = {
	[OP_MKNOD] = {apply_mknod, false, false},
	[OP_MKDIR] = {apply_mkdir, false, false},
	[OP_SYMLINK] = {apply_symlink, false, false},
	[OP_LINK] = {apply_link, false, true},
	[OP_UNLINK] = {apply_unlink, false, false},
	[OP_RMDIR] = {apply_rmdir, false, false},
	[OP_RENAME] = {apply_rename, false, false},
	[OP_SETATTR] = {apply_setattr, true, true},
	[OP_SETXATTR] = {apply_setxattr, true, true},
	[OP_REMOVEXATTR] = {apply_removexattr, true, true},
	[OP_CONTENT] = {apply_content, false, true},
	[OP_FSYNC] = {apply_fsync, true, true},
};

/* The state of what a void op names, for the result. */
static int look(int root, const char *path, struct stat *ret)
{
	int r = confine_stat(root, path, ret);

	if (r < 0)
		*ret = (struct stat){0};
	return r == -ENOENT || r == -ENOTDIR ? 0 : r;
}

static bool has_second_path(const struct op *op)
{
	return op->type == OP_LINK || op->type == OP_RENAME;
}

static int check_paths(const struct op *op, bool on_root)
{
	int r;

	if (!op->path || (has_second_path(op) && !op->path2))
		return -EINVAL;
	r = confine_check(op->path, on_root);
	if (r == 0 && has_second_path(op))
		r = confine_check(op->path2, false);
	return r;
}

int op_apply(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	struct apply_result result = {0};
	struct stat st;
	int r;

	if (op->type <= 0 || op->type >= OP_TYPE_END || !appliers[op->type].apply)
		return -EINVAL;
	r = check_paths(op, appliers[op->type].on_root);
	if (r < 0)
		return r;
	if (op->flags & OP_GONE && appliers[op->type].may_void) {
		r = look(t->root, has_second_path(op) ? op->path2 : op->path, &st);
		if (r == 0)
			result_same(&result, &st);
	} else {
		r = appliers[op->type].apply(t, op, &result);
	}
	if (r < 0)
		return r;
	result.new_inode = result.before.st_ino && result.after.st_ino &&
			   result.before.st_ino != result.after.st_ino;
	*ret = result;
	return 0;
}

/* Whether the inode at @path is @fid: 1, 0 (another or none) or -errno. */
static int stands_at(int root, const char *path, const struct fid *fid)
{
	struct fid there;
	int r = fid_of_path(root, path, &there);

	if (r == -ENOENT || r == -ENOTDIR)
		return 0;
	return r < 0 ? r : fid_equal(&there, fid);
}

static int exists(int root, const char *path)
{
	struct stat st;
	int r = look(root, path, &st);

	return r < 0 ? r : st.st_ino != 0;
}

static int is_made(int root, const struct op *op)
{
	_cleanup_place_ struct place p = PLACE_NONE;
	char text[TANDEMFS_PATH_MAX + 1];
	ssize_t n;
	int r;

	r = place_open(root, op->path, &p);
	if (r < 0)
		return r == -ENOENT || r == -ENOTDIR ? 0 : r;
	if (op->type == OP_CREATE)
		return S_ISREG(p.st.st_mode);
	if (op->type == OP_MKDIR)
		return S_ISDIR(p.st.st_mode);
	if (op->type == OP_MKNOD)
		return p.st.st_ino && (p.st.st_mode & S_IFMT) == (op->mode & S_IFMT) &&
		       p.st.st_rdev == op->rdev;
	if (!S_ISLNK(p.st.st_mode))
		return 0;
	n = readlinkat(p.dir, p.name, text, sizeof(text));
	if (n < 0)
		return -errno;
	return (size_t)n == strlen(op->path2) && memcmp(text, op->path2, (size_t)n) == 0;
}

static int is_removed(int root, const struct op *op)
{
	int r = op->fid.ino ? stands_at(root, op->path, &op->fid) : exists(root, op->path);

	return r < 0 ? r : !r;
}

static int is_linked(int root, const struct op *op)
{
	struct stat a, b;
	int r;

	if (op->fid.ino)
		return stands_at(root, op->path2, &op->fid);
	r = look(root, op->path, &a);
	if (r == 0)
		r = look(root, op->path2, &b);
	return r < 0 ? r : a.st_ino && a.st_ino == b.st_ino;
}

static int is_renamed(int root, const struct op *op)
{
	int from, to;

	if (op->fid.ino)
		return stands_at(root, op->path2, &op->fid);
	if (op->flags & OP_EXCHANGE && !(op->flags & OP_GONE))
		return 0;
	from = exists(root, op->path);
	if (from != 0)
		return from < 0 ? from : 0;
	to = exists(root, op->path2);
	if (to < 0)
		return to;
	/* What was gone at the sender removed what stood at path2. */
	return op->flags & OP_GONE ? !to : to;
}

int op_applied(int root, const struct op *op)
{
	switch (op->type) {
	case OP_CREATE:
	case OP_MKNOD:
	case OP_MKDIR:
	case OP_SYMLINK:
		return is_made(root, op);
	case OP_UNLINK:
	case OP_RMDIR:
		return is_removed(root, op);
	case OP_LINK:
		return is_linked(root, op);
	case OP_RENAME:
		return is_renamed(root, op);
	default:
		return 0;
	}
}

int apply_clean_scratch(int scratch)
{
	_cleanup_closedir_ DIR *d = NULL;
	const struct dirent *entry;
	int e = confine_opendir(scratch, "", &d);

	if (e < 0)
		return e;
	while ((errno = 0, entry = readdir(d))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (unlinkat(scratch, entry->d_name, 0) < 0 &&
			(errno != EISDIR || unlinkat(scratch, entry->d_name, AT_REMOVEDIR) < 0))
			return -errno;
	}
	return -errno;
}

static bool earlier(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

static int set_mtime(int fd, const struct timespec *mtime)
{
	struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, *mtime};

	return inode_times(fd, ts);
}

int apply_touch(int root, const char *dir, uint64_t time, bool force)
{
	_cleanup_close_ int fd = confine_open(root, dir, O_PATH | O_DIRECTORY, 0);
	struct timespec want = timespec_of((int64_t)time);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	return force || earlier(&st.st_mtim, &want) ? set_mtime(fd, &want) : 0;
}

int place_stat(const struct place *p, struct stat *ret)
{
	if (fstatat(p->dir, p->name, ret, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	if (errno != ENOENT)
		return -errno;
	*ret = (struct stat){0};
	return 0;
}

int place_open(int root, const char *path, struct place *ret)
{
	_cleanup_place_ struct place p = PLACE_NONE;
	struct stat st;
	int r;

	r = confine_parent(root, path, &p.dir, &p.name);
	if (r < 0)
		return r;
	if (fstat(p.dir, &st) < 0)
		return -errno;
	p.dir_mtime = st.st_mtim;
	r = place_stat(&p, &p.st);
	if (r < 0)
		return r;
	*ret = p;
	p.dir = -1;
	return 0;
}

int place_remove(const struct place *p)
{
	int flags = S_ISDIR(p->st.st_mode) ? AT_REMOVEDIR : 0;

	if (unlinkat(p->dir, p->name, flags) == 0)
		return 0;
	return flags && errno == EEXIST ? -ENOTEMPTY : -errno;
}

int place_touch(const struct place *p, uint64_t time)
{
	struct timespec want = timespec_of((int64_t)time);

	return set_mtime(p->dir, earlier(&p->dir_mtime, &want) ? &want : &p->dir_mtime);
}

int place_untouch(const struct place *p)
{
	return set_mtime(p->dir, &p->dir_mtime);
}

void scratch_name(char dst[SCRATCH_NAME_SIZE])
{
	static atomic_ulong counter;

	snprintf(dst, SCRATCH_NAME_SIZE, "new.%ld.%lu", (long)getpid(),
		atomic_fetch_add(&counter, 1));
}

int scratch_place(const struct apply_target *t, const char *name, const struct place *p)
{
	if (renameat2(t->scratch, name, p->dir, p->name, RENAME_NOREPLACE) == 0)
		return 0;
	/* Not every file system knows the flag; the path's lock keeps others out as well. */
	if (errno == EINVAL && renameat(t->scratch, name, p->dir, p->name) == 0)
		return 0;
	return -errno;
}
