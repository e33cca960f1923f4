/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What a node knows after a start, from its journal alone.
 *
 * A checkpoint, the first record of each segment, holds what older segments had told:
 *     u8 version (3)
 *     u16 origins, each: 16 bytes id, position, position frozen (equal while no question is open)
 *     u16 peers, each: string url, u64 acknowledged
 *     u32 dirty marks, each: u64 seq, blob op (OP_ENCODE_LOCAL), u8 synced
 *     u32 open questions, each: u64 seq, string path, u8 deep
 *
 * Recovery goes over the journal twice: first for the numbers that were aborted, then for the rest,
 * from the oldest checkpoint on. It ends with three questions:
 *   - The last record, and those that were open when it was appended, were perhaps in flight when
 * the process died. They were under way at the same time, so no two of them are related (tree.h)
 * and each can be looked at by itself: the tree is asked whether it was carried out (op_applied).
 * If not it is aborted now; a peer's operation then counts as not applied and is sent again.
 * Attributes are simply set once more. After a power failure changes of names may be undone as well
 * that nobody was in the middle of (undone.c).
 *   - Files that were open for writing (dirty marks without a later OP_CONTENT) get a whole
 * OP_CONTENT. After a power failure only when an fsync followed the mark: of others there may be
 * less than a peer has had.
 *   - Contents not acknowledged by a peer are entered into its table of pending contents. After a
 * power failure only those whose bytes were certainly written (unsynced.c).
 */

#include "impl.h"
#include "plain.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/log.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <utlist.h>

#define CHECKPOINT_VERSION 3

/* A record whose change may not have been made. */
struct doubt {
	uint64_t seq;
	enum journal_kind kind;
	struct remote_record remote; /* JOURNAL_REMOTE */
	struct position before;      /* of the origin */
	struct op op;
	bool undone; /* did not happen */
};

struct recovery {
	struct replica *r;
	uint64_t last;  /* number of the newest record */
	uint64_t *open; /* those open when it was appended; owned */
	size_t n_open;
	bool first;
	struct doubt *doubts;
	size_t n_doubts;
	struct unsynced unsynced;
	struct undone undone;
};

/* ---- checkpoint ---- */

static void put_dirty(struct buf *b, const struct dirty *d)
{
	_cleanup_buf_ struct buf op = {0};

	op_encode(&d->op, OP_ENCODE_LOCAL, &op);
	buf_put_u64(b, d->seq);
	buf_put_blob(b, op.data, op.len);
	buf_put_u8(b, d->synced);
	b->failed |= op.failed;
}

/* One that is just being journaled follows the checkpoint as a record. */
static void put_asks(struct buf *b, const struct replica *r)
{
	const struct ask *a;
	size_t at = b->len;
	uint32_t n = 0;

	buf_put_u32(b, 0);
	DL_FOREACH (r->asks, a) {
		if (!a->seq)
			continue;
		buf_put_u64(b, a->seq);
		buf_put_string(b, a->path);
		buf_put_u8(b, a->deep);
		n++;
	}
	if (!b->failed)
		buf_set_u32(b, at, n);
}

void replica_checkpoint(void *ctx, struct buf *b)
{
	struct replica *r = ctx;
	struct dirty *d, *next;
	size_t at;
	uint16_t n = 0;

	buf_put_u8(b, CHECKPOINT_VERSION);
	(void)pthread_mutex_lock(&r->lock);
	at = b->len;
	buf_put_u16(b, 0);
	for (struct origin *o = r->origins; o; o = o->next, n++) {
		uint8_t raw[WIRE_ID_LEN / 2];

		id_to_raw(o->id, raw);
		buf_put(b, raw, sizeof(raw));
		position_encode(&o->applied, b);
		position_encode(r->asks ? &o->frozen : &o->applied, b);
	}
	if (!b->failed)
		memcpy(b->data + at, &(uint16_t){n}, sizeof(n));
	buf_put_u16(b, (uint16_t)r->n_peers);
	for (size_t i = 0; i < r->n_peers; i++) {
		buf_put_string(b, r->peers[i].config->url);
		buf_put_u64(b, position_contiguous(&r->peers[i].applied));
	}
	buf_put_u32(b, HASH_COUNT(r->dirty));
	HASH_ITER (hh, r->dirty, d, next)
		put_dirty(b, d);
	put_asks(b, r);
	(void)pthread_mutex_unlock(&r->lock);
}

