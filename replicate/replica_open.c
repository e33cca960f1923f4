/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * One node: opens the backing directory's bookkeeping and the journal, starts the threads, ends
 * them. The checkpoint's layout stands in recover.c.
 */

#include "filled.h"
#include "growing.h"
#include "room.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/durable.h"
#include "base/say.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>

#define JOURNAL_MAX_DEFAULT (1ull << 30)
/* Of the journal's segments; a journal that may not grow large has smaller ones. */
#define SEGMENT_SIZE (16ull << 20)

static int open_below(int dir, const char *name, mode_t mode, int *ret)
{
	struct stat st;
	int fd;

	if (mkdirat(dir, name, mode) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0)) {
		int e = -errno;

		(void)close(fd);
		return e;
	}
	*ret = fd;
	return 0;
}

/* The spool belongs to the account that peers log in with, so that it can make a directory there.
 */
static int give_spool(struct replica *r, char **ret_error)
{
	_cleanup_free_ char *buffer = malloc(16384);
	struct passwd pw, *found = NULL;
	int e;

	if (!r->config.account)
		return 0;
	if (!buffer)
		return -ENOMEM;
	e = getpwnam_r(r->config.account, &pw, buffer, 16384, &found);
	if (!found)
		return say(ret_error, -EINVAL, "account=%s: %s", r->config.account,
			e ? strerror(e) : "there is no such user on this machine");
	if (fchown(r->spool, pw.pw_uid, pw.pw_gid) < 0)
		return say(ret_error, -errno, "cannot give .tandemfs/in to %s: %s",
			r->config.account, strerror(errno));
	return 0;
}

/* Making .tandemfs is no change of the tree: the root keeps its mtime, which is the same on all
 * nodes. */
static int open_control(struct replica *r)
{
	struct stat st;
	int e;

	if (fstat(r->root, &st) < 0)
		return -errno;
	e = open_below(r->root, TANDEMFS_DIR, 0755, &r->control);
	if (e == 0 && futimens(r->root, (struct timespec[2]){st.st_atim, st.st_mtim}) < 0)
		e = -errno;
	return e;
}

