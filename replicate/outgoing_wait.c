/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What cannot be sent yet: a content whose file is being written anew, one that the peer's server
 * refuses (its disk is full), and whatever is related to that one.
 *
 * With order=relaxed each is announced, and others overtake it. How long a refusal lasts nobody
 * knows: what is related must not hold back the rest, and waits here, behind it, instead of at the
 * cursor. They go in the order of their numbers.
 */

#include "sender.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/say.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

#define RETRY_MS 1000
/* So many of those that are refused are uploaded again in that time. */
#define RETRY_UPLOADS 32

/* ---- what others overtake ---- */

void waiting_drop(struct sender *s, uint64_t seq)
{
	struct deferred *d, *next;

	LL_FOREACH_SAFE (s->deferred, d, next) {
		if (d->op.seq != seq)
			continue;
		LL_DELETE(s->deferred, d);
		s->n_deferred--;
		s->n_stuck -= d->stuck;
		op_clear(&d->op);
		free(d);
	}
}

bool waiting_is_relaxed(const struct sender *s, const struct op *op)
{
	return s->replica->config.order == ORDER_RELAXED || (op->flags & OP_LATE);
}

int waiting_announce(struct sender *s, const struct op *op)
{
	struct deferred *d = calloc(1, sizeof(*d));
	struct op bare = {.seq = op->seq, .time = op->time};

	if (!d)
		return -ENOMEM;
	d->op.type = op->type;
	d->op.seq = op->seq;
	d->op.path = strdup(op->path);
	d->op.path2 = op->path2 ? strdup(op->path2) : NULL;
	LL_PREPEND(s->deferred, d);
	s->n_deferred++;
	if (!d->op.path || (op->path2 && !d->op.path2))
		return -ENOMEM;
	return op->flags & OP_LATE ? 0
				   : outgoing_frame(s, WIRE_DEFER, &bare, NULL, clock_mono_ms());
}

/* Nobody knows when it can be sent. */
static void mark_stuck(struct sender *s, uint64_t seq)
{
	struct deferred *d;

	LL_FOREACH (s->deferred, d) {
		if (d->op.seq != seq || d->stuck)
			continue;
		d->stuck = true;
		s->n_stuck++;
	}
	if (waiting_too_many(s))
		s->barrier = true;
}

bool waiting_too_many(const struct sender *s)
{
	return s->n_deferred - s->n_stuck >= DEFERRED_MAX || s->n_deferred >= WAITING_MAX;
}

static bool is_deferred(const struct sender *s, uint64_t seq)
{
	const struct deferred *d;

	LL_FOREACH (s->deferred, d)
		if (d->op.seq == seq)
			return true;
	return false;
}

uint64_t waiting_blocks(const struct sender *s, const struct op *op, bool *ret_stuck)
{
	const struct deferred *d;
	uint64_t blocker = 0;

	*ret_stuck = false;
	LL_FOREACH (s->deferred, d) {
		if (d->op.seq >= op->seq || !op_related(&d->op, op))
			continue;
		blocker = d->op.seq;
		*ret_stuck |= d->stuck;
	}
	return blocker;
}

bool outgoing_under_way(const struct sender *s)
{
	const struct deferred *d;

	LL_FOREACH (s->deferred, d)
		if (!d->stuck)
			return true;
	return false;
}

/* ---- what waits here ---- */

static void drop_unready(struct sender *s, struct unready *u)
{
	LL_DELETE(s->unready, u);
	op_clear(&u->op);
	free(u);
}

static void forget_refusal(struct sender *s)
{
	struct peer *p = s->peer;

	(void)pthread_mutex_lock(&s->replica->lock);
	p->refused_seq = 0;
	free(p->refused);
	p->refused = NULL;
	(void)pthread_mutex_unlock(&s->replica->lock);
}

void waiting_reset(struct sender *s)
{
	while (s->deferred)
		waiting_drop(s, s->deferred->op.seq);
	while (s->unready)
		drop_unready(s, s->unready);
	forget_refusal(s);
}

static int by_number(const struct unready *a, const struct unready *b)
{
	return a->op.seq < b->op.seq ? -1 : a->op.seq > b->op.seq;
}

