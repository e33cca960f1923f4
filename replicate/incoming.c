/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * From a frame to the tree.
 *
 * An operation is journaled here as JOURNAL_REMOTE before it is applied and settled after, under
 * the locks of its paths; the origin's position moves with it. So a crash leaves at most one
 * operation per origin in doubt, and recovery asks the tree about that one.
 *
 * What cannot be applied for a reason that may pass (disk full, quota, read-only, permission) is
 * parked: its number counts as missing, operations that are related to it queue behind it, all
 * others go on. It is tried again every second.
 */

#include "receiver.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/fault.h"
#include "base/log.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <utlist.h>

#define RETRY_MS 1000

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

static bool is_missing(struct receiver *v, uint64_t seq)
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

/* A number that is to follow later, or that nothing is left of. */
static int note_number(struct receiver *v, uint64_t seq, enum remote_how how)
{
	struct remote_record m = record_of(v, seq, how);
	uint64_t ignored;
	int e;

	if (how == REMOTE_DEFER) {
		struct position p;

		(void)pthread_mutex_lock(&v->replica->lock);
		p = v->origin->applied;
		(void)pthread_mutex_unlock(&v->replica->lock);
		e = position_defer(&p, seq);
		if (e < 0)
			return e == -ENOBUFS ? -EAGAIN : 0;
	}
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

static struct apply_target target_of(struct receiver *v)
{
	return (struct apply_target){.root = v->replica->root,
		.scratch = v->replica->scratch,
		.stage = v->stage,
		.alive = receiver_alive,
		.digested = staged_digest,
		.ctx = v};
}

static int apply_locked(struct receiver *v, struct op *op, struct remote_record *m)
{
	struct replica *r = v->replica;
	struct apply_target target = target_of(v);
	struct apply_result result = {0};
	uint64_t own;
	int e;

	(void)fid_of_path(r->root, op->path, &op->fid); /* none for what does not exist yet */
	replica_parent_times(r, op, m->touch);
	e = append_remote(v, m, op, true, &own);
	if (e < 0)
		return e;
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
	if (r->hooks.applied)
		r->hooks.applied(r->hooks.ctx, op, &result);
	journal_settle(r->journal, own);
	return 0;
}

static int apply_op(struct receiver *v, struct op *op)
{
	struct replica *r = v->replica;
	bool renames = op->type == OP_RENAME;
	struct remote_record m =
		record_of(v, op->seq, is_missing(v, op->seq) ? REMOTE_LATE : REMOTE_PASS);
	struct tree_guard guard = {0};
	struct apply_target target = target_of(v);
	uint64_t started = clock_mono_ms();
	int e = op_prepare(&target, op);

	if (e < 0)
		return e;
	tree_lock(r->tree, renames ? TREE_RENAME : TREE_CHANGE);
	if (!renames)
		tree_guard(r->tree, op->path, op->type == OP_LINK ? op->path2 : NULL, &guard);
	e = apply_locked(v, op, &m);
	if (!renames)
		tree_unguard(&guard);
	tree_unlock(r->tree);
	if (e == 0)
		log_applied(v, op, started);
	else
		op_unprepare(&target, op);
	return e;
}

/* The tree is not as the sender's was. Both servers changed related names: what arrives late gives
 * way, and both trees are compared by `tandemfs verify`. */
static bool is_drift(int error)
{
	return error == -ENOENT || error == -ENOTDIR || error == -EEXIST || error == -EISDIR ||
	       error == -ENOTEMPTY || error == -ELOOP || error == -EXDEV || error == -ENODATA;
}

static int give_way(struct receiver *v, const struct op *op, int error)
{
	char text[512];
	uint64_t ignored;
	struct remote_record m =
		record_of(v, op->seq, is_missing(v, op->seq) ? REMOTE_LATE : REMOTE_PASS);
	int e;

	log_warning("%s from %s does not fit here and is passed over: %s",
		op_describe(op, text, sizeof(text)), v->sender.name, strerror(-error));
	if (op->content && op->content->stage[0] && unlinkat(v->stage, op->content->stage, 0) < 0)
		log_warning("cannot delete a staged content: %s", strerror(errno));
	m.how = REMOTE_VOID;
	e = append_remote(v, &m, NULL, false, &ignored);
	return e < 0 ? e : move_position(v, &m);
}

static int carry_out(struct receiver *v, struct op *op)
{
	int e;

	if (op->type == OP_FSYNC) {
		e = sync_path(v, op);
		return e < 0 ? e : note_number(v, op->seq, REMOTE_PASS);
	}
	e = apply_op(v, op);
	return is_drift(e) ? give_way(v, op, e) : e;
}

/* ---- parking ---- */

static void show_waiting(struct receiver *v)
{
	struct replica *r = v->replica;
	struct parked *p = v->parked;
	char text[400];
	char *line = NULL;

	v->problem[0] = '\0';
	if (p && asprintf(&line, "%s: %s", op_describe(&p->op, text, sizeof(text)),
			 strerror(-p->error)) < 0)
		line = NULL;
	if (line)
		(void)snprintf(v->problem, sizeof(v->problem), "%s", line);
	(void)pthread_mutex_lock(&r->lock);
	free(v->origin->waiting);
	v->origin->waiting = line;
	(void)pthread_mutex_unlock(&r->lock);
	v->ack_due = true;
}

static bool waits_behind(const struct receiver *v, const struct op *op)
{
	const struct parked *p;

	LL_FOREACH (v->parked, p)
		if (op_related(&p->op, op))
			return true;
	return false;
}

static int park(struct receiver *v, struct op *op, int error)
{
	struct parked *p;
	int e;

	if (v->parked_bytes > PARKED_BYTES_MAX)
		return -EAGAIN;
	if (!is_missing(v, op->seq)) {
		e = note_number(v, op->seq, REMOTE_DEFER);
		if (e < 0)
			return e;
	}
	p = calloc(1, sizeof(*p));
	if (!p)
		return -EAGAIN;
	p->op = *op;
	p->error = error;
	*op = (struct op){0};
	v->parked_bytes += p->op.content && p->op.content->data ? p->op.content->data_len : 0;
	LL_APPEND(v->parked, p);
	if (error < 0) {
		char text[400];

		log_warning("%s from %s cannot be applied, it is tried again until it can: %s",
			op_describe(&p->op, text, sizeof(text)), v->sender.name, strerror(-error));
	}
	v->retry_ms = clock_mono_ms() + RETRY_MS;
	show_waiting(v);
	return 0;
}

static void unpark(struct receiver *v, struct parked *p)
{
	LL_DELETE(v->parked, p);
	v->parked_bytes -= p->op.content && p->op.content->data ? p->op.content->data_len : 0;
	op_clear(&p->op);
	free(p);
	show_waiting(v);
}

void incoming_forget(struct receiver *v)
{
	while (v->parked)
		unpark(v, v->parked);
}

/* Whether one before @p in the queue is related to it. */
static bool is_behind(const struct receiver *v, const struct parked *p)
{
	const struct parked *q;

	for (q = v->parked; q != p; q = q->next)
		if (op_related(&q->op, &p->op))
			return true;
	return false;
}

void incoming_retry(struct receiver *v)
{
	struct parked *p, *next;

	if (!v->parked || clock_mono_ms() < v->retry_ms)
		return;
	LL_FOREACH_SAFE (v->parked, p, next) {
		int e;

		if (is_behind(v, p))
			continue;
		e = carry_out(v, &p->op);
		if (e == 0) {
			log_notice("%s from %s could be applied now", p->op.path, v->sender.name);
			unpark(v, p);
		} else if (e == -EBADMSG) {
			v->damaged = true;
		} else {
			p->error = e;
		}
	}
	v->retry_ms = clock_mono_ms() + RETRY_MS;
}

/* ---- frames ---- */

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
	if (e < 0) {
		log_error("operation %llu from %s is refused: %s", (unsigned long long)seq,
			v->sender.name, why);
		return e;
	}
	op.seq = seq;
	if (waits_behind(v, &op))
		return park(v, &op, 0);
	e = carry_out(v, &op);
	if (e == 0 || e == -EBADMSG || e == -EAGAIN)
		return e;
	return park(v, &op, e);
}

int incoming_frame(struct receiver *v, const struct wire_frame *f)
{
	struct reader src = reader_of(f->payload, f->len);
	uint64_t seq = reader_u64(&src);

	if (reader_error(&src) < 0)
		return -EBADMSG;
	switch (f->kind) {
	case WIRE_OP:
		return is_known(v, seq) ? 0 : take_op(v, src, seq);
	case WIRE_DEFER:
		return is_known(v, seq) || is_missing(v, seq) ? 0
							      : note_number(v, seq, REMOTE_DEFER);
	case WIRE_VOID:
		return is_known(v, seq) ? 0 : note_number(v, seq, REMOTE_VOID);
	case WIRE_SEEN:
		return 0;
	default:
		log_error("a frame of kind %d from %s has no place in a log", f->kind,
			v->sender.name);
		return -EBADMSG;
	}
}
