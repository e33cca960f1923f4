/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The reconciler: makes two trees equal of which the journals do not say how they came to differ.
 *
 * One node runs it, with one peer. A round: what both have journaled so far reaches the other; both
 * write their manifests; from these it is planned what to do (resync_plan.c), in ops that say what
 * stands at a name, or that ask the peer for that (restate.c). They go the way of all ops, so
 * nothing is lost when it is cut short: whoever begins again finds less to do.
 *
 * Both mounts are in use meanwhile. Names that were changed since the round began are passed over
 * (touched.c) and found again, if they still differ, in the next one. When nothing was passed over
 * the last round does not read the files' bytes.
 *
 * Should both nodes run it at once, both plan the same for each name; the later restatement says
 * what is so already.
 */

#include "resync.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

#define ROUNDS_MAX 6
#define POLL_MS 10
/* While a question is open, our changes count as made in ignorance of what the peer did since. So
 * they are asked in batches, with moments between them when none is open. */
#define ASKED_MAX 256

static bool show_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct resync *y = ctx;
	struct peer *p = y->survey.peer;
	const char *phase;

	(void)pthread_mutex_lock(&p->replica->lock);
	p->resync_done = done;
	p->resync_total = total;
	phase = p->resync_phase;
	(void)pthread_mutex_unlock(&p->replica->lock);
	return !y->config.progress || y->config.progress(y->config.ctx, phase, done, total);
}

static void set_phase(struct resync *y, const char *phase)
{
	struct peer *p = y->survey.peer;

	(void)pthread_mutex_lock(&p->replica->lock);
	p->resync_phase = phase;
	p->resync_done = p->resync_total = 0;
	(void)pthread_mutex_unlock(&p->replica->lock);
}

/* ---- waiting ---- */

bool resync_can_run(struct peer *p)
{
	struct replica *r = p->replica;
	const struct origin *o;
	bool up;

	(void)pthread_mutex_lock(&r->lock);
	o = p->known ? origin_find_locked(r, p->node.id) : NULL;
	up = (p->state == PEER_CATCHING_UP || p->state == PEER_IN_SYNC) && o && o->seen;
	(void)pthread_mutex_unlock(&r->lock);
	return up;
}

static int wait_until(struct resync *y, bool (*reached)(struct resync *y, uint64_t arg),
	uint64_t arg, uint64_t done)
{
	while (!reached(y, arg)) {
		int e = survey_go_on(&y->survey, done, y->n);

		if (e < 0)
			return e;
		if (!resync_can_run(y->survey.peer))
			return -ENOTCONN;
		replica_pause(y->survey.replica, POLL_MS);
	}
	return 0;
}

static bool has_ours(struct resync *y, uint64_t seq)
{
	return peer_has_or_cannot(y->survey.peer, seq);
}

/* Questions that come up meanwhile do not count. */
static bool is_answered(struct resync *y, uint64_t upto)
{
	struct replica *r = y->survey.replica;
	const struct ask *a;
	bool answered = true;

	(void)pthread_mutex_lock(&r->lock);
	DL_FOREACH (r->asks, a)
		answered = answered && a->seq > upto;
	(void)pthread_mutex_unlock(&r->lock);
	return answered;
}

static int await_answers(struct resync *y, uint64_t done)
{
	int e = wait_until(y, is_answered, replica_head(y->survey.replica), done);

	y->asked = 0;
	return e;
}

static int drain(struct resync *y, uint64_t done)
{
	int e = await_answers(y, done);

	return e < 0 ? e : wait_until(y, has_ours, replica_head(y->survey.replica), done);
}

/* ---- a round ---- */

static void report(struct resync *y, const struct finding *f)
{
	struct replica_repair d = {.peer = peer_label(y->survey.peer),
		.path = f->path,
		.action = resync_describe(&f->plan)};

	log_info("reconciling with %s: %s: %s%s", d.peer, *f->path ? f->path : "(root)", d.action,
		y->config.dry_run ? " (not done)" : "");
	if (y->config.report)
		y->config.report(y->config.ctx, &d);
}

static int put_right(struct resync *y, size_t *ret_done)
{
	int e = 0;

	set_phase(y, "reconciling");
	for (size_t i = 0; i < y->n && e >= 0; i++) {
		e = resync_act(y, &y->list[i]);
		if (e > 0) {
			report(y, &y->list[i]);
			(*ret_done)++;
		} else if (e == 0) {
			y->skipped++;
		}
		if (e >= 0 && y->asked >= ASKED_MAX)
			e = await_answers(y, i + 1);
		if (e >= 0)
			e = survey_go_on(&y->survey, i + 1, y->n);
	}
	return e < 0 ? e : drain(y, y->n);
}

