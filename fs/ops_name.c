/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "creds.h"
#include "ops.h"
#include "record.h"
#include "session_io.h"
#include "replicate/base/cleanup.h"

#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>

/*
 * DESIGN: new inodes. The record is written before the inode is there, so it says which mode and
 * owner it will have: as far as that can be told. Afterwards the inode is looked at; what came
 * otherwise (default ACLs, mount options of the backing file system) is recorded as changes
 * of attributes. A regular file needs none of that: its content carries everything.
 */

struct birth {
	struct mount *m;
	const struct fuse_ctx *caller;
	struct inode *parent;
	const char *name;
	mode_t mode;
	dev_t rdev;
	const char *target; /* of a symlink */
	int dir;            /* the parent, O_PATH */
};

static struct birth birth_of(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	return (struct birth){.m = mount_of(req),
		.caller = fuse_req_ctx(req),
		.parent = inode_of(req, parent),
		.name = name,
		.mode = mode};
}

static void reply_birth(fuse_req_t req, const struct fuse_entry_param *e, int r)
{
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		reply_entry(req, mount_of(req), e);
}

static int birth_open(struct birth *b)
{
	b->dir = inode_open(b->m->inodes, b->parent, O_PATH | O_DIRECTORY);
	return b->dir < 0 ? b->dir : 0;
}

/* What mode, owner and group will be, as the record needs it. */
static int birth_predict(const struct birth *b, struct op *op)
{
	struct stat st;

	if (fstat(b->dir, &st) < 0)
		return -errno;
	op->mask = OP_MODE | OP_UID | OP_GID;
	op->mode = b->mode & ~(b->caller->umask & 0777);
	op->uid = b->caller->uid;
	op->gid = b->caller->gid;
	if (st.st_mode & S_ISGID) {
		op->gid = st.st_gid;
		if (op->type == OP_MKDIR)
			op->mode |= S_ISGID;
	}
	if (op->type == OP_SYMLINK)
		op->mode = 0777;
	op->rdev = b->rdev;
	return 0;
}

static int birth_call(const struct birth *b, enum op_type type)
{
	int r = creds_enter(b->caller);

	if (r < 0)
		return r;
	if (type == OP_MKDIR)
		r = mkdirat(b->dir, b->name, b->mode);
	else if (type == OP_SYMLINK)
		r = symlinkat(b->target, b->dir, b->name);
	else
		r = mknodat(b->dir, b->name, b->mode, b->rdev);
	r = r < 0 ? -errno : 0;
	creds_leave(b->caller);
	return r;
}

/* One more record under the same locks, of something that is so already. */
static int record_extra(struct change *c, struct op *op)
{
	int r;

	op->path = c->path;
	op->time = c->op.time;
	r = replica_log(c->m->replica, op);
	if (r < 0)
		return r;
	replica_done(c->m->replica, op->seq, 0);
	c->seq = op->seq;
	return 0;
}

static int record_acl(struct change *c, int fd, struct inode *i, const char *xname)
{
	uint8_t value[4096];
	char path[32];
	struct op op = {.type = OP_SETXATTR, .xname = (char *)xname, .value = value};
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = getxattr(path, xname, value, sizeof(value));
	if (n < 0)
		return errno == ENODATA || errno == EOPNOTSUPP ? 0 : -errno;
	op.value_len = (size_t)n;
	op.flags = S_ISDIR(i->type) ? OP_IS_DIR : 0;
	inode_fid(i, &op.fid);
	return record_extra(c, &op);
}

/* What is not as the record says. */
static int birth_correct(struct change *c, int fd, struct inode *i, const struct stat *st)
{
	struct op op = {.type = OP_SETATTR, .mask = OP_MODE | OP_UID | OP_GID};
	int r = 0;

	if (c->op.type == OP_SYMLINK)
		op.mask = OP_UID | OP_GID;
	op.mode = st->st_mode & 07777;
	op.uid = st->st_uid;
	op.gid = st->st_gid;
	op.flags = S_ISDIR(i->type) ? OP_IS_DIR : 0;
	inode_fid(i, &op.fid);
	if (op.uid != c->op.uid || op.gid != c->op.gid ||
		((op.mask & OP_MODE) && op.mode != (c->op.mode & 07777)))
		r = record_extra(c, &op);
	if (r == 0 && c->op.type != OP_SYMLINK)
		r = record_acl(c, fd, i, "system.posix_acl_access");
	if (r == 0 && c->op.type == OP_MKDIR)
		r = record_acl(c, fd, i, "system.posix_acl_default");
	return r;
}

