/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Operations that cannot be applied now: the disk is full, read-only, the directory may not be
 * written to, the name is too long for this file system. Their numbers count as missing, operations
 * that are related to them queue behind them, all others go on. Each second they are tried again,
 * in the order in which they came; when more fail than is good for one second, the rest is tried in
 * the next ones.
 *
 * How many can wait is bounded, by the numbers that may be missing in a position and by the memory
 * that they take. What comes when no more can waits in the log, and all behind it: the ack says so.
 *
 * What was removed at the sender meanwhile is not waited for: the removal takes the place of all
 * that only concerned that name.
 */

#include "receiver.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

#define RETRY_MS 1000
/* Tries in a second that may fail; each is two records in the journal. */
#define FAILED_MAX 128

static void show_waiting(struct receiver *v)
{
	struct replica *r = v->replica;
	struct parked *p = v->parked;
	char text[400], more[80] = "";
	char *line = NULL;

	v->problem[0] = '\0';
	if (v->n_parked > 1)
		(void)snprintf(more, sizeof(more), " (and %u more wait%s)", v->n_parked - 1,
			v->parked_full ? ": no more can, nothing else is taken" : "");
	if (p && asprintf(&line, "%s: %s%s", op_describe(&p->op, text, sizeof(text)),
			 strerror(-p->error), more) < 0)
		line = NULL;
	if (line)
		(void)snprintf(v->problem, sizeof(v->problem), "%s", line);
	(void)pthread_mutex_lock(&r->lock);
	free(v->origin->waiting);
	v->origin->waiting = line;
	(void)pthread_mutex_unlock(&r->lock);
	v->ack_due = true;
}

/* Without memory each is looked at. */
static bool is_related_to_any(const struct receiver *v, const struct op *op)
{
	const struct parked *p;

	DL_FOREACH (v->parked, p)
		if (op_related(&p->op, op))
			return true;
	return false;
}

bool parked_related(struct receiver *v, const struct op *op)
{
	const struct parked *p;
	int e = 0;

	if (v->related_old) {
		related_clear(&v->related);
		for (p = v->parked; p && e == 0; p = p->next)
			e = related_add(&v->related, &p->op);
		v->related_old = e < 0;
	}
	return v->related_old ? is_related_to_any(v, op) : related_has(&v->related, op);
}

static size_t size_of(const struct parked *p)
{
	const struct op *op = &p->op;

	return sizeof(*p) + p->seen.cap + strlen(op->path) + op->value_len +
	       (op->content && op->content->data ? op->content->data_len : 0);
}

static void add(struct receiver *v, struct parked *p)
{
	DL_APPEND(v->parked, p);
	v->n_parked++;
	p->removal = p->op.type == OP_UNLINK || p->op.type == OP_RMDIR;
	v->n_removals += p->removal;
	p->size = size_of(p);
	v->parked_bytes += p->size;
	if (!v->related_old && related_add(&v->related, &p->op) < 0)
		v->related_old = true;
}

/* No more can wait. */
static int turn_away(struct receiver *v)
{
	if (!v->parked_full) {
		v->parked_full = true;
		log_warning(
			"%u changes of %s cannot be applied and wait: no more can, nothing else "
			"is taken",
			v->n_parked, v->sender.name);
		show_waiting(v);
	}
	return -EAGAIN;
}

static void free_parked(struct parked *p)
{
	op_clear(&p->op);
	buf_clear(&p->seen);
	free(p);
}

int park(struct receiver *v, struct op *op, const struct position *seen, int error)
{
	struct parked *p;
	int e;

	if (v->parked_bytes > PARKED_BYTES_MAX)
		return turn_away(v);
	if (!incoming_is_missing(v, op->seq)) {
		e = incoming_number(v, op->seq, REMOTE_DEFER);
		if (e < 0)
			return e == -EAGAIN && v->parked ? turn_away(v) : e;
	}
	p = calloc(1, sizeof(*p));
	if (!p)
		return -EAGAIN;
	position_encode(seen, &p->seen);
	if (buf_error(&p->seen) < 0) {
		free_parked(p);
		return -EAGAIN;
	}
	p->op = *op;
	p->error = error;
	p->round = v->round - (error == 0); /* that one was not tried */
	*op = (struct op){0};
	add(v, p);
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
	DL_DELETE(v->parked, p);
	v->n_parked--;
	v->n_removals -= p->removal;
	v->parked_bytes -= p->size;
	v->related_old = true;
	v->parked_full = false;
	free_parked(p);
	show_waiting(v);
}

