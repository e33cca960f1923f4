/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * One op of this node, carried out at a plain peer as it was made: all before it are there, nothing
 * after it is. Where the tree there turns out to be another (somebody else writes there, an inode
 * that was gone before its content could be sent) the answer is 1, and the op is settled instead
 * (plain_settle.c).
 */

#include "plain.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* The tree is not as it was here, or the server does not say what is wrong: looked at closely. */
static int surprised(struct plain *p, int error)
{
	if (error == -ENOENT || error == -EEXIST)
		return 1;
	return error == -EIO && plain_refused(p, error) ? 1 : error;
}

static int apply_mkdir(struct plain *p, const struct op *op, const char *there)
{
	int r = p->remote->ops->mkdir(p->remote, there, 0700);

	if (r < 0)
		return surprised(p, r);
	plain_touched(p, op->path);
	paths_put(&p->dirs, op->path, 1);
	return plain_set_attrs(p, p->remote, there, op, S_IFDIR);
}

static int apply_symlink(struct plain *p, const struct op *op)
{
	struct op attrs = {.mask = (op->mask & (OP_UID | OP_GID)) | OP_MTIME,
		.uid = op->uid,
		.gid = op->gid,
		.mtime = (int64_t)op->time};

	return surprised(p, plain_make_link(p, op->path2, op->path, &attrs));
}

static int apply_link(struct plain *p, const struct op *op, const char *there)
{
	_cleanup_free_ char *to = plain_there(p, op->path2);
	int r;

	if (!to)
		return -ENOMEM;
	if (!(p->features & REMOTE_HARDLINK))
		return 1;
	r = p->remote->ops->link(p->remote, there, to);
	if (r == 0)
		plain_touched(p, op->path2);
	return surprised(p, r);
}

static int apply_unlink(struct plain *p, const struct op *op, const char *there)
{
	int r = p->remote->ops->remove(p->remote, there);

	paths_drop(&p->skipped, op->path);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		plain_touched(p, op->path);
	return surprised(p, r);
}

static int apply_rmdir(struct plain *p, const struct op *op, const char *there)
{
	int r = p->remote->ops->rmdir(p->remote, there);
	struct stat st;

	paths_drop(&p->skipped, op->path);
	paths_drop(&p->dirs, op->path);
	if (r == -ENOENT)
		return 0;
	if (r == -EIO && plain_refused(p, r) && plain_lstat(p, op->path, &st) == 0)
		return S_ISDIR(st.st_mode) ? plain_keep(p, op->path) : 1;
	if (r == 0)
		plain_touched(p, op->path);
	return r;
}

/* No server can exchange: three steps, of which each leaves both contents somewhere. */
static int exchange(struct plain *p, const char *a, const char *b)
{
	_cleanup_free_ char *tmp = plain_tmp(p);
	int r = tmp ? p->remote->ops->rename(p->remote, a, tmp) : -ENOMEM;

	if (r < 0)
		return r;
	plain_count(p, PLAIN_TWO_STEPS);
	r = p->remote->ops->rename(p->remote, b, a);
	if (r < 0) {
		int back = plain_refused(p, r) ? p->remote->ops->rename(p->remote, tmp, a) : 0;

		return back < 0 ? back : r;
	}
	return p->remote->ops->rename(p->remote, tmp, b);
}

static int apply_rename(struct plain *p, const struct op *op, const char *there)
{
	_cleanup_free_ char *to = plain_there(p, op->path2);
	int r;

	if (!to)
		return -ENOMEM;
	if (paths_get(&p->skipped, op->path))
		return 1; /* it never came here */
	r = op->flags & OP_EXCHANGE ? exchange(p, there, to) : plain_replace(p, there, to);
	if (r < 0)
		return surprised(p, r);
	if (op->flags & OP_EXCHANGE) {
		paths_drop(&p->skipped, op->path);
		paths_drop(&p->skipped, op->path2);
	} else {
		paths_rename(&p->skipped, op->path, op->path2);
		paths_rename(&p->dirs, op->path, op->path2);
	}
	plain_touched(p, op->path);
	plain_touched(p, op->path2);
	return 0;
}

