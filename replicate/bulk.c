/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A job goes from the waiting queue to a thread and from there to the finished queue. A session's
 * end raises `generation`: a thread that runs sees it between two blocks and gives up, and its
 * result is thrown away.
 */

#include "bulk.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "content.h"
#include "digest_async.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

#define BLOCK (512u << 10)
/* Beyond this a thread for the digest pays. */
#define DIGEST_BESIDE (4u << 20)

struct worker {
	struct bulk *bulk;
	pthread_t thread;
	struct remote *remote;
	bool connected;
};

struct bulk {
	struct peer *peer;
	int wake;
	unsigned streams;
	struct worker *workers;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* guarded by lock */
	struct bulk_job *waiting, *finished;
	char *stage; /* directory at the peer */
	unsigned running, started;
	uint64_t generation;
	uint64_t bytes;
	bool ending;
};

void bulk_job_free(struct bulk_job *job)
{
	if (!job)
		return;
	op_clear(&job->op);
	cleanup_close(&job->fd);
	free(job);
}

int bulk_new(struct peer *p, unsigned streams, int wake, struct bulk **ret)
{
	struct bulk *b = calloc(1, sizeof(*b));

	if (!b || !(b->workers = calloc(streams, sizeof(*b->workers)))) {
		free(b);
		return -ENOMEM;
	}
	b->peer = p;
	b->wake = wake;
	b->streams = streams;
	(void)pthread_mutex_init(&b->lock, NULL);
	(void)pthread_cond_init(&b->changed, NULL);
	*ret = b;
	return 0;
}

static void free_queue(struct bulk_job **queue)
{
	struct bulk_job *job, *next;

	LL_FOREACH_SAFE (*queue, job, next)
		bulk_job_free(job);
	*queue = NULL;
}

void bulk_free(struct bulk *b)
{
	if (!b)
		return;
	(void)pthread_mutex_lock(&b->lock);
	b->ending = true;
	b->generation++;
	(void)pthread_cond_broadcast(&b->changed);
	(void)pthread_mutex_unlock(&b->lock);
	for (unsigned i = 0; i < b->started; i++)
		(void)pthread_join(b->workers[i].thread, NULL);
	for (unsigned i = 0; i < b->streams; i++)
		if (b->workers[i].remote)
			b->workers[i].remote->ops->free(b->workers[i].remote);
	free_queue(&b->waiting);
	free_queue(&b->finished);
	free(b->stage);
	free(b->workers);
	(void)pthread_cond_destroy(&b->changed);
	(void)pthread_mutex_destroy(&b->lock);
	free(b);
}

static bool is_stale(struct bulk *b, uint64_t generation)
{
	bool stale;

	(void)pthread_mutex_lock(&b->lock);
	stale = b->generation != generation || b->ending;
	(void)pthread_mutex_unlock(&b->lock);
	return stale;
}

bool bulk_unwanted(const struct bulk_job *job)
{
	return is_stale(job->bulk, job->generation);
}

static int connect_worker(struct worker *w)
{
	struct peer *p = w->bulk->peer;
	_cleanup_free_ char *error = NULL;
	int r;

	if (w->connected)
		return 0;
	if (!w->remote) {
		r = p->replica->make_remote(p->replica, p, &w->remote);
		if (r < 0)
			return r;
	}
	r = w->remote->ops->connect(w->remote, &error);
	if (r < 0) {
		log_info("%s: bulk connection: %s", peer_label(p), error ?: strerror(-r));
		return r;
	}
	w->connected = true;
	return 0;
}

static int copy_block(struct bulk_job *job, struct remote *remote, struct remote_file *file,
	struct digest_async *digest, uint8_t *block, uint64_t offset, size_t len)
{
	int r = content_read(job->fd, job->op.content, offset, block, len);

	if (r == 0 && digest)
		r = digest_async_feed(digest, block, len);
	if (r < 0)
		return r;
	r = remote->ops->write(file, offset, block, len);
	job->remote_failed = r < 0;
	return r;
}

static int start_digest(const struct bulk *b, const struct content *c, struct digest_async **ret)
{
	const struct replica *r = b->peer->replica;

	if (strcmp(r->config.verify, "none") == 0)
		return 0;
	return digest_async_new(r->config.verify, r->threaded && c->data_len > DIGEST_BESIDE, ret);
}

static int copy_data(struct bulk *b, struct bulk_job *job, uint64_t generation,
	struct remote *remote, struct remote_file *file)
{
	struct content *c = job->op.content;
	_cleanup_free_ uint8_t *blocks = malloc(2 * BLOCK);
	_cleanup_digest_async_ struct digest_async *digest = NULL; /* ends before they are freed */
	int r = blocks ? start_digest(b, c, &digest) : -ENOMEM;

	for (uint64_t at = 0; at < c->data_len && r == 0; at += BLOCK) {
		uint64_t left = c->data_len - at;
		uint8_t *block = blocks + at / BLOCK % 2 * BLOCK;

		if (is_stale(b, generation))
			r = -ECANCELED;
		else
			r = copy_block(job, remote, file, digest, block, at,
				left < BLOCK ? (size_t)left : BLOCK);
	}
	if (r == 0 && digest) {
		(void)snprintf(c->digest_name, sizeof(c->digest_name), "%s",
			b->peer->replica->config.verify);
		r = digest_async_finish(digest, c->digest, &c->digest_len);
	}
	return r;
}

/* What was uploaded under the name before is not written over: the peer may have begun to read it.
 */
