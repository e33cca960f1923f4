/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Callers that wait for the peers, and what on_peer_down decides for them.
 *
 *                  continue            block           fail
 *   in sync        wait for the ack    wait            wait
 *   catching up    do not wait         wait            EIO
 *   away, refused  do not wait         wait            EIO
 *   cannot apply   do not wait         wait            EIO
 */

#include "impl.h"

#include "base/clock.h"

#include <errno.h>
#include <time.h>

/* How often `interrupted` is asked. */
#define ASK_MS 100

static bool peer_has_locked(const struct peer *p, uint64_t seq, enum replica_scope scope)
{
	return position_has(&p->applied, seq) && (scope != REPLICA_DISK || p->durable >= seq);
}

static bool is_stuck_locked(const struct peer *p, uint64_t seq)
{
	bool behind_stuck = p->stuck_seq && p->stuck_seq <= seq;
	bool behind_refused = p->refused_seq && p->refused_seq <= seq;

	if (p->blocked && seq > p->applied.high)
		return true;
	return (behind_stuck || behind_refused) && position_is_missing(&p->applied, seq);
}

bool peer_has_or_cannot(const struct peer *p, uint64_t seq)
{
	struct replica *r = p->replica;
	bool has;

	(void)pthread_mutex_lock(&r->lock);
	has = position_contiguous(&p->applied) >= seq ||
	      (p->stuck_seq && p->stuck_seq <= seq && p->applied.high >= seq);
	(void)pthread_mutex_unlock(&r->lock);
	return has;
}

bool replica_waits(const struct replica *r, enum replica_scope scope)
{
	if (r->n_peers == 0 || r->config.mode == MODE_ASYNC)
		return false;
	return scope != REPLICA_WRITE || r->config.mode == MODE_SYNC_WRITE;
}

int replica_admit(struct replica *r)
{
	int e = 0;

	if (r->config.on_peer_down != PEER_DOWN_FAIL || r->config.mode == MODE_ASYNC)
		return 0;
	(void)pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < r->n_peers; i++)
		if (r->peers[i].state != PEER_IN_SYNC)
			e = -EIO;
	(void)pthread_mutex_unlock(&r->lock);
	return e;
}

/* 0: nothing to wait for; 1: wait; -EIO. */
static int verdict_locked(struct replica *r, uint64_t seq, enum replica_scope scope)
{
	int wait = 0;

	for (size_t i = 0; i < r->n_peers; i++) {
		const struct peer *p = &r->peers[i];
		bool away = p->state != PEER_IN_SYNC || is_stuck_locked(p, seq);

		if (peer_has_locked(p, seq, scope))
			continue;
		if (away && r->config.on_peer_down == PEER_DOWN_FAIL)
			return -EIO;
		if (!away || r->config.on_peer_down == PEER_DOWN_BLOCK)
			wait = 1;
	}
	return wait;
}

static void wait_a_moment_locked(struct replica *r, uint64_t most_ms)
{
	struct timespec until;

	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(most_ms % 1000) * 1000000;
	until.tv_sec += (time_t)(most_ms / 1000) + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	(void)pthread_cond_timedwait(&r->changed, &r->lock, &until);
}

static bool is_interrupted(struct replica *r, bool (*interrupted)(void *ctx), void *ctx)
{
	bool yes;

	if (!interrupted)
		return false;
	(void)pthread_mutex_unlock(&r->lock);
	yes = interrupted(ctx);
	(void)pthread_mutex_lock(&r->lock);
	return yes;
}

int replica_wait(struct replica *r, uint64_t seq, enum replica_scope scope,
	bool (*interrupted)(void *ctx), void *ctx)
{
	int e;

	if (!replica_waits(r, scope))
		return 0;
	(void)atomic_fetch_add(&r->sync_waiters, 1);
	(void)pthread_mutex_lock(&r->lock);
	while ((e = verdict_locked(r, seq, scope)) > 0 && !atomic_load(&r->closing)) {
		wait_a_moment_locked(r, ASK_MS);
		if (is_interrupted(r, interrupted, ctx)) {
			e = -EINTR;
			break;
		}
	}
	(void)pthread_mutex_unlock(&r->lock);
	(void)atomic_fetch_sub(&r->sync_waiters, 1);
	return e > 0 ? 0 : e;
}

static bool all_have_locked(const struct replica *r, uint64_t seq)
{
	for (size_t i = 0; i < r->n_peers; i++)
		if (position_contiguous(&r->peers[i].applied) < seq)
			return false;
	return true;
}

int replica_wait_all(
	struct replica *r, uint64_t seq, int timeout_ms, bool (*interrupted)(void *ctx), void *ctx)
{
	uint64_t start = clock_mono_ms();
	int e = 0;

	(void)atomic_fetch_add(&r->sync_waiters, 1);
	(void)pthread_mutex_lock(&r->lock);
	while (e == 0 && !all_have_locked(r, seq)) {
		uint64_t spent = clock_mono_ms() - start;

		if (atomic_load(&r->closing))
			e = -ECANCELED;
		else if (timeout_ms >= 0 && spent >= (uint64_t)timeout_ms)
			e = -ETIMEDOUT;
		else if (is_interrupted(r, interrupted, ctx))
			e = -EINTR;
		else
			wait_a_moment_locked(r, ASK_MS);
	}
	(void)pthread_mutex_unlock(&r->lock);
	(void)atomic_fetch_sub(&r->sync_waiters, 1);
	return e;
}
