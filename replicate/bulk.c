/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A job goes from the waiting queue to a thread and from there to the finished queue. A session's
 * end raises `generation`: a thread that runs sees it between two blocks and gives up, and its
 * result is thrown away.
 */

#include "bulk_impl.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "content.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

/* Beyond this a thread for the digest pays. */
#define DIGEST_BESIDE (4u << 20)
/* From this size on the peer is asked first whether there is room, and this is left for others. */
#define ASK_ROOM (4u << 20)
#define ROOM_LEFT (1u << 20)

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
	(void)pthread_cond_init(&b->early_changed, NULL);
	b->early_worker.bulk = b;
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

static void worker_free(struct worker *w)
{
	if (w->remote)
		w->remote->ops->free(w->remote);
}

void bulk_free(struct bulk *b)
{
	if (!b)
		return;
	(void)pthread_mutex_lock(&b->lock);
	b->ending = true;
	b->generation++;
	(void)pthread_cond_broadcast(&b->changed);
	(void)pthread_cond_broadcast(&b->early_changed);
	(void)pthread_mutex_unlock(&b->lock);
	for (unsigned i = 0; i < b->started; i++)
		(void)pthread_join(b->workers[i].thread, NULL);
	if (b->early_started)
		(void)pthread_join(b->early_worker.thread, NULL);
	early_free_all(b);
	for (unsigned i = 0; i < b->streams; i++)
		worker_free(&b->workers[i]);
	worker_free(&b->early_worker);
	free_queue(&b->waiting);
	free_queue(&b->finished);
	free(b->stage);
	free(b->workers);
	(void)pthread_cond_destroy(&b->changed);
	(void)pthread_cond_destroy(&b->early_changed);
	(void)pthread_mutex_destroy(&b->lock);
	free(b);
}

bool bulk_is_stale(struct bulk *b, uint64_t generation)
{
	bool stale;

	(void)pthread_mutex_lock(&b->lock);
	stale = b->generation != generation || b->ending;
	(void)pthread_mutex_unlock(&b->lock);
	return stale;
}

bool bulk_unwanted(const struct bulk_job *job)
{
	return bulk_is_stale(job->bulk, job->generation);
}

int worker_connect(struct worker *w)
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

void worker_disconnect(struct worker *w)
{
	if (w->connected)
		w->remote->ops->disconnect(w->remote);
	w->connected = false;
}

/* ---- one file's data ---- */

