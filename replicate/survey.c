/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "survey.h"

#include "base/cleanup.h"
#include "digest.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define READ_BYTES (128u << 10)
#define TURN_MS 50

int survey_go_on(struct survey *s, uint64_t done, uint64_t total)
{
	if (s->progress && !s->progress(s->ctx, done, total))
		return -ECANCELED;
	return atomic_load(&s->replica->closing) ? -ECANCELED : 0;
}

/* A peer answers one question of a node at a time. */
static int wait_for_turn(struct survey *s)
{
	int e = 0;

	while (e == 0 && pthread_mutex_trylock(&s->replica->survey_lock) != 0) {
		replica_pause(s->replica, TURN_MS);
		e = survey_go_on(s, 0, 0);
	}
	return e;
}

int survey_begin(struct survey *s, char **ret_error)
{
	struct replica *r = s->replica;
	bool reached;
	int e;

	(void)pthread_mutex_lock(&r->lock);
	reached = s->peer->known || s->peer->is_plain;
	(void)pthread_mutex_unlock(&r->lock);
	if (!reached)
		return say(ret_error, -ENOTCONN,
			"%s was never reached: see `tandemfs status` for the reason",
			s->peer->config->url);
	e = wait_for_turn(s);
	if (e < 0)
		return e;
	e = r->make_remote(r, s->peer, &s->remote);
	if (e == 0)
		e = s->remote->ops->connect(s->remote, ret_error);
	if (e < 0)
		survey_end(s);
	return e;
}

void survey_end(struct survey *s)
{
	if (s->remote)
		s->remote->ops->free(s->remote);
	s->remote = NULL;
	(void)pthread_mutex_unlock(&s->replica->survey_lock);
}

static int count_here(void *ctx, uint64_t entries, uint64_t bytes)
{
	struct survey *s = ctx;

	(void)bytes;
	s->entries = entries;
	return survey_go_on(s, entries, 0);
}

static int count_there(void *ctx, uint64_t entries)
{
	struct survey *s = ctx;

	return survey_go_on(s, entries, s->entries);
}

static int get_remote(void *ctx, void *dst, size_t size, size_t *ret_len)
{
	struct survey *s = ctx;
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

static int write_here(struct survey *s, struct query *q, int *ret_fd)
{
	struct manifest_options options = {.digest = q->digest,
		.one_level = q->one_level,
		.without_content = q->without_content,
		.progress = count_here,
		.ctx = s};
	_cleanup_close_ int fd =
		openat(s->replica->state, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	_cleanup_digest_ struct digest *digest = NULL;
	struct manifest_digested file = {.fd = fd};
	struct manifest_sink sink = {.put = manifest_put_digested, .ctx = &file};
	int e;

	if (fd < 0)
		return -errno;
	e = digest_new(q->digest, &digest);
	file.digest = digest;
	if (e == 0)
		e = manifest_write(s->replica->root, q->path, &options, &sink);
	if (e == 0)
		e = digest_final(digest, q->own, &q->own_len);
	if (e == 0 && lseek(fd, 0, SEEK_SET) < 0)
		e = -errno;
	if (e == 0)
		*ret_fd = steal_fd(&fd);
	return e;
}

static int read_both(struct survey *s,
	int (*merge)(void *ctx, struct manifest_reader *here, struct manifest_reader *there),
	void *ctx)
{
	struct manifest_source here = {.get = manifest_get_fd, .ctx = &s->here};
	struct manifest_source there = {.get = get_remote, .ctx = s};
	_cleanup_manifest_ struct manifest_reader *a = NULL, *b = NULL;
	int e = manifest_reader_new(&here, &a);

	if (e == 0)
		e = manifest_reader_new(&there, &b);
	return e < 0 ? e : merge(ctx, a, b);
}

int survey_take(struct survey *s, const struct survey_what *what,
	int (*merge)(void *ctx, struct manifest_reader *here, struct manifest_reader *there),
	void *ctx)
{
	const char *digest = s->replica->config.verify;
	struct query q = {.path = what->path,
		.digest = strcmp(digest, "none") == 0 ? "sha256" : digest,
		.one_level = what->one_level,
		.without_content = what->without_content,
		.settle = what->settle};
	_cleanup_close_ int fd = -1;
	int closed, e = write_here(s, &q, &fd);

	if (e == 0)
		e = query_manifest(s->peer, s->remote, &q, count_there, s, &s->file);
	if (e < 0 || !s->file) /* the same: nothing is to be merged */
		return e;
	s->here = fd;
	s->offset = 0;
	e = read_both(s, merge, ctx);
	closed = s->remote->ops->close(s->file);
	s->file = NULL;
	return e < 0 ? e : closed;
}
