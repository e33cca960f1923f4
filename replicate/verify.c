/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * `tandemfs verify`: this tree against each active peer's, by manifest, and against each plain
 * peer's by what its server lists (plain_verify.c).
 *
 * Both mounts are in use, so a difference may only be a change on its way. What differs in the
 * first comparison is looked at again, after what was done meanwhile has arrived: only the
 * directories in which something differed, and only what differs every time is reported.
 */

#include "plain_verify.h"
#include "query.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/log.h"
#include "manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define ROUNDS 3
/* With more directories than this the whole tree is compared again. */
#define AGAIN_MAX 64
#define SETTLE_MS 5000
#define READ_BYTES (128u << 10)

struct finding {
	char *path; /* owned */
	char what[32];
};

struct findings {
	struct finding *list; /* owned */
	size_t n, cap;
	bool failed; /* out of memory */
};

struct verify {
	struct replica *replica;
	struct peer *peer;
	struct remote *remote;
	bool (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
	uint64_t entries_here;
	struct findings found;
};

static void findings_clear(struct findings *f)
{
	for (size_t i = 0; i < f->n; i++)
		free(f->list[i].path);
	free(f->list);
	*f = (struct findings){0};
}

static void add_finding(void *ctx, const char *path, const char *what)
{
	struct findings *f = ctx;

	if (f->n == f->cap) {
		size_t cap = f->cap ? 2 * f->cap : 64;
		struct finding *list = realloc(f->list, cap * sizeof(*list));

		f->failed |= !list;
		if (!list)
			return;
		f->list = list;
		f->cap = cap;
	}
	f->list[f->n].path = strdup(path);
	(void)snprintf(f->list[f->n].what, sizeof(f->list[f->n].what), "%s", what);
	f->failed |= !f->list[f->n].path;
	f->n += f->list[f->n].path != NULL;
}

static bool has_finding(const struct findings *f, const struct finding *x)
{
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->list[i].path, x->path) == 0 && strcmp(f->list[i].what, x->what) == 0)
			return true;
	return false;
}

/* ---- one comparison ---- */

static int go_on(struct verify *v, uint64_t done, uint64_t total)
{
	if (v->progress && !v->progress(v->ctx, done, total))
		return -ECANCELED;
	return atomic_load(&v->replica->closing) ? -ECANCELED : 0;
}

static int count_here(void *ctx, uint64_t entries, uint64_t bytes)
{
	struct verify *v = ctx;

	(void)bytes;
	v->entries_here = entries;
	return go_on(v, entries, 0);
}

static int count_there(void *ctx, uint64_t entries)
{
	struct verify *v = ctx;

	return go_on(v, entries, v->entries_here);
}

struct remote_stream {
	struct remote *remote;
	struct remote_file *file;
	uint64_t offset;
};

static int get_remote(void *ctx, void *dst, size_t size, size_t *ret_len)
{
	struct remote_stream *s = ctx;
	size_t len = size < READ_BYTES ? size : READ_BYTES;
	int e = s->remote->ops->read_start(s->file, s->offset, len);

	while (e == 0) {
		*ret_len = len;
		e = s->remote->ops->read_result(s->file, dst, ret_len);
		if (e != -EAGAIN)
			break;
		e = s->remote->ops->turn(s->remote, 1000, -1);
	}
	if (e == 0)
		s->offset += *ret_len;
	return e;
}

static int write_here(struct verify *v, const struct query *q, int *ret_fd)
{
	struct manifest_options options = {
		.digest = q->digest, .one_level = q->one_level, .progress = count_here, .ctx = v};
	_cleanup_close_ int fd =
		openat(v->replica->state, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	struct manifest_sink sink = {.put = manifest_put_fd, .ctx = &fd};
	int e;

	if (fd < 0)
		return -errno;
	e = manifest_write(v->replica->root, q->path, &options, &sink);
	if (e == 0 && lseek(fd, 0, SEEK_SET) < 0)
		e = -errno;
	if (e == 0)
		*ret_fd = steal_fd(&fd);
	return e;
}

static int compare_streams(int fd, struct remote_stream *stream, struct findings *f)
{
	struct manifest_source here = {.get = manifest_get_fd, .ctx = &fd};
	struct manifest_source there = {.get = get_remote, .ctx = stream};
	_cleanup_manifest_ struct manifest_reader *a = NULL, *b = NULL;
	uint64_t count;
	int e = manifest_reader_new(&here, &a);

	if (e == 0)
		e = manifest_reader_new(&there, &b);
	if (e == 0)
		e = manifest_compare(a, b, add_finding, f, &count);
	return e == 0 && f->failed ? -ENOMEM : e;
}

static int compare(struct verify *v, const char *path, bool one_level, struct findings *f)
{
	const char *digest = v->replica->config.verify;
	struct query q = {.path = path,
		.digest = strcmp(digest, "none") == 0 ? "sha256" : digest,
		.one_level = one_level};
	struct remote_stream stream = {.remote = v->remote};
	_cleanup_close_ int fd = -1;
	int closed, e = write_here(v, &q, &fd);

	if (e == 0)
		e = query_manifest(v->peer, v->remote, &q, count_there, v, &stream.file);
	if (e < 0)
		return e;
	e = compare_streams(fd, &stream, f);
	closed = v->remote->ops->close(stream.file);
	return e < 0 ? e : closed;
}

/* ---- looking again ---- */

static void settle(struct verify *v)
{
	/* what does not arrive in time shows as a difference, which it is */
	(void)replica_wait_all(v->replica, replica_head(v->replica), SETTLE_MS, NULL, NULL);
}

static bool seen_before(const struct findings *f, size_t at, size_t len)
{
	for (size_t i = 0; i < at; i++)
		if (confine_parent_len(f->list[i].path) == len &&
			strncmp(f->list[i].path, f->list[at].path, len) == 0)
			return true;
	return false;
}

static size_t count_dirs(const struct findings *f)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n && n <= AGAIN_MAX; i++)
		n += !seen_before(f, i, confine_parent_len(f->list[i].path));
	return n;
}