static int start_digest(const struct bulk *b, uint64_t len, struct digest_async **ret)
{
	const struct replica *r = b->peer->replica;

	if (strcmp(r->config.verify, "none") == 0)
		return 0;
	return digest_async_new(r->config.verify, r->threaded && len > DIGEST_BESIDE, ret);
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

int upload_open(struct upload *u, const struct bulk *b, const char *path, uint64_t len)
{
	int r = open_new(u->remote, path, &u->file);

	u->remote_failed = r < 0;
	if (r < 0)
		return r;
	u->blocks = malloc((size_t)2 * BULK_BLOCK);
	return u->blocks ? start_digest(b, len, &u->digest) : -ENOMEM;
}

int upload_block(struct upload *u, uint64_t end)
{
	uint8_t *block = u->blocks + u->at / BULK_BLOCK % 2 * BULK_BLOCK;
	size_t len = end - u->at < BULK_BLOCK ? (size_t)(end - u->at) : BULK_BLOCK;
	int r = content_read(u->fd, u->content, u->at, block, len);

	if (r == 0 && u->digest)
		r = digest_async_feed(u->digest, block, len);
	if (r < 0)
		return r;
	r = u->remote->ops->write(u->file, u->at, block, len);
	u->remote_failed = r < 0;
	u->at += len;
	return r;
}

int upload_digest(struct upload *u, const struct bulk *b, struct content *c)
{
	if (!u->digest)
		return 0;
	(void)snprintf(
		c->digest_name, sizeof(c->digest_name), "%s", b->peer->replica->config.verify);
	return digest_async_finish(u->digest, c->digest, &c->digest_len);
}

int upload_close(struct upload *u)
{
	int r = u->file ? u->remote->ops->close(u->file) : 0;

	u->remote_failed |= r < 0;
	u->file = NULL;
	digest_async_free(u->digest); /* before the blocks that it reads */
	u->digest = NULL;
	free(u->blocks);
	u->blocks = NULL;
	return r;
}

/* As remote_cause(), for a file that need not exist. */
static int cause_at(struct remote *remote, const char *file, uint64_t need, int error)
{
	const char *slash = strrchr(file, '/');
	_cleanup_free_ char *dir = slash ? strndup(file, (size_t)(slash - file)) : NULL;

	return dir ? remote_cause(remote, dir, need, error) : error;
}

void upload_refused(struct remote *remote, struct bulk_job *job, const char *path)
{
	if (!job->remote_failed || !remote->ops->connected(remote))
		return;
	job->refused = true;
	job->result = cause_at(remote, path, job->op.content->data_len, job->result);
	(void)remote->ops->remove(remote, path); /* else the next session's peer does */
	job->remote_failed = !remote->ops->connected(remote);
}

/* A large content is not begun where it cannot fit: until the server says so, it would leave no
 * room there for anything else. Nor is any while something waits for room there. */
static int ask_room(struct bulk *b, struct bulk_job *job, struct remote *remote, const char *path)
{
	uint64_t len = job->op.content->data_len;
	struct peer *p = b->peer;
	bool waits;

	(void)pthread_mutex_lock(&p->replica->lock);
	waits = p->room_doubtful || p->stuck_seq;
	(void)pthread_mutex_unlock(&p->replica->lock);
	if ((len < ASK_ROOM && !waits) || cause_at(remote, path, len + ROOM_LEFT, -EIO) != -ENOSPC)
		return 0;
	job->remote_failed = true;
	return -ENOSPC;
}

/* ---- jobs ---- */

static int send_data(struct bulk *b, struct bulk_job *job, struct upload *u)
{
	struct content *c = job->op.content;
	int r = 0;

	while (u->at < c->data_len && r == 0)
		r = bulk_unwanted(job) ? -ECANCELED : upload_block(u, c->data_len);
	return r < 0 ? r : upload_digest(u, b, c);
}

static int send_stream(
	struct bulk *b, struct bulk_job *job, struct remote *remote, const char *path)
{
	struct upload u = {.fd = job->fd, .content = job->op.content, .remote = remote};
	int closed, r = ask_room(b, job, remote, path);

	if (r < 0)
		return r;
	r = upload_open(&u, b, path, job->op.content->data_len);
	if (r == 0)
		r = send_data(b, job, &u);
	closed = upload_close(&u);
	job->remote_failed = u.remote_failed;
	return r < 0 ? r : closed;
}

static int run_upload(struct worker *w, struct bulk_job *job, const char *stage)
{
	_cleanup_free_ char *path = NULL;
	int r = worker_connect(w);

	if (r == 0 && asprintf(&path, "%s/%s", stage, job->op.content->stage) < 0) {
		path = NULL;
		r = -ENOMEM;
	}
	job->remote_failed = true;
	if (r < 0)
		return r;
	if (job->put) {
		r = job->put(job, w->remote, path);
		job->remote_failed = !w->remote->ops->connected(w->remote);
		return r;
	}
	r = send_stream(w->bulk, job, w->remote, path);
	if (r == 0)
		return 0;
	job->result = r;
	upload_refused(w->remote, job, path);
	return job->result;
}

void bulk_finish(struct bulk *b, struct bulk_job *job)
{
	uint64_t one = 1;

	(void)pthread_mutex_lock(&b->lock);
	b->bytes -= job->op.content->data_len;
	if (b->generation == job->generation) {
		LL_APPEND(b->finished, job);
		job = NULL;
	}
	(void)pthread_mutex_unlock(&b->lock);
	bulk_job_free(job);
	if (write(b->wake, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_warning("bulk: cannot wake the sender: %s", strerror(errno));
}

static void run_job(struct worker *w, struct bulk_job *job)
{
	struct bulk *b = w->bulk;
	_cleanup_free_ char *stage = NULL;

	(void)pthread_mutex_lock(&b->lock);
	job->generation = b->generation;
	stage = strdup(b->stage);
	(void)pthread_mutex_unlock(&b->lock);
	job->bulk = b;
	job->result = stage ? run_upload(w, job, stage) : -ENOMEM;
	if (job->result < 0 && job->remote_failed)
		worker_disconnect(w);
	(void)pthread_mutex_lock(&b->lock);
	b->running--;
	(void)pthread_mutex_unlock(&b->lock);
	bulk_finish(b, job);
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
		return early_step(b);
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
	(void)pthread_cond_broadcast(&b->early_changed);
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
