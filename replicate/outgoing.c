/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * From the journal to frames.
 *
 * The cursor goes over the journal once per session. Each local record becomes nothing (OP_CREATE,
 * OP_DIRTY, a content that an earlier one took along, an inode that is gone), a frame, or an
 * upload. With order=relaxed an upload is announced by a DEFER frame and the cursor goes on; an op
 * that is related to one that is deferred is held, and the cursor with it, until that one is sent.
 *
 * Contents are read when they are sent. A file that is being written anew at that moment (O_TRUNC
 * after the close that this record stands for) is passed over: the writer's own close brings it,
 * and a half-written file must not be seen at the peer; nor one of which a part was read before
 * that and a part after (replica_torn()).
 */

#include "sender.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "content.h"
#include "growing.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <utlist.h>

/* A file that is changed in place all the time goes as it was read in the end; its next content
 * mends it. */
#define TRIES_MAX 3

static void drop_flight(struct sender *s, struct flight *f)
{
	DL_DELETE(s->flights, f);
	s->n_flights--;
	s->flight_bytes -= f->frame;
	free(f->what);
	free(f);
}

void outgoing_reset(struct sender *s)
{
	while (s->flights)
		drop_flight(s, s->flights);
	waiting_reset(s);
	op_clear(&s->held);
	buf_reset(&s->out);
	s->barrier = s->at_end = false;
	s->n_resend = 0;
	s->last_sent = s->growing_seen = 0;
	if (s->cursor)
		journal_reader_close(s->cursor);
	s->cursor = NULL;
}

/* What a peer that is to be reconciled is not sent. */
static int skip_given_up(struct sender *s, const struct position *applied, uint64_t *from)
{
	struct peer *p = s->peer;
	struct replica *r = p->replica;
	bool given_up;
	uint64_t upto;
	int e;

	(void)pthread_mutex_lock(&r->lock);
	given_up = p->resync_needed & RESYNC_JOURNAL;
	if (given_up && !p->ignorant_after)
		p->ignorant_after = applied->high + 1;
	(void)pthread_mutex_unlock(&r->lock);
	e = given_up ? resync_give_up(r, &upto) : 0;
	if (e == 0 && given_up && upto >= *from)
		*from = upto + 1;
	return e;
}

int outgoing_start(struct sender *s, const struct position *applied)
{
	uint64_t from = applied->high + 1, tail = journal_tail(s->replica->journal);
	int r = skip_given_up(s, applied, &from);

	if (r < 0)
		return r;
	if (from < tail) { /* of what lies between nothing was for the peer, or it is lost to it */
		if ((!s->peer->covered && tail > 1) || applied->high < s->peer->acked)
			(void)resync_need(s->peer, RESYNC_FORGOTTEN); /* it says what is wrong */
		from = tail;
	}
	s->peer->acked = applied->high;
	r = journal_reader_open(s->replica->journal, from, &s->cursor);
	if (r < 0)
		return r;
	s->peer->covered = true;
	s->passed = from - 1;
	s->last_sent = applied->high;
	memcpy(s->resend, applied->missing, applied->n_missing * sizeof(s->resend[0]));
	s->n_resend = applied->n_missing;
	s->catching_up = true;
	s->catch_up_known = false;
	(void)pthread_mutex_lock(&s->replica->lock);
	pending_rewind(s->peer->pending, applied);
	(void)pthread_mutex_unlock(&s->replica->lock);
	return 0;
}

/* ---- frames ---- */

static int add_flight(struct sender *s, const struct op *op, const struct local_head *head,
	size_t frame, uint64_t started_ms)
{
	struct flight *f = calloc(1, sizeof(*f));
	char text[512];

	if (!f)
		return -ENOMEM;
	f->seq = op->seq;
	f->logged = head ? head->logged : 0;
	f->sent_ms = started_ms;
	f->frame = frame;
	if (op->path) {
		f->what = strdup(op_describe(op, text, sizeof(text)));
		f->bytes = op->content ? op->content->data_len : 0;
	}
	if (!s->flights)
		s->last_news_ms = clock_mono_ms(); /* it had nothing to answer until now */
	DL_APPEND(s->flights, f);
	s->n_flights++;
	s->flight_bytes += frame;
	if (op->seq > s->last_sent)
		s->last_sent = op->seq;
	return 0;
}

