/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "apply_steps.h"

#include "base/fault.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

/*
 * DESIGN: a rename is recognised as done by the inode: op->fid is what stood at path when the op
 * was journaled here; when that stands at path2 nothing is left to do.
 *
 * Inodes that are gone at the sender may never have come here (their contents were void), so a
 * rename meets fewer names than it met there:
 * - path is missing, OP_GONE: the moved inode is gone; what it replaced at path2 goes too.
 * - an exchange of which one side is missing moves the other.
 * It never meets more: something at path2 that the sender did not replace is -EEXIST.
 */

struct pair {
	struct place from, to;
};

static void pair_close(struct pair *p)
{
	place_close(&p->from);
	place_close(&p->to);
}
#define _cleanup_pair_ __attribute__((cleanup(pair_close)))

/* 1, 0 or -errno. */
static int already_done(const struct op *op, const struct apply_target *t, const struct pair *p)
{
	struct fid fid;
	int r;

	if (!op->fid.ino || p->to.st.st_ino != op->fid.ino)
		return 0;
	r = fid_of_path(t->root, op->path2, &fid);
	return r < 0 ? r : fid_equal(&fid, &op->fid);
}

static int move(const struct place *from, const struct place *to)
{
	if (renameat(from->dir, from->name, to->dir, to->name) == 0)
		return 0;
	return errno == EEXIST ? -ENOTEMPTY : -errno;
}

static int exchange(const struct pair *p, const struct op *op)
{
	if (p->from.st.st_ino && p->to.st.st_ino)
		return renameat2(p->from.dir, p->from.name, p->to.dir, p->to.name,
			       RENAME_EXCHANGE) < 0
			       ? -errno
			       : 0;
	if (p->from.st.st_ino)
		return move(&p->from, &p->to);
	if (!(op->flags & OP_GONE))
		return -ENOENT;
	return p->to.st.st_ino ? move(&p->to, &p->from) : 0;
}

static int replace(const struct pair *p, const struct op *op)
{
	if (!p->from.st.st_ino) {
		if (!(op->flags & OP_GONE))
			return -ENOENT;
		return p->to.st.st_ino ? place_remove(&p->to) : 0;
	}
	/* rename(2) does nothing to two names of one inode. */
	if (p->to.st.st_ino == p->from.st.st_ino)
		return place_remove(&p->from);
	if (p->to.st.st_ino && !(op->flags & OP_REPLACED))
		return -EEXIST;
	return move(&p->from, &p->to);
}

static int touch_both(const struct pair *p, uint64_t time)
{
	int r = p->from.dir >= 0 ? place_touch(&p->from, time) : 0;

	return r < 0 ? r : place_touch(&p->to, time);
}

/* For what is gone a directory that is missing holds nothing: the place stays closed, and empty. */
static int open_place(
	const struct apply_target *t, const struct op *op, const char *path, struct place *ret)
{
	int r = place_open(t->root, path, ret);

	return r == -ENOENT && op->flags & OP_GONE ? 0 : r;
}

int apply_rename(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	_cleanup_pair_ struct pair p = {.from = PLACE_NONE, .to = PLACE_NONE};
	int r;

	r = open_place(t, op, op->path, &p.from);
	if (r == 0)
		r = open_place(t, op, op->path2, &p.to);
	if (r == 0)
		r = already_done(op, t, &p);
	if (r < 0)
		return r;
	if (r > 0 || (!p.from.st.st_ino && !p.to.st.st_ino && op->flags & OP_GONE)) {
		result_same(ret, &p.to.st);
		return 0;
	}
	if (op->flags & OP_IS_DIR && p.from.st.st_ino && !S_ISDIR(p.from.st.st_mode))
		return -ENOTDIR;
	if (p.to.dir < 0 || (p.from.dir < 0 && op->flags & OP_EXCHANGE))
		return -ENOENT;
	r = op->flags & OP_EXCHANGE ? exchange(&p, op) : replace(&p, op);
	if (r < 0)
		return r;
	fault_point("apply.rename.after");
	ret->changed = true;
	ret->before = p.to.st;
	r = touch_both(&p, op->time);
	return r < 0 ? r : place_stat(&p.to, &ret->after);
}
