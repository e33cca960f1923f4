/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * `tandemfs resync` with a plain peer: what differs is listed (plain_verify.c), and the session is
 * asked to compare both trees again (plain_scan.c), which sends it. What is only there stays.
 */

#include "plain_verify.h"
#include "resync.h"

#include "base/clock.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define POLL_MS 50

struct listing {
	struct peer *peer;
	const struct resync_config *config;
	int to_send;
};

static void take_difference(void *ctx, const char *path, const char *what)
{
	struct listing *l = ctx;
	bool kept = strcmp(what, "only there") == 0;
	struct replica_repair d = {
		.peer = peer_label(l->peer), .path = path, .action = kept ? "kept there" : "sent"};

	if (l->config->report)
		l->config->report(l->config->ctx, &d);
	l->to_send += !kept;
}

static int go_on(void *ctx, uint64_t done)
{
	struct listing *l = ctx;
	const struct resync_config *c = l->config;

	if (atomic_load(&l->peer->replica->closing))
		return -ECANCELED;
	if (done % 64 || !c->progress || c->progress(c->ctx, "comparing", done, 0))
		return 0;
	return -ECANCELED;
}

static int list(struct listing *l, char **ret_error)
{
	struct peer *p = l->peer;
	struct plain_verify v = {.root = p->replica->root,
		.there = p->config->path,
		.found = take_difference,
		.go_on = go_on,
		.ctx = l};
	int e = p->replica->make_remote(p->replica, p, &v.remote);

	if (e < 0)
		return e;
	e = v.remote->ops->connect(v.remote, ret_error);
	if (e == 0)
		e = plain_verify_tree(&v);
	v.remote->ops->free(v.remote);
	return e;
}

/* Until the session has compared the trees. */
static int wait_for_scan(struct listing *l)
{
	struct replica *r = l->peer->replica;
	const struct timespec pause = {.tv_nsec = POLL_MS * 1000000};
	uint64_t compared = 0;
	bool wanted = true;
	int e = 0;

	while (e == 0 && wanted) {
		(void)nanosleep(&pause, NULL);
		(void)pthread_mutex_lock(&r->lock);
		wanted = l->peer->plain_rescan;
		compared = l->peer->plain.compared;
		(void)pthread_mutex_unlock(&r->lock);
		e = go_on(l, compared - compared % 64);
	}
	return e;
}

int plain_resync(struct peer *p, const struct resync_config *config, char **ret_error)
{
	struct listing l = {.peer = p, .config = config};
	struct replica *r = p->replica;
	int e = list(&l, ret_error);

	if (e == 0 && !config->dry_run) {
		(void)pthread_mutex_lock(&r->lock);
		p->plain_rescan = true;
		(void)pthread_mutex_unlock(&r->lock);
		sender_wake(p->sender);
		e = wait_for_scan(&l);
	}
	if (e == 0)
		return l.to_send;
	return *ret_error
		       ? e
		       : say(ret_error, e, "comparing with %s: %s", p->config->url, strerror(-e));
}