/* A frame about @op: the op itself, or only its number for WIRE_DEFER and WIRE_VOID. */
int outgoing_frame(struct sender *s, enum wire_kind kind, const struct op *op,
	const struct local_head *head, uint64_t started_ms)
{
	size_t start = wire_begin(&s->out, kind);
	int r;

	buf_put_u64(&s->out, op->seq);
	if (kind == WIRE_OP) {
		position_encode(&head->seen, &s->out);
		op_encode(op, OP_ENCODE_WIRE, &s->out);
	}
	wire_end(&s->out, start);
	r = buf_error(&s->out);
	return r < 0 ? r : add_flight(s, op, head, s->out.len - start, started_ms);
}

/* Nothing is left to send of @op: a number that the peer waits for must still be named. */
int outgoing_void(struct sender *s, const struct op *op)
{
	struct op bare = {.seq = op->seq, .time = op->time};

	waiting_not_refused(s, op->seq);
	return op->flags & OP_LATE ? outgoing_frame(s, WIRE_VOID, &bare, NULL, clock_mono_ms()) : 0;
}

/* ---- contents ---- */

static int stage_path(const struct sender *s, char **ret)
{
	if (asprintf(ret, "%s/in/%s/stage", s->control, s->replica->node.id) >= 0)
		return 0;
	*ret = NULL;
	return -ENOMEM;
}

/* Of the record @seq's data. */
static void stage_name(const struct sender *s, uint64_t seq, char dst[OP_STAGE_NAME_MAX + 1])
{
	(void)snprintf(dst, OP_STAGE_NAME_MAX + 1, "%016llx-%016llx",
		(unsigned long long)s->session, (unsigned long long)seq);
}

static int start_upload(struct sender *s, struct op *op, const struct local_head *head,
	const struct stat *before, int *fd)
{
	bool relaxed = waiting_is_relaxed(s, op);
	struct bulk_job *job = calloc(1, sizeof(*job));
	_cleanup_free_ char *stage = NULL;
	int r;

	if (!job)
		return -ENOMEM;
	job->fd = -1;
	stage_name(s, op->seq, op->content->stage);
	r = stage_path(s, &stage);
	if (r == 0 && relaxed)
		r = waiting_announce(s, op);
	if (r == 0) {
		job->started_ms = clock_mono_ms();
		job->head = *head;
		job->before = *before;
		job->fd = steal_fd(fd);
		job->op = *op;
		*op = (struct op){0};
		if (relaxed)
			job->op.flags |= OP_LATE;
		if (job->op.type != OP_CONTENT || !bulk_early_take(s->bulk, job))
			r = bulk_submit(s->bulk, job, stage);
	}
	if (r < 0) {
		bulk_job_free(job);
		return r;
	}
	s->barrier = !relaxed || waiting_too_many(s);
	return 0;
}

static bool is_gone(int error)
{
	return error == -ESTALE || error == -ENOENT || error == -ENOTDIR || error == -ELOOP;
}

static int open_content(struct replica *r, const struct op *op)
{
	if (op->type == OP_VAULT)
		return vault_read(r->vault, op->path2, NULL);
	return fid_open(r->root, &op->fid, op->path, O_RDONLY | O_NOFOLLOW);
}

int outgoing_content(struct sender *s, struct op *op, const struct local_head *head)
{
	struct replica *r = s->replica;
	_cleanup_close_ int fd = open_content(r, op);
	struct stat st;
	int e = fd < 0 ? fd : 0;

	if (e == 0)
		e = content_describe(fd, op, &st);
	if (is_gone(e)) {
		bulk_early_drop(s->bulk, &op->fid);
		return outgoing_void(s, op);
	}
	if (e == 0 && replica_whole_dirty(r, &op->fid))
		return waiting_for_writer(s, op, head, true, 0);
	if (e == 0 && content_data_len(op->content) > INLINE_MAX)
		return start_upload(s, op, head, &st, &fd);
	if (e == 0)
		e = content_load(fd, op, r->config.verify);
	if (e == 0 && replica_torn(s->peer, &op->fid, &st, fd))
		return waiting_for_writer(s, op, head, true, 0);
	if (e < 0) {
		log_error("%s: cannot read %s to send it: %s", peer_label(s->peer), op->path,
			strerror(-e));
		return e;
	}
	return outgoing_frame(s, WIRE_OP, op, head, clock_mono_ms());
}

bool outgoing_take_pending(struct sender *s, struct op *op)
{
	bool taken;

	(void)pthread_mutex_lock(&s->replica->lock);
	taken = pending_take(s->peer->pending, op);
	(void)pthread_mutex_unlock(&s->replica->lock);
	return taken;
}