static int open_new(struct remote *remote, const char *path, struct remote_file **ret)
{
	const struct remote_ops *ops = remote->ops;
	const unsigned flags = REMOTE_WRITE | REMOTE_CREATE | REMOTE_EXCL;
	int r = ops->open(remote, path, flags, 0600, ret);

	if (r != -EEXIST)
		return r;
	r = ops->remove(remote, path);
	return r < 0 ? r : ops->open(remote, path, flags, 0600, ret);
}

static int upload(struct worker *w, struct bulk_job *job, const char *stage, uint64_t generation)
{
	const struct remote_ops *ops;
	struct remote_file *file;
	_cleanup_free_ char *path = NULL;
	int r, closed;

	r = connect_worker(w);
	if (r == 0 && asprintf(&path, "%s/%s", stage, job->op.content->stage) < 0) {
		path = NULL;
		r = -ENOMEM;
	}
	job->remote_failed = true;
	if (r < 0)
		return r;
	ops = w->remote->ops;
	if (job->put) {
		r = job->put(job, w->remote, path);
		job->remote_failed = !ops->connected(w->remote);
		return r;
	}
	r = open_new(w->remote, path, &file);
	if (r < 0)
		return r;
	job->remote_failed = false;
	r = copy_data(w->bulk, job, generation, w->remote, file);
	closed = ops->close(file);
	if (r == 0 && closed < 0) {
		job->remote_failed = true;
		r = closed;
	}
	return r;
}

static void run_job(struct worker *w, struct bulk_job *job)
{
	struct bulk *b = w->bulk;
	_cleanup_free_ char *stage = NULL;
	uint64_t generation, one = 1;

	(void)pthread_mutex_lock(&b->lock);
	generation = b->generation;
	stage = strdup(b->stage);
	(void)pthread_mutex_unlock(&b->lock);
	job->bulk = b;
	job->generation = generation;
	job->result = stage ? upload(w, job, stage, generation) : -ENOMEM;
	if (job->result < 0 && job->remote_failed && w->connected) {
		w->remote->ops->disconnect(w->remote);
		w->connected = false;
	}
	(void)pthread_mutex_lock(&b->lock);
	b->running--;
	b->bytes -= job->op.content->data_len;
	if (b->generation == generation) {
		LL_APPEND(b->finished, job);
		job = NULL;
	}
	(void)pthread_cond_broadcast(&b->changed);
	(void)pthread_mutex_unlock(&b->lock);
	bulk_job_free(job);
	if (write(b->wake, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_warning("bulk: cannot wake the sender: %s", strerror(errno));
}

static struct bulk_job *next_job_locked(struct bulk *b)
{
	struct bulk_job *job = b->waiting;

	if (job) {
		LL_DELETE(b->waiting, job);
		job->next = NULL;
		b->running++;
	}
	return job;
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	struct bulk *b = w->bulk;

	for (;;) {
		struct bulk_job *job;

		(void)pthread_mutex_lock(&b->lock);
		while (!b->waiting && !b->ending)
			(void)pthread_cond_wait(&b->changed, &b->lock);
		job = b->ending ? NULL : next_job_locked(b);
		(void)pthread_mutex_unlock(&b->lock);
		if (!job)
			return NULL;
		run_job(w, job);
	}
}

bool bulk_step(struct bulk *b)
{
	struct bulk_job *job;

	(void)pthread_mutex_lock(&b->lock);
	job = next_job_locked(b);
	(void)pthread_mutex_unlock(&b->lock);
	if (!job)
		return false;
	b->workers[0].bulk = b;
	run_job(&b->workers[0], job);
	return true;
}

/* A thread is started when a job comes and all that run are taken. */
static int start_worker_locked(struct bulk *b)
{
	struct worker *w;
	int r;

	if (!b->peer->replica->threaded || b->started == b->streams || b->started > b->running)
		return 0;
	w = &b->workers[b->started];
	w->bulk = b;
	r = -pthread_create(&w->thread, NULL, worker_thread, w);
	if (r == 0)
		b->started++;
	return b->started > 0 ? 0 : r;
}

int bulk_submit(struct bulk *b, struct bulk_job *job, const char *stage)
{
	int r = 0;

	(void)pthread_mutex_lock(&b->lock);
	if (!b->stage || strcmp(b->stage, stage) != 0) {
		free(b->stage);
		b->stage = strdup(stage);
		r = b->stage ? 0 : -ENOMEM;
	}
	if (r == 0)
		r = start_worker_locked(b);
	if (r == 0) {
		b->bytes += job->op.content->data_len;
		LL_APPEND(b->waiting, job);
		(void)pthread_cond_signal(&b->changed);
	}
	(void)pthread_mutex_unlock(&b->lock);
	return r;
}

struct bulk_job *bulk_done(struct bulk *b)
{
	struct bulk_job *job;

	(void)pthread_mutex_lock(&b->lock);
	job = b->finished;
	if (job)
		LL_DELETE(b->finished, job);
	(void)pthread_mutex_unlock(&b->lock);
	return job;
}

void bulk_cancel(struct bulk *b)
{
	struct bulk_job *job, *next;

	(void)pthread_mutex_lock(&b->lock);
	b->generation++;
	LL_FOREACH_SAFE (b->waiting, job, next) {
		LL_DELETE(b->waiting, job);
		b->bytes -= job->op.content->data_len;
		bulk_job_free(job);
	}
	free_queue(&b->finished);
	(void)pthread_mutex_unlock(&b->lock);
}

uint64_t bulk_bytes(struct bulk *b)
{
	uint64_t bytes;

	(void)pthread_mutex_lock(&b->lock);
	bytes = b->bytes;
	(void)pthread_mutex_unlock(&b->lock);
	return bytes;
}
