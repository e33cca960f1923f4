/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * From a frame to the tree.
 *
 * An operation is journaled here as JOURNAL_REMOTE before it is applied and settled after, under
 * the locks of its paths; the origin's position moves with it. So a crash leaves at most one
 * operation per origin in doubt, and recovery asks the tree about that one.
 *
 * Before it is applied it is taken past our changes that its sender had not seen (unseen.c). If
 * they do not go together, or the tree is not as the sender's was, one of the two nodes decides
 * (resolve.c), and the other asks it (restate.c).
 *
 * What cannot be applied for a reason that may pass (disk full, quota, read-only, permission) is
 * parked (parked.c).
 */

#include "receiver.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/fault.h"
#include "base/log.h"
#include "content.h"
#include "growing.h"
#include "room.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <utlist.h>

/* Between two numbers of a sender; what it never sends lies between. */
#define SEQ_JUMP_MAX (1ull << 48)

/* ---- positions and the journal ---- */

static bool is_known(struct receiver *v, uint64_t seq)
{
	struct replica *r = v->replica;
	bool known;

	(void)pthread_mutex_lock(&r->lock);
	known = position_has(&v->origin->applied, seq);
	(void)pthread_mutex_unlock(&r->lock);
	return known;
}

bool incoming_is_missing(struct receiver *v, uint64_t seq)
{
	struct replica *r = v->replica;
	bool missing;

	(void)pthread_mutex_lock(&r->lock);
	missing = position_is_missing(&v->origin->applied, seq);
	(void)pthread_mutex_unlock(&r->lock);
	return missing;
}

static int move_position(struct receiver *v, const struct remote_record *m)
{
	struct replica *r = v->replica;
	int e;

	(void)pthread_mutex_lock(&r->lock);
	e = remote_record_move(m, &v->origin->applied);
	if (e == 0 && (m->how == REMOTE_PASS || m->how == REMOTE_LATE))
		v->origin->applied_ops++;
	(void)pthread_mutex_unlock(&r->lock);
	if (e == 0)
		v->ack_due = v->unsealed = v->unshown = true;
	return e;
}

static struct remote_record record_of(const struct receiver *v, uint64_t seq, enum remote_how how)
{
	struct remote_record m = {.seq = seq, .how = how};

	(void)snprintf(m.id, sizeof(m.id), "%s", v->origin->id);
	return m;
}

static int append_remote(struct receiver *v, const struct remote_record *m, const struct op *op,
	bool open, uint64_t *ret_seq)
{
	_cleanup_buf_ struct buf b = {0};
	int e;

	remote_record_put(&b, m);
	if (op)
		op_encode(op, OP_ENCODE_BRIEF, &b);
	e = buf_error(&b);
	return e < 0 ? e
		     : journal_append(v->replica->journal, JOURNAL_REMOTE, open, b.data, b.len,
			       NULL, 0, ret_seq);
}

/* A number that is to follow later counts as missing before the record says so: a segment that
 * others begin meanwhile must not say that it never came, since with the next number it would count
 * as applied. */
static int defer_number(struct receiver *v, const struct remote_record *m)
{
	struct replica *r = v->replica;
	struct position before;
	uint64_t ignored;
	int e;

	(void)pthread_mutex_lock(&r->lock);
	position_copy(&before, &v->origin->applied);
	(void)pthread_mutex_unlock(&r->lock);
	e = move_position(v, m);
	if (e < 0)
		return e == -ENOBUFS ? -EAGAIN : 0;
	e = append_remote(v, m, NULL, false, &ignored);
	if (e == 0)
		return 0;
	(void)pthread_mutex_lock(&r->lock);
	position_copy(&v->origin->applied, &before);
	(void)pthread_mutex_unlock(&r->lock);
	return e;
}

/* A number that is to follow later, or that nothing is left of. */
int incoming_number(struct receiver *v, uint64_t seq, enum remote_how how)
{
	struct remote_record m = record_of(v, seq, how);
	uint64_t ignored;
	int e;

	if (how == REMOTE_DEFER)
		return defer_number(v, &m);
	e = append_remote(v, &m, NULL, false, &ignored);
	return e < 0 ? e : move_position(v, &m);
}

/* ---- applying ---- */

static void log_applied(struct receiver *v, const struct op *op, uint64_t started_ms)
{
	char text[512];
	struct change_line line = {
		.verb = "applied",
		.peer = v->sender.name,
		.what = op_describe(op, text, sizeof(text)),
		.bytes = op->content ? op->content->data_len : 0,
		.seconds = (double)(clock_mono_ms() - started_ms) / 1000,
	};

	changes_add(v->replica->changes, &line);
}