static int add_dirty(struct replica *r, uint64_t seq, struct op *op, bool synced)
{
	struct dirty *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->seq = seq;
	d->op = *op;
	d->synced = synced;
	*op = (struct op){0};
	HASH_ADD(hh, r->dirty, seq, sizeof(d->seq), d);
	return 0;
}

static int take_dirty(struct replica *r, struct reader *src)
{
	uint64_t seq = reader_u64(src);
	size_t len;
	const uint8_t *data = reader_blob(src, &len);
	_cleanup_op_ struct op op = {0};
	bool synced = reader_u8(src);
	struct reader one = reader_of(data, len);
	const char *why;
	int e = reader_error(src);

	if (e == 0)
		e = op_decode(&one, OP_ENCODE_LOCAL, &op, &why);
	return e < 0 ? e : add_dirty(r, seq, &op, synced);
}

/* Segments are deleted only when every peer has what is in them; the checkpoint may be older than
 * that. */
static void restore_peer(struct replica *r, struct peer *p, uint64_t acked)
{
	uint64_t before_tail = journal_tail(r->journal) - 1;

	p->applied.high = acked > before_tail ? acked : before_tail;
	p->covered = true;
}

static int take_checkpoint(struct replica *r, struct reader src)
{
	unsigned n;

	if (reader_u8(&src) != CHECKPOINT_VERSION)
		return -EBADMSG;
	n = reader_u16(&src);
	for (unsigned i = 0; i < n && !src.failed; i++) {
		const uint8_t *raw = reader_bytes(&src, WIRE_ID_LEN / 2);
		char id[WIRE_ID_LEN + 1];
		struct origin *o;

		if (!raw)
			break;
		id_from_raw(raw, id);
		o = replica_origin(r, id);
		if (!o)
			return -ENOMEM;
		position_decode(&src, &o->applied);
		position_decode(&src, &o->frozen);
	}
	n = reader_u16(&src);
	for (unsigned i = 0; i < n && !src.failed; i++) {
		_cleanup_free_ char *url = reader_string(&src, TANDEMFS_PATH_MAX);
		uint64_t acked = reader_u64(&src);

		for (size_t k = 0; url && k < r->n_peers; k++)
			if (strcmp(r->peers[k].config->url, url) == 0)
				restore_peer(r, &r->peers[k], acked);
	}
	for (n = reader_u32(&src); n > 0; n--) {
		int e = take_dirty(r, &src);

		if (e < 0)
			return e;
	}
	for (n = reader_u32(&src); n > 0 && !src.failed; n--) {
		uint64_t seq = reader_u64(&src);
		_cleanup_free_ char *path = reader_string(&src, TANDEMFS_PATH_MAX);
		bool deep = reader_u8(&src);

		if (path && replica_asked(r, seq, path, deep, false) < 0)
			return -ENOMEM;
	}
	return reader_error(&src);
}

/* What our changes may count as having seen, while questions are open, is what the first of them
 * said. */
static int take_ask(struct replica *r, const struct journal_record *rec, const struct op *op)
{
	struct local_head head;
	struct reader ignored;
	int e = 0;

	if (op->flags & OP_KEEP)
		return 0;
	for (struct origin *o = r->origins; o && !r->asks && e == 0; o = o->next) {
		e = local_split(rec->data, rec->len, o->id, &head, &ignored);
		o->frozen = head.seen;
	}
	return e < 0 ? e
		     : replica_asked(
			       r, rec->seq, op->path, op->flags & OP_DEEP, op->flags & OP_COMPARE);
}

/* ---- records ---- */

