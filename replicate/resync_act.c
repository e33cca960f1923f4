/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * One finding is put right. Under the tree's lock it is looked at again: what was changed since the
 * comparison, here or by an operation of the peer, is left to that operation, and to the next
 * comparison. What the peer has changed and we do not have yet it will defend itself: a
 * restatement that meets a change which we had not seen is a conflict like any other.
 */

#include "resync.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/log.h"
#include "content.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static bool is_as_found(struct replica *r, const struct finding *f)
{
	struct stat st;
	int e = confine_stat(r->root, f->path, &st);

	if (!f->here)
		return e == -ENOENT || e == -ENOTDIR;
	if (e < 0 || st.st_mode != f->mode)
		return false;
	if (S_ISDIR(st.st_mode)) /* its time moves with what is done in it */
		return true;
	return clock_ns_of(&st.st_mtim) == f->mtime &&
	       (!S_ISREG(st.st_mode) || (uint64_t)st.st_size == f->size);
}

static bool is_being_written(struct replica *r, const struct finding *f)
{
	struct fid fid;

	return f->here && S_ISREG(f->mode) && fid_of_path(r->root, f->path, &fid) == 0 &&
	       replica_dirty_mark(r, f->path, &fid);
}

static int keep_theirs(struct replica *r, const struct finding *f)
{
	struct op op = {
		.type = OP_ASK, .flags = OP_KEEP, .path = f->path, .about = f->their_version};

	return replica_say(r, &op);
}

static int keep_ours(struct resync *y, const struct finding *f)
{
	struct keep k = {
		.path = f->path, .winner = y->survey.peer->node.name, .seq = f->our_version};

	return keep_version(y->survey.replica, &k);
}

/* A change like one of a local caller, but as old as the peer's. */
static int take_attributes(struct replica *r, const struct finding *f)
{
	struct apply_target target = {.root = r->root, .scratch = r->scratch, .stage = -1};
	struct apply_result result = {0};
	struct op op = {.type = OP_SETATTR,
		.flags = S_ISDIR(f->mode) ? OP_IS_DIR : 0,
		.path = f->path,
		.time = f->their_mtime > 0 ? (uint64_t)f->their_mtime : 1,
		.mask = OP_MODE | OP_UID | OP_GID | OP_MTIME,
		.mode = f->their_mode & 07777,
		.uid = f->their_uid,
		.gid = f->their_gid,
		.mtime = f->their_mtime};
	int e = fid_of_path(r->root, f->path, &op.fid);

	if (e == 0)
		e = replica_log(r, &op);
	if (e < 0)
		return e;
	e = op_apply(&target, &op, &result);
	if (e == 0 && r->hooks.applied)
		r->hooks.applied(r->hooks.ctx, &op, &result);
	replica_done(r, op.seq, e);
	return e;
}

static int carry_out(struct resync *y, const struct finding *f)
{
	struct replica *r = y->survey.replica;

	switch (f->plan.act) {
	case RESYNC_SEND:
	case RESYNC_REMOVE:
		return restate_name(r, f->path);
	case RESYNC_REMOVE_HERE: /* the peer says that there is nothing */
	case RESYNC_FETCH:
		y->asked++;
		return replica_ask(r, f->path, f->deep, NULL);
	case RESYNC_SEND_LINK:
		return restate_link(r, f->first, f->path);
	case RESYNC_SEND_ATTRIBUTES:
		return restate_attributes(r, f->path);
	case RESYNC_TAKE_ATTRIBUTES:
		return take_attributes(r, f);
	case RESYNC_NOTHING:
		break;
	}
	return 0;
}

static int act_locked(struct resync *y, const struct finding *f)
{
	struct replica *r = y->survey.replica;
	int e = 0;

	if (touched_has(r->touched, f->path) || !is_as_found(r, f) || is_being_written(r, f))
		return 0;
	if (f->plan.keep_theirs)
		e = keep_theirs(r, f);
	if (e == 0 && f->plan.keep_ours)
		e = keep_ours(y, f);
	if (e == 0)
		e = carry_out(y, f);
	return e < 0 ? e : 1;
}

int resync_act(struct resync *y, const struct finding *f)
{
	struct replica *r = y->survey.replica;
	int e;

	tree_lock(r->tree, TREE_RENAME);
	e = act_locked(y, f);
	tree_unlock(r->tree);
	if (e == -ENOENT || e == -ENOTDIR)
		return 0; /* gone in between, behind the mount */
	if (e < 0)
		log_error("reconciling %s: %s", f->path, strerror(-e));
	return e;
}