static int sync_path(struct receiver *v, const struct op *op)
{
	struct replica *r = v->replica;
	struct apply_target target = {.root = r->root, .scratch = r->scratch, .stage = -1};
	struct apply_result result;
	int e = op_apply(&target, op, &result);

	if (e == -ENOENT || e == -ENOTDIR || e == -ELOOP) /* it has moved on: everything, then */
		e = syncfs(r->root) < 0 ? -errno : 0;
	if (e == 0)
		e = journal_sync(r->journal, journal_head(r->journal));
	if (e == 0)
		v->durable = op->seq;
	return e;
}

static bool staged_digest(
	void *receiver, ino_t ino, const char *name, struct digest **ret, uint64_t *ret_done)
{
	const struct receiver *v = receiver;

	return v->digests && digest_staged_take(v->digests, ino, name, ret, ret_done);
}

struct apply_target receiver_target(struct receiver *v)
{
	return (struct apply_target){.root = v->replica->root,
		.scratch = v->replica->scratch,
		.stage = v->stage,
		.alive = receiver_alive,
		.digested = staged_digest,
		.ctx = v};
}

/* What the change means for the tables that follow the names. */
static void tell_applied(struct receiver *v, const struct op *op, const struct apply_result *result)
{
	struct replica *r = v->replica;

	touched_add(r->touched, op);
	if (op->type == OP_RENAME)
		replica_moved(r, op->path, op->path2, op->flags & OP_EXCHANGE, true);
	if (r->hooks.applied)
		r->hooks.applied(r->hooks.ctx, op, result);
}

int incoming_apply(struct receiver *v, struct op *op, struct remote_record *m)
{
	struct replica *r = v->replica;
	struct apply_target target = receiver_target(v);
	struct apply_result result = {0};
	uint64_t own;
	int e;

	(void)fid_of_path(r->root, op->path, &op->fid); /* none for what does not exist yet */
	replica_parent_times(r, op, m->touch);
	e = append_remote(v, m, op, true, &own);
	if (e < 0)
		return e;
	growing_changed(r, &op->fid);
	fault_point("receiver.apply.before");
	e = op_apply(&target, op, &result);
	fault_point("receiver.apply.after");
	if (e < 0) {
		int aborted = journal_abort(r->journal, own);

		return aborted < 0 ? aborted : e;
	}
	replica_touch_parents(r, op, m->touch);
	replica_saw_time(r, op->time);
	(void)move_position(v, m); /* PASS and LATE cannot fail */
	tell_applied(v, op, &result);
	journal_settle(r->journal, own);
	return 0;
}

int incoming_step(struct receiver *v, struct op *op)
{
	struct apply_target target = receiver_target(v);
	struct apply_result result = {0};
	uint64_t note;
	int e;

	(void)fid_of_path(v->replica->root, op->path, &op->fid);
	e = plain_note_begin(v->replica, op, &note);
	if (e < 0)
		return e;
	e = op_apply(&target, op, &result);
	plain_note_end(v->replica, note);
	if (e == 0)
		tell_applied(v, op, &result);
	return e;
}

struct removal {
	struct receiver *v;
	uint64_t time;
};

static int remove_entry(void *ctx, const char *path)
{
	const struct removal *m = ctx;

	return incoming_remove(m->v, path, m->time);
}

/* Removes what is in the directory, and then it. */
static int remove_dir(struct receiver *v, const char *path, uint64_t time)
{
	struct op op = {.type = OP_RMDIR, .path = (char *)path, .time = time};
	struct removal m = {.v = v, .time = time};
	int e = confine_each(v->replica->root, path, remove_entry, &m);

	return e < 0 ? e : incoming_step(v, &op);
}

/* What a local process is writing goes on as an entry of the vault; so does what differs after all
 * conflicts were settled. */
static int keep_open_file(struct receiver *v, const char *path, const struct stat *st)
{
	struct replica *r = v->replica;
	struct keep k = {.path = path, .winner = v->sender.name, .leaves = true};
	struct fid fid;

	if (S_ISREG(st->st_mode) && fid_of_path(r->root, path, &fid) == 0)
		k.seq = replica_dirty_mark(r, path, &fid);
	return k.seq ? keep_version(r, &k) : review_keep(v, path, st, 0);
}

int incoming_remove(struct receiver *v, const char *path, uint64_t time)
{
	struct op op = {.type = OP_UNLINK, .path = (char *)path, .time = time};
	struct stat st;
	int e = confine_stat(v->replica->root, path, &st);

	if (e == -ENOENT || e == -ENOTDIR)
		return 0;
	if (e < 0)
		return e;
	if (S_ISDIR(st.st_mode))
		return remove_dir(v, path, time);
	e = S_ISREG(st.st_mode) || S_ISLNK(st.st_mode) ? keep_open_file(v, path, &st) : 0;
	return e < 0 ? e : incoming_step(v, &op);
}