int waiting_for_writer(struct sender *s, struct op *op, const struct local_head *head, bool taken,
	uint64_t retry_ms)
{
	struct unready *u = calloc(1, sizeof(*u));
	bool relaxed = waiting_is_relaxed(s, op);
	int r = 0;

	if (!u)
		return -ENOMEM;
	if (relaxed)
		r = waiting_announce(s, op);
	else
		s->barrier = true;
	content_free(op->content);
	op->content = NULL;
	u->op = *op;
	u->head = *head;
	u->taken = taken;
	u->retry_ms = retry_ms;
	*op = (struct op){0};
	if (relaxed)
		u->op.flags |= OP_LATE;
	LL_INSERT_INORDER(s->unready, u, by_number);
	return r;
}

int waiting_behind(struct sender *s, struct op *op, const struct local_head *head)
{
	uint64_t seq = op->seq;
	int r = waiting_for_writer(s, op, head, op->flags & OP_LATE, 0);

	mark_stuck(s, seq);
	return r;
}

/* ---- refusals ---- */

int waiting_for_room(struct sender *s, struct op *op, const struct local_head *head, int error)
{
	struct peer *p = s->peer;
	uint64_t seq = op->seq;
	char what[400];
	char *text = NULL;
	bool news;
	int r;

	(void)say(&text, 0, "%s: %s (%s)", op_describe(op, what, sizeof(what)), strerror(-error),
		remote_remedy(error));
	(void)pthread_mutex_lock(&s->replica->lock);
	p->room_doubtful = true;
	news = p->refused_seq == 0;
	if (news || p->refused_seq == seq) {
		free(p->refused);
		p->refused = text;
		p->refused_seq = seq;
		text = NULL;
	}
	(void)pthread_cond_broadcast(&s->replica->changed);
	(void)pthread_mutex_unlock(&s->replica->lock);
	free(text);
	if (news)
		log_warning("%s cannot take %s: %s; tried again each second", peer_label(p), what,
			strerror(-error));
	r = waiting_for_writer(
		s, op, head, true, clock_mono_ms() + RETRY_MS * (1 + s->n_stuck / RETRY_UPLOADS));
	mark_stuck(s, seq);
	return r;
}

/* There is room again, if it was refused: the others are not to wait for their turn. */
static void retry_all(struct sender *s)
{
	struct unready *u;

	LL_FOREACH (s->unready, u)
		u->retry_ms = 0;
}

void waiting_not_refused(struct sender *s, uint64_t seq)
{
	if (s->peer->refused_seq != seq) /* written by this thread only */
		return;
	forget_refusal(s);
	(void)pthread_mutex_lock(&s->replica->lock);
	s->peer->room_doubtful = false;
	(void)pthread_mutex_unlock(&s->replica->lock);
	retry_all(s);
}

/* ---- sending ---- */

static bool is_ready(const struct sender *s, struct unready *u)
{
	bool stuck;

	if (clock_mono_ms() < u->retry_ms || (u->behind && is_deferred(s, u->behind)))
		return false;
	u->behind = waiting_blocks(s, &u->op, &stuck);
	return !u->behind &&
	       !(u->op.type == OP_CONTENT && replica_whole_dirty(s->replica, &u->op.fid));
}

static int send_ready(struct sender *s, struct unready *u)
{
	struct op *op = &u->op;
	bool covered;

	if (op->type != OP_CONTENT)
		return outgoing_op(s, op, &u->head);
	/* What the writer changed goes along. A restatement is covered by nothing: taken before the
	 * writer came. */
	covered = !(op->flags & OP_FORCE) && !outgoing_take_pending(s, op) && !u->taken;
	return covered ? outgoing_void(s, op) : outgoing_content(s, op, &u->head);
}

int waiting_send(struct sender *s)
{
	struct unready *u, *next;
	int r = 0;

	LL_FOREACH_SAFE (s->unready, u, next) {
		if (!is_ready(s, u))
			continue;
		LL_DELETE(s->unready, u);
		waiting_drop(s, u->op.seq);
		s->barrier = false;
		r = send_ready(s, u);
		op_clear(&u->op);
		free(u);
		if (r < 0)
			break;
	}
	return r;
}
