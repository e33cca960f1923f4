/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "lost_name.h"
#include "ops.h"
#include "record.h"
#include "replicate/base/cleanup.h"
#include "replicate/content.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>

/*
 * DESIGN: names that go and names that move. What is dirty is recorded before the name under
 * which the peers know it changes; a file whose last link goes is forgotten, content and key, so
 * that its inode number may come again.
 */

/* A name as it stands before the change. */
struct victim {
	struct stat st;      /* st_ino 0: there is none */
	struct inode *inode; /* pinned; NULL: the kernel does not know it */
};

/* 0 also when there is none, unless @must. */
static int victim_find(struct mount *m, int dir, struct inode *parent, const char *name, bool must,
	struct victim *ret)
{
	*ret = (struct victim){0};
	if (fstatat(dir, name, &ret->st, AT_SYMLINK_NOFOLLOW) < 0) {
		ret->st.st_ino = 0;
		return errno == ENOENT && !must ? 0 : -errno;
	}
	ret->inode = inode_child(m->inodes, parent, name);
	return 0;
}

static void victim_clear(struct mount *m, struct victim *v)
{
	inode_unpin(m->inodes, v->inode);
	v->inode = NULL;
}

static int victim_fid(const struct victim *v, int dir, const char *name, struct fid *ret)
{
	if (!v->inode)
		return fid_of_path(dir, name, ret);
	inode_fid(v->inode, ret);
	return 0;
}

static bool victim_last(const struct victim *v)
{
	return S_ISDIR(v->st.st_mode) || v->st.st_nlink <= 1;
}

/* Before the change: bytes that other names will still show must not be lost with this one. */
static int victim_save(struct mount *m, const struct victim *v)
{
	if (!v->inode || !v->st.st_ino || victim_last(v))
		return 0;
	return content_emit_locked(m, v->inode, NULL);
}

/* After it. */
static void victim_forget(struct mount *m, const struct victim *v)
{
	if (!v->inode || !v->st.st_ino || !victim_last(v))
		return;
	inode_detach(m->inodes, v->inode);
	dirty_drop(m, v->inode);
}

static void change_hold_victim(struct change *c, const struct victim *v)
{
	if (v->inode)
		c->held[c->n_held++] = v->inode;
}

static int remove_steps(struct change *c, struct inode *parent, const char *name, struct victim *v)
{
	_cleanup_close_ int dir = inode_open(c->m->inodes, parent, O_PATH | O_DIRECTORY);
	int flags = c->op.type == OP_RMDIR ? AT_REMOVEDIR : 0;
	int r = dir < 0 ? dir : victim_find(c->m, dir, parent, name, true, v);

	if (r == 0)
		r = victim_fid(v, dir, name, &c->op.fid);
	if (r == 0)
		r = victim_save(c->m, v);
	if (r == 0)
		r = change_log(c);
	if (r == 0)
		r = unlinkat(dir, name, flags) < 0 ? -errno : 0;
	if (r == 0) {
		inode_name_drop(c->m->inodes, parent, name);
		victim_forget(c->m, v);
	}
	return r;
}

static int remove_name(fuse_req_t req, enum op_type type, fuse_ino_t parent_ino, const char *name)
{
	struct mount *m = mount_of(req);
	struct inode *parent = inode_of(req, parent_ino);
	struct place place = {parent, name};
	struct victim v = {0};
	struct change c;
	int r = change_begin(&c, m, type, TREE_CHANGE, &place, NULL);

	if (r < 0)
		return r;
	r = change_end(&c, remove_steps(&c, parent, name, &v), TOUCH_FIRST);
	change_hold_victim(&c, &v);
	if (r == 0)
		r = change_wait(&c, req);
	victim_clear(m, &v);
	return r;
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, -remove_name(req, OP_UNLINK, parent, name));
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, -remove_name(req, OP_RMDIR, parent, name));
}

/* ---- rename ---- */

struct move {
	struct place from, to;
	unsigned flags;
	int dir, dir2;
	struct victim what, over;
};

static int move_open(struct mount *m, struct move *v)
{
	int r;

	v->dir = inode_open(m->inodes, v->from.inode, O_PATH | O_DIRECTORY);
	if (v->dir < 0)
		return v->dir;
	v->dir2 = inode_open(m->inodes, v->to.inode, O_PATH | O_DIRECTORY);
	if (v->dir2 < 0)
		return v->dir2;
	r = victim_find(m, v->dir, v->from.inode, v->from.name, true, &v->what);
	if (r == 0)
		r = victim_find(
			m, v->dir2, v->to.inode, v->to.name, v->flags & RENAME_EXCHANGE, &v->over);
	if (r == 0 && (v->flags & RENAME_NOREPLACE) && v->over.st.st_ino)
		r = -EEXIST;
	return r;
}

/* rename(2) of a name to another one of the same file does nothing. */
static bool move_void(const struct move *v)
{
	return !(v->flags & RENAME_EXCHANGE) && !S_ISDIR(v->what.st.st_mode) &&
	       v->what.st.st_ino == v->over.st.st_ino && v->what.st.st_dev == v->over.st.st_dev;
}

static int save_side(struct mount *m, const struct victim *v, const char *path)
{
	if (S_ISDIR(v->st.st_mode))
		return content_emit_below(m, path);
	return v->inode ? content_emit_locked(m, v->inode, NULL) : 0;
}