/* ---- alone, or with changes of ours ---- */

/* What the two ways of an op's life need of it, and what is put back when it is tried later. */
struct attempt {
	struct receiver *v;
	struct op *op;
	const struct position *seen;
	struct remote_record m;
	enum op_type type;
	uint32_t flags, mask;
	char *path, *path2; /* as the sender calls them; owned */
};

static int attempt_begin(
	struct attempt *a, struct receiver *v, struct op *op, const struct position *seen)
{
	*a = (struct attempt){.v = v,
		.op = op,
		.seen = seen,
		.m = record_of(
			v, op->seq, incoming_is_missing(v, op->seq) ? REMOTE_LATE : REMOTE_PASS),
		.type = op->type,
		.flags = op->flags,
		.mask = op->mask,
		.path = strdup(op->path),
		.path2 = op->path2 ? strdup(op->path2) : NULL};
	return a->path && (!op->path2 || a->path2) ? 0 : -ENOMEM;
}

static void restore(struct attempt *a)
{
	struct op *op = a->op;

	free(op->path);
	free(op->path2);
	op->path = steal_pointer(&a->path);
	op->path2 = steal_pointer(&a->path2);
	op->type = a->type;
	op->flags = a->flags;
	op->mask = a->mask;
}

static void attempt_clear(struct attempt *a)
{
	free(a->path);
	free(a->path2);
}
#define _cleanup_attempt_ __attribute__((cleanup(attempt_clear)))

static int relate(struct attempt *a, struct unseen_relation *ret)
{
	struct replica *r = a->v->replica;
	int e;

	(void)pthread_mutex_lock(&r->lock);
	e = unseen_relate(r->unseen, a->op, a->seen, ret);
	(void)pthread_mutex_unlock(&r->lock);
	return e;
}

static bool changes_content(const struct op *op)
{
	return op->type != OP_SETATTR && op->type != OP_SETXATTR && op->type != OP_REMOVEXATTR &&
	       op->type != OP_LINK && op->type != OP_RENAME;
}

static bool is_linked(struct attempt *a, const struct unseen_relation *rel)
{
	struct replica *r = a->v->replica;
	struct stat from, to;

	return confine_stat(r->root, rel->path, &from) == 0 &&
	       confine_stat(r->root, rel->path2, &to) == 0 && from.st_ino == to.st_ino;
}

/* The name whose content the op changes or whose file it takes away; NULL: of none. */
static const char *taken_name(struct attempt *a, const struct unseen_relation *rel)
{
	if (a->op->type == OP_LINK && is_linked(a, rel))
		return NULL;
	if (a->op->type == OP_RENAME || a->op->type == OP_LINK)
		return rel->path2;
	return changes_content(a->op) ? rel->path : NULL;
}

/* The mark of a local writer who has the file open that the op would change or take away; 0: there
 * is none. */
static uint64_t open_file(struct attempt *a, const struct unseen_relation *rel)
{
	struct replica *r = a->v->replica;
	const char *path = replica_any_dirty(r) ? taken_name(a, rel) : NULL;
	struct fid fid;

	if (!path)
		return 0;
	return fid_of_path(r->root, path, &fid) == 0 ? replica_dirty_mark(r, path, &fid) : 0;
}

/* Whether we changed the file by another of its names, which may be gone since, and the sender had
 * not seen it. */
static bool is_changed_elsewhere(struct attempt *a, const struct unseen_relation *rel)
{
	struct replica *r = a->v->replica;
	struct stat st;
	struct fid fid;
	bool changed;

	if (a->op->type == OP_RENAME || a->op->type == OP_LINK ||
		confine_stat(r->root, rel->path, &st) < 0 || S_ISDIR(st.st_mode) ||
		(a->op->type == OP_UNLINK && st.st_nlink > 1) ||
		fid_of_path(r->root, rel->path, &fid) < 0)
		return false;
	(void)pthread_mutex_lock(&r->lock);
	changed = unseen_elsewhere(r->unseen, rel->path, &fid, a->seen);
	(void)pthread_mutex_unlock(&r->lock);
	return changed;
}

static bool is_alone(struct attempt *a, const struct unseen_relation *rel)
{
	struct replica *r = a->v->replica;

	if (rel->clash || open_file(a, rel) || is_changed_elsewhere(a, rel))
		return false;
	return !replica_is_asked(r, a->op->path) && !replica_is_asked(r, rel->path) &&
	       (!rel->path2 ||
		       (!replica_is_asked(r, a->op->path2) && !replica_is_asked(r, rel->path2)));
}

/* An answer finds nothing of ours that its sender had not seen, and the name still is called so
 * here. */
