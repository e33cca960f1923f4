/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "survey.h"

#include "base/cleanup.h"

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

/* ---- a manifest without the parts that are skipped ---- */

struct part {
	struct survey *survey;
	int (*read)(struct survey *s, uint64_t offset, void *dst, size_t *len);
	struct manifest_skips skips; /* owned */
	size_t skipped;              /* of them */
	uint64_t offset;             /* of the next read */
	size_t len, at;
	uint8_t bytes[READ_BYTES];
};

static int read_remote(struct survey *s, uint64_t offset, void *dst, size_t *len)
{
	int e = s->remote->ops->read_start(s->file, offset, *len);

	while (e == 0) {
		e = s->remote->ops->read_result(s->file, dst, len);
		if (e != -EAGAIN)
			break;
		e = s->remote->ops->turn(s->remote, 1000, -1);
	}
	return e;
}

static int read_local(struct survey *s, uint64_t offset, void *dst, size_t *len)
{
	ssize_t n = pread(s->here, dst, *len, (off_t)offset);

	if (n < 0)
		return -errno;
	*len = (size_t)n;
	return 0;
}

static int refill(struct part *p)
{
	const struct manifest_skip *next = p->skips.list ? p->skips.list + p->skipped : NULL;
	size_t len = sizeof(p->bytes);
	int e;

	for (; p->skipped < p->skips.n && p->offset == next->start; p->skipped++, next++)
		p->offset = next->end;
	if (p->skipped < p->skips.n && next->start - p->offset < len)
		len = (size_t)(next->start - p->offset);
	p->len = p->at = 0;
	e = p->read(p->survey, p->offset, p->bytes, &len);
	if (e < 0)
		return e;
	p->len = len;
	p->offset += len;
	return 0;
}

static int get_part(void *ctx, void *dst, size_t size, size_t *ret_len)
{
	struct part *p = ctx;
	int e = p->at < p->len ? 0 : refill(p);

	if (e < 0)
		return e;
	if (size > p->len - p->at)
		size = p->len - p->at;
	memcpy(dst, p->bytes + p->at, size);
	p->at += size;
	*ret_len = size;
	return 0;
}

static void part_free(struct part **p)
{
	if (*p)
		manifest_skips_clear(&(*p)->skips);
	free(*p);
}
#define _cleanup_part_ __attribute__((cleanup(part_free)))

static struct part *part_new(
	struct survey *s, int (*read)(struct survey *s, uint64_t offset, void *dst, size_t *len))
{
	struct part *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->survey = s;
	p->read = read;
	return p;
}

/* ---- both of them ---- */

static int write_here(struct survey *s, struct query *q, struct manifest_index *index, int *ret_fd)
{
	struct manifest_options options = {.digest = q->digest,
		.one_level = q->one_level,
		.without_content = q->without_content,
		.index = index,
		.progress = count_here,
		.ctx = s};
	_cleanup_close_ int fd =
		openat(s->replica->state, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	int e;

	if (fd < 0)
		return -errno;
	e = manifest_write_fd(s->replica->root, q->path, &options, fd, q->own, &q->own_len);
	if (e == 0)
		*ret_fd = steal_fd(&fd);
	return e;
}

static int skip_the_same(struct survey *s, const struct query *q,
	const struct manifest_index *index, struct part *here, struct part *there)
{
	_cleanup_manifest_index_ struct manifest_index *theirs = NULL;
	int e = query_index(s->peer, s->remote, q, &theirs);

	if (e < 0 || !theirs)
		return e;
	return manifest_index_compare(index, theirs, &here->skips, &there->skips);
}

static int read_both(struct part *here, struct part *there,
	int (*merge)(void *ctx, struct manifest_reader *here, struct manifest_reader *there),
	void *ctx)
{
	_cleanup_manifest_ struct manifest_reader *a = NULL, *b = NULL;
	int e = manifest_reader_new(&(struct manifest_source){get_part, here}, &a);

	if (e == 0)
		e = manifest_reader_new(&(struct manifest_source){get_part, there}, &b);
	if (e < 0)
		return e;
	manifest_reader_skip(a, here->skips.entries);
	manifest_reader_skip(b, there->skips.entries);
	return merge(ctx, a, b);
}

static int compare(struct survey *s, const struct query *q, const struct manifest_index *index,
	int (*merge)(void *ctx, struct manifest_reader *here, struct manifest_reader *there),
	void *ctx)
{
	_cleanup_part_ struct part *here = part_new(s, read_local);
	_cleanup_part_ struct part *there = part_new(s, read_remote);
	int e = here && there ? skip_the_same(s, q, index, here, there) : -ENOMEM;

	return e < 0 ? e : read_both(here, there, merge, ctx);
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
	_cleanup_manifest_index_ struct manifest_index *index = NULL;
	_cleanup_close_ int fd = -1;
	int closed, e = manifest_index_new(q.digest, &index);

	if (e == 0)
		e = write_here(s, &q, index, &fd);
	if (e == 0)
		e = query_manifest(s->peer, s->remote, &q, count_there, s, &s->file);
	if (e < 0 || !s->file) /* the same: nothing is to be merged */
		return e;
	s->here = fd;
	e = compare(s, &q, index, merge, ctx);
	closed = s->remote->ops->close(s->file);
	s->file = NULL;
	return e < 0 ? e : closed;
}
