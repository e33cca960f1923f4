/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "apply_steps.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/fault.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

/*
 * DESIGN: attributes are set through a descriptor, so that nobody can put another inode under the
 * name meanwhile. Inodes that must not be opened (devices, FIFOs) or cannot be (symbolic links) are
 * held by O_PATH, on which the f-calls fail with EBADF; then the same call goes through
 * /proc/self/fd, which leads to the inode itself and follows no link.
 *
 * The order matters: chown clears setuid and setgid and drops security.capability; chmod changes
 * the mask of an ACL, and an ACL changes the mode's group bits. So: owner, mode, xattrs, times.
 */

static void proc_path(int fd, char dst[32])
{
	snprintf(dst, 32, "/proc/self/fd/%d", fd);
}

struct timespec timespec_of(int64_t ns)
{
	int64_t s = ns / 1000000000, rest = ns % 1000000000;

	if (rest < 0) {
		rest += 1000000000;
		s--;
	}
	return (struct timespec){.tv_sec = s, .tv_nsec = rest};
}

int inode_chown(int fd, uint32_t mask, uint32_t uid, uint32_t gid)
{
	uid_t u = mask & OP_UID ? uid : (uid_t)-1;
	gid_t g = mask & OP_GID ? gid : (gid_t)-1;

	return fchownat(fd, "", u, g, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int inode_chmod(int fd, uint32_t mode)
{
	char proc[32];

	if (fchmod(fd, mode & 07777) == 0)
		return 0;
	if (errno != EBADF)
		return -errno;
	proc_path(fd, proc);
	return chmod(proc, mode & 07777) < 0 ? -errno : 0;
}

int inode_times(int fd, const struct timespec ts[2])
{
	char proc[32];

	/* Linux 5.8; before it an empty path is EINVAL here. */
	if (utimensat(fd, "", ts, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOENT)
		return -errno;
	proc_path(fd, proc);
	return utimensat(AT_FDCWD, proc, ts, 0) < 0 ? -errno : 0;
}

int inode_setxattr(int fd, const char *name, const void *value, size_t len)
{
	char proc[32];

	if (fsetxattr(fd, name, value, len, 0) == 0)
		return 0;
	if (errno != EBADF)
		return -errno;
	proc_path(fd, proc);
	return setxattr(proc, name, value, len, 0) < 0 ? -errno : 0;
}

int inode_removexattr(int fd, const char *name)
{
	char proc[32];

	if (fremovexattr(fd, name) == 0)
		return 0;
	if (errno != EBADF)
		return -errno;
	proc_path(fd, proc);
	return removexattr(proc, name) < 0 ? -errno : 0;
}

static bool listed(const struct xattr *x, size_t n, const char *name)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (strcmp(x[i].name, name) == 0)
			return true;
	return false;
}

int inode_set_xattrs(int fd, const struct xattr *x, size_t n)
{
	struct xattr *present;
	size_t n_present, i;
	int r;

	for (i = 0; i < n; i++)
		if (!xattr_is_replicated(x[i].name))
			return -EPERM;
	r = xattrs_read(fd, &present, &n_present);
	if (r < 0)
		return r;
	for (i = 0; i < n_present && r == 0; i++)
		if (!listed(x, n, present[i].name))
			r = inode_removexattr(fd, present[i].name);
	xattrs_free(present, n_present);
	for (i = 0; i < n && r == 0; i++)
		r = inode_setxattr(fd, x[i].name, x[i].value, x[i].len);
	return r;
}

int inode_own(int fd, const struct stat *now, uint32_t mask, const struct op *op)
{
	bool owner = (mask & OP_UID && now->st_uid != op->uid) ||
		     (mask & OP_GID && now->st_gid != op->gid);
	uint32_t mode = mask & OP_MODE ? op->mode & 07777 : now->st_mode & 07777;
	int r = 0;

	if (S_ISLNK(now->st_mode))
		mask &= ~(uint32_t)OP_MODE; /* Linux' links have none of their own */
	if (owner)
		r = inode_chown(fd, mask, op->uid, op->gid);
	if (r < 0 || !(mask & OP_MODE))
		return r;
	if (mode != (now->st_mode & 07777) || (owner && mode & (S_ISUID | S_ISGID)))
		r = inode_chmod(fd, mode);
	return r;
}

int inode_set_times(int fd, const struct op *op)
{
	struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};

	if (op->mask & OP_ATIME)
		ts[0] = timespec_of(op->atime);
	if (op->mask & OP_MTIME)
		ts[1] = timespec_of(op->mtime);
	return op->mask & (OP_ATIME | OP_MTIME) ? inode_times(fd, ts) : 0;
}

/* Opens the inode without side effects on devices or FIFOs. */
static int open_inode(const struct apply_target *t, const struct op *op, struct stat *ret)
{
	_cleanup_close_ int fd = confine_open(t->root, op->path, O_PATH, 0);

	if (fd < 0)
		return fd;
	if (fstat(fd, ret) < 0)
		return -errno;
	if (op->flags & OP_IS_DIR && !S_ISDIR(ret->st_mode))
		return -ENOTDIR;
	return steal_fd(&fd);
}

static int look_after(int fd, struct apply_result *ret)
{
	return fstat(fd, &ret->after) < 0 ? -errno : 0;
}

static bool time_equal(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool attr_equal(const struct stat *a, const struct stat *b)
{
	return a->st_mode == b->st_mode && a->st_uid == b->st_uid && a->st_gid == b->st_gid &&
	       time_equal(&a->st_mtim, &b->st_mtim) && time_equal(&a->st_atim, &b->st_atim);
}

int apply_setattr(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	_cleanup_close_ int fd = open_inode(t, op, &ret->before);
	int r;

	if (fd < 0)
		return fd;
	r = inode_own(fd, &ret->before, op->mask, op);
	if (r == 0)
		r = inode_set_times(fd, op);
	if (r == 0)
		r = look_after(fd, ret);
	ret->changed = !attr_equal(&ret->before, &ret->after);
	return r;
}

static int open_for_xattr(
	const struct apply_target *t, const struct op *op, struct stat *ret_before)
{
	if (!op->xname || !xattr_is_replicated(op->xname))
		return -EPERM;
	return open_inode(t, op, ret_before);
}

int apply_setxattr(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	_cleanup_close_ int fd = open_for_xattr(t, op, &ret->before);
	int r;

	if (fd < 0)
		return fd;
	r = inode_setxattr(fd, op->xname, op->value, op->value_len);
	if (r < 0)
		return r;
	ret->changed = true;
	return look_after(fd, ret);
}

int apply_removexattr(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	_cleanup_close_ int fd = open_for_xattr(t, op, &ret->before);
	int r;

	if (fd < 0)
		return fd;
	r = inode_removexattr(fd, op->xname);
	/* A file system without xattrs has not this one either. */
	if (r < 0 && r != -ENODATA && r != -EOPNOTSUPP)
		return r;
	ret->changed = r == 0;
	return look_after(fd, ret);
}

/* The inode and the directory that names it. */
int apply_fsync(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	char parent[TANDEMFS_PATH_MAX + 1];
	_cleanup_close_ int dir = -1, fd = -1, node = open_inode(t, op, &ret->before);
	size_t len = confine_parent_len(op->path);

	if (node < 0)
		return node;
	if (S_ISREG(ret->before.st_mode) || S_ISDIR(ret->before.st_mode)) {
		fd = confine_open(t->root, op->path, O_RDONLY | O_NONBLOCK, 0);
		if (fd < 0)
			return fd;
		if (fsync(fd) < 0)
			return -errno;
	}
	memcpy(parent, op->path, len);
	parent[len] = '\0';
	dir = confine_open(t->root, parent, O_RDONLY | O_DIRECTORY, 0);
	if (dir < 0)
		return dir;
	if (fsync(dir) < 0)
		return -errno;
	return look_after(node, ret);
}