static void drop_dirty(struct replica *r, struct dirty *d)
{
	HASH_DEL(r->dirty, d);
	op_clear(&d->op);
	free(d);
}

/* The content of a file was journaled, or its name taken away: its marks are done with. */
static void settle_dirty(struct replica *r, const struct op *op)
{
	const char *path = op->type == OP_RENAME ? op->path2 : op->path;
	struct dirty *d, *next;

	if ((op->type != OP_CONTENT && op->type != OP_UNLINK && op->type != OP_RENAME) ||
		op->flags & OP_FORCE)
		return;
	HASH_ITER (hh, r->dirty, d, next) {
		bool same = op->type == OP_CONTENT && d->op.type == OP_DIRTY
				    ? fid_equal(&d->op.fid, &op->fid)
				    : strcmp(d->op.path, path) == 0;

		if (same)
			drop_dirty(r, d);
	}
}

static bool is_doubtful(const struct recovery *v, uint64_t seq)
{
	for (size_t i = 0; i < v->n_open; i++)
		if (v->open[i] == seq)
			return true;
	return seq == v->last;
}

static int doubt_add(struct recovery *v, struct doubt *d)
{
	struct doubt *list = realloc(v->doubts, (v->n_doubts + 1) * sizeof(*list));

	if (!list)
		return -ENOMEM;
	v->doubts = list;
	list[v->n_doubts++] = *d;
	d->op = (struct op){0};
	return 0;
}

static int add_pending(struct replica *r, const struct op *op)
{
	uint64_t size = 0;
	int e = 0;

	if (op->type != OP_CONTENT || op->flags & OP_FORCE)
		return 0;
	for (size_t i = 0; i < r->n_peers && e == 0; i++) {
		if (position_has(&r->peers[i].applied, op->seq))
			continue;
		size = size ?: replica_content_size(r, op);
		e = pending_add(r->peers[i].pending, op, size);
	}
	return e;
}

/* A content is sent as it is found; what describes a state, or asks for it, needs no change. */
static bool can_be_doubted(const struct op *op)
{
	return op->type != OP_CONTENT && op->type != OP_DIRTY && op->type != OP_FSYNC &&
	       op->type != OP_ANSWER && op->type != OP_VAULT && !(op->flags & OP_FORCE);
}

static int take_local(struct recovery *v, const struct journal_record *rec)
{
	struct replica *r = v->r;
	struct reader src;
	_cleanup_op_ struct op op = {0};
	const char *why = "";
	struct local_head head;
	int e = local_split(rec->data, rec->len, NULL, &head, &src);

	if (e == 0)
		e = op_decode(&src, OP_ENCODE_LOCAL, &op, &why);
	if (e < 0) {
		log_error("journal: record %llu cannot be read (%s)", (unsigned long long)rec->seq,
			why);
		return e;
	}
	op.seq = rec->seq;
	replica_saw_time(r, op.time);
	if (op_is_sent(op.type))
		atomic_store(&r->last_local, rec->seq);
	if (op.type == OP_ASK)
		return take_ask(r, rec, &op);
	if (op.type == OP_RENAME)
		replica_moved(r, op.path, op.path2, op.flags & OP_EXCHANGE, false);
	e = r->n_peers ? unseen_add(r->unseen, &op) : 0;
	if (e < 0)
		return e;
	e = add_pending(r, &op);
	if (e < 0)
		return e;
	for (size_t i = 0; i < r->n_peers; i++)
		if (r->peers[i].oldest_time == 0 && rec->seq > r->peers[i].applied.high)
			r->peers[i].oldest_time = head.logged;
	if (is_doubtful(v, rec->seq) && can_be_doubted(&op)) {
		struct doubt d = {.seq = rec->seq, .kind = rec->kind, .op = op};

		op = (struct op){0};
		return doubt_add(v, &d);
	}
	settle_dirty(r, &op);
	if (op.type == OP_FSYNC)
		replica_dirty_synced(r, &op);
	if (op.type == OP_CREATE || op.type == OP_DIRTY)
		return add_dirty(r, rec->seq, &op, false);
	return 0;
}