static int move_save(struct change *c, const struct move *v)
{
	int r = save_side(c->m, &v->what, c->path);

	if (r < 0 || !v->over.st.st_ino)
		return r;
	if (v->flags & RENAME_EXCHANGE)
		return save_side(c->m, &v->over, c->path2);
	return victim_save(c->m, &v->over);
}

static int move_table(struct change *c, const struct move *v)
{
	if (v->flags & RENAME_EXCHANGE)
		return inode_name_swap(
			c->m->inodes, v->from.inode, v->from.name, v->to.inode, v->to.name);
	victim_forget(c->m, &v->over);
	return inode_name_move(c->m->inodes, v->from.inode, v->from.name, v->to.inode, v->to.name);
}

static int move_steps(struct change *c, struct move *v)
{
	int r = move_open(c->m, v);

	if (r < 0)
		return r;
	if (move_void(v))
		return 1;
	if (v->flags & RENAME_EXCHANGE)
		c->op.flags |= OP_EXCHANGE;
	else if (v->over.st.st_ino)
		c->op.flags |= OP_REPLACED;
	if (S_ISDIR(v->what.st.st_mode))
		c->op.flags |= OP_IS_DIR;
	r = victim_fid(&v->what, v->dir, v->from.name, &c->op.fid);
	if (r == 0)
		r = move_save(c, v);
	if (r == 0)
		r = change_log(c);
	if (r < 0)
		return r;
	if (renameat2(v->dir, v->from.name, v->dir2, v->to.name, v->flags) < 0)
		return errno == ENOSYS ? -EINVAL : -errno;
	if (move_table(c, v) < 0)
		log_warning("rename %s: no memory for the new name", c->path);
	return 0;
}

static int move(fuse_req_t req, struct move *v)
{
	struct mount *m = mount_of(req);
	struct change c;
	int r;

	if (v->flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	r = change_begin(&c, m, OP_RENAME, TREE_RENAME, &v->from, &v->to);
	if (r < 0)
		return r;
	r = move_steps(&c, v);
	if (r > 0)
		(void)change_end(&c, r = 0, TOUCH_NONE);
	else
		(void)change_end(&c, r, TOUCH_BOTH);
	change_hold_victim(&c, &v->what);
	change_hold_victim(&c, &v->over);
	if (r == 0)
		r = change_wait(&c, req);
	return r;
}

void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	const char *newname, unsigned int flags)
{
	struct mount *m = mount_of(req);
	struct move v = {
		.from = {inode_of(req, parent), name},
		.to = {inode_of(req, newparent), newname},
		.flags = flags,
		.dir = -1,
		.dir2 = -1,
	};
	int r = move(req, &v);

	victim_clear(m, &v.what);
	victim_clear(m, &v.over);
	cleanup_close(&v.dir);
	cleanup_close(&v.dir2);
	fuse_reply_err(req, -r);
}

/* ---- link ---- */

static int link_call(
	struct change *c, struct inode *i, const struct place *to, struct fuse_entry_param *e)
{
	_cleanup_close_ int dir = -1, fd = inode_open(c->m->inodes, i, O_PATH);
	int r;

	if (fd < 0)
		return fd;
	dir = inode_open(c->m->inodes, to->inode, O_PATH | O_DIRECTORY);
	if (dir < 0)
		return dir;
	r = change_log(c);
	if (r < 0)
		return r;
	if (linkat(fd, "", dir, to->name, AT_EMPTY_PATH) < 0)
		return -errno;
	return entry_fill(c->m, to->inode, to->name, fd, 0, e);
}

/* Another name for what has one. */
static int link_named(struct mount *m, struct inode *i, const struct place *to, fuse_req_t req,
	struct fuse_entry_param *e)
{
	struct place from = {i, NULL};
	struct change c;
	int r;

	lost_name_find(m, i);
	r = change_begin(&c, m, OP_LINK, TREE_CHANGE, &from, to);
	if (r < 0)
		return r;
	inode_fid(i, &c.op.fid);
	r = content_emit_locked(m, i, NULL);
	if (r == 0)
		r = link_call(&c, i, to, e);
	r = change_end(&c, r, TOUCH_SECOND);
	return r < 0 ? r : entry_wait(&c, e, req);
}

/* The first name of an O_TMPFILE file: at the peers it is a new file. */
static int link_first(struct mount *m, struct inode *i, const struct place *to, fuse_req_t req,
	struct fuse_entry_param *e)
{
	struct change c;
	int r = change_begin(&c, m, OP_CREATE, TREE_CHANGE, to, NULL);

	if (r < 0)
		return r;
	r = link_call(&c, i, to, e);
	if (r == 0) {
		(void)pthread_mutex_lock(&i->lock);
		i->orphan = false;
		(void)pthread_mutex_unlock(&i->lock);
		r = dirty_created(m, i, c.op.seq, c.op.time);
		change_touch(&c);
	}
	if (r == 0)
		r = content_emit_locked(m, i, &c.seq);
	r = change_end(&c, r, TOUCH_FIRST);
	return r < 0 ? r : entry_wait(&c, e, req);
}

void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	struct mount *m = mount_of(req);
	struct inode *i = inode_of(req, ino);
	struct place to = {inode_of(req, newparent), newname};
	struct fuse_entry_param e = {0};
	bool orphan;
	int r;

	(void)pthread_mutex_lock(&i->lock);
	orphan = i->orphan;
	(void)pthread_mutex_unlock(&i->lock);
	r = orphan ? link_first(m, i, &to, req, &e) : link_named(m, i, &to, req, &e);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		reply_entry(req, m, &e);
}