static bool is_final(struct attempt *a, const struct unseen_relation *rel)
{
	struct replica *r = a->v->replica;
	bool disturbed = rel->clash || strcmp(rel->path, a->op->path) != 0 ||
			 (rel->path2 && strcmp(rel->path2, a->op->path2) != 0);

	if (disturbed || a->op->type != OP_SETATTR)
		return !disturbed && !is_changed_elsewhere(a, rel);
	(void)pthread_mutex_lock(&r->lock);
	disturbed = unseen_in_dir(r->unseen, rel->path, a->seen);
	(void)pthread_mutex_unlock(&r->lock);
	return !disturbed;
}

static bool newer_here(struct attempt *a, const struct unseen_relation *rel)
{
	struct replica *r = a->v->replica;

	if (rel->attr_time != a->op->time)
		return rel->attr_time > a->op->time;
	return rel->attr_time && strcmp(r->node.id, a->v->origin->id) > 0;
}

/* Gives the op the names that its paths have here, and leaves out attributes that were changed
 * later here. False: nothing of it is left. */
static bool adapt(struct attempt *a, struct unseen_relation *rel)
{
	struct op *op = a->op;
	struct stat st;

	free(op->path);
	op->path = steal_pointer(&rel->path);
	if (rel->path2) {
		free(op->path2);
		op->path2 = steal_pointer(&rel->path2);
	}
	if (!newer_here(a, rel))
		return true;
	if (op->type == OP_SETATTR) {
		op->mask &= ~rel->attr_mask;
		return op->mask != 0;
	}
	if (op->type == OP_MKDIR)
		return confine_stat(a->v->replica->root, op->path, &st) < 0;
	return op->type != OP_SETXATTR && op->type != OP_REMOVEXATTR;
}

/* The directories of the names, as the sender calls them and as they are called here, are as young
 * as the op. */
static void touch_names(struct attempt *a)
{
	struct replica *r = a->v->replica;
	struct op as_sent = *a->op;
	uint64_t times[2];

	as_sent.type = a->type;
	as_sent.path = a->path;
	as_sent.path2 = a->path2;
	replica_parent_times(r, a->op, times);
	replica_touch_parents(r, a->op, times);
	replica_parent_times(r, &as_sent, times);
	replica_touch_parents(r, &as_sent, times);
	replica_saw_time(r, a->op->time);
}

/* Nothing has to be done for the op here; the directories of its names are as young as if. */
static int pass_over(struct attempt *a)
{
	touch_names(a);
	return incoming_number(a->v, a->m.seq, a->m.how);
}

/* -ECANCELED: it meets changes of ours. */
static int apply_alone(struct attempt *a)
{
	struct replica *r = a->v->replica;
	struct op *op = a->op;
	bool renames = op->type == OP_RENAME;
	struct tree_guard guard = {0};
	struct unseen_relation rel = {0};
	int e;

	tree_lock(r->tree, renames ? TREE_RENAME : TREE_CHANGE);
	e = relate(a, &rel);
	if (e == 0 && !renames)
		tree_guard(r->tree, rel.path, rel.path2, &guard);
	if (e == 0 && !is_alone(a, &rel))
		e = -ECANCELED;
	if (e == 0)
		e = adapt(a, &rel) ? incoming_apply(a->v, op, &a->m) : pass_over(a);
	if (!renames)
		tree_unguard(&guard);
	tree_unlock(r->tree);
	unseen_relation_clear(&rel);
	return e;
}

/* ---- what does not go together ---- */

/* The one of the two nodes whose tree is right while they differ. */
static bool decides(const struct receiver *v)
{
	return strcmp(v->replica->node.id, v->origin->id) < 0;
}

void incoming_drop_content(struct receiver *v, struct op *op)
{
	struct apply_target target = receiver_target(v);

	if (!op->content || !op->content->stage[0])
		return;
	op_unprepare(&target, op);
	if (unlinkat(v->stage, op->content->stage, 0) < 0 && errno != ENOENT)
		log_warning("cannot delete a staged content: %s", strerror(errno));
}

static char *followed(struct attempt *a)
{
	struct replica *r = a->v->replica;
	char *path;

	(void)pthread_mutex_lock(&r->lock);
	path = unseen_follow(r->unseen, a->path, a->seen);
	(void)pthread_mutex_unlock(&r->lock);
	return path;
}

static int ask_about(
	struct attempt *a, const struct unseen_relation *rel, const struct position *again)
{
	struct replica *r = a->v->replica;
	_cleanup_free_ char *path = followed(a);
	bool deep = a->type == OP_RENAME;
	int e = path ? replica_ask(r, a->path, false, again) : -ENOMEM;

	if (e == 0 && strcmp(path, a->path) != 0 && strcmp(path, rel->path) != 0)
		e = replica_ask(r, path, false, again);
	if (e == 0 && strcmp(rel->path, a->path) != 0)
		e = replica_ask(r, rel->path, false, again);
	if (e == 0 && rel->path2)
		e = replica_ask(r, a->path2, deep, again);
	if (e == 0 && rel->path2 && strcmp(rel->path2, a->path2) != 0)
		e = replica_ask(r, rel->path2, deep, again);
	return e;
}