/* The new inode's entry; corrections to the record. */
static int birth_enter(struct birth *b, struct change *c, struct fuse_entry_param *e)
{
	_cleanup_close_ int fd = -1;
	int r;

	r = stamp_mtime(b->dir, b->name, c->op.time);
	if (r < 0)
		return r;
	fd = openat(b->dir, b->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = entry_fill(b->m, b->parent, b->name, fd, 0, e);
	if (r < 0)
		return r;
	r = birth_correct(c, fd, inode_find(b->m->inodes, e->ino), &e->attr);
	if (r < 0)
		entry_drop(b->m, e);
	return r;
}

/* A directory, symlink, FIFO, socket or device. */
static int birth_special(
	struct birth *b, enum op_type type, fuse_req_t req, struct fuse_entry_param *e)
{
	struct place place = {b->parent, b->name};
	_cleanup_close_ int dir = -1;
	struct change c;
	bool made = false;
	int r = change_begin(&c, b->m, type, TREE_CHANGE, &place, NULL);

	if (r < 0)
		return r;
	if (type == OP_SYMLINK)
		c.op.path2 = (char *)b->target;
	r = birth_open(b);
	dir = b->dir;
	if (r == 0)
		r = birth_predict(b, &c.op);
	if (r == 0)
		r = change_log(&c);
	if (r == 0) {
		r = birth_call(b, type);
		made = r == 0;
	}
	if (r == 0)
		r = birth_enter(b, &c, e);
	/* What is there is there: the record stands even if the entry could not be made. */
	(void)change_end(&c, made ? 0 : r, TOUCH_FIRST);
	return r < 0 ? r : entry_wait(&c, e, req);
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct fuse_entry_param e = {0};
	struct birth b = birth_of(req, parent, name, mode & 07777);
	int r = birth_special(&b, OP_MKDIR, req, &e);

	reply_birth(req, &e, r);
}

void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = {0};
	struct birth b = birth_of(req, parent, name, 0);
	int r;

	b.target = target;
	r = birth_special(&b, OP_SYMLINK, req, &e);

	reply_birth(req, &e, r);
}

/* ---- regular files ---- */

/* A file without a name, which may get one later, when there is none. */
static int file_make(const struct birth *b, int flags, int *ret_fd)
{
	int how = b->name ? O_CREAT | O_EXCL | O_NOFOLLOW : O_TMPFILE;
	int fd, r = creds_enter(b->caller);

	if (r < 0)
		return r;
	fd = openat(b->dir, b->name ? b->name : ".",
		(flags & (O_ACCMODE | O_NOATIME)) | how | O_CLOEXEC, b->mode);
	r = fd < 0 ? -errno : 0;
	creds_leave(b->caller);
	if (r == 0)
		*ret_fd = fd;
	return r;
}

/* The record, the file, its entry; dirty from now on. The change has begun. */
static int birth_file_steps(
	struct birth *b, struct change *c, int flags, int *ret_fd, struct fuse_entry_param *e)
{
	struct inode *i;
	int r = birth_open(b);

	if (r == 0)
		r = change_log(c);
	if (r == 0)
		r = file_make(b, flags, ret_fd);
	if (r < 0)
		return r;
	r = entry_fill(b->m, b->parent, b->name, *ret_fd, 0, e);
	if (r < 0)
		return r;
	i = inode_find(b->m->inodes, e->ino);
	r = dirty_created(b->m, i, c->op.seq, c->op.time);
	if (r < 0)
		entry_drop(b->m, e);
	return r;
}

/* @now: its content is recorded at once, since nobody will close it. */
static int birth_file(struct birth *b, int flags, bool now, fuse_req_t req, int *ret_fd,
	struct fuse_entry_param *e)
{
	struct place place = {b->parent, b->name};
	_cleanup_close_ int dir = -1, fd = -1;
	struct change c;
	int r = change_begin(&c, b->m, OP_CREATE, TREE_CHANGE, &place, NULL);

