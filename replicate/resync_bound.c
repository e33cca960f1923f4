/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A journal past its bound (journal_max): a peer that is away is no longer waited for. What it
 * lacks is dropped as a whole, and the peer is noted as one to be reconciled before the first
 * segment goes. Of what is dropped the names that were taken away are kept (removed.c), in
 * STATE/removed, until every peer is reconciled: else the peer would bring them back.
 *
 * When it is back, nothing of the journal is sent that is older than that moment (outgoing.c): the
 * reconciler says it all, and a change whose predecessors are missing could only mislead. Its own
 * changes count as made in ignorance of all that was dropped.
 */

#include "impl.h"

#include "base/cleanup.h"
#include "base/durable.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define REMOVED_FILE "removed"

static int load(struct replica *r, struct removed *t)
{
	_cleanup_free_ char *data = NULL;
	size_t len;
	int e = durable_read(r->state, REMOVED_FILE, RESYNC_REMOVED_MAX, &data, &len);

	if (e == -ENOENT)
		return 0;
	return e < 0 ? e : removed_decode(t, data, len);
}

int resync_removed(struct replica *r, struct removed **ret)
{
	struct removed *t = removed_new();
	int e = t ? load(r, t) : -ENOMEM;

	if (e < 0) {
		removed_free(t);
		return e;
	}
	*ret = t;
	return 0;
}

static int take(struct replica *r, const struct journal_record *rec, struct removed *t)
{
	_cleanup_op_ struct op op = {0};
	struct local_head head;
	struct reader src;
	const char *why;
	int e;

	removed_pass(t, rec->seq);
	if (rec->kind != JOURNAL_LOCAL || replica_is_aborted(r, rec->seq))
		return 0;
	e = local_split(rec->data, rec->len, NULL, &head, &src);
	if (e == 0)
		e = op_decode(&src, OP_ENCODE_LOCAL, &op, &why);
	return e < 0 ? e : removed_add(t, &op);
}

static int read_journal(struct replica *r, struct removed *t)
{
	uint64_t from = removed_upto(t) + 1, tail = journal_tail(r->journal);
	struct journal_reader *reader;
	struct journal_record rec;
	int e = journal_reader_open(r->journal, from > tail ? from : tail, &reader);

	if (e < 0)
		return e;
	while (e == 0) {
		e = journal_reader_next(reader, &rec);
		if (e == 0)
			e = take(r, &rec, t);
	}
	journal_reader_close(reader);
	return e == -EAGAIN ? 0 : e;
}

static int save(struct replica *r, const struct removed *t)
{
	_cleanup_buf_ struct buf b = {0};
	int e = removed_encode(t, &b);

	return e < 0 ? e : durable_replace(r->state, REMOVED_FILE, b.data, b.len, 0600, 1);
}

int resync_give_up(struct replica *r, uint64_t *ret_upto)
{
	struct removed *t;
	int e = resync_removed(r, &t);

	if (e < 0)
		return e;
	e = read_journal(r, t);
	if (e == 0)
		e = save(r, t);
	if (e == 0)
		*ret_upto = removed_upto(t);
	removed_free(t);
	return e;
}

void resync_forget_removed(struct replica *r)
{
	bool needed = false;

	(void)pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < r->n_peers; i++)
		needed |= r->peers[i].resync_needed & RESYNC_JOURNAL;
	(void)pthread_mutex_unlock(&r->lock);
	if (!needed && unlinkat(r->state, REMOVED_FILE, 0) < 0 && errno != ENOENT)
		log_warning("state directory: cannot remove %s: %s", REMOVED_FILE, strerror(errno));
}

/* Gives up those that are away. True when there is a peer that is not waited for. */
static bool mark_peers(struct replica *r)
{
	bool any = false;

	for (size_t i = 0; i < r->n_peers; i++) {
		struct peer *p = &r->peers[i];
		bool away, marked;

		(void)pthread_mutex_lock(&r->lock);
		away = p->state != PEER_IN_SYNC && p->state != PEER_CATCHING_UP;
		marked = p->resync_needed & RESYNC_JOURNAL;
		(void)pthread_mutex_unlock(&r->lock);
		if (away && !marked)
			marked = resync_need(p, RESYNC_JOURNAL) == 0;
		any |= marked;
	}
	return any;
}

void resync_bound_journal(struct replica *r)
{
	uint64_t upto;
	int e;

	if (journal_bytes(r->journal) <= r->config.journal_max || !mark_peers(r))
		return;
	e = resync_give_up(r, &upto);
	if (e == 0)
		replica_trim(r);
	else
		log_error("journal: past its bound, and it cannot be cut: %s", strerror(-e));
}
