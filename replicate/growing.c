/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A large file that is written front to back need not wait for its close: what is there can travel
 * meanwhile (bulk_early.c). The file system side tells how far it has come (replica_grown()) and
 * when it is written elsewhere (replica_rewritten()), each under the lock that orders the writes of
 * the inode.
 *
 * What was read is used in the end only if it is what the OP_CONTENT names:
 *
 *     GROWING --- OP_CONTENT journaled ---> CLOSED      front is exact, all bytes below it final
 *        |                                     |
 *        +-- written elsewhere, removed --+    +-- OP_DIRTY: a writer has come again
 *                                         v    v
 *                                        SPOILED        what was sent so far is thrown away
 *
 * An OP_DIRTY is journaled before its writer changes a byte, and the sender looks here after it has
 * taken the OP_CONTENT (and all that it covers) from the list of what is pending. So either the
 * sender sees that the file is spoiled, or the writer's own OP_CONTENT is not covered and follows.
 */

#include "growing.h"

#include <utlist.h>

static struct growing *by_seq_locked(struct replica *r, uint64_t seq)
{
	struct growing *g;

	LL_FOREACH (r->growing, g)
		if (g->seq == seq)
			return g;
	return NULL;
}

/* Nobody can come to use it any more. */
static void drop_unused_locked(struct replica *r, struct growing *g)
{
	if (g->users || !(g->closed || g->spoiled))
		return;
	LL_DELETE(r->growing, g);
	free(g);
}

static void spoil_locked(struct replica *r, struct growing *g)
{
	atomic_store(&g->spoiled, true);
	drop_unused_locked(r, g);
}

static void wake_senders(struct replica *r, bool is_new)
{
	for (size_t i = 0; i < r->n_peers; i++)
		if (is_new)
			sender_wake(r->peers[i].sender);
		else
			sender_grown(r->peers[i].sender);
}

/* ---- from the file system ---- */

static int begin_locked(
	struct replica *r, uint64_t seq, const struct fid *fid, struct growing **ret)
{
	struct growing *g = calloc(1, sizeof(*g));

	if (!g)
		return -1;
	g->id = atomic_load(&r->growing_made) + 1;
	g->seq = seq;
	g->fid = *fid;
	LL_APPEND(r->growing, g);
	atomic_store(&r->growing_made, g->id);
	*ret = g;
	return 0;
}

void replica_grown(struct replica *r, uint64_t seq, const struct fid *fid, uint64_t front)
{
	struct growing *g;
	bool is_new;

	if (r->n_peers == 0 || fid->len == 0)
		return;
	(void)pthread_mutex_lock(&r->lock);
	g = by_seq_locked(r, seq);
	is_new = !g;
	/* without memory it travels after its close */
	if (g || begin_locked(r, seq, fid, &g) == 0)
		atomic_store(&g->front, front);
	(void)pthread_mutex_unlock(&r->lock);
	wake_senders(r, is_new);
}

void replica_rewritten(struct replica *r, uint64_t seq)
{
	struct growing *g;

	(void)pthread_mutex_lock(&r->lock);
	g = by_seq_locked(r, seq);
	if (g)
		spoil_locked(r, g);
	(void)pthread_mutex_unlock(&r->lock);
	if (g)
		wake_senders(r, false);
}

/* ---- from the journal ---- */

void growing_journaled(struct replica *r, const struct op *op)
{
	struct growing *g, *next;
	bool spoiled = false;

	(void)pthread_mutex_lock(&r->lock);
	LL_FOREACH_SAFE (r->growing, g, next) {
		if (!fid_equal(&g->fid, &op->fid))
			continue;
		if (op->type == OP_CONTENT && !g->closed) {
			atomic_store(&g->closed, true);
			drop_unused_locked(r, g);
		} else {
			spoil_locked(r, g);
			spoiled = true;
		}
	}
	(void)pthread_mutex_unlock(&r->lock);
	if (spoiled)
		wake_senders(r, false);
}

void growing_settled(struct replica *r, uint64_t seq)
{
	struct growing *g;

	(void)pthread_mutex_lock(&r->lock);
	g = by_seq_locked(r, seq);
	if (g && g->closed)
		g = NULL;
	if (g)
		spoil_locked(r, g);
	(void)pthread_mutex_unlock(&r->lock);
	if (g)
		wake_senders(r, false);
}

void growing_changed(struct replica *r, const struct fid *fid)
{
	struct growing *g, *next;
	bool spoiled = false;

	(void)pthread_mutex_lock(&r->lock);
	LL_FOREACH_SAFE (r->growing, g, next) {
		if (!fid_equal(&g->fid, fid))
			continue;
		spoil_locked(r, g);
		spoiled = true;
	}
	(void)pthread_mutex_unlock(&r->lock);
	if (spoiled)
		wake_senders(r, false);
}

/* ---- for those who read ---- */

struct growing *growing_next(struct replica *r, uint64_t id)
{
	struct growing *g;

	(void)pthread_mutex_lock(&r->lock);
	LL_FOREACH (r->growing, g)
		if (g->id > id && !g->closed && !g->spoiled)
			break;
	if (g)
		g->users++;
	(void)pthread_mutex_unlock(&r->lock);
	return g;
}

void growing_put(struct replica *r, struct growing *g)
{
	(void)pthread_mutex_lock(&r->lock);
	g->users--;
	drop_unused_locked(r, g);
	(void)pthread_mutex_unlock(&r->lock);
}

void growing_free_all(struct replica *r)
{
	struct growing *g, *next;

	LL_FOREACH_SAFE (r->growing, g, next)
		free(g);
	r->growing = NULL;
}
