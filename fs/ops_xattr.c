/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "creds.h"
#include "lost_name.h"
#include "ops.h"
#include "privs.h"
#include "record.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/clock.h"
#include "replicate/content.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>

/*
 * DESIGN: attributes of an inode, reached through an O_PATH descriptor: by /proc/self/fd where a
 * call knows no other way (chmod, xattrs). A time of "now" is made a value here, so that every node
 * has the same. A file that was created and not yet sent needs no record: its content will bring
 * the attributes along.
 */

#define ACL_ACCESS "system.posix_acl_access"

struct proc_path {
	char text[32];
};

static const char *proc_path(int fd, struct proc_path *dst)
{
	(void)snprintf(dst->text, sizeof(dst->text), "/proc/self/fd/%d", fd);
	return dst->text;
}

/* ---- setattr ---- */

static int64_t now_ns(void)
{
	struct timespec ts;

	/* The clock of the kernel's own time stamps, so that a write right after is not older. */
	(void)clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	return clock_ns_of(&ts);
}

static void setattr_op(struct op *op, const struct stat *attr, int to_set)
{
	if (to_set & FUSE_SET_ATTR_MODE)
		op->mask |= OP_MODE;
	if (to_set & FUSE_SET_ATTR_UID)
		op->mask |= OP_UID;
	if (to_set & FUSE_SET_ATTR_GID)
		op->mask |= OP_GID;
	if (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW))
		op->mask |= OP_ATIME;
	if (to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW))
		op->mask |= OP_MTIME;
	op->mode = attr->st_mode & 07777;
	op->uid = attr->st_uid;
	op->gid = attr->st_gid;
	op->atime = to_set & FUSE_SET_ATTR_ATIME_NOW ? now_ns() : clock_ns_of(&attr->st_atim);
	op->mtime = to_set & FUSE_SET_ATTR_MTIME_NOW ? now_ns() : clock_ns_of(&attr->st_mtim);
}

static struct timespec timespec_of(const struct op *op, uint32_t bit, int64_t ns)
{
	int64_t s = ns / 1000000000, rest = ns % 1000000000;

	if (!(op->mask & bit))
		return (struct timespec){.tv_nsec = UTIME_OMIT};
	if (rest < 0) {
		rest += 1000000000;
		s--;
	}
	return (struct timespec){.tv_sec = s, .tv_nsec = rest};
}

/* Owner first: chown takes setuid and setgid away. */
static int setattr_call(int fd, const struct op *op)
{
	struct timespec ts[2] = {
		timespec_of(op, OP_ATIME, op->atime), timespec_of(op, OP_MTIME, op->mtime)};
	struct proc_path path;

	if ((op->mask & (OP_UID | OP_GID)) &&
		fchownat(fd, "", op->mask & OP_UID ? op->uid : (uid_t)-1,
			op->mask & OP_GID ? op->gid : (gid_t)-1, AT_EMPTY_PATH) < 0)
		return -errno;
	if ((op->mask & OP_MODE) && chmod(proc_path(fd, &path), op->mode) < 0)
		return -errno;
	if ((op->mask & (OP_ATIME | OP_MTIME)) && utimensat(fd, "", ts, AT_EMPTY_PATH) < 0)
		return -errno;
	return 0;
}

/* A change of an inode's attributes or xattrs, from begin to wait. */
static int inode_change(struct mount *m, struct inode *i, struct op *op, bool local,
	int (*call)(int fd, const struct op *op), fuse_req_t req)
{
	_cleanup_close_ int fd = inode_open(m->inodes, i, O_PATH);
	struct place place = {i, NULL};
	struct change c;
	int r;

	if (fd < 0)
		return fd;
	(void)pthread_mutex_lock(&i->lock);
	local |= i->orphan;
	(void)pthread_mutex_unlock(&i->lock);
	if (local)
		return call(fd, op);
	lost_name_find(m, i);
	r = change_begin(&c, m, op->type, TREE_CHANGE, &place, NULL);
	if (r < 0)
		return r;
	op->path = c.op.path;
	c.op = *op;
	inode_fid(i, &c.op.fid);
	c.op.flags = S_ISDIR(i->type) ? OP_IS_DIR : 0;
	c.silent = dirty_unsent(i);
	r = change_log(&c);
	if (r == 0)
		r = call(fd, op);
	r = change_end(&c, r, TOUCH_NONE);
	return r < 0 ? r : change_wait(&c, req);
}

int inode_set_mode(struct mount *m, struct inode *i, mode_t mode, fuse_req_t req)
{
	struct op op = {.type = OP_SETATTR, .mask = OP_MODE, .mode = mode};

	return inode_change(m, i, &op, false, setattr_call, req);
}