/* The receiver cannot find a source that it was never sent because its inode was gone. */
static void mark_gone(struct sender *s, struct op *op)
{
	int fd;

	if (op->fid.len == 0 ||
		(op->type != OP_RENAME && op->type != OP_LINK && op->type != OP_SETATTR &&
			op->type != OP_SETXATTR && op->type != OP_REMOVEXATTR))
		return;
	fd = fid_open(s->replica->root, &op->fid, NULL, O_PATH);
	if (fd == -ESTALE)
		op->flags |= OP_GONE;
	cleanup_close(&fd);
}

int outgoing_op(struct sender *s, struct op *op, const struct local_head *head)
{
	if (op->type == OP_CONTENT) {
		if (!(op->flags & (OP_LATE | OP_FORCE)) && !outgoing_take_pending(s, op))
			return 0;
		return outgoing_content(s, op, head);
	}
	if (op->type == OP_VAULT && !(op->flags & OP_GONE))
		return outgoing_content(s, op, head);
	mark_gone(s, op);
	return outgoing_frame(s, WIRE_OP, op, head, clock_mono_ms());
}

/* ---- reading the journal ---- */

static int decode_local(struct sender *s, const struct journal_record *rec, struct op *ret,
	struct local_head *ret_head)
{
	struct reader src;
	const char *why = "its head is damaged";
	int r = local_split(
		rec->data, rec->len, s->peer->known ? s->peer->node.id : NULL, ret_head, &src);

	if (r == 0)
		r = op_decode(&src, OP_ENCODE_LOCAL, ret, &why);
	if (r < 0)
		log_error("journal: record %llu cannot be read: %s", (unsigned long long)rec->seq,
			why);
	else
		ret->seq = rec->seq;
	return r;
}

/* The next op for the peer. 0, -EAGAIN at the end, or -errno. */
static int next_op(struct sender *s, struct op *ret, struct local_head *ret_head)
{
	struct journal_record rec;

	for (;;) {
		int r = journal_reader_next(s->cursor, &rec);

		if (r < 0) {
			s->at_end = r == -EAGAIN;
			return r;
		}
		s->passed = rec.seq;
		if (rec.kind != JOURNAL_LOCAL || replica_is_aborted(s->replica, rec.seq))
			continue;
		r = decode_local(s, &rec, ret, ret_head);
		if (r < 0)
			return r;
		if (op_is_sent(ret->type))
			return 0;
		op_clear(ret);
	}
}

/* Reads our op @seq again. -ESTALE: the journal does not have it. */
static int read_again(struct sender *s, uint64_t seq, struct op *ret, struct local_head *ret_head)
{
	struct journal_reader *reader;
	struct journal_record rec;
	int r = journal_reader_open(s->replica->journal, seq, &reader);

	if (r < 0)
		return r;
	r = journal_reader_next(reader, &rec);
	if (r == 0 && (rec.seq != seq || rec.kind != JOURNAL_LOCAL))
		r = -ESTALE;
	if (r == 0)
		r = decode_local(s, &rec, ret, ret_head);
	if (r == 0 && !op_is_sent(ret->type))
		r = -ESTALE;
	journal_reader_close(reader);
	return r;
}

/* What the peer said is missing is sent again, before all else. */
static int resend_one(struct sender *s)
{
	_cleanup_op_ struct op op = {0};
	uint64_t seq = s->resend[0];
	struct local_head head;
	bool stuck;
	int r = read_again(s, seq, &op, &head);

	op.flags |= OP_LATE;
	if (r == -ESTALE) { /* or it is one of another copy of us */
		log_warning("%s waits for our change %llu, which is not in the journal",
			peer_label(s->peer), (unsigned long long)seq);
		op.seq = seq;
		r = outgoing_void(s, &op);
	} else if (r == 0 && waiting_blocks(s, &op, &stuck)) {
		r = waiting_behind(s, &op, &head);
	} else if (r == 0) {
		r = outgoing_op(s, &op, &head);
	}
	if (r < 0)
		return r;
	s->n_resend--;
	memmove(s->resend, s->resend + 1, s->n_resend * sizeof(s->resend[0]));
	return 0;
}

static bool window_is_open(const struct sender *s)
{
	return !s->barrier && s->flight_bytes < WINDOW_BYTES && s->n_flights < WINDOW_OPS &&
	       s->out.len < BATCH_BYTES;
}

static int send_held(struct sender *s)
{
	struct op op = s->held;
	int r;

	s->held = (struct op){0};
	r = outgoing_op(s, &op, &s->held_head);
	op_clear(&op);
	return r;
}

/* Sends the op that was read last, or lets others overtake it. -EAGAIN: it must wait, and they with
 * it. */
