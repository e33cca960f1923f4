/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Frames: WIRE_REQUEST in both directions.
 *     request: u64 id, string path, string digest, u8 one_level, u8 without_content, u8
 *              settle
 *     reply:   u64 id, u8 state (0 working, 1 done, 2 failed), u32 errno, u64 entries, u64 bytes
 *              read, blob digest of the manifest (done)
 */

#include "query.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/durable.h"
#include "base/log.h"
#include "digest.h"
#include "manifest.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

#define REQUEST_MAX 8192
#define PROGRESS_MS 500
#define POLL_MS 100
#define SETTLE_POLL_MS 10
/* An answerer that says nothing for so long is given up. */
#define SILENCE_MS 15000

enum reply_state { REPLY_WORKING, REPLY_DONE, REPLY_FAILED };

struct request {
	uint64_t id;
	char *path;   /* owned */
	char *digest; /* owned */
	bool one_level, without_content, settle;
};

struct answerer {
	struct replica *replica;
	int spool;
	char id[WIRE_ID_LEN + 1];
	struct request request; /* the thread's, while it runs */
	pthread_t thread;
	bool started;
	atomic_bool running;
	uint64_t told_ms;
	uint8_t digest[OP_DIGEST_MAX]; /* of the manifest; the thread's */
	uint8_t digest_len;
	uint64_t settle_head; /* what had been done when the manifest was written; the thread's */
};

static void request_clear(struct request *q)
{
	free(q->path);
	free(q->digest);
	*q = (struct request){0};
}

static int parse_request(const void *data, size_t len, struct request *ret)
{
	struct wire_frame f;
	struct reader r;
	size_t frame_len;
	int e = wire_parse(data, len, &f, &frame_len);

	if (e < 0 || f.kind != WIRE_REQUEST)
		return -EBADMSG;
	r = reader_of(f.payload, f.len);
	ret->id = reader_u64(&r);
	ret->path = reader_string(&r, TANDEMFS_PATH_MAX);
	ret->digest = reader_string(&r, 64);
	ret->one_level = reader_u8(&r) != 0;
	ret->without_content = reader_u8(&r) != 0;
	ret->settle = reader_u8(&r) != 0;
	e = reader_error(&r);
	if (e == 0 && confine_check(ret->path, true) < 0)
		e = -EBADMSG;
	if (e < 0)
		request_clear(ret);
	return e;
}

/* ---- the answerer ---- */

static void name_of(const struct answerer *a, const char *what, char dst[64])
{
	(void)snprintf(dst, 64, "%s.%s", a->id, what);
}

static void tell(
	struct answerer *a, enum reply_state state, int error, uint64_t entries, uint64_t bytes)
{
	_cleanup_buf_ struct buf b = {0};
	char name[64];
	size_t start = wire_begin(&b, WIRE_REQUEST);
	int e;

	buf_put_u64(&b, a->request.id);
	buf_put_u8(&b, (uint8_t)state);
	buf_put_u32(&b, (uint32_t)-error);
	buf_put_u64(&b, entries);
	buf_put_u64(&b, bytes);
	buf_put_blob(&b, a->digest, state == REPLY_DONE ? a->digest_len : 0);
	wire_end(&b, start);
	name_of(a, "reply", name);
	e = buf_error(&b);
	if (e == 0)
		e = durable_replace(a->replica->acks, name, b.data, b.len, 0644, 0);
	if (e < 0)
		log_warning("cannot answer a question of %s: %s", a->id, strerror(-e));
	a->told_ms = clock_mono_ms();
}

static int tell_progress(void *ctx, uint64_t entries, uint64_t bytes)
{
	struct answerer *a = ctx;

	if (atomic_load(&a->replica->closing))
		return -ECANCELED;
	if (clock_mono_ms() - a->told_ms >= PROGRESS_MS)
		tell(a, REPLY_WORKING, 0, entries, bytes);
	return 0;
}

static int write_index(struct answerer *a, const struct manifest_index *index)
{
	_cleanup_buf_ struct buf b = {0};
	char name[64];
	int e;

	name_of(a, "index", name);
	manifest_index_encode(index, a->request.id, &b);
	e = buf_error(&b);
	if (e == 0 && b.len > MANIFEST_INDEX_MAX)
		return unlinkat(a->replica->acks, name, 0) < 0 && errno != ENOENT ? -errno : 0;
	return e < 0 ? e : durable_replace(a->replica->acks, name, b.data, b.len, 0644, 0);
}

static int write_manifest(struct answerer *a)
{
	struct manifest_options options = {.digest = a->request.digest,
		.one_level = a->request.one_level,
		.without_content = a->request.without_content,
		.progress = tell_progress,
		.ctx = a};
	_cleanup_manifest_index_ struct manifest_index *index = NULL;
	_cleanup_close_ int fd = -1;
	char name[64];
	int e = manifest_index_new(a->request.digest, &index);

	if (e < 0)
		return e;
	options.index = index;
	name_of(a, "manifest", name);
	fd = openat(a->replica->acks, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
		0644);
	if (fd < 0 || fchmod(fd, 0644) < 0)
		return -errno;
	e = manifest_write_fd(
		a->replica->root, a->request.path, &options, fd, a->digest, &a->digest_len);
	return e < 0 ? e : write_index(a, index);
}