	if (r < 0)
		return r;
	b->dir = -1;
	r = birth_file_steps(b, &c, flags, &fd, e);
	dir = b->dir;
	if (r == 0 && now)
		change_touch(&c);
	if (r == 0 && now)
		r = content_emit_locked(b->m, inode_find(b->m->inodes, e->ino), &c.seq);
	/* As above: a file that is there is recorded. */
	(void)change_end(&c, fd >= 0 ? 0 : r, TOUCH_FIRST);
	if (r == 0 && now)
		r = entry_wait(&c, e, req);
	if (r == 0)
		*ret_fd = steal_fd(&fd);
	return r;
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct fuse_entry_param e = {0};
	_cleanup_close_ int fd = -1;
	struct birth b = birth_of(req, parent, name, mode);
	int r;

	b.rdev = rdev;
	if (S_ISREG(mode)) {
		b.mode &= 07777;
		r = birth_file(&b, O_RDONLY, true, req, &fd, &e);
	} else {
		r = birth_special(&b, OP_MKNOD, req, &e);
	}
	reply_birth(req, &e, r);
}

static int handle_of_birth(
	const struct birth *b, int fd, struct fuse_file_info *fi, struct fuse_entry_param *e)
{
	struct handle *h;
	int r = handle_new(b->m, inode_find(b->m->inodes, e->ino), fd, fi->flags, &h);

	if (r < 0) {
		entry_drop(b->m, e);
		return r;
	}
	h->writable = true; /* even O_RDONLY: its close is what sends the file */
	fi->fh = (uintptr_t)h;
	return 0;
}

static int create(
	struct birth *b, fuse_req_t req, struct fuse_file_info *fi, struct fuse_entry_param *e)
{
	int fd, r = birth_file(b, fi->flags, false, req, &fd, e);

	/* A peer was quicker. The kernel looks the name up again and checks permissions. */
	if (r == -EEXIST && !(fi->flags & O_EXCL))
		return -ESTALE;
	return r < 0 ? r : handle_of_birth(b, fd, fi, e);
}

/* The answer to what made and opened a file, @r. */
static void reply_create(
	fuse_req_t req, const struct fuse_entry_param *e, struct fuse_file_info *fi, int r)
{
	struct mount *m = mount_of(req);

	if (r < 0) {
		fuse_reply_err(req, -r);
		return;
	}
	fi->keep_cache = 1;
	fi->direct_io = opens_direct(m, fi->flags);
	if (fuse_reply_create(req, e, fi) < 0) {
		struct handle *h = handle_of(fi);

		(void)content_emit(m, h->inode, NULL); /* what remains dirty the timer takes up */
		handle_free(m, h);
		entry_drop(m, e);
	}
}

/* O_TMPFILE: of this server only until link(2) gives it a name. */
static int create_nameless(struct birth *b, struct fuse_file_info *fi, struct fuse_entry_param *e)
{
	_cleanup_close_ int dir = -1, fd = -1;
	struct inode *i;
	int r = birth_open(b);

	dir = b->dir;
	if (r == 0)
		r = file_make(b, fi->flags, &fd);
	if (r == 0)
		r = entry_fill(b->m, NULL, NULL, fd, 0, e);
	if (r < 0)
		return r;
	i = inode_find(b->m->inodes, e->ino);
	(void)pthread_mutex_lock(&i->lock);
	i->orphan = true;
	(void)pthread_mutex_unlock(&i->lock);
	return handle_of_birth(b, steal_fd(&fd), fi, e);
}

void op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi)
{
	struct fuse_entry_param e = {0};
	struct birth b = birth_of(req, parent, NULL, mode & 07777);
	int r = create_nameless(&b, fi, &e);

	reply_create(req, &e, fi, r);
}

void op_create(
	fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fuse_entry_param e = {0};
	struct birth b = birth_of(req, parent, name, mode & 07777);

	if (strcmp(name, TMPFILE_NAME) == 0)
		op_tmpfile(req, parent, mode, fi);
	else
		reply_create(req, &e, fi, create(&b, req, fi, &e));
}
