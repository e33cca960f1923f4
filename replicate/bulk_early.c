/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Uploads of files that are still being written (growing.h). One thread with a connection of its
 * own serves them all, a slice of each in turn, so that a slow writer holds up nobody: the streams
 * are left to the jobs.
 *
 * What is sent lies in the stage, which nobody sees. When the OP_CONTENT comes up its job takes the
 * upload over, and this thread sends what is left. Is the file spoiled, or is it not what the
 * OP_CONTENT names, the staged file is removed and the job goes the usual way, from the start.
 *
 * Entries are added and given jobs by the sender's thread, under the lock; only the early thread
 * works on them and removes them.
 */

#include "bulk_impl.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "content.h"
#include "growing.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <utlist.h>

/* More than this many at once do not travel faster. */
#define EARLY_MAX 4
/* Of one file, before the next one's turn. */
#define SLICE (8 * BULK_BLOCK)

struct early {
	struct early *next;
	struct growing *growing; /* in use by this */
	char *path;              /* at the peer */
	char name[OP_STAGE_NAME_MAX + 1];
	uint64_t generation, started_ms;
	/* guarded by lock */
	struct bulk_job *job; /* that has taken it over */
	bool dropped;
	/* the early thread's */
	struct range all;
	struct content content; /* the file as one extent without end */
	struct upload upload;
	bool failed, undrained;
};

/* In the order in which they are done. */
enum todo { TODO_NOTHING, TODO_DRAIN, TODO_SEND, TODO_END, TODO_FINISH };

static enum todo todo_locked(const struct bulk *b, const struct early *e)
{
	if (e->generation != b->generation || b->ending)
		return TODO_END;
	if (e->job)
		return TODO_FINISH;
	if (e->failed || e->dropped || atomic_load(&e->growing->spoiled))
		return TODO_END;
	if (atomic_load(&e->growing->front) >= e->upload.at + BULK_BLOCK)
		return TODO_SEND;
	return e->undrained ? TODO_DRAIN : TODO_NOTHING;
}

static struct early *pick_locked(const struct bulk *b, enum todo *ret)
{
	struct early *e, *best = NULL;

	*ret = TODO_NOTHING;
	LL_FOREACH (b->early, e) {
		enum todo todo = todo_locked(b, e);

		if (todo <= *ret)
			continue;
		*ret = todo;
		best = e;
	}
	return best;
}

/* ---- the thread's work ---- */

static int open_growing(const struct replica *r, const struct growing *g)
{
	return fid_open(r->root, &g->fid, NULL, O_RDONLY | O_NOFOLLOW);
}

static int open_again(int fd)
{
	int again = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	return again < 0 ? -errno : again;
}

/* @fd is the entry's from now on; negative: an error. */
static int start(struct worker *w, struct early *e, int fd)
{
	int r = fd < 0 ? fd : worker_connect(w);

	e->upload.fd = fd;
	e->upload.remote_failed = r < 0 && fd >= 0;
	if (r < 0)
		return r;
	e->upload.remote = w->remote;
	return upload_open(&e->upload, w->bulk, e->path, UINT64_MAX);
}

static int send_slice(struct worker *w, struct early *e)
{
	uint64_t end = e->upload.at + SLICE, front = atomic_load(&e->growing->front);
	int r = 0;

	if (!e->upload.file)
		r = start(w, e, open_growing(w->bulk->peer->replica, e->growing));
	if (end > front)
		end = front / BULK_BLOCK * BULK_BLOCK;
	while (r == 0 && e->upload.at < end)
		r = upload_block(&e->upload, end);
	e->undrained = true;
	return r;
}

/* Answers that nobody waits for would let the link look dead. */
static int drain(struct early *e)
{
	int r = e->upload.remote->ops->drain(e->upload.file);

	e->upload.remote_failed = r < 0;
	e->undrained = false;
	return r;
}

static void detach(struct bulk *b, struct early *e)
{
	(void)pthread_mutex_lock(&b->lock);
	LL_DELETE(b->early, e);
	b->n_early--;
	(void)pthread_mutex_unlock(&b->lock);
	growing_put(b->peer->replica, e->growing);
	cleanup_close(&e->upload.fd);
	free(e->path);
	free(e);
}

/* Throws away what was sent. What an old session left is the peer's to remove. */
static void end(struct worker *w, struct early *e)
{
	struct bulk *b = w->bulk;
	bool made = e->upload.file;
	int r = upload_close(&e->upload);

	if (made && w->remote->ops->connected(w->remote) && !bulk_is_stale(b, e->generation)) {
		int removed = w->remote->ops->remove(w->remote, e->path);

		r = r < 0 ? r : removed;
	}
	if (r < 0)
		log_debug("%s: early upload of %s ends: %s", peer_label(b->peer), e->name,
			strerror(-r));
	if (e->upload.remote_failed)
		worker_disconnect(w);
	if (e->job) {
		e->job->result = -ECANCELED;
		bulk_finish(b, e->job);
	}
	detach(b, e);
}

static int send_rest(struct worker *w, struct early *e)
{
	struct content *c = e->job->op.content;
	int r = 0;

	if (!e->upload.file) /* the file may be gone by now, but not the job's descriptor */
		r = start(w, e, open_again(e->job->fd));
	while (r == 0 && e->upload.at < c->data_len)
		r = bulk_unwanted(e->job) ? -ECANCELED : upload_block(&e->upload, c->data_len);
	return r < 0 ? r : upload_digest(&e->upload, w->bulk, c);
}