/* The peer that asks, when we write to it as well. */
static struct peer *asking_peer(const struct answerer *a)
{
	struct replica *r = a->replica;
	struct peer *found = NULL;

	(void)pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < r->n_peers && !found; i++)
		if (r->peers[i].known && strcmp(r->peers[i].node.id, a->id) == 0)
			found = &r->peers[i];
	(void)pthread_mutex_unlock(&r->lock);
	return found;
}

/* The asker has all that was done here before the manifest was written: what it then does not find
 * is not just under way. What it cannot apply is not waited for. */
static bool is_settled(const struct answerer *a)
{
	const struct peer *p = asking_peer(a);

	return !p || atomic_load(&a->replica->closing) || peer_has_or_cannot(p, a->settle_head);
}

static void settle(struct answerer *a)
{
	for (unsigned turn = 0; !is_settled(a); turn++) {
		if (turn % (PROGRESS_MS / SETTLE_POLL_MS) == 0) /* a sign of life */
			tell(a, REPLY_WORKING, 0, 0, turn);
		replica_pause(a->replica, SETTLE_POLL_MS);
	}
}

/* Beside the manifest: names that are missing here since they were removed. */
static int write_removed(struct answerer *a)
{
	_cleanup_buf_ struct buf b = {0};
	struct removed *t;
	char name[64];
	int e = resync_removed(a->replica, &t);

	if (e < 0)
		return e;
	e = removed_encode(t, &b);
	removed_free(t);
	name_of(a, "removed", name);
	return e < 0 ? e : durable_replace(a->replica->acks, name, b.data, b.len, 0644, 0);
}

static int begin_answer(struct answerer *a)
{
	int e;

	tell(a, REPLY_WORKING, 0, 0, 0);
	e = write_manifest(a);
	a->settle_head = replica_head(a->replica);
	return e;
}

static void end_answer(struct answerer *a, int e)
{
	if (e == 0 && a->request.settle)
		e = write_removed(a);
	tell(a, e < 0 ? REPLY_FAILED : REPLY_DONE, e, 0, 0);
	atomic_store(&a->running, false);
}

static void *answer_thread(void *arg)
{
	struct answerer *a = arg;
	int e = begin_answer(a);

	if (e == 0 && a->request.settle)
		settle(a);
	end_answer(a, e);
	return NULL;
}

/* Without threads: in turns. */
static void answer_turn(struct answerer *a)
{
	if (is_settled(a))
		end_answer(a, 0);
}

int answerer_new(struct replica *r, int spool, const char *id, struct answerer **ret)
{
	struct answerer *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->replica = r;
	a->spool = spool;
	(void)snprintf(a->id, sizeof(a->id), "%s", id);
	*ret = a;
	return 0;
}

void answerer_free(struct answerer *a)
{
	if (!a)
		return;
	if (a->started)
		(void)pthread_join(a->thread, NULL);
	request_clear(&a->request);
	free(a);
}

static void start_answer(struct answerer *a, struct request *q)
{
	int e;

	if (a->started)
		(void)pthread_join(a->thread, NULL);
	request_clear(&a->request);
	a->request = *q;
	*q = (struct request){0};
	atomic_store(&a->running, true);
	if (!a->replica->threaded) {
		e = begin_answer(a);
		if (e < 0 || !a->request.settle)
			end_answer(a, e);
		return;
	}
	e = -pthread_create(&a->thread, NULL, answer_thread, a);
	a->started = e == 0;
	if (e < 0) {
		atomic_store(&a->running, false);
		tell(a, REPLY_FAILED, e, 0, 0);
	}
}

void answerer_turn(struct answerer *a)
{
	_cleanup_free_ char *data = NULL;
	_cleanup_close_ int fd = -1;
	struct request q = {0};
	struct stat st;
	size_t len;

	if (atomic_load(&a->running)) {
		if (!a->replica->threaded)
			answer_turn(a);
		return;
	}
	fd = openat(a->spool, "request", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > REQUEST_MAX)
		return;
	len = (size_t)st.st_size;
	data = malloc(len + 1);
	if (!data || pread_all(fd, data, len, 0) < 0 || parse_request(data, len, &q) < 0)
		return;
	if (q.id != a->request.id)
		start_answer(a, &q);
	request_clear(&q);
}

/* ---- the asker ---- */

