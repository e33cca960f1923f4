/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What is told of a replica: names of states, log lines about peers, the copy for `tandemfs
 * status`. */

#include "impl.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *peer_state_name(enum peer_state s)
{
	static const char *const names[] = {
		[PEER_CONNECTING] = "connecting",
		[PEER_CATCHING_UP] = "catching-up",
		[PEER_IN_SYNC] = "in-sync",
		[PEER_REFUSED] = "refused",
	};

	return names[s];
}

const char *replica_mode_name(enum replica_mode m)
{
	static const char *const names[] = {
		[MODE_ASYNC] = "async",
		[MODE_SYNC] = "sync",
		[MODE_SYNC_WRITE] = "sync-write",
	};

	return names[m];
}

const char *peer_label(const struct peer *p)
{
	return p->known ? p->node.name : p->config->host;
}

static bool same_text(const char *a, const char *b)
{
	return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

void peer_set_state(struct peer *p, enum peer_state state, const char *error)
{
	struct replica *r = p->replica;
	char *copy = error ? strdup(error) : NULL;
	bool news;

	(void)pthread_mutex_lock(&r->lock);
	news = p->state != state || !same_text(p->error, copy);
	p->state = state;
	free(p->error);
	p->error = copy;
	(void)pthread_cond_broadcast(&r->changed);
	(void)pthread_mutex_unlock(&r->lock);
	if (!news)
		return;
	if (error)
		log_warning("peer %s: %s: %s", p->config->url, peer_state_name(state), error);
	else
		log_notice("peer %s: %s", p->config->url, peer_state_name(state));
}

static char *copy(const char *s)
{
	return s ? strdup(s) : NULL;
}

static void fill_lag_locked(struct replica *r, const struct peer *p, struct peer_status *s)
{
	uint64_t head = replica_head(r), has = position_contiguous(&p->applied);
	uint64_t now = clock_real_ns();

	if (has >= head)
		return;
	s->lag_ops = head - has;
	s->lag_bytes = pending_bytes(p->pending);
	if (p->oldest_time && now > p->oldest_time)
		s->lag_seconds = (double)(now - p->oldest_time) / 1e9;
}

static void fill_peer_locked(struct replica *r, const struct peer *p, struct peer_status *s)
{
	const struct origin *o = p->known ? origin_find_locked(r, p->node.id) : NULL;

	s->url = copy(p->config->url);
	s->node = p->known ? copy(p->node.name) : NULL;
	s->node_id = p->known ? copy(p->node.id) : NULL;
	s->state = p->state;
	s->active = !p->is_plain;
	s->plain = p->plain;
	s->error = copy(p->error);
	if (!s->error && p->refused && asprintf(&s->error, "it cannot take %s", p->refused) < 0)
		s->error = NULL;
	if (!s->error && p->stuck_seq && asprintf(&s->error, "it cannot apply: %s", p->problem) < 0)
		s->error = NULL;
	s->resync = resync_text_locked(p);
	s->sent_ops = p->sent_ops;
	s->sent_bytes = p->sent_bytes;
	fill_lag_locked(r, p, s);
	if (o) {
		s->inbound = o->seen;
		s->applied_ops = o->applied_ops;
		s->waiting = copy(o->waiting);
		s->refusals = o->refusals;
		s->refused = copy(o->refused);
	}
}

int replica_status(struct replica *r, struct replica_status *ret)
{
	struct peer_status *peers = calloc(r->n_peers + 1, sizeof(*peers));

	if (!peers)
		return -ENOMEM;
	*ret = (struct replica_status){
		.node = copy(r->node.name),
		.node_id = copy(r->node.id),
		.backing = copy(r->config.backing),
		.state_dir = copy(r->config.state),
		.mode = r->config.mode,
		.journal_head = journal_head(r->journal),
		.journal_bytes = journal_bytes(r->journal),
		.conflicts = vault_count(r->vault),
		.peers = peers,
		.n_peers = r->n_peers,
	};
	(void)pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < r->n_peers; i++)
		fill_peer_locked(r, &r->peers[i], &peers[i]);
	(void)pthread_mutex_unlock(&r->lock);
	return 0;
}

void replica_status_clear(struct replica_status *s)
{
	for (size_t i = 0; i < s->n_peers; i++) {
		free(s->peers[i].url);
		free(s->peers[i].node);
		free(s->peers[i].node_id);
		free(s->peers[i].error);
		free(s->peers[i].waiting);
		free(s->peers[i].refused);
		free(s->peers[i].resync);
	}
	free(s->peers);
	free(s->node);
	free(s->node_id);
	free(s->backing);
	free(s->state_dir);
	*s = (struct replica_status){0};
}