/* The names of our next rename, after @after, of @path or of a directory above it; its number, or
 * 0: there is none. */
static uint64_t our_rename(struct attempt *a, const char *path, uint64_t after, char *ret[2])
{
	struct replica *r = a->v->replica;
	const struct unseen_op *own;
	uint64_t seq;

	(void)pthread_mutex_lock(&r->lock);
	own = unseen_rename_above(r->unseen, path, a->seen, after);
	seq = own ? own->seq : 0;
	ret[0] = own ? strdup(own->path) : NULL;
	ret[1] = own ? strdup(own->path2) : NULL;
	(void)pthread_mutex_unlock(&r->lock);
	return seq;
}

/* A rename that meets ours, since both moved one thing, or each into the other: what we moved may
 * be anywhere after it. */
static int ask_about_moved(struct attempt *a, const char *path, const struct position *again)
{
	struct replica *r = a->v->replica;
	uint64_t seq = 0;
	int e = 0;

	do {
		_cleanup_free_ char *from = NULL, *to = NULL;
		char *moved[2];

		seq = our_rename(a, path, seq, moved);
		from = moved[0];
		to = moved[1];
		if (seq)
			e = from && to ? replica_ask(r, from, true, again) : -ENOMEM;
		if (seq && e == 0)
			e = replica_ask(r, to, true, again);
	} while (seq && e == 0);
	return e;
}

static int ask_other(struct replica *r, const char *path)
{
	return replica_ask(r, path, false, NULL);
}

/* What we did to a file by a name that the peer takes away has not reached it there, and a content
 * that we leave out may be meant for all names: what the others are to have, the peer says. */
static int ask_about_others(struct attempt *a, const struct unseen_relation *rel)
{
	struct replica *r = a->v->replica;
	const char *path = taken_name(a, rel);
	struct fid fid = {0};
	struct stat st;
	bool ours;

	if (!path || confine_stat(r->root, path, &st) < 0 || st.st_nlink < 2 ||
		S_ISDIR(st.st_mode) || fid_of_path(r->root, path, &fid) < 0)
		return 0;
	(void)pthread_mutex_lock(&r->lock);
	ours = unseen_elsewhere(r->unseen, "", &fid, a->seen);
	(void)pthread_mutex_unlock(&r->lock);
	return ours || a->type == OP_CONTENT ? restate_each_other(r, path, &st, ask_other) : 0;
}

/* What we wrote by a name that has gone to something else since reaches the peer by that name, and
 * is overwritten there. Should what stands here go as well, the vault has it. */
static int keep_changed(struct attempt *a, const struct unseen_relation *rel)
{
	struct receiver *v = a->v;
	struct replica *r = v->replica;
	struct keep k = {.path = rel->path, .winner = v->sender.name, .other = a->op->seq};
	struct fid fid = {0};
	struct stat st;
	bool loose;

	if (!is_changed_elsewhere(a, rel) || confine_stat(r->root, rel->path, &st) < 0 ||
		st.st_nlink > 1 || fid_of_path(r->root, rel->path, &fid) < 0)
		return 0;
	(void)pthread_mutex_lock(&r->lock);
	loose = unseen_version(r->unseen, rel->path, &fid, a->seen) != NULL;
	(void)pthread_mutex_unlock(&r->lock);
	return loose ? keep_version(r, &k) : 0; /* else the vault has it already */
}

/* Does nothing, and asks the other node what stands at the names. */
static int leave_to_peer(struct attempt *a, const struct unseen_relation *rel)
{
	const struct position *again = a->flags & OP_FORCE ? a->seen : NULL;
	char text[400];
	int e;

	log_info("conflict: %s from %s meets changes of this node: it is asked what stands there",
		op_describe(a->op, text, sizeof(text)), a->v->sender.name);
	e = keep_changed(a, rel);
	if (e == 0)
		e = ask_about(a, rel, again);
	if (e == 0)
		e = ask_about_others(a, rel);
	if (e == 0 && a->type == OP_RENAME)
		e = ask_about_moved(a, a->path, again);
	if (e == 0 && a->type == OP_RENAME)
		e = ask_about_moved(a, a->path2, again);
	if (e == 0)
		e = pass_over(a);
	if (e == 0)
		incoming_drop_content(a->v, a->op);
	return e;
}

/* The mtime of a directory is not set back by changes that the one who restates it does not know
 * of: those of the node that decides, of which the peer is told, and files that are just being
 * made. */