static int setattr_size(
	struct mount *m, struct inode *i, const struct handle *h, off_t size, fuse_req_t req)
{
	uint64_t seq = 0;
	int r = replica_admit(m->replica);

	if (r == 0)
		r = file_truncate(m, i, h, size);
	if (r < 0)
		return r;
	if (replica_waits(m->replica, REPLICA_WRITE)) {
		r = content_emit(m, i, &seq);
		return r < 0 ? r : record_wait(m, i, seq, REPLICA_WRITE, req);
	}
	/* its close waits, and so does that of an open(2) with O_TRUNC, which comes as OPEN and
	 * this */
	if (h || handle_opened_by(i, fuse_req_ctx(req)->pid))
		return 0;
	r = content_emit(m, i, &seq);
	return r < 0 ? r : record_wait(m, i, seq, REPLICA_CHANGE, req);
}

void op_setattr(
	fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct inode *i = inode_of(req, ino);
	struct handle *h = fi ? handle_of(fi) : NULL;
	struct op op = {.type = OP_SETATTR};
	int r = 0;

	setattr_op(&op, attr, to_set);
	if (m->killpriv && (to_set & FUSE_SET_ATTR_KILL_SUID)) /* means both bits */
		r = privs_drop_along(m, i, &op, req);
	if (r == 0 && (to_set & FUSE_SET_ATTR_SIZE))
		r = setattr_size(m, i, h, attr->st_size, req);
	if (r == 0 && op.mask)
		r = inode_change(m, i, &op, false, setattr_call, req);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		reply_attr(req, m, i, h);
}

/* ---- xattrs ---- */

/* Never ENOSYS: the kernel would not ask again for the life of the mount. */
static int xattr_errno(void)
{
	return errno == ENOSYS ? -EOPNOTSUPP : -errno;
}

static int setxattr_call(int fd, const struct op *op)
{
	struct proc_path path;

	return setxattr(proc_path(fd, &path), op->xname, op->value, op->value_len, (int)op->rdev) <
			       0
		       ? xattr_errno()
		       : 0;
}

static int removexattr_call(int fd, const struct op *op)
{
	struct proc_path path;

	return removexattr(proc_path(fd, &path), op->xname) < 0 ? xattr_errno() : 0;
}

/* Who may not keep setgid on chmod does not on a change of the ACL either. */
static int acl_drop_sgid(fuse_req_t req, struct mount *m, struct inode *i)
{
	_cleanup_close_ int fd = inode_open(m->inodes, i, O_PATH);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!(st.st_mode & S_ISGID) || fuse_req_ctx(req)->uid == 0 ||
		creds_in_group(req, st.st_gid))
		return 0;
	return inode_set_mode(m, i, st.st_mode & 07777 & ~(mode_t)S_ISGID, req);
}

void op_setxattr(
	fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct mount *m = mount_of(req);
	struct inode *i = inode_of(req, ino);
	/* rdev hands the flags to the call; no such record has it. */
	struct op op = {.type = OP_SETXATTR,
		.xname = (char *)name,
		.value = (uint8_t *)value,
		.value_len = size,
		.rdev = (uint64_t)flags};
	int r = inode_change(m, i, &op, !xattr_is_replicated(name), setxattr_call, req);

	if (r == 0 && strcmp(name, ACL_ACCESS) == 0)
		r = acl_drop_sgid(req, m, i);
	fuse_reply_err(req, -r);
}

void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct mount *m = mount_of(req);
	struct op op = {.type = OP_REMOVEXATTR, .xname = (char *)name};

	fuse_reply_err(req, -inode_change(m, inode_of(req, ino), &op, !xattr_is_replicated(name),
				    removexattr_call, req));
}

/* Answers with the value, or its size when none was given room. */
static void reply_value(fuse_req_t req, const char *value, ssize_t n, size_t size)
{
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, value, (size_t)n);
}

/* @name NULL: the list of names. */
static void read_xattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct mount *m = mount_of(req);
	_cleanup_close_ int fd = inode_open(m->inodes, inode_of(req, ino), O_PATH);
	_cleanup_free_ char *value = size ? malloc(size) : NULL;
	struct proc_path path;
	ssize_t n = fd < 0 ? fd : 0;

	if (n == 0 && size && !value)
		n = -ENOMEM;
	if (n == 0) {
		n = name ? getxattr(proc_path(fd, &path), name, value, size)
			 : listxattr(proc_path(fd, &path), value, size);
		n = n < 0 ? xattr_errno() : n;
	}
	reply_value(req, value, n, size);
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	read_xattr(req, ino, name, size);
}

void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	read_xattr(req, ino, NULL, size);
}