static int put_request(struct peer *p, struct remote *remote, const struct query *q)
{
	_cleanup_buf_ struct buf b = {0};
	_cleanup_free_ char *path = NULL;
	size_t start = wire_begin(&b, WIRE_REQUEST);

	buf_put_u64(&b, q->id);
	buf_put_string(&b, q->path);
	buf_put_string(&b, q->digest);
	buf_put_u8(&b, q->one_level);
	buf_put_u8(&b, q->without_content);
	buf_put_u8(&b, q->settle);
	wire_end(&b, start);
	if (buf_error(&b) < 0 || asprintf(&path, "%s/" TANDEMFS_DIR "/in/%s/request",
					 p->config->path, p->replica->node.id) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	return remote->ops->put(remote, path, b.data, b.len);
}

struct reply {
	enum reply_state state;
	int error;
	uint64_t entries, bytes;
	bool same; /* the digest is that of the query */
};

/* The answer's state. 0; -EAGAIN when there is none to this request yet. */
static int get_reply(
	struct remote *remote, const char *path, const struct query *q, struct reply *ret)
{
	_cleanup_free_ char *data = NULL;
	struct wire_frame f;
	struct reader r;
	const uint8_t *digest;
	size_t len, frame_len;
	int e = remote->ops->get(remote, path, REQUEST_MAX, &data, &len);

	if (e < 0)
		return e == -ENOENT ? -EAGAIN : e;
	if (wire_parse((uint8_t *)data, len, &f, &frame_len) < 0 || f.kind != WIRE_REQUEST)
		return -EAGAIN;
	r = reader_of(f.payload, f.len);
	if (reader_u64(&r) != q->id)
		return -EAGAIN;
	ret->state = reader_u8(&r);
	ret->error = -(int)reader_u32(&r);
	ret->entries = reader_u64(&r);
	ret->bytes = reader_u64(&r);
	digest = reader_blob(&r, &len);
	ret->same = digest && len > 0 && len == q->own_len && memcmp(digest, q->own, len) == 0;
	return reader_error(&r);
}

/* 1: the manifest is the asker's own. */
static int wait_for_reply(struct remote *remote, const char *path, const struct query *q,
	int (*progress)(void *ctx, uint64_t entries), void *ctx)
{
	uint64_t heard_ms = clock_mono_ms(), heard = UINT64_MAX;

	for (;;) {
		struct reply reply = {0};
		int e = get_reply(remote, path, q, &reply);

		if (e < 0 && e != -EAGAIN)
			return e;
		if (e == 0 && reply.state == REPLY_DONE)
			return reply.same;
		if (e == 0 && reply.state == REPLY_FAILED)
			return reply.error < 0 ? reply.error : -EIO;
		if (e == 0 && reply.entries + reply.bytes != heard) {
			heard = reply.entries + reply.bytes;
			heard_ms = clock_mono_ms();
		}
		if (clock_mono_ms() - heard_ms > SILENCE_MS)
			return -ETIMEDOUT;
		e = progress(ctx, e == 0 ? reply.entries : 0);
		if (e == 0)
			e = remote->ops->turn(remote, POLL_MS, -1);
		if (e < 0)
			return e;
	}
}

/* NULL: no memory. */
static char *answer_path(const struct peer *p, const char *what)
{
	char *path;

	if (asprintf(&path, "%s/" TANDEMFS_DIR "/acks/%s.%s", p->config->path, p->replica->node.id,
		    what) < 0)
		return NULL;
	return path;
}

int query_manifest(struct peer *p, struct remote *remote, struct query *q,
	int (*progress)(void *ctx, uint64_t entries), void *ctx, struct remote_file **ret)
{
	_cleanup_free_ char *reply = answer_path(p, "reply");
	_cleanup_free_ char *manifest = answer_path(p, "manifest");
	int e = reply && manifest ? digest_random(&q->id, sizeof(q->id)) : -ENOMEM;

	if (e == 0)
		e = put_request(p, remote, q);
	if (e < 0)
		return e;
	e = wait_for_reply(remote, reply, q, progress, ctx);
	if (e > 0)
		*ret = NULL;
	if (e != 0)
		return e < 0 ? e : 0;
	return remote->ops->open(remote, manifest, REMOTE_READ | REMOTE_SIDE, 0, ret);
}

int query_index(
	struct peer *p, struct remote *remote, const struct query *q, struct manifest_index **ret)
{
	_cleanup_free_ char *path = answer_path(p, "index"), *data = NULL;
	size_t len;
	int e = path ? remote->ops->get(remote, path, MANIFEST_INDEX_MAX, &data, &len) : -ENOMEM;

	*ret = NULL;
	if (e < 0)
		return e == -ENOENT ? 0 : e;
	return manifest_index_decode(data, len, q->id, ret);
}

int query_removed(struct peer *p, struct remote *remote, struct removed **ret)
{
	_cleanup_free_ char *path = answer_path(p, "removed"), *data = NULL;
	struct removed *t;
	size_t len;
	int e = path ? remote->ops->get(remote, path, RESYNC_REMOVED_MAX, &data, &len) : -ENOMEM;

	if (e < 0)
		return e;
	t = removed_new();
	e = t ? removed_decode(t, data, len) : -ENOMEM;
	if (e == 0)
		*ret = t;
	else
		removed_free(t);
	return e;
}