static int hold_time(struct attempt *a)
{
	struct replica *r = a->v->replica;
	struct op *op = a->op;
	struct stat st;

	if (a->type != OP_SETATTR || !(a->flags & OP_FORCE) || !(op->mask & OP_MTIME) ||
		confine_stat(r->root, op->path, &st) < 0 || !S_ISDIR(st.st_mode) ||
		clock_ns_of(&st.st_mtim) <= op->mtime)
		return 0;
	if (!decides(a->v) && !replica_dirty_below(r, op->path))
		return 0;
	op->mask &= ~(uint32_t)OP_MTIME;
	return decides(a->v) ? restate_time(r, op->path) : 0;
}

/* Of a name that was given to what is asked for itself the peer will tell, and so it will of a
 * content that is only there: to tell it that there is nothing would be the end of that. */
static bool is_told(struct attempt *a, const char *path, bool applied)
{
	return (a->type == OP_RENAME || a->type == OP_LINK ||
		       (a->type == OP_CONTENT && !applied && !(a->flags & OP_FORCE))) &&
	       replica_is_asked(a->v->replica, path);
}

static int tell(struct attempt *a, const char *theirs, const char *ours, bool deep, bool applied)
{
	struct replica *r = a->v->replica;
	int e = is_told(a, theirs, applied) ? 0 : restate(r, theirs, deep);

	if (e < 0 || strcmp(theirs, ours) == 0 || is_told(a, ours, applied))
		return e;
	return restate(r, ours, deep);
}

/* The name that our renames gave to what the peer meant, even if they were taken for another's. */
static int tell_followed(struct attempt *a, bool applied)
{
	_cleanup_free_ char *path = followed(a);

	if (!path)
		return -ENOMEM;
	if (strcmp(path, a->path) == 0 || strcmp(path, a->op->path) == 0 ||
		(a->type == OP_CONTENT && is_told(a, path, applied)))
		return 0;
	return restate(a->v->replica, path, false);
}

/* The peer is told before the number counts as carried out: a crash between makes the op come
 * again. */
static int apply_and_tell(struct attempt *a, bool apply)
{
	int e = apply ? incoming_step(a->v, a->op) : 0;

	if (e == 0) {
		touch_names(a);
		e = tell(a, a->path, a->op->path, false, apply);
	}
	if (e == 0 && a->path2 && (a->type == OP_RENAME || a->type == OP_LINK))
		e = tell(a, a->path2, a->op->path2, true, apply);
	if (e == 0)
		e = tell_followed(a, apply);
	return e < 0 ? e : incoming_number(a->v, a->m.seq, a->m.how);
}

/* Decides. With @unknown the peer does not know that there is anything to ask; no more does it when
 * its answer to a question has lost. Nor can it know what a name was given to that it had taken
 * from a version that lost. */
static int decide(struct attempt *a, bool unknown)
{
	bool apply;
	int e;

	a->op->flags &= ~(uint32_t)(a->type == OP_UNLINK ? 0 : OP_FORCE);
	e = resolve(a->v, a->op, a->seen, a->flags & OP_FORCE, &apply);
	if (e == 0 && apply)
		e = hold_time(a);
	if (e < 0)
		return e;
	if (unknown || a->type == OP_RENAME || a->type == OP_LINK ||
		(a->flags & OP_FORCE && !apply))
		e = apply_and_tell(a, apply);
	else
		e = apply ? incoming_apply(a->v, a->op, &a->m) : pass_over(a);
	if (e == 0 && !apply)
		incoming_drop_content(a->v, a->op);
	return e;
}

static int settle_conflict(struct attempt *a, bool drift)
{
	struct replica *r = a->v->replica;
	struct unseen_relation rel;
	int e;

	tree_lock(r->tree, TREE_RENAME);
	e = relate(a, &rel);
	if (e == 0 && decides(a->v))
		e = decide(a, drift || rel.hidden || a->flags & OP_UNSURE || open_file(a, &rel) ||
				      is_changed_elsewhere(a, &rel));
	else if (e == 0)
		e = leave_to_peer(a, &rel);
	tree_unlock(r->tree);
	unseen_relation_clear(&rel);
	return e;
}

/* The tree is not as the sender's was. */
static bool is_drift(int error)
{
	return error == -ENOENT || error == -ENOTDIR || error == -EEXIST || error == -EISDIR ||
	       error == -ENOTEMPTY || error == -ELOOP || error == -EXDEV || error == -ENODATA;
}