static int apply_setattr(struct plain *p, const struct op *op, const char *there)
{
	struct stat st;
	int r = p->remote->ops->stat(p->remote, there, &st); /* setattr follows links */

	if (r == 0)
		r = plain_set_attrs(p, p->remote, there, op, st.st_mode);
	return r == -ENOENT ? 1 : r;
}

static int apply_fsync(struct plain *p, const struct op *op, const char *there)
{
	struct remote_file *file;
	int closed, r = 0;

	if (p->features & REMOTE_FSYNC && !(op->flags & OP_IS_DIR)) {
		r = p->remote->ops->open(p->remote, there, REMOTE_WRITE, 0, &file);
		if (r == -EACCES)
			r = p->remote->ops->open(p->remote, there, REMOTE_READ, 0, &file);
		if (r == 0) {
			r = p->remote->ops->fsync(file);
			closed = p->remote->ops->close(file);
			r = r < 0 ? r : closed;
		}
	}
	if (r < 0 && r != -ENOENT)
		return r;
	p->durable = op->seq;
	return 0;
}

/* Ranges, and files with several names: in place. */
static int apply_ranges(struct plain *p, struct plain_item *item, const char *there)
{
	struct op *op = &item->op;
	_cleanup_close_ int fd =
		fid_open(p->replica->root, &op->fid, op->path, O_RDONLY | O_NOFOLLOW);
	struct stat st;
	int r = fd < 0 ? fd : content_describe(fd, op, &st);

	if (r == 0)
		r = plain_patch(p, fd, op, there);
	if (r == 0)
		item->bytes = op->content->data_len;
	return r == -ESTALE || r == -ENOENT || r == -EACCES ? 1 : r;
}

static int apply_content(struct plain *p, struct plain_item *item, const char *there)
{
	_cleanup_free_ char *tmp = NULL;
	int r;

	if (item->void_) {
		paths_put(&p->skipped, item->op.path, item->op.seq);
		return 0;
	}
	if (item->state != ITEM_STAGED)
		return apply_ranges(p, item, there);
	if (asprintf(&tmp, "%s/%s", p->tmp, item->tmp) < 0) {
		tmp = NULL;
		return -ENOMEM;
	}
	r = plain_place(p, tmp, item->op.path);
	if (r == 0) {
		item->tmp[0] = '\0';
		paths_drop(&p->skipped, item->op.path);
	}
	return r;
}

int plain_apply(struct plain *p, struct plain_item *item)
{
	const struct op *op = &item->op;
	_cleanup_free_ char *there = plain_there(p, op->path);

	if (!there)
		return -ENOMEM;
	switch (op->type) {
	case OP_MKNOD:
		plain_count(p, PLAIN_SPECIALS);
		return 0;
	case OP_MKDIR:
		return apply_mkdir(p, op, there);
	case OP_SYMLINK:
		return apply_symlink(p, op);
	case OP_LINK:
		return apply_link(p, op, there);
	case OP_UNLINK:
		return apply_unlink(p, op, there);
	case OP_RMDIR:
		return apply_rmdir(p, op, there);
	case OP_RENAME:
		return apply_rename(p, op, there);
	case OP_SETATTR:
		return apply_setattr(p, op, there);
	case OP_SETXATTR:
	case OP_REMOVEXATTR:
		if (strncmp(op->xname, "system.posix_acl_", 17) == 0)
			return 1; /* the mode changes with it */
		plain_count(p, PLAIN_XATTRS);
		return 0;
	case OP_CONTENT:
		return apply_content(p, item, there);
	case OP_FSYNC:
		return apply_fsync(p, op, there);
	default:
		return 0; /* means nothing to a plain peer */
	}
}
