/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "journal_segment.h"
#include "base/cleanup.h"
#include "base/durable.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

/*
 * DESIGN: the format is at the head of journal.c; this file is the only one that knows the bytes.
 * The cursor reads ahead in large pieces and gives out records in place. It believes nothing:
 * length, number and checksum of each record are checked whenever it is read, by a sender as well
 * as at the start, so that a bad disk is noticed before its bytes reach a peer.
 */

#define SEGMENT_MAGIC "TDMFSJNL"
#define SEGMENT_VERSION 1
#define SEGMENT_LEAP 1u
#define CURSOR_AHEAD (128u << 10)

void segment_name(uint64_t first, char dst[SEGMENT_NAME_SIZE])
{
	snprintf(dst, SEGMENT_NAME_SIZE, "%016" PRIx64 ".log", first);
}

bool segment_name_parse(const char *name, uint64_t *ret_first)
{
	if (strlen(name) != SEGMENT_NAME_SIZE - 1 || strcmp(name + 16, ".log") != 0 ||
		strspn(name, "0123456789abcdef") != 16)
		return false;
	*ret_first = strtoull(name, NULL, 16);
	return *ret_first > 0;
}

/* ---- encoding ---- */

void segment_header_encode(uint64_t first, bool leap, uint8_t dst[SEGMENT_HEADER_SIZE])
{
	_cleanup_buf_ struct buf b = {.cap = 0};

	buf_put(&b, SEGMENT_MAGIC, 8);
	buf_put_u32(&b, SEGMENT_VERSION);
	buf_put_u32(&b, leap ? SEGMENT_LEAP : 0);
	buf_put_u64(&b, first);
	buf_put_u64(&b, b.failed ? 0 : XXH3_64bits(b.data, b.len));
	/* Without memory: zeros, which are no valid header. */
	memset(dst, 0, SEGMENT_HEADER_SIZE);
	if (!b.failed)
		memcpy(dst, b.data, SEGMENT_HEADER_SIZE);
}

static bool segment_header_good(const uint8_t *h, uint64_t first)
{
	return memcmp(h, SEGMENT_MAGIC, 8) == 0 && load_u32(h + 8) == SEGMENT_VERSION &&
	       load_u64(h + 16) == first && load_u64(h + 24) == XXH3_64bits(h, 24);
}

/* Of the header but for its last field, the checksum, and of all that is behind it. */
static uint64_t record_checksum(const uint8_t *record, size_t len)
{
	XXH64_hash_t rest = XXH3_64bits(record + RECORD_HEADER_SIZE, len - RECORD_HEADER_SIZE);

	return XXH3_64bits_withSeed(record, RECORD_HEADER_SIZE - 8, rest);
}

void record_encode(const struct journal_record *head, const uint64_t *open, size_t n_open,
	const void *data, size_t len, const void *data2, size_t len2, struct buf *dst)
{
	size_t start = dst->len;

	buf_put_u32(dst, (uint32_t)(len + len2));
	buf_put_u16(dst, (uint16_t)head->kind);
	buf_put_u16(dst, (uint16_t)n_open);
	buf_put_u64(dst, head->seq);
	buf_put_u64(dst, 0);
	for (size_t i = 0; i < n_open; i++)
		buf_put_u64(dst, open[i]);
	buf_put(dst, data, len);
	buf_put(dst, data2, len2);
	if (!dst->failed)
		buf_set_u64(dst, start + RECORD_HEADER_SIZE - 8,
			record_checksum(dst->data + start, dst->len - start));
}

/* ---- cursor ---- */

int segment_cursor_open(struct segment_cursor *c, int dir, uint64_t first)
{
	uint8_t header[SEGMENT_HEADER_SIZE];
	char name[SEGMENT_NAME_SIZE];
	_cleanup_close_ int fd = -1;
	int r;

	segment_name(first, name);
	fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	r = pread_all(fd, header, sizeof(header), 0);
	if (r == -EIO) /* shorter than a header, or a bad disk: no segment either way */
		return -EBADMSG;
	if (r < 0)
		return r;
	if (!segment_header_good(header, first))
		return -EBADMSG;
	cleanup_close(&c->fd);
	c->fd = steal_fd(&fd);
	c->leap = load_u32(header + 12) & SEGMENT_LEAP;
	c->ahead = CURSOR_AHEAD;
	segment_cursor_place(c, first, SEGMENT_HEADER_SIZE);
	return 0;
}

void segment_cursor_close(struct segment_cursor *c)
{
	cleanup_close(&c->fd);
	free(c->buf);
	*c = (struct segment_cursor){.fd = -1};
}

void segment_cursor_place(struct segment_cursor *c, uint64_t at, uint64_t offset)
{
	c->at = at;
	c->offset = offset;
	c->len = c->pos = 0;
}

/* At least @need bytes at c->pos, or fewer at the end of the file. */
static int cursor_fill(struct segment_cursor *c, size_t need)
{
	size_t want = need > c->ahead ? need : c->ahead;

	if (c->len - c->pos >= need)
		return 0;
	if (want > c->cap) {
		uint8_t *p = realloc(c->buf, want);

		if (!p)
			return -ENOMEM;
		c->buf = p;
		c->cap = want;
	}
	c->len = c->pos = 0;
	while (c->len < need) {
		ssize_t n =
			pread(c->fd, c->buf + c->len, want - c->len, (off_t)(c->offset + c->len));

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			break;
		if (n > 0)
			c->len += (size_t)n;
	}
	return 0;
}

static bool all_zero(const uint8_t *p, size_t len)
{
	while (len && *p == 0) {
		p++;
		len--;
	}
	return len == 0;
}

int segment_cursor_next(struct segment_cursor *c, struct journal_record *ret)
{
	const uint8_t *h;
	size_t len, n_open, total;
	int r = cursor_fill(c, RECORD_HEADER_SIZE);

	if (r < 0)
		return r;
	h = c->buf + c->pos;
	if (c->len - c->pos < RECORD_HEADER_SIZE)
		return all_zero(h, c->len - c->pos) ? -ENODATA : -EBADMSG;
	len = load_u32(h);
	if (len == 0 && all_zero(h, RECORD_HEADER_SIZE))
		return -ENODATA;
	if (len > JOURNAL_RECORD_MAX || load_u64(h + 8) != c->at)
		return -EBADMSG;
	n_open = load_u32(h + 4) >> 16;
	total = RECORD_HEADER_SIZE + 8 * n_open + len;
	r = cursor_fill(c, total);
	if (r < 0)
		return r;
	h = c->buf + c->pos;
	if (c->len - c->pos < total || load_u64(h + 16) != record_checksum(h, total))
		return -EBADMSG;
	*ret = (struct journal_record){
		.seq = c->at,
		.open = h + RECORD_HEADER_SIZE,
		.n_open = n_open,
		.kind = load_u32(h + 4) & 0xffff,
		.data = h + RECORD_HEADER_SIZE + 8 * n_open,
		.len = len,
	};
	c->pos += total;
	c->offset += total;
	c->at++;
	return 0;
}