/* A restatement: what is in its way gives way. */
static int make_way(struct attempt *a)
{
	struct op *op = a->op;
	const char *path = op->type == OP_LINK ? op->path2 : op->path;
	struct replica *r = a->v->replica;
	struct stat st, from = {0};
	int e = confine_stat(r->root, path, &st);

	if (op->type == OP_SETATTR || op->type == OP_SETXATTR)
		return 0;
	if (e < 0)
		return e == -ENOENT || e == -ENOTDIR ? 0 : e;
	if (op->type == OP_LINK && confine_stat(r->root, op->path, &from) == 0 &&
		from.st_ino == st.st_ino)
		return 0;
	if ((op->type == OP_MKDIR && S_ISDIR(st.st_mode)) ||
		(op->type == OP_CONTENT && S_ISREG(st.st_mode)))
		return 0;
	return incoming_remove(a->v, path, op->time);
}

/* A local writer has the file open. A new one the peer cannot have removed: it stays, and the
 * directory with it. Another one keeps its inode, as an entry of the vault. */
static int spare_writer(struct attempt *a, const struct unseen_relation *rel, bool *ret_spare)
{
	struct receiver *v = a->v;
	uint64_t mark = open_file(a, rel);
	bool removal = a->op->type == OP_UNLINK;
	struct keep k = {.path = taken_name(a, rel),
		.winner = v->sender.name,
		.seq = mark,
		.other = a->op->seq,
		.leaves = true};

	*ret_spare = removal && (mark ? replica_dirty_new(v->replica, mark)
				      : replica_dirty_below(v->replica, rel->path));
	if (!mark)
		return 0;
	return *ret_spare ? 0 : keep_version(v->replica, &k);
}

/* The content of a file that is found to differ when names are compared again. */
static int keep_differing(struct attempt *a)
{
	const struct op *op = a->op;
	struct stat st;

	if (op->type != OP_CONTENT || !op->content ||
		confine_stat(a->v->replica->root, op->path, &st) < 0 || !S_ISREG(st.st_mode) ||
		((uint64_t)st.st_size == op->content->size &&
			clock_ns_of(&st.st_mtim) == op->mtime))
		return 0;
	return review_keep(a->v, op->path, &st, op->seq);
}

static int apply_forced(struct attempt *a)
{
	struct replica *r = a->v->replica;
	struct unseen_relation rel = {0};
	bool spare = false;
	int e;

	tree_lock(r->tree, TREE_RENAME);
	e = relate(a, &rel);
	if (e == 0 && !is_final(a, &rel))
		e = -ECANCELED;
	if (e == 0)
		e = spare_writer(a, &rel, &spare);
	if (e == 0 && !spare)
		e = make_way(a);
	if (e == 0 && !spare)
		e = keep_differing(a);
	if (e == 0 && !spare)
		e = hold_time(a);
	if (e == 0)
		e = !spare && adapt(a, &rel) ? incoming_apply(a->v, a->op, &a->m) : pass_over(a);
	tree_unlock(r->tree);
	unseen_relation_clear(&rel);
	return e;
}

static int apply_op(struct receiver *v, struct op *op, const struct position *seen)
{
	struct apply_target target = receiver_target(v);
	_cleanup_attempt_ struct attempt a;
	uint64_t started = clock_mono_ms();
	int e = attempt_begin(&a, v, op, seen);

	if (e == 0)
		e = op_prepare(&target, op);
	if (e < 0)
		return e;
	e = op->flags & OP_FORCE ? apply_forced(&a) : apply_alone(&a);
	if (e == -ECANCELED)
		e = settle_conflict(&a, false);
	else if (is_drift(e))
		e = settle_conflict(&a, true);
	if (e == 0 && a.flags & OP_FORCE && !decides(v))
		review_told(v->replica, op);
	if (e == 0) {
		log_applied(v, op, started);
	} else {
		op_unprepare(&target, op);
		restore(&a);
	}
	return e;
}

static int take_answer(struct receiver *v, const struct op *op)
{
	struct remote_record m =
		record_of(v, op->seq, incoming_is_missing(v, op->seq) ? REMOTE_LATE : REMOTE_PASS);
	struct replica *r = v->replica;
	uint64_t ignored;
	int e;

	tree_lock(r->tree, TREE_RENAME);
	e = replica_ask_again(r, op->about);
	tree_unlock(r->tree);
	if (e == 0)
		e = append_remote(v, &m, op, false, &ignored);
	if (e < 0)
		return e;
	replica_answered(v->replica, op->about);
	return move_position(v, &m);
}

static int take_vault(struct receiver *v, struct op *op)
{
	struct apply_target target = receiver_target(v);
	bool own = op->path2 && strncmp(op->path2, v->replica->node.id, WIRE_ID_LEN) == 0;
	int e = 0;

	/* of our own version there may be a link here into which somebody still writes */
	if (!(own && !(op->flags & OP_GONE) && vault_has(v->replica->vault, op->path2)))
		e = vault_take(v->replica->vault, &target, op);
	return e < 0 ? e : incoming_number(v, op->seq, REMOTE_PASS);
}