static int take_remote(struct recovery *v, const struct journal_record *rec)
{
	struct reader src = reader_of(rec->data, rec->len);
	struct remote_record m;
	struct doubt d = {.seq = rec->seq, .kind = rec->kind};
	struct origin *o;
	const char *why;
	int e = remote_record_get(&src, &m);

	if (e < 0)
		return e;
	o = replica_origin(v->r, m.id);
	if (!o)
		return -ENOMEM;
	d.before = o->applied;
	d.remote = m;
	e = remote_record_move(&m, &o->applied);
	if (e < 0 || m.how == REMOTE_DEFER || m.how == REMOTE_VOID || reader_left(&src) == 0)
		return e;
	e = op_decode(&src, OP_ENCODE_BRIEF, &d.op, &why);
	if (e < 0)
		return e;
	replica_saw_time(v->r, d.op.time);
	if (d.op.type == OP_ANSWER)
		replica_answered(v->r, d.op.about);
	if (d.op.type == OP_RENAME)
		replica_moved(v->r, d.op.path, d.op.path2, d.op.flags & OP_EXCHANGE, true);
	if (is_doubtful(v, rec->seq))
		e = doubt_add(v, &d);
	op_clear(&d.op);
	return e;
}

static int add_aborted(struct replica *r, uint64_t seq)
{
	struct aborted *a;

	if (replica_is_aborted(r, seq))
		return 0;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->seq = seq;
	HASH_ADD(hh, r->aborted, seq, sizeof(a->seq), a);
	return 0;
}

static bool has_pairing(const struct replica *r)
{
	for (size_t i = 0; i < r->n_peers; i++)
		if (r->peers[i].known)
			return true;
	return false;
}

static int take_power(struct recovery *v, const struct journal_record *rec)
{
	int e = undone_take(&v->undone, rec);

	return e == 0 && rec->kind == JOURNAL_LOCAL ? unsynced_take(&v->unsynced, rec) : e;
}

static int first_pass(void *ctx, const struct journal_record *rec)
{
	struct recovery *v = ctx;
	struct reader src = reader_of(rec->data, rec->len);
	uint64_t seq;

	v->last = rec->seq;
	free(v->open);
	v->n_open = rec->n_open;
	v->open = calloc(rec->n_open + 1u, sizeof(*v->open));
	if (!v->open)
		return -ENOMEM;
	for (size_t i = 0; i < v->n_open; i++)
		v->open[i] = load_u64(rec->open + 8 * i);
	if (rec->kind != JOURNAL_ABORT)
		return v->r->lost_power && has_pairing(v->r) ? take_power(v, rec) : 0;
	seq = reader_u64(&src);
	return reader_error(&src) < 0 ? -EBADMSG : add_aborted(v->r, seq);
}

/* A step in the resolution of a conflict: what it renamed is called so from then on. */
static int take_step(struct recovery *v, const struct journal_record *rec)
{
	struct reader src = reader_of(rec->data, rec->len);
	_cleanup_op_ struct op op = {0};
	const char *why;
	int e = plain_note_take(&src) ? op_decode(&src, OP_ENCODE_BRIEF, &op, &why) : 0;

	if (e < 0 || op.type != OP_RENAME)
		return e;
	e = is_doubtful(v, rec->seq) ? op_applied(v->r->root, &op) : 1;
	if (e > 0)
		replica_moved(v->r, op.path, op.path2, op.flags & OP_EXCHANGE, true);
	return e < 0 ? e : 0;
}

/* Of a content that is left to the reconciler: its file was not open any more. */
static int take_left_out(struct recovery *v, const struct journal_record *rec)
{
	_cleanup_op_ struct op op = {0};
	struct local_head head;
	struct reader src;
	const char *why;
	int e = rec->kind == JOURNAL_LOCAL ? local_split(rec->data, rec->len, NULL, &head, &src)
					   : -ENODATA;

	if (e == 0)
		e = op_decode(&src, OP_ENCODE_LOCAL, &op, &why);
	if (e == 0 && op.type == OP_CONTENT)
		settle_dirty(v->r, &op);
	return e == -ENODATA ? 0 : e;
}

