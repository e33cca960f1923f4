/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs.h"
#include "invalidate.h"
#include "lost_version.h"

#include <string.h>

/*
 * DESIGN: what a peer's op means for the inode table and for the kernel's caches. The table is
 * walked from the root: what it does not know the kernel has not cached. For each name that
 * changed: its inode's attributes, the entry (also a negative one), then the directory's cached
 * listing and attributes.
 *
 * An inode that changed is found by its number: with several links the op's path may be one that
 * nobody here has looked up, while the kernel has cached the inode by another.
 */

/* The directory of a path, when the table knows it. */
struct spot {
	struct inode *parent; /* pinned; NULL: nothing is cached there */
	const char *name;
};

static struct spot spot_find(struct mount *m, const char *path)
{
	char parent[TANDEMFS_PATH_MAX + 1];
	size_t len = confine_parent_len(path);

	memcpy(parent, path, len);
	parent[len] = 0;
	return (struct spot){
		.parent = inode_by_path(m->inodes, parent),
		.name = len ? path + len + 1 : path,
	};
}

static void spot_release(struct mount *m, struct spot *s)
{
	inode_unpin(m->inodes, s->parent);
	s->parent = NULL;
}

/* Entry and listing. */
static void spot_notify(struct mount *m, const struct spot *s, bool dir)
{
	if (!s->parent)
		return;
	notifier_entry(m->notifier, s->parent, s->name, dir);
	notifier_content(m->notifier, s->parent);
}

static void inode_changed(struct mount *m, const struct stat *st, bool content)
{
	struct inode *i = NULL;

	if (st->st_ino)
		i = inode_by_ino(m->inodes, inode_root(m->inodes)->key.dev, st->st_ino);
	if (!i)
		return;
	if (content)
		notifier_content(m->notifier, i);
	else
		notifier_attributes(m->notifier, i);
	inode_unpin(m->inodes, i);
}

/* Whether the name was the inode's last one; a link in the vault is none. */
static bool was_last(struct mount *m, const struct inode *i, const struct stat *before)
{
	struct fid fid;

	if (before->st_ino != i->key.ino)
		return false;
	if (S_ISDIR(i->type) || before->st_nlink <= 1)
		return true;
	inode_fid(i, &fid);
	return before->st_nlink == 2 && replica_orphan_kept(m->replica, &fid);
}

/* An inode lost the name @path: @replaced by another. */
static void inode_lost(struct mount *m, struct inode *i, const char *path,
	const struct stat *before, bool replaced)
{
	if (was_last(m, i, before)) {
		inode_detach(m->inodes, i);
		if (!lost_version_begin(m, i, path, replaced))
			dirty_drop(m, i);
	}
	notifier_attributes(m->notifier, i);
}

/* At @path is now what @result says, or nothing. */
static void name_changed(struct mount *m, const char *path, const struct apply_result *result)
{
	struct spot s = spot_find(m, path);
	struct inode *child = s.parent ? inode_child(m->inodes, s.parent, s.name) : NULL;
	bool dir = child && S_ISDIR(child->type);

	/* A look-up may have entered the new one already. */
	if (child && child->key.ino != result->after.st_ino) {
		inode_name_drop(m->inodes, s.parent, s.name);
		inode_lost(m, child, path, &result->before, result->after.st_ino != 0);
	} else if (!child) {
		inode_changed(m, &result->before, false);
	}
	spot_notify(m, &s, dir);
	inode_unpin(m->inodes, child);
	spot_release(m, &s);
}

static void link_made(struct mount *m, const struct op *op, const struct apply_result *result)
{
	name_changed(m, op->path2, result);
	inode_changed(m, &result->after, false);
}

/* The directory that the name moved to, made known if need be: an inode that is in use needs its
 * path. */
static struct spot spot_resolve(struct mount *m, const char *path)
{
	char parent[TANDEMFS_PATH_MAX + 1];
	size_t len = confine_parent_len(path);
	struct spot s = {.name = len ? path + len + 1 : path};
	int r;

	memcpy(parent, path, len);
	parent[len] = 0;
	r = inode_resolve(m->inodes, parent, &s.parent);
	if (r < 0) {
		s.parent = NULL;
		log_warning("rename to %s by a peer: its directory: %s", path, strerror(-r));
	}
	return s;
}

static void table_renamed(
	struct mount *m, const struct op *op, const struct spot *a, const struct spot *b)
{
	int r;

	if (op->flags & OP_EXCHANGE)
		r = inode_name_swap(m->inodes, a->parent, a->name, b->parent, b->name);
	else
		r = inode_name_move(m->inodes, a->parent, a->name, b->parent, b->name);
	if (r < 0)
		log_warning("rename of %s by a peer: %s", op->path, strerror(-r));
}

static void renamed(struct mount *m, const struct op *op, const struct apply_result *result)
{
	bool exchange = op->flags & OP_EXCHANGE;
	struct spot a = spot_find(m, op->path), b = spot_find(m, op->path2);
	struct inode *what = a.parent ? inode_child(m->inodes, a.parent, a.name) : NULL;
	struct inode *over = b.parent ? inode_child(m->inodes, b.parent, b.name) : NULL;

	if (what && !b.parent)
		b = spot_resolve(m, op->path2);
	if (over && exchange && !a.parent)
		a = spot_resolve(m, op->path);
	if (a.parent && b.parent)
		table_renamed(m, op, &a, &b);
	else if (b.parent)
		inode_name_drop(m->inodes, b.parent, b.name);
	else if (a.parent)
		inode_name_drop(m->inodes, a.parent, a.name);
	if (over && !exchange && over != what)
		inode_lost(m, over, op->path2, &result->before, true);
	else if (!over)
		inode_changed(m, &result->before, false);
	inode_changed(m, &result->after, false);
	spot_notify(m, &a, what && S_ISDIR(what->type));
	spot_notify(m, &b, over && S_ISDIR(over->type));
	inode_unpin(m->inodes, over);
	inode_unpin(m->inodes, what);
	spot_release(m, &b);
	spot_release(m, &a);
}

void invalidate_applied(void *ctx, const struct op *op, const struct apply_result *result)
{
	struct mount *m = ctx;

	inode_epoch_advance(m->inodes);
	switch (op->type) {
	case OP_RENAME:
		renamed(m, op, result);
		break;
	case OP_LINK:
		link_made(m, op, result);
		break;
	case OP_SETATTR:
	case OP_SETXATTR:
	case OP_REMOVEXATTR:
		inode_changed(m, &result->after, false);
		break;
	case OP_CONTENT:
		if (result->new_inode || !result->before.st_ino)
			name_changed(m, op->path, result);
		else
			inode_changed(m, &result->after, true);
		break;
	default:
		name_changed(m, op->path, result);
	}
}

void invalidate_settle(void *ctx)
{
	struct mount *m = ctx;

	notifier_settle(m->notifier);
}

bool invalidate_busy(void *ctx, const struct fid *fid)
{
	struct mount *m = ctx;
	struct inode *i = inode_by_ino(m->inodes, inode_root(m->inodes)->key.dev, fid->ino);
	struct fid own;
	bool busy;

	if (!i)
		return false;
	inode_fid(i, &own);
	(void)pthread_mutex_lock(&i->lock);
	busy = i->dirty && fid_equal(&own, fid);
	(void)pthread_mutex_unlock(&i->lock);
	inode_unpin(m->inodes, i);
	return busy;
}