static void finish(struct worker *w, struct early *e)
{
	struct bulk_job *job = e->job;
	int closed;

	job->result = send_rest(w, e);
	closed = upload_close(&e->upload);
	if (job->result == 0)
		job->result = closed;
	job->remote_failed = e->upload.remote_failed;
	if (job->result < 0 && w->connected)
		upload_refused(w->remote, job, e->path);
	if (job->remote_failed)
		worker_disconnect(w);
	detach(w->bulk, e);
	bulk_finish(w->bulk, job);
}

static void send_or_fail(struct worker *w, struct early *e, enum todo todo)
{
	int r = todo == TODO_SEND ? send_slice(w, e) : drain(e);

	if (r < 0)
		log_debug("%s: early upload of %s: %s", peer_label(w->bulk->peer), e->name,
			strerror(-r));
	e->failed = r < 0;
}

bool early_step(struct bulk *b)
{
	struct early *e;
	enum todo todo;

	(void)pthread_mutex_lock(&b->lock);
	e = pick_locked(b, &todo);
	if (e && todo == TODO_SEND) { /* the others' turn comes before its next one */
		LL_DELETE(b->early, e);
		LL_APPEND(b->early, e);
	}
	(void)pthread_mutex_unlock(&b->lock);
	if (!e)
		return false;
	if (todo == TODO_FINISH)
		finish(&b->early_worker, e);
	else if (todo == TODO_END)
		end(&b->early_worker, e);
	else
		send_or_fail(&b->early_worker, e, todo);
	return true;
}

static void *early_thread(void *arg)
{
	struct bulk *b = arg;
	enum todo todo;
	bool over;

	do {
		while (early_step(b))
			;
		(void)pthread_mutex_lock(&b->lock);
		while (!b->ending && !pick_locked(b, &todo))
			(void)pthread_cond_wait(&b->early_changed, &b->lock);
		over = b->ending && !b->early;
		(void)pthread_mutex_unlock(&b->lock);
	} while (!over);
	return NULL;
}

void early_free_all(struct bulk *b)
{
	worker_disconnect(&b->early_worker);
	while (b->early)
		end(&b->early_worker, b->early);
}

/* ---- from the sender's thread ---- */

static int start_thread_locked(struct bulk *b)
{
	int r = 0;

	if (b->peer->replica->threaded && !b->early_started) {
		r = -pthread_create(&b->early_worker.thread, NULL, early_thread, b);
		b->early_started = r == 0;
	}
	return r;
}

static int add_locked(struct bulk *b, struct growing *g, const char *stage, const char *name)
{
	struct early *e;
	int r = b->n_early < EARLY_MAX ? start_thread_locked(b) : -EBUSY;

	if (r < 0)
		return r;
	e = calloc(1, sizeof(*e));
	if (!e || asprintf(&e->path, "%s/%s", stage, name) < 0) {
		free(e);
		return -ENOMEM;
	}
	(void)snprintf(e->name, sizeof(e->name), "%s", name);
	e->growing = g;
	e->generation = b->generation;
	e->started_ms = clock_mono_ms();
	e->all.len = INT64_MAX;
	e->content.extents = &e->all;
	e->content.n_extents = 1;
	e->upload.content = &e->content;
	e->upload.fd = -1;
	LL_APPEND(b->early, e);
	b->n_early++;
	return 0;
}

int bulk_early(struct bulk *b, struct growing *g, const char *stage, const char *name)
{
	int r;

	(void)pthread_mutex_lock(&b->lock);
	r = add_locked(b, g, stage, name);
	(void)pthread_cond_signal(&b->early_changed);
	(void)pthread_mutex_unlock(&b->lock);
	return r;
}

/* Whether all that was sent is the beginning of what @op names, as it is now. */
static bool fits(const struct early *e, const struct op *op)
{
	const struct growing *g = e->growing;
	const struct content *c = op->content;

	return atomic_load(&g->closed) && !atomic_load(&g->spoiled) && (op->flags & OP_WHOLE) &&
	       c->n_extents == 1 && c->extents[0].start == 0 && c->extents[0].len == c->size &&
	       c->size == atomic_load(&g->front);
}

static void hand_over_locked(struct bulk *b, struct early *e, struct bulk_job *job)
{
	struct content *c = job->op.content;

	job->bulk = b;
	job->generation = b->generation;
	job->started_ms = e->started_ms;
	memcpy(c->stage, e->name, sizeof(c->stage));
	b->bytes += c->data_len;
	e->job = job;
	log_debug("%s: the rest of %s follows what was sent early", peer_label(b->peer),
		job->op.path);
}

static bool take_or_drop(struct bulk *b, const struct fid *fid, struct bulk_job *job)
{
	struct early *e;
	bool taken = false;

	(void)pthread_mutex_lock(&b->lock);
	LL_FOREACH (b->early, e) {
		if (e->job || e->dropped || !fid_equal(&e->growing->fid, fid))
			continue;
		e->dropped = !job || taken || e->generation != b->generation || !fits(e, &job->op);
		if (e->dropped)
			continue;
		hand_over_locked(b, e, job);
		taken = true;
	}
	(void)pthread_cond_signal(&b->early_changed);
	(void)pthread_mutex_unlock(&b->lock);
	return taken;
}

bool bulk_early_take(struct bulk *b, struct bulk_job *job)
{
	return take_or_drop(b, &job->op.fid, job);
}

void bulk_early_drop(struct bulk *b, const struct fid *fid)
{
	(void)take_or_drop(b, fid, NULL);
}

void bulk_early_wake(struct bulk *b)
{
	(void)pthread_mutex_lock(&b->lock);
	if (b->early)
		(void)pthread_cond_signal(&b->early_changed);
	(void)pthread_mutex_unlock(&b->lock);
}
