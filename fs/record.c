/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "record.h"
#include "invalidate.h"

#include <fcntl.h>
#include <string.h>

/*
 * DESIGN: the record is in the journal before the change is made, and the tree's lock and guard are
 * held from before the record until after the change, so that related records are in the order in
 * which their changes were made. The wait for the peers is outside: while it lasts the notifier is
 * told which inodes the kernel may have locked for this call.
 */

static int place_path(struct mount *m, const struct place *p, char *dst)
{
	int r = inode_path(m->inodes, p->inode, p->name, dst);

	/* A directory that was removed under a caller that is still in it. */
	return r == -ENOENT ? -ESTALE : r;
}

static void change_hold(struct change *c, const struct place *p)
{
	c->held[c->n_held++] = p->inode;
	c->places[c->n_places++] = *p;
}

int change_begin(struct change *c, struct mount *m, enum op_type type, enum tree_mode mode,
	const struct place *a, const struct place *b)
{
	int r;

	c->m = m;
	c->op = (struct op){.type = type};
	c->mode = mode;
	c->silent = c->logged = false;
	c->seq = 0;
	c->n_held = c->n_places = 0;
	if (a->name && name_hidden(m, a->inode, a->name))
		return -EPERM;
	if (b && b->name && name_hidden(m, b->inode, b->name))
		return -EPERM;
	r = replica_admit(m->replica);
	if (r < 0)
		return r;
	tree_lock(m->tree, mode);
	r = place_path(m, a, c->path);
	if (r == 0 && b)
		r = place_path(m, b, c->path2);
	if (r < 0) {
		tree_unlock(m->tree);
		return r == -ESTALE ? -ENOENT : r;
	}
	c->op.path = c->path;
	change_hold(c, a);
	if (b) {
		c->op.path2 = c->path2;
		change_hold(c, b);
	}
	if (mode == TREE_CHANGE)
		tree_guard(m->tree, c->path, b ? c->path2 : NULL, &c->guard);
	return 0;
}

int change_log(struct change *c)
{
	int r;

	if (!c->op.time)
		c->op.time = replica_now(c->m->replica);
	if (c->silent)
		return 0;
	r = replica_log(c->m->replica, &c->op);
	if (r < 0)
		return r;
	c->logged = true;
	c->seq = c->op.seq;
	return 0;
}

static void touch_parent(struct change *c, char *path)
{
	char parent[TANDEMFS_PATH_MAX + 1];
	size_t len = confine_parent_len(path);

	memcpy(parent, path, len);
	parent[len] = 0;
	replica_touch(c->m->replica, parent, c->op.time);
}

void change_touch(struct change *c)
{
	touch_parent(c, c->path);
}

int change_end(struct change *c, int result, enum touch touch)
{
	if (result == 0 && (touch == TOUCH_FIRST || touch == TOUCH_BOTH))
		touch_parent(c, c->path);
	if (result == 0 && (touch == TOUCH_SECOND || touch == TOUCH_BOTH))
		touch_parent(c, c->path2);
	if (c->logged)
		replica_done(c->m->replica, c->op.seq, result);
	if (c->mode == TREE_CHANGE)
		tree_unguard(&c->guard);
	tree_unlock(c->m->tree);
	if (result < 0)
		c->seq = 0;
	return result;
}

static bool interrupted(void *ctx)
{
	return fuse_req_interrupted(ctx);
}

static int wait_holding(struct mount *m, struct inode *const *held, size_t n, uint64_t seq,
	enum replica_scope scope, fuse_req_t req)
{
	int r;

	if (!seq || !replica_waits(m->replica, scope))
		return 0;
	for (size_t k = 0; k < n; k++)
		notifier_wait_begin(m->notifier, held[k]);
	r = replica_wait(m->replica, seq, scope, interrupted, req);
	for (size_t k = 0; k < n; k++)
		notifier_wait_end(m->notifier, held[k]);
	return r;
}

/* The caller gets an error for what was done. The notices go out once the kernel has that answer.
 */
static void forget_cached(struct change *c)
{
	struct notifier *n = c->m->notifier;
	bool dir = c->op.type == OP_RMDIR || (c->op.type == OP_RENAME && c->op.flags & OP_IS_DIR);

	for (size_t k = 0; k < c->n_held; k++)
		notifier_attributes(n, c->held[k]);
	for (size_t k = 0; k < c->n_places; k++) {
		const struct place *p = &c->places[k];

		if (!p->name)
			continue;
		notifier_entry(n, p->inode, p->name, dir);
		notifier_content(n, p->inode);
	}
}

int change_wait(struct change *c, fuse_req_t req)
{
	int r = wait_holding(c->m, c->held, c->n_held, c->seq, REPLICA_CHANGE, req);

	if (r < 0)
		forget_cached(c);
	return r;
}

int record_wait(
	struct mount *m, struct inode *i, uint64_t seq, enum replica_scope scope, fuse_req_t req)
{
	return wait_holding(m, &i, 1, seq, scope, req);
}

int stamp_mtime(int dir, const char *name, uint64_t time)
{
	struct timespec ts[2] = {
		{.tv_nsec = UTIME_OMIT},
		{.tv_sec = (time_t)(time / 1000000000), .tv_nsec = (long)(time % 1000000000)},
	};

	return utimensat(dir, name, ts, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}
