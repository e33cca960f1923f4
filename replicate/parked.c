/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Operations that cannot be applied now: the disk is full, read-only, the directory may not be
 * written to, the name is too long for this file system. Their numbers count as missing, operations
 * that are related to them queue behind them, all others go on. Each second they are tried again,
 * in the order in which they came.
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

bool parked_related(const struct receiver *v, const struct op *op)
{
	const struct parked *p;

	LL_FOREACH (v->parked, p)
		if (op_related(&p->op, op))
			return true;
	return false;
}

int park(struct receiver *v, struct op *op, const struct position *seen, int error)
{
	struct parked *p;
	int e;

	if (v->parked_bytes > PARKED_BYTES_MAX)
		return -EAGAIN;
	if (!incoming_is_missing(v, op->seq)) {
		e = incoming_number(v, op->seq, REMOTE_DEFER);
		if (e < 0)
			return e;
	}
	p = calloc(1, sizeof(*p));
	if (!p)
		return -EAGAIN;
	p->op = *op;
	p->seen = *seen;
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

void parked_forget(struct receiver *v)
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

/* ---- what is taken back ---- */

/* The removal of what @p would make or change, if it waits behind @p and nothing else does that
 * needs it. */
static const struct parked *removal_of(const struct receiver *v, const struct parked *p)
{
	const struct parked *q;
	struct stat st;

	if (p->op.flags & OP_FORCE || p->op.type == OP_RENAME || p->op.type == OP_LINK ||
		p->op.type == OP_ASK || p->op.type == OP_ANSWER || p->op.type == OP_VAULT)
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

/* Another try of @p. 0, -EAGAIN when others went with it and the queue is to be gone through anew,
 * or -EBADMSG: it is damaged. */
static int retry(struct receiver *v, struct parked *p)
{
	int e = incoming_carry_out(v, &p->op, &p->seen);
	const struct parked *removal = e < 0 && e != -EBADMSG ? removal_of(v, p) : NULL;

	if (e == 0) {
		log_notice("%s from %s could be applied now", p->op.path, v->sender.name);
		unpark(v, p);
		return 0;
	}
	if (e == -EBADMSG)
		return e;
	if (removal && skip_removed(v, p, removal) > 0)
		return -EAGAIN;
	if (!removal && p->error != e) {
		p->error = e;
		show_waiting(v);
	}
	return 0;
}

int parked_retry(struct receiver *v)
{
	struct parked *p, *next;

	if (!v->parked || v->damaged || clock_mono_ms() < v->retry_ms)
		return 0;
	for (p = v->parked; p; p = next) {
		int e;

		next = p->next;
		e = is_behind(v, p) ? 0 : retry(v, p);
		if (e == -EBADMSG)
			return e;
		if (e == -EAGAIN)
			next = v->parked;
	}
	v->retry_ms = clock_mono_ms() + RETRY_MS;
	return 0;
}