static int open_directories(struct replica *r, char **ret_error)
{
	int e = mkdir_parents(r->config.state, 0700);

	if (e == 0 && (r->state = open(r->config.state, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		e = -errno;
	if (e < 0)
		return say(ret_error, e, "state directory %s: %s", r->config.state, strerror(-e));
	e = open_control(r);
	if (e == 0)
		e = open_below(r->control, "in", 0755, &r->spool);
	if (e == 0)
		e = open_below(r->control, "acks", 0755, &r->acks);
	if (e == 0)
		e = open_below(r->control, "tmp", 0700, &r->scratch);
	if (e == 0)
		e = apply_clean_scratch(r->scratch);
	if (e < 0)
		return say(ret_error, e, "cannot make %s/" TANDEMFS_DIR ": %s", r->config.backing,
			strerror(-e));
	return give_spool(r, ret_error);
}

static char *copy(const char *s)
{
	return s ? strdup(s) : NULL;
}

static int copy_config(struct replica *r, const struct replica_config *c)
{
	struct replica_peer_config *peers = calloc(c->n_peers + 1, sizeof(*peers));

	r->config = *c;
	r->config.peers = peers;
	r->config.backing = copy(c->backing);
	r->config.state = copy(c->state);
	r->config.node = copy(c->node);
	r->config.account = copy(c->account);
	r->config.identity = copy(c->identity);
	r->config.password_file = copy(c->password_file);
	r->config.known_hosts = copy(c->known_hosts);
	r->config.verify = copy(c->verify);
	if (!peers || !r->config.backing || !r->config.state || !r->config.node ||
		!r->config.verify)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_peers; i++) {
		peers[i] = c->peers[i];
		peers[i].url = copy(c->peers[i].url);
		peers[i].user = copy(c->peers[i].user);
		peers[i].host = copy(c->peers[i].host);
		peers[i].path = copy(c->peers[i].path);
		if (!peers[i].url || !peers[i].host || !peers[i].path)
			return -ENOMEM;
	}
	return 0;
}

static int make_sftp(struct replica *r, struct peer *p, struct remote **ret)
{
	struct remote_config config = {
		.host = p->config->host,
		.port = p->config->port,
		.user = p->config->user,
		.identity = r->config.identity,
		.password_file = r->config.password_file,
		.known_hosts = r->config.known_hosts,
		.connect_timeout_ms = 10000,
		.timeout_ms = (int)r->stall_ms,
	};

	return remote_sftp_new(&config, ret);
}

static int make_peers(struct replica *r)
{
	r->peers = calloc(r->config.n_peers + 1, sizeof(*r->peers));
	if (!r->peers)
		return -ENOMEM;
	for (size_t i = 0; i < r->config.n_peers; i++) {
		struct peer *p = &r->peers[i];
		const struct node_identity *known =
			pairings_out(&r->pairings, r->config.peers[i].url);
		int e;

		p->replica = r;
		p->config = &r->config.peers[i];
		if (known)
			p->node = *known;
		p->known = known != NULL;
		r->n_peers = i + 1;
		e = pending_new(&p->pending);
		if (e == 0)
			e = sender_new(p, &p->sender);
		if (e < 0)
			return e;
	}
	return 0;
}

static struct replica *allocate(void)
{
	struct replica *r = calloc(1, sizeof(*r));
	pthread_condattr_t attr;

	if (!r)
		return NULL;
	r->reserve = r->control = r->scratch = r->acks = r->spool = r->state = -1;
	r->make_remote = make_sftp;
	(void)pthread_mutex_init(&r->lock, NULL);
	(void)pthread_mutex_init(&r->survey_lock, NULL);
	(void)pthread_mutex_init(&r->resync_lock, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&r->changed, &attr);
	(void)pthread_condattr_destroy(&attr);
	return r;
}

static int open_journal(struct replica *r, char **ret_error)
{
	struct journal_config config = {
		.segment_size = r->config.segment_size, .checkpoint = replica_checkpoint, .ctx = r};
	_cleanup_free_ char *dir = NULL;
	int e;

	if (asprintf(&dir, "%s/journal", r->config.state) < 0) {
		dir = NULL;
		return -ENOMEM;
	}
	e = resync_look_back(r);
	if (e == 0)
		e = journal_open(dir, &config, &r->journal);
	if (e == 0 && r->lost_power)
		journal_leap(r->journal);
	if (e == 0)
		e = replica_recover(r);
	if (e < 0)
		return say(ret_error, e, "journal %s: %s", dir, strerror(-e));
	return 0;
}

static int open_all(struct replica *r, char **ret_error)
{
	bool seed = r->config.seed;
	int e = open_directories(r, ret_error);

	if (e == 0)
		e = node_identify(r->control, r->state, r->config.node, &seed, &r->node, ret_error);
	if (e == 0)
		e = filled_check(r, r->config.seed, &seed, ret_error);
	if (e < 0)
		return e;
	e = tree_new(&r->tree);
	if (e == 0)
		e = pairings_load(r->state, &r->pairings);
	if (e == 0)
		e = changes_open(r->state, &r->changes);
	if (e < 0)
		return say(ret_error, e, "state directory %s: %s", r->config.state, strerror(-e));
	e = vault_open(r->control, r->config.vault_max, &r->vault);
	if (e < 0)
		return say(ret_error, e, "cannot make %s/" TANDEMFS_DIR "/" VAULT_DIR ": %s",
			r->config.backing, strerror(-e));
	r->unseen = unseen_new();
	r->touched = touched_new();
	e = r->unseen && r->touched ? make_peers(r) : -ENOMEM;
	if (e == 0)
		e = open_journal(r, ret_error);
	if (e == 0)
		room_open(r);
	if (e == 0)
		e = inbound_new(r, &r->inbound);
	if (e == 0)
		e = resync_open(r, seed);
	r->opened = e == 0;
	return e;
}

int replica_open(const struct replica_config *config, struct replica **ret, char **ret_error)
{
	struct replica *r = allocate();
	int e;

	*ret_error = NULL;
	if (!r)
		return -ENOMEM;
	e = copy_config(r, config);
	r->root = config->root;
	if (!r->config.journal_max)
		r->config.journal_max = JOURNAL_MAX_DEFAULT;
	if (!r->config.segment_size && r->config.journal_max < 8 * SEGMENT_SIZE)
		r->config.segment_size = r->config.journal_max / 8;
	r->stall_ms = config->stall_ms ? config->stall_ms : 2000;
	if (e == 0)
		e = open_all(r, ret_error);
	if (e < 0) {
		if (!*ret_error)
			(void)say(ret_error, e, "%s", strerror(-e));
		replica_close(r);
		return e;
	}
	*ret = r;
	return 0;
}

/* ---- threads ---- */

static void *sender_thread(void *arg)
{
	struct peer *p = arg;

	while (!atomic_load(&p->replica->closing))
		sender_turn(p->sender, 500);
	return NULL;
}

int replica_start(struct replica *r, const struct replica_hooks *hooks)
{
	int e;

	r->hooks = *hooks;
	r->threaded = true;
	e = inbound_start(r->inbound);
	for (size_t i = 0; i < r->n_peers && e == 0; i++) {
		struct peer *p = &r->peers[i];

		e = -pthread_create(&p->thread, NULL, sender_thread, p);
		p->thread_started = e == 0;
	}
	if (e == 0 && r->n_peers) {
		e = -pthread_create(&r->resync_thread, NULL, resync_thread, r);
		r->resync_started = e == 0;
	}
	return e;
}

static void stop_threads(struct replica *r)
{
	atomic_store(&r->closing, true);
	(void)pthread_mutex_lock(&r->lock);
	(void)pthread_cond_broadcast(&r->changed);
	(void)pthread_mutex_unlock(&r->lock);
	if (r->resync_started)
		(void)pthread_join(r->resync_thread, NULL);
	for (size_t i = 0; i < r->n_peers; i++) {
		struct peer *p = &r->peers[i];

		if (!p->thread_started)
			continue;
		sender_wake(p->sender);
		(void)pthread_join(p->thread, NULL);
	}
	if (r->inbound)
		inbound_stop(r->inbound);
}

static void free_peers(struct replica *r)
{
	for (size_t i = 0; i < r->n_peers; i++) {
		struct peer *p = &r->peers[i];

		sender_free(p->sender);
		pending_free(p->pending);
		free(p->error);
	}
	free(r->peers);
}

static void free_tables(struct replica *r)
{
	struct dirty *d, *next_dirty;
	struct aborted *a, *next_aborted;

	HASH_ITER (hh, r->dirty, d, next_dirty) {
		HASH_DEL(r->dirty, d);
		op_clear(&d->op);
		free(d);
	}
	HASH_ITER (hh, r->aborted, a, next_aborted) {
		HASH_DEL(r->aborted, a);
		free(a);
	}
	while (r->origins) {
		struct origin *o = r->origins;

		r->origins = o->next;
		free(o->waiting);
		free(o->refused);
		free(o);
	}
	while (r->asks)
		ask_free_locked(r, r->asks);
	while (r->orphans) {
		struct orphan *o = r->orphans;

		r->orphans = o->next;
		free(o);
	}
	unseen_free(r->unseen);
	review_clear_locked(r);
	touched_free(r->touched);
	growing_free_all(r);
	pairings_clear(&r->pairings);
}

static void free_config(struct replica_config *c)
{
	for (size_t i = 0; c->peers && i < c->n_peers; i++) {
		free((char *)c->peers[i].url);
		free((char *)c->peers[i].user);
		free((char *)c->peers[i].host);
		free((char *)c->peers[i].path);
	}
	free((void *)c->peers);
	free((char *)c->backing);
	free((char *)c->state);
	free((char *)c->node);
	free((char *)c->account);
	free((char *)c->identity);
	free((char *)c->password_file);
	free((char *)c->known_hosts);
	free((char *)c->verify);
}

void replica_close(struct replica *r)
{
	if (!r)
		return;
	stop_threads(r);
	inbound_free(r->inbound);
	free_peers(r);
	if (r->journal)
		journal_close(r->journal);
	if (r->threaded)
		filled_look(r);
	if (r->opened)
		resync_close(r);
	changes_close(r->changes);
	vault_close(r->vault);
	tree_free(r->tree);
	free_tables(r);
	room_close(r);
	cleanup_close(&r->control);
	cleanup_close(&r->scratch);
	cleanup_close(&r->acks);
	cleanup_close(&r->spool);
	cleanup_close(&r->state);
	free_config(&r->config);
	(void)pthread_cond_destroy(&r->changed);
	(void)pthread_mutex_destroy(&r->lock);
	(void)pthread_mutex_destroy(&r->survey_lock);
	(void)pthread_mutex_destroy(&r->resync_lock);
	free(r);
}