static int pass_held(struct sender *s)
{
	bool stuck;

	if (!waiting_blocks(s, &s->held, &stuck))
		return send_held(s);
	if (!stuck || !waiting_is_relaxed(s, &s->held))
		return -EAGAIN;
	return waiting_behind(s, &s->held, &s->held_head);
}

int outgoing_fill(struct sender *s)
{
	while (window_is_open(s)) {
		int r;

		if (s->n_resend) {
			r = resend_one(s);
		} else if (s->held.type) {
			r = pass_held(s);
			if (r == -EAGAIN)
				return 0;
		} else {
			r = next_op(s, &s->held, &s->held_head);
			if (r == -EAGAIN)
				return 0;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- uploads ---- */

static int begin_early(struct sender *s, struct growing *g)
{
	_cleanup_free_ char *stage = NULL;
	char name[OP_STAGE_NAME_MAX + 1];
	int r = stage_path(s, &stage);

	stage_name(s, g->seq, name);
	return r < 0 ? r : bulk_early(s->bulk, g, stage, name);
}

int outgoing_early(struct sender *s)
{
	struct replica *r = s->replica;
	uint64_t made = atomic_load(&r->growing_made);
	struct growing *g;

	if (s->growing_seen == made)
		return 0;
	while ((g = growing_next(r, s->growing_seen))) {
		uint64_t id = g->id;
		int e = begin_early(s, g);

		if (e < 0)
			growing_put(r, g);
		if (e == -EBUSY) /* later, if it is still there then */
			return 0;
		if (e < 0)
			return e;
		s->growing_seen = id;
	}
	s->growing_seen = made;
	return 0;
}

/* What was uploaded is not what the file is by now. */
static int discard_upload(struct sender *s, const struct bulk_job *job)
{
	_cleanup_free_ char *stage = NULL, *path = NULL;
	int r = stage_path(s, &stage);

	if (r == 0 && asprintf(&path, "%s/%s", stage, job->op.content->stage) < 0) {
		path = NULL;
		r = -ENOMEM;
	}
	return r < 0 ? r : s->remote->ops->remove(s->remote, path);
}

static int finish_upload(struct sender *s, struct bulk_job *job)
{
	bool changed;

	if (job->result < 0 && job->refused) {
		waiting_drop(s, job->op.seq);
		s->barrier = false;
		return waiting_for_room(s, &job->op, &job->head, job->result);
	}
	if (job->result < 0) {
		log_line(job->remote_failed ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR,
			"%s: upload of %s: %s", peer_label(s->peer), job->op.path,
			strerror(-job->result));
		return job->result;
	}
	waiting_drop(s, job->op.seq);
	waiting_not_refused(s, job->op.seq);
	s->barrier = false;
	changed = !content_unchanged(&job->before, job->fd) && job->head.tries++ < TRIES_MAX;
	if (changed || replica_torn(s->peer, &job->op.fid, &job->before, job->fd)) {
		int r = discard_upload(s, job);

		return r < 0 ? r : waiting_for_writer(s, &job->op, &job->head, true, 0);
	}
	return outgoing_frame(s, WIRE_OP, &job->op, &job->head, job->started_ms);
}

int outgoing_collect(struct sender *s)
{
	struct bulk_job *job;
	int r = 0;

	while (r == 0 && (job = bulk_done(s->bulk))) {
		r = finish_upload(s, job);
		bulk_job_free(job);
	}
	return r < 0 ? r : waiting_send(s);
}

/* ---- acknowledgements ---- */

static void log_flight(struct sender *s, const struct flight *f)
{
	struct change_line line = {
		.verb = "sent",
		.peer = peer_label(s->peer),
		.what = f->what,
		.bytes = f->bytes,
		.seconds = (double)(clock_mono_ms() - f->sent_ms) / 1000,
	};

	if (f->what)
		changes_add(s->replica->changes, &line);
}

void outgoing_acked(struct sender *s, const struct position *applied)
{
	struct flight *f, *next;
	uint64_t ops = 0, bytes = 0;

	DL_FOREACH_SAFE (s->flights, f, next) {
		if (f->seq > applied->high)
			break;
		/* a DEFER is answered by the missing number itself */
		if (f->what && !position_has(applied, f->seq)) { /* read, and parked there */
			s->flight_bytes -= f->frame;
			f->frame = 0;
			continue;
		}
		ops += f->what != NULL;
		bytes += f->bytes;
		log_flight(s, f);
		drop_flight(s, f);
	}
	(void)pthread_mutex_lock(&s->replica->lock);
	s->peer->sent_ops += ops;
	s->peer->sent_bytes += bytes;
	(void)pthread_mutex_unlock(&s->replica->lock);
}
