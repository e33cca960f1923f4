/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_BUF_H
#define TANDEMFS_BUF_H

/*
 * A growing byte buffer and a bounded reader: the encoding of the journal and of the wire.
 * Integers are little-endian and unaligned. Strings and blobs are a u32 length and the bytes.
 *
 * Writers do not return errors one by one: after the first failed allocation a buffer is
 * "failed", ignores what follows, and buf_error() says -ENOMEM. Readers work alike: the first
 * read past the end makes the reader failed, every later read gives zeros, and
 * reader_error() says -EBADMSG. So a whole record is written or read and then checked once.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data; /* owned; free with buf_clear() */
	size_t len;
	size_t cap;
	bool failed;
};

void buf_clear(struct buf *b); /* frees, and leaves an empty buffer */
static inline void buf_reset(struct buf *b)
{
	b->len = 0;
	b->failed = false;
}
int buf_error(const struct buf *b);

/* Room for @len bytes at the end, counted as written, to be filled in; NULL when failed. */
uint8_t *buf_extend(struct buf *b, size_t len);
void buf_put(struct buf *b, const void *data, size_t len);
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_u16(struct buf *b, uint16_t v);
void buf_put_u32(struct buf *b, uint32_t v);
void buf_put_u64(struct buf *b, uint64_t v);
void buf_put_blob(struct buf *b, const void *data, size_t len);
void buf_put_string(struct buf *b, const char *s); /* NULL is written as "" */
/* Overwrites 4 or 8 bytes at @offset, which were written before. */
void buf_set_u32(struct buf *b, size_t offset, uint32_t v);
void buf_set_u64(struct buf *b, size_t offset, uint64_t v);

struct reader {
	const uint8_t *data; /* not owned */
	size_t len;
	size_t pos;
	bool failed;
};

static inline struct reader reader_of(const void *data, size_t len)
{
	return (struct reader){.data = data, .len = len};
}

int reader_error(const struct reader *r);
static inline size_t reader_left(const struct reader *r)
{
	return r->failed ? 0 : r->len - r->pos;
}
uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
/* @len bytes in place, owned by whoever owns the reader's data; NULL when failed. */
const uint8_t *reader_bytes(struct reader *r, size_t len);
/* The blob in place; its length to @ret_len (0 when failed). */
const uint8_t *reader_blob(struct reader *r, size_t *ret_len);
/* A new string, the caller frees it; NULL and failed for one of over @max bytes, one with a NUL
 * inside, or without memory. */
char *reader_string(struct reader *r, size_t max);
/* Makes the reader failed: for a value that was read and is refused. */
static inline void reader_fail(struct reader *r)
{
	r->failed = true;
}

/* Unaligned little-endian loads, for headers that are checked before they are read in order. */
uint32_t load_u32(const void *p);
uint64_t load_u64(const void *p);

#define _cleanup_buf_ __attribute__((cleanup(buf_clear)))

#endif