static int second_pass(void *ctx, const struct journal_record *rec)
{
	struct recovery *v = ctx;
	bool first = v->first;

	v->first = false;
	if (replica_is_aborted(v->r, rec->seq))
		return take_left_out(v, rec);
	switch (rec->kind) {
	case JOURNAL_CHECKPOINT:
		return first ? take_checkpoint(v->r, reader_of(rec->data, rec->len)) : 0;
	case JOURNAL_LOCAL:
		return take_local(v, rec);
	case JOURNAL_REMOTE:
		return take_remote(v, rec);
	case JOURNAL_ABORT:
		break;
	case JOURNAL_NOTE:
		return take_step(v, rec);
	}
	return 0;
}

/* ---- the three questions ---- */

static int was_applied(struct replica *r, const struct doubt *d)
{
	struct stat st;

	if (d->op.type == OP_CREATE)
		return confine_stat(r->root, d->op.path, &st) == 0;
	return op_applied(r->root, &d->op);
}

static int append_abort(struct replica *r, uint64_t seq)
{
	uint64_t ignored;
	uint8_t raw[8];

	for (int i = 0; i < 8; i++)
		raw[i] = (uint8_t)(seq >> (8 * i));
	return journal_append(
		r->journal, JOURNAL_ABORT, false, raw, sizeof(raw), NULL, 0, &ignored);
}

static int undo(struct replica *r, struct doubt *d)
{
	if (d->kind == JOURNAL_REMOTE) {
		struct origin *o = replica_origin(r, d->remote.id);

		if (o)
			o->applied = d->before;
	}
	unseen_remove(r->unseen, d->seq);
	d->undone = true;
	return add_aborted(r, d->seq);
}

static bool sets_attributes(const struct op *op)
{
	return op->type == OP_SETATTR || op->type == OP_SETXATTR || op->type == OP_REMOVEXATTR;
}

static int apply_again(struct replica *r, const struct op *op)
{
	struct apply_target target = {.root = r->root, .scratch = r->scratch, .stage = -1};
	struct apply_result result;
	int e = op_apply(&target, op, &result);

	return e == -ENOENT || e == -ENODATA ? 0 : e;
}

static int settle_doubt(struct replica *r, struct doubt *d)
{
	int applied;

	if (d->kind == JOURNAL_LOCAL && sets_attributes(&d->op))
		return apply_again(r, &d->op);
	applied = was_applied(r, d);

	log_info("journal: %s of %s was in flight at the last end: %s", op_name(d->op.type),
		d->op.path, applied > 0 ? "it was done" : "it was not done");
	if (applied < 0)
		return applied;
	if (d->kind == JOURNAL_REMOTE)
		replica_touch_parents(r, &d->op, d->remote.touch);
	if (applied == 0)
		return undo(r, d);
	/* that the directory is there does not say that it was given its attributes */
	if (d->kind == JOURNAL_REMOTE)
		return d->op.type == OP_MKDIR ? apply_again(r, &d->op) : 0;
	settle_dirty(r, &d->op);
	replica_touch_parents(r, &d->op, (uint64_t[2]){d->op.time, d->op.time});
	return d->op.type == OP_CREATE ? add_dirty(r, d->seq, &d->op, false) : 0;
}

/* What is appended may begin a segment with a checkpoint: only when all doubts are settled does
 * that say what is so. */
static int settle_doubts(struct recovery *v)
{
	int e = 0;

	for (size_t i = 0; i < v->n_doubts && e == 0; i++)
		e = settle_doubt(v->r, &v->doubts[i]);
	for (size_t i = 0; i < v->n_doubts && e == 0; i++)
		if (v->doubts[i].undone)
			e = append_abort(v->r, v->doubts[i].seq);
	return e;
}