int incoming_carry_out(struct receiver *v, struct op *op, const struct position *seen)
{
	int e = room_check(v->replica, op);

	if (e < 0)
		return e;
	switch (op->type) {
	case OP_FSYNC:
		e = sync_path(v, op);
		break;
	case OP_ASK:
		e = restate_answer(v, op, seen);
		break;
	case OP_ANSWER:
		return take_answer(v, op);
	case OP_VAULT:
		return take_vault(v, op);
	default:
		return apply_op(v, op, seen);
	}
	return e < 0 ? e : incoming_number(v, op->seq, REMOTE_PASS);
}

/* ---- frames ---- */

/* What the sender had seen of ours may be less than it thinks. */
static void doubt_seen(struct receiver *v, struct position *seen)
{
	struct replica *r = v->replica;
	uint64_t after = UINT64_MAX;

	if (seen->high > journal_head(r->journal)) /* those were others of that number */
		after = 0;
	(void)pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < r->n_peers; i++) {
		const struct peer *p = &r->peers[i];

		if (p->ignorant_after && strcmp(p->node.id, v->origin->id) == 0 &&
			p->ignorant_after - 1 < after)
			after = p->ignorant_after - 1;
	}
	(void)pthread_mutex_unlock(&r->lock);
	if (seen->high > after)
		*seen = (struct position){.high = after};
}

/* No sender writes this, whatever happened on the way. */
static int refuse(struct receiver *v, uint64_t seq, const char *why)
{
	(void)snprintf(
		v->refusal, sizeof(v->refusal), "operation %llu: %s", (unsigned long long)seq, why);
	v->against_the_rules = true;
	return -EBADMSG;
}

/* Numbers ascend within a session, but for those that are @late: these were announced before. What
 * is wrong with this one, or NULL. */
static const char *wrong_number(struct receiver *v, uint64_t seq, bool late)
{
	struct replica *r = v->replica;
	uint64_t high;

	(void)pthread_mutex_lock(&r->lock);
	high = v->origin->applied.high;
	(void)pthread_mutex_unlock(&r->lock);
	if (late && seq > high)
		return "it was never announced";
	if (!late && seq <= v->last_seq)
		return "out of order";
	return seq > high && seq - high > SEQ_JUMP_MAX ? "no such number can have come yet" : NULL;
}

static int take_op(struct receiver *v, struct reader src, uint64_t seq)
{
	_cleanup_op_ struct op op = {0};
	struct position seen;
	const char *why = "its head is damaged";
	int e;

	position_decode(&src, &seen);
	e = reader_error(&src);
	if (e == 0)
		e = op_decode(&src, OP_ENCODE_WIRE, &op, &why);
	if (e < 0)
		return e == -EBADMSG ? refuse(v, seq, why) : e;
	op.seq = seq;
	doubt_seen(v, &seen);
	if (parked_related(v, &op))
		return park(v, &op, &seen, 0);
	e = incoming_carry_out(v, &op, &seen);
	if (e == 0 || e == -EAGAIN)
		return e;
	if (e == -EBADMSG) {
		char text[400];

		(void)snprintf(v->refusal, sizeof(v->refusal), "%s: its bytes are not those meant",
			op_describe(&op, text, sizeof(text)));
		return e;
	}
	return park(v, &op, &seen, e);
}

/* Whether the op that follows on its number was announced before. */
static bool is_late(struct reader src)
{
	struct position seen;

	position_decode(&src, &seen);
	(void)reader_u8(&src); /* its type */
	return reader_u32(&src) & OP_LATE;
}

static int take_frame(struct receiver *v, enum wire_kind kind, struct reader src, uint64_t seq)
{
	if (is_known(v, seq))
		return 0;
	if (kind == WIRE_OP)
		return take_op(v, src, seq);
	if (kind == WIRE_VOID)
		return incoming_number(v, seq, REMOTE_VOID);
	return incoming_is_missing(v, seq) ? 0 : incoming_number(v, seq, REMOTE_DEFER);
}

int incoming_frame(struct receiver *v, const struct wire_frame *f)
{
	struct reader src = reader_of(f->payload, f->len);
	uint64_t seq = reader_u64(&src);
	bool late = f->kind == WIRE_VOID || (f->kind == WIRE_OP && is_late(src));
	const char *why;
	int e;

	if (f->kind == WIRE_SEEN)
		return reader_error(&src);
	if (reader_error(&src) < 0)
		return -EBADMSG;
	if (f->kind != WIRE_OP && f->kind != WIRE_DEFER && f->kind != WIRE_VOID)
		return refuse(v, seq, "a frame of this kind has no place in a log");
	why = wrong_number(v, seq, late);
	if (why)
		return refuse(v, seq, why);
	e = take_frame(v, f->kind, src, seq);
	if (e == 0 && !late)
		v->last_seq = seq;
	return e;
}
