/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "apply_steps.h"

#include "base/cleanup.h"
#include "base/durable.h"
#include "content.h"
#include "digest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * DESIGN: where the bytes of a content come from.
 *
 * The stage may be written by an account that is trusted less than this process. So a staged file
 * is first renamed into scratch, where no name leads the account to it, and then looked at: a
 * regular file, one link, the right length, the right digest. Of a large file most of the digest
 * was computed while it arrived (digest_staged.c has why that is as good). The name in scratch is
 * made of the stage's inode number and the staged name, always the same, so that after a crash the
 * op finds the file where it left it.
 *
 * A file that fits is removed at the end or has become the file itself; one that does not fit is
 * removed; after any other error (the disk is full, the parent is missing) it goes back to the
 * stage, to be found by the next attempt.
 */

#define COPY_ROOM (256u << 10)

static int check_stage_name(const char *name)
{
	return name[0] && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strchr(name, '/')
		       ? 0
		       : -EBADMSG;
}

/* Moves the staged file into scratch, or finds it there. 0 or -errno. */
static int take(const struct apply_target *t, const char *stage_name, const char *name)
{
	struct stat st;

	if (fstatat(t->stage, stage_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT)
			return -errno;
		return faccessat(t->scratch, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	}
	if (S_ISDIR(st.st_mode))
		return -EBADMSG;
	return renameat(t->stage, stage_name, t->scratch, name) < 0 ? -errno : 0;
}

static int open_taken(const struct apply_target *t, const struct source *s, int *ret)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	/* For writing too, since it may become the file and is given its attributes. */
	fd = openat(t->scratch, s->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ELOOP || errno == ENXIO ? -EBADMSG : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
		return -EBADMSG;
	if ((uint64_t)st.st_size != s->content->data_len)
		return -EBADMSG;
	*ret = steal_fd(&fd);
	return 0;
}

static int check_digest(const struct content *c, struct digest *d)
{
	uint8_t sum[OP_DIGEST_MAX], len;
	int r = digest_final(d, sum, &len);

	if (r < 0)
		return r;
	return len == c->digest_len && memcmp(sum, c->digest, len) == 0 ? 0 : -EBADMSG;
}

/* Feeds @len bytes at @start of @fd to the digest. A file that ends early is -EBADMSG. */
static int digest_range(const struct apply_target *t, struct digest *d, int fd, uint64_t start,
	uint64_t len, uint8_t *room)
{
	uint64_t done = 0;
	size_t n;
	int r;

	while (done < len) {
		n = len - done < COPY_ROOM ? (size_t)(len - done) : COPY_ROOM;
		r = pread_all(fd, room, n, (off_t)(start + done));
		if (r == -EIO)
			r = -EBADMSG;
		if (r == 0)
			r = digest_update(d, room, n);
		if (r < 0)
			return r;
		done += n;
		if (done % APPLY_CHUNK == 0)
			apply_alive(t);
	}
	return 0;
}

/* The digest over ranges of a file against the content's. */
static int verify_ranges(const struct apply_target *t, const struct content *c, int fd,
	const struct range *ranges, size_t n)
{
	_cleanup_digest_ struct digest *d = NULL;
	_cleanup_free_ uint8_t *room = NULL;
	size_t i;
	int r;

	if (!c->digest_name[0])
		return 0;
	room = malloc(COPY_ROOM);
	if (!room)
		return -ENOMEM;
	r = digest_new(c->digest_name, &d);
	for (i = 0; i < n && r == 0; i++)
		r = digest_range(t, d, fd, ranges[i].start, ranges[i].len, room);
	return r < 0 ? r : check_digest(c, d);
}

/* What was read while it arrived is not read again, unless that leads to another digest. */
static int verify_rest(const struct apply_target *t, const struct content *c, int fd,
	struct digest *d, uint64_t done)
{
	_cleanup_free_ uint8_t *room = malloc(COPY_ROOM);
	int r = room ? 0 : -ENOMEM;

	if (r == 0)
		r = digest_range(t, d, fd, done, c->data_len - done, room);
	return r < 0 ? r : check_digest(c, d);
}

static int verify_staged(const struct apply_target *t, const struct content *c, int fd)
{
	_cleanup_digest_ struct digest *d = NULL;
	struct range all = {.len = c->data_len};
	struct stat st;
	uint64_t done;

	if (c->digest_name[0] && t->digested && fstat(fd, &st) == 0 &&
		t->digested(t->ctx, st.st_ino, c->digest_name, &d, &done) && done <= c->data_len &&
		verify_rest(t, c, fd, d, done) == 0)
		return 0;
	return verify_ranges(t, c, fd, &all, 1);
}

static int verify_memory(const struct content *c)
{
	_cleanup_digest_ struct digest *d = NULL;
	int r;

	if (!c->digest_name[0])
		return 0;
	r = digest_new(c->digest_name, &d);
	if (r == 0 && c->data_len > 0)
		r = digest_update(d, c->data, (size_t)c->data_len);
	return r < 0 ? r : check_digest(c, d);
}

static int stage_scratch_name(
	const struct apply_target *t, const struct content *c, char dst[SCRATCH_NAME_SIZE])
{
	struct stat st;

	if (fstat(t->stage, &st) < 0)
		return -errno;
	(void)snprintf(dst, SCRATCH_NAME_SIZE, "s%llu.%s", (unsigned long long)st.st_ino, c->stage);
	return 0;
}

static int open_staged(const struct apply_target *t, struct source *s)
{
	const struct content *c = s->content;
	int r;

	if (t->stage < 0)
		return -EBADMSG;
	r = check_stage_name(c->stage);
	if (r < 0)
		return r;
	r = stage_scratch_name(t, c, s->name);
	if (r < 0)
		return r;
	/* what was verified lies in scratch, and a file of its name in the stage is another one */
	r = c->verified ? 0 : take(t, c->stage, s->name);
	if (r < 0) {
		s->name[0] = '\0';
		return r;
	}
	r = open_taken(t, s, &s->fd);
	return r < 0 || c->verified ? r : verify_staged(t, c, s->fd);
}

int source_open(const struct apply_target *t, const struct content *c, struct source *ret)
{
	struct source s = {.content = c, .fd = -1};
	int r;

	if (content_data_len(c) != c->data_len)
		return -EBADMSG;
	if (c->stage[0])
		r = open_staged(t, &s);
	else
		r = c->data || c->data_len == 0 ? verify_memory(c) : -EBADMSG;
	if (r < 0) {
		source_close(t, &s, r);
		return r;
	}
	*ret = s;
	return 0;
}

int op_prepare(const struct apply_target *t, struct op *op)
{
	struct source s;
	int r;

	if (op->type != OP_CONTENT || !op->content || !op->content->stage[0])
		return 0;
	r = source_open(t, op->content, &s);
	if (r == -ENOENT)
		return 0; /* op_apply() knows whether it had been done */
	if (r < 0)
		return r;
	(void)close(s.fd);
	op->content->verified = true;
	return 0;
}

void op_unprepare(const struct apply_target *t, struct op *op)
{
	struct source s = {.content = op->content, .fd = -1};

	if (op->type != OP_CONTENT || !op->content || !op->content->verified)
		return;
	op->content->verified = false;
	if (stage_scratch_name(t, op->content, s.name) == 0)
		source_close(t, &s, -EAGAIN);
}

void source_close(const struct apply_target *t, struct source *s, int r)
{
	bool kept = true;

	if (s->fd >= 0)
		(void)close(s->fd);
	s->fd = -1;
	if (!s->name[0])
		return;
	/* What was uploaded again under the name meanwhile stays, and this one goes. A directory
	 * that the account slipped in cannot be unlinked: it goes back. */
	if (r == 0 || r == -EBADMSG)
		kept = unlinkat(t->scratch, s->name, 0) < 0;
	if (kept &&
		renameat2(t->scratch, s->name, t->stage, s->content->stage, RENAME_NOREPLACE) < 0)
		(void)unlinkat(t->scratch, s->name, 0);
	s->name[0] = '\0';
}

bool source_is_whole(const struct source *s)
{
	const struct content *c = s->content;

	return s->fd >= 0 && c->n_extents == 1 && c->extents[0].start == 0 &&
	       c->extents[0].len == c->size;
}

/* By hand, for file systems that cannot copy_file_range(2) here. */
static int copy_some(int from, uint64_t at, int to, uint64_t start, size_t len)
{
	_cleanup_free_ uint8_t *room = malloc(COPY_ROOM);
	size_t n;
	int r;

	if (!room)
		return -ENOMEM;
	while (len > 0) {
		n = len < COPY_ROOM ? len : COPY_ROOM;
		r = pread_all(from, room, n, (off_t)at);
		if (r == 0)
			r = pwrite_all(to, room, n, (off_t)start);
		if (r < 0)
			return r;
		at += n;
		start += n;
		len -= n;
	}
	return 0;
}

static int copy_extent(
	const struct apply_target *t, int from, uint64_t at, int to, const struct range *e)
{
	uint64_t left = e->len;
	off_t in = (off_t)at, out = (off_t)e->start;
	ssize_t n;
	size_t want;
	int r;

	while (left > 0) {
		want = left < APPLY_CHUNK ? (size_t)left : APPLY_CHUNK;
		n = copy_file_range(from, &in, to, &out, want, 0);
		if (n < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO))
			return -errno;
		if (n <= 0) {
			r = copy_some(from, (uint64_t)in, to, (uint64_t)out, want);
			if (r < 0)
				return r;
			n = (ssize_t)want;
			in += n;
			out += n;
		}
		left -= (uint64_t)n;
		if (left > 0)
			apply_alive(t);
	}
	return 0;
}

int source_copy(const struct apply_target *t, const struct source *s, int fd)
{
	const struct content *c = s->content;
	uint64_t at = 0;
	size_t i;
	int r;

	for (i = 0; i < c->n_extents; i++) {
		const struct range *e = &c->extents[i];

		if (s->fd >= 0)
			r = copy_extent(t, s->fd, at, fd, e);
		else
			r = pwrite_all(fd, c->data + at, (size_t)e->len, (off_t)e->start);
		if (r < 0)
			return r;
		at += e->len;
	}
	return 0;
}

int content_is_there(const struct apply_target *t, const struct content *c, int fd)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size != c->size)
		return 0;
	r = verify_ranges(t, c, fd, c->extents, c->n_extents);
	return r == -EBADMSG ? 0 : r < 0 ? r : 1;
}