static int compare_dirs(struct verify *v, struct findings *again)
{
	const struct findings *f = &v->found;
	int e = 0;

	for (size_t i = 0; i < f->n && e == 0; i++) {
		size_t len = confine_parent_len(f->list[i].path);
		_cleanup_free_ char *dir = NULL;

		if (seen_before(f, i, len))
			continue;
		dir = strndup(f->list[i].path, len);
		e = dir ? compare(v, dir, true, again) : -ENOMEM;
		if (e == -ENOENT || e == -ENOTDIR) {
			add_finding(again, f->list[i].path, f->list[i].what);
			e = 0;
		}
	}
	return e;
}

static void keep_common(struct findings *f, const struct findings *again)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n; i++) {
		if (has_finding(again, &f->list[i]))
			f->list[n++] = f->list[i];
		else
			free(f->list[i].path);
	}
	f->n = n;
}

static int look_again(struct verify *v)
{
	struct findings again = {0};
	int e;

	settle(v);
	if (count_dirs(&v->found) > AGAIN_MAX)
		e = compare(v, "", false, &again);
	else
		e = compare_dirs(v, &again);
	if (e == 0)
		keep_common(&v->found, &again);
	findings_clear(&again);
	return e;
}

/* ---- a plain peer ---- */

static void take_finding(void *ctx, const char *path, const char *what)
{
	struct verify *v = ctx;

	add_finding(&v->found, path, what);
}

static int go_on_plain(void *ctx, uint64_t done)
{
	struct verify *v = ctx;

	return done % 64 ? 0 : go_on(v, done, 0);
}

/* What differs may be on its way: each path is looked at once more. */
static int verify_plain(struct verify *v)
{
	struct plain_verify p = {.root = v->replica->root,
		.remote = v->remote,
		.there = v->peer->config->path,
		.found = take_finding,
		.go_on = go_on_plain,
		.ctx = v};
	size_t n = 0;
	int e;

	settle(v);
	e = plain_verify_tree(&p);
	if (e == 0 && v->found.failed)
		e = -ENOMEM;
	if (e == 0 && v->found.n)
		settle(v);
	for (size_t i = 0; i < v->found.n && e == 0; i++) {
		struct finding *f = &v->found.list[i];
		const char *what;

		e = plain_verify_path(&p, f->path, &what);
		if (e == 0 && !what) {
			free(f->path);
			f->path = NULL;
		}
	}
	for (size_t i = 0; i < v->found.n; i++)
		if (v->found.list[i].path)
			v->found.list[n++] = v->found.list[i];
	v->found.n = n;
	return e < 0 ? e : go_on(v, p.done, p.done);
}

/* ---- one peer ---- */

static int verify_connected(struct verify *v)
{
	uint64_t total;
	int e;

	settle(v);
	e = compare(v, "", false, &v->found);
	total = v->entries_here;
	for (unsigned round = 1; round < ROUNDS && e == 0 && v->found.n > 0; round++)
		e = look_again(v);
	return e < 0 ? e : go_on(v, total, total);
}

static int verify_peer(struct verify *v, char **ret_error)
{
	const char *url = v->peer->config->url;
	bool plain;
	int e;

	(void)pthread_mutex_lock(&v->replica->lock);
	plain = v->peer->is_plain;
	(void)pthread_mutex_unlock(&v->replica->lock);
	if (!v->peer->known && !plain)
		return say(ret_error, -ENOTCONN,
			"%s was never reached: see `tandemfs status` for the reason", url);
	e = v->replica->make_remote(v->replica, v->peer, &v->remote);
	if (e < 0)
		return e;
	e = v->remote->ops->connect(v->remote, ret_error);
	if (e == 0) {
		e = plain ? verify_plain(v) : verify_connected(v);
		if (e < 0)
			(void)say(ret_error, e, "comparing with %s: %s%s", url, strerror(-e),
				e == -ETIMEDOUT && !plain ? " (does tandemfs run there?)" : "");
	}
	v->remote->ops->free(v->remote);
	return e;
}

static void report_all(
	struct verify *v, void (*report)(void *ctx, const struct replica_difference *d))
{
	for (size_t i = 0; i < v->found.n; i++) {
		struct replica_difference d = {.peer = peer_label(v->peer),
			.path = v->found.list[i].path,
			.what = v->found.list[i].what};

		report(v->ctx, &d);
	}
}

int replica_verify(struct replica *r, void (*report)(void *ctx, const struct replica_difference *d),
	bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, char **ret_error)
{
	int differences = 0;

	*ret_error = NULL;
	for (size_t i = 0; i < r->n_peers; i++) {
		struct verify v = {
			.replica = r, .peer = &r->peers[i], .progress = progress, .ctx = ctx};
		int e = verify_peer(&v, ret_error);

		if (e == 0) {
			report_all(&v, report);
			differences += (int)v.found.n;
		}
		findings_clear(&v.found);
		if (e < 0) {
			if (!*ret_error)
				(void)say(ret_error, e, "%s", strerror(-e));
			return e;
		}
	}
	return differences;
}