static void look_for_power(struct resync *y)
{
	const struct peer *p = y->survey.peer;

	(void)pthread_mutex_lock(&p->replica->lock);
	y->lost_power_here = p->resync_needed & RESYNC_POWER;
	y->lost_power_there = p->lost_power;
	(void)pthread_mutex_unlock(&p->replica->lock);
}

static int compare(struct resync *y, bool without_content)
{
	int e;

	set_phase(y, "comparing");
	touched_begin(y->survey.replica->touched);
	y->skipped = 0;
	e = drain(y, 0);
	look_for_power(y);
	return e < 0 ? e : resync_find(y, without_content);
}

static int rounds(struct resync *y, size_t *ret_done)
{
	bool again = true;
	int e = 0;

	for (unsigned i = 0; i < ROUNDS_MAX && again && e == 0; i++) {
		e = compare(y, false);
		if (e < 0)
			break;
		again = y->n > 0;
		e = put_right(y, ret_done);
		if (e == 0 && again && !y->skipped) {
			e = compare(y, true);
			again = y->n > 0;
		}
	}
	if (e == 0 && again)
		log_warning("%zu names still differ from %s: they change all the time, or see "
			    "`tandemfs status`",
			y->n, peer_label(y->survey.peer));
	return e;
}

static int look_only(struct resync *y, size_t *ret_done)
{
	int e = compare(y, false);

	for (size_t i = 0; i < y->n && e == 0; i++) {
		if (touched_has(y->survey.replica->touched, y->list[i].path))
			continue;
		report(y, &y->list[i]);
		(*ret_done)++;
	}
	return e;
}

static int run(struct resync *y, size_t *ret_done, char **ret_error)
{
	struct peer *p = y->survey.peer;
	int e;

	if (!resync_can_run(p))
		return say(ret_error, -ENOTCONN,
			"%s: not connected in both directions: see `tandemfs status`",
			p->config->url);
	e = survey_begin(&y->survey, ret_error);
	if (e < 0)
		return e;
	e = y->config.dry_run ? look_only(y, ret_done) : rounds(y, ret_done);
	touched_end(y->survey.replica->touched);
	survey_end(&y->survey);
	set_phase(y, NULL);
	resync_forget(y);
	if (e < 0)
		(void)say(ret_error, e, "reconciling with %s: %s%s", p->config->url, strerror(-e),
			e == -ETIMEDOUT ? " (does tandemfs run there?)" : "");
	return e;
}

int resync_run(
	struct replica *r, struct peer *p, const struct resync_config *config, char **ret_error)
{
	struct resync y = {.config = *config};
	size_t done = 0;
	int e;

	if (pthread_mutex_trylock(&r->resync_lock) != 0)
		return say(ret_error, -EBUSY, "the reconciler is at work already");
	y.survey = (struct survey){.replica = r, .peer = p, .progress = show_progress, .ctx = &y};
	e = run(&y, &done, ret_error);
	(void)pthread_mutex_unlock(&r->resync_lock);
	if (e == 0 && !config->dry_run)
		log_notice("reconciled with %s: %zu names differed", peer_label(p), done);
	return e < 0 ? e : (int)done;
}

static bool is_plain(struct peer *p)
{
	bool plain;

	(void)pthread_mutex_lock(&p->replica->lock);
	plain = p->is_plain;
	(void)pthread_mutex_unlock(&p->replica->lock);
	return plain;
}

int replica_resync(struct replica *r, bool dry_run,
	void (*report_one)(void *ctx, const struct replica_repair *d),
	bool (*progress)(void *ctx, const char *phase, uint64_t done, uint64_t total), void *ctx,
	char **ret_error)
{
	struct resync_config config = {
		.dry_run = dry_run, .report = report_one, .progress = progress, .ctx = ctx};
	int n = 0;

	*ret_error = NULL;
	for (size_t i = 0; i < r->n_peers; i++) {
		int e;

		if (is_plain(&r->peers[i]))
			e = plain_resync(&r->peers[i], &config, ret_error);
		else
			e = resync_run(r, &r->peers[i], &config, ret_error);
		if (e < 0)
			return e;
		n += e;
	}
	return n;
}
