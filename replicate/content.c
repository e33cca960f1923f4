/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "content.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "digest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/*
 * DESIGN: what an OP_CONTENT names is looked up in the file when it is sent. A description is the
 * list of the data extents inside the wanted ranges, as SEEK_DATA and SEEK_HOLE tell them (a file
 * system without them has one extent per range), clipped to the size. A file cut into more than
 * EXTENTS_DESCRIBED pieces is described more coarsely: holes below a growing bound count as data,
 * which costs bytes on the wire but no correctness. The bound keeps the description well inside
 * one record of the journal.
 */

#define EXTENTS_DESCRIBED 16384

struct extent_list {
	struct range *items; /* owned */
	size_t n, cap;
	uint64_t min_hole; /* smaller holes are data */
	bool join;         /* whether the next extent may be joined to the last one */
};

static int extent_add(struct extent_list *l, uint64_t start, uint64_t end)
{
	struct range *last = l->n ? &l->items[l->n - 1] : NULL, *items;
	size_t cap;

	if (l->join && start - (last->start + last->len) <= l->min_hole) {
		last->len = end - last->start;
		return 0;
	}
	if (l->n == EXTENTS_DESCRIBED)
		return -E2BIG;
	if (l->n == l->cap) {
		cap = l->cap ? 2 * l->cap : 8;
		items = reallocarray(l->items, cap, sizeof(*items));
		if (!items)
			return -ENOMEM;
		l->items = items;
		l->cap = cap;
	}
	l->items[l->n++] = (struct range){.start = start, .len = end - start};
	l->join = true;
	return 0;
}

/* The next data at or after *start and before @end: 1 with [*start, *ret_end), 0 for none. */
static int next_data(int fd, uint64_t *start, uint64_t end, uint64_t *ret_end)
{
	off_t data, hole;

	data = lseek(fd, (off_t)*start, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return 0;
	if (data < 0 && errno != EINVAL && errno != EOPNOTSUPP)
		return -errno;
	if (data < 0)
		data = (off_t)*start;
	if ((uint64_t)data >= end)
		return 0;
	hole = lseek(fd, data, SEEK_HOLE);
	*start = (uint64_t)data;
	/* A file that was cut short meanwhile has no data here; what is read then is zeros. */
	*ret_end = hole > data && (uint64_t)hole < end ? (uint64_t)hole : end;
	return 1;
}

static int extents_in(int fd, uint64_t start, uint64_t end, struct extent_list *l)
{
	uint64_t data_end = end;
	int r;

	l->join = false;
	while (start < end) {
		r = next_data(fd, &start, end, &data_end);
		if (r <= 0)
			return r;
		r = extent_add(l, start, data_end);
		if (r < 0)
			return r;
		start = data_end;
	}
	return 0;
}

static int extents_collect(int fd, const struct op *op, uint64_t size, struct extent_list *l)
{
	uint64_t end;
	size_t i;
	int r;

	l->n = 0;
	if (op->flags & OP_WHOLE)
		return extents_in(fd, 0, size, l);
	for (i = 0; i < op->n_ranges; i++) {
		if (op->ranges[i].start >= size)
			break;
		end = op->ranges[i].start + op->ranges[i].len;
		r = extents_in(fd, op->ranges[i].start, end < size ? end : size, l);
		if (r < 0)
			return r;
	}
	return 0;
}

static int describe_extents(int fd, const struct op *op, struct content *c)
{
	struct extent_list l = {0};
	int r;

	do {
		r = extents_collect(fd, op, c->size, &l);
		l.min_hole = l.min_hole ? 2 * l.min_hole : 4096;
	} while (r == -E2BIG);
	if (r < 0) {
		free(l.items);
		return r;
	}
	c->extents = l.items;
	c->n_extents = l.n;
	return 0;
}

int content_describe(int fd, struct op *op, struct stat *ret_stat)
{
	_cleanup_content_ struct content *c = calloc(1, sizeof(*c));
	struct stat st;
	int r;

	if (!c)
		return -ENOMEM;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	c->size = (uint64_t)st.st_size;
	r = describe_extents(fd, op, c);
	if (r < 0)
		return r;
	if (op->flags & OP_WHOLE) {
		r = xattrs_read(fd, &c->xattrs, &c->n_xattrs);
		if (r < 0)
			return r;
	}
	c->data_len = content_data_len(c);
	op->mask = OP_MODE | OP_UID | OP_GID | OP_MTIME;
	op->mode = st.st_mode & 07777;
	op->uid = st.st_uid;
	op->gid = st.st_gid;
	op->mtime = clock_ns_of(&st.st_mtim);
	content_free(op->content);
	op->content = steal_pointer(&c);
	*ret_stat = st;
	return 0;
}

uint64_t content_data_len(const struct content *c)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < c->n_extents; i++)
		sum += c->extents[i].len;
	return sum;
}

/* pread that takes the end of the file for zeros. */
static int read_padded(int fd, uint8_t *dst, size_t len, uint64_t offset)
{
	ssize_t n;

	while (len > 0) {
		n = pread(fd, dst, len, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0) {
			memset(dst, 0, len);
			return 0;
		}
		dst += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int content_read(int fd, const struct content *c, uint64_t offset, void *dst, size_t len)
{
	uint8_t *p = dst;
	size_t i, n;
	int r;

	for (i = 0; i < c->n_extents && len > 0; i++) {
		const struct range *e = &c->extents[i];

		if (offset >= e->len) {
			offset -= e->len;
			continue;
		}
		n = e->len - offset < len ? (size_t)(e->len - offset) : len;
		r = read_padded(fd, p, n, e->start + offset);
		if (r < 0)
			return r;
		p += n;
		len -= n;
		offset = 0;
	}
	return len ? -EINVAL : 0;
}

int content_load(int fd, struct op *op, const char *digest_name)
{
	struct content *c = op->content;
	_cleanup_free_ uint8_t *data = NULL;
	int r;

	if (c->data_len > SIZE_MAX - 1)
		return -EFBIG;
	data = malloc((size_t)c->data_len + 1); /* never of length 0: NULL means staged */
	if (!data)
		return -ENOMEM;
	r = content_read(fd, c, 0, data, (size_t)c->data_len);
	if (r < 0)
		return r;
	c->digest_name[0] = '\0';
	c->digest_len = 0;
	if (digest_name && strcasecmp(digest_name, "none") != 0) {
		if (strlen(digest_name) >= sizeof(c->digest_name))
			return -EINVAL;
		r = digest_of(digest_name, data, (size_t)c->data_len, c->digest, &c->digest_len);
		if (r < 0)
			return r;
		strcpy(c->digest_name, digest_name);
	}
	free(c->data);
	c->data = steal_pointer(&data);
	c->stage[0] = '\0';
	return 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

bool content_unchanged(const struct stat *before, int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_size == before->st_size &&
	       same_time(&st.st_mtim, &before->st_mtim) && same_time(&st.st_ctim, &before->st_ctim);
}