void parked_forget(struct receiver *v)
{
	while (v->parked)
		unpark(v, v->parked);
	related_clear(&v->related);
	v->related_old = false;
}

/* ---- what is taken back ---- */

/* The removal of what @p would make or change, if it waits behind @p and nothing else does that
 * needs it. */
static const struct parked *removal_of(const struct receiver *v, const struct parked *p)
{
	const struct parked *q;
	struct stat st;

	if (v->n_removals == 0 || p->op.flags & OP_FORCE || p->op.type == OP_RENAME ||
		p->op.type == OP_LINK || p->op.type == OP_ASK || p->op.type == OP_ANSWER ||
		p->op.type == OP_VAULT)
		return NULL;
	if (confine_stat(v->replica->root, p->op.path, &st) == 0 && !S_ISDIR(st.st_mode) &&
		st.st_nlink > 1)
		return NULL; /* it may have another name */
	for (q = p->next; q; q = q->next) {
		if (!op_related(&p->op, &q->op))
			continue;
		if (strcmp(p->op.path, q->op.path) != 0 || q->op.type == OP_RENAME ||
			q->op.type == OP_LINK || q->op.flags & OP_FORCE)
			return NULL;
		if (q->op.type == OP_UNLINK || q->op.type == OP_RMDIR)
			return q;
	}
	return NULL;
}

/* What the removal @last makes pointless, from @p on, counts as done. Returns how many. */
static unsigned skip_removed(struct receiver *v, struct parked *p, const struct parked *last)
{
	_cleanup_free_ char *path = strdup(p->op.path);
	struct parked *next;
	unsigned n = 0;

	for (; path && p != last; p = next) {
		next = p->next;
		if (strcmp(p->op.path, path) != 0)
			continue;
		if (incoming_number(v, p->op.seq, REMOTE_VOID) < 0)
			break;
		log_notice("%s from %s is not needed any more: it was removed there", path,
			v->sender.name);
		incoming_drop_content(v, &p->op);
		unpark(v, p);
		n++;
	}
	return n;
}

/* Another try of @p. 0: it is done and gone; -EINPROGRESS: it goes on waiting; -EAGAIN: others went
 * with it and the queue is to be gone through anew; -EBADMSG: it is damaged. */
static int retry(struct receiver *v, struct parked *p)
{
	struct reader src = reader_of(p->seen.data, p->seen.len);
	const struct parked *removal;
	struct position seen;
	int e;

	position_decode(&src, &seen);
	e = incoming_carry_out(v, &p->op, &seen);
	removal = e < 0 && e != -EBADMSG ? removal_of(v, p) : NULL;
	if (e == 0) {
		log_notice("%s from %s could be applied now", p->op.path, v->sender.name);
		unpark(v, p);
		return 0;
	}
	if (e == -EBADMSG)
		return e;
	if (removal && skip_removed(v, p, removal) > 0)
		return -EAGAIN;
	p->round = v->round;
	if (!removal && p->error != e) {
		p->error = e;
		show_waiting(v);
	}
	return -EINPROGRESS;
}

/* Tries those that were not tried in this round yet, until @left have failed. What one is related
 * to that stands before it and waits, it waits behind. 0 or as retry(). */
static int try_each(struct receiver *v, unsigned *left)
{
	struct parked *p, *next;

	related_clear(&v->related);
	v->related_old = true;
	for (p = v->parked; p; p = next) {
		int e = -EINPROGRESS;

		next = p->next;
		if (*left > 0 && p->round != v->round && !related_has(&v->related, &p->op)) {
			e = retry(v, p);
			*left -= e == -EINPROGRESS;
		}
		if (e == -EINPROGRESS)
			e = related_add(&v->related, &p->op);
		if (e < 0)
			return e;
	}
	v->related_old = false;
	return 0;
}

int parked_retry(struct receiver *v)
{
	unsigned left = FAILED_MAX;
	int e;

	if (!v->parked || v->damaged || clock_mono_ms() < v->retry_ms)
		return 0;
	do
		e = try_each(v, &left);
	while (e == -EAGAIN);
	if (left > 0)
		v->round++;
	v->retry_ms = clock_mono_ms() + RETRY_MS;
	return e == -EBADMSG ? e : 0;
}