/* Whether the crash came before that version took it. */
static bool has_name_still(struct replica *r, const struct dirty *d, const char *entry)
{
	struct stat kept, st;

	return fstatat(vault_dir(r->vault), entry, &kept, AT_SYMLINK_NOFOLLOW) == 0 &&
	       confine_stat(r->root, d->op.path, &st) == 0 && st.st_ino == kept.st_ino;
}

static int emit_content(struct replica *r, const struct dirty *d)
{
	_cleanup_op_ struct op op = {.type = OP_CONTENT, .flags = OP_WHOLE};
	char name[VAULT_NAME_SIZE];
	struct stat st;
	int e;

	vault_name(name, r->node.id, d->seq);
	if (vault_has(r->vault, name)) { /* it had lost its name to the peer's version */
		e = keep_tell(r, name);
		if (e < 0 || !has_name_still(r, d, name))
			return e;
	}
	if (r->lost_power && !d->synced && has_pairing(r))
		return 0; /* a peer may have more of it: left to the reconciler */
	e = confine_stat(r->root, d->op.path, &st);
	if (e == -ENOENT || e == -ENOTDIR || (e == 0 && !S_ISREG(st.st_mode)))
		return 0; /* gone since; its end is in the journal too */
	if (e == 0)
		e = fid_of_path(r->root, d->op.path, &op.fid);
	if (e < 0)
		return e;
	op.path = strdup(d->op.path);
	if (!op.path)
		return -ENOMEM;
	log_notice("%s was open for writing at the last end; it is sent as it is now", op.path);
	return replica_note(r, &op);
}

static int emit_contents(struct replica *r)
{
	struct dirty *d, *next;

	HASH_ITER (hh, r->dirty, d, next) {
		int e = emit_content(r, d);

		if (e < 0)
			return e;
		drop_dirty(r, d);
	}
	return 0;
}

static int leave_out(void *ctx, uint64_t seq)
{
	if (replica_is_aborted(ctx, seq)) /* in an earlier recovery */
		return 1;
	return add_aborted(ctx, seq);
}

static int note_left_out(void *ctx, uint64_t seq)
{
	struct replica *r = ctx;

	log_info("journal: content %llu was perhaps not written before power failed: it is left to "
		 "the reconciler",
		(unsigned long long)seq);
	return append_abort(r, seq);
}

static bool was_aborted(void *ctx, uint64_t seq)
{
	return replica_is_aborted(ctx, seq);
}

static int note_undone(void *ctx, uint64_t seq)
{
	struct replica *r = ctx;

	log_info("journal: change %llu was undone when power failed: it is left to the reconciler",
		(unsigned long long)seq);
	return append_abort(r, seq);
}

/* What a power failure took from the tree does not stay in the journal. */
static int leave_out_lost(struct recovery *v)
{
	int e = undone_find(&v->undone, v->r->root, was_aborted, v->r);

	if (e == 0)
		e = unsynced_each(&v->unsynced, leave_out, v->r);
	return e < 0 ? e : undone_each(&v->undone, leave_out, v->r);
}

static int note_lost(struct recovery *v)
{
	int e = unsynced_each(&v->unsynced, note_left_out, v->r);

	return e < 0 ? e : undone_each(&v->undone, note_undone, v->r);
}

int replica_recover(struct replica *r)
{
	struct recovery v = {.r = r, .first = true};
	int e = journal_recover(r->journal, first_pass, &v);

	if (e == 0)
		e = leave_out_lost(&v);
	if (e == 0)
		e = journal_recover(r->journal, second_pass, &v);
	if (e == 0)
		e = settle_doubts(&v);
	if (e == 0)
		e = note_lost(&v);
	unsynced_clear(&v.unsynced);
	undone_clear(&v.undone);
	for (size_t i = 0; i < v.n_doubts; i++)
		op_clear(&v.doubts[i].op);
	free(v.doubts);
	free(v.open);
	if (e == 0)
		e = emit_contents(r);
	if (e < 0)
		return e;
	e = keep_recover(r);
	if (e < 0)
		log_warning("the conflict vault may differ from the peer's: %s", strerror(-e));
	return 0;
}
