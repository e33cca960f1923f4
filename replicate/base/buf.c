/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "buf.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/*
 * DESIGN: capacity doubles, so that appending is amortised constant. Errors stick to the buffer or
 * reader (see the header); no function here touches errno. Bytes are assembled by shifts: the
 * compiler makes one load or store of it on little-endian machines, and it is right on others.
 */

#define BUF_CAP_FIRST 256

void buf_clear(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}

int buf_error(const struct buf *b)
{
	return b->failed ? -ENOMEM : 0;
}

static bool buf_reserve(struct buf *b, size_t len)
{
	size_t cap = b->cap ? b->cap : BUF_CAP_FIRST;
	uint8_t *data;

	if (b->failed)
		return false;
	if (len <= b->cap - b->len)
		return true;
	b->failed = true;
	if (len > SIZE_MAX / 2 - b->len)
		return false;
	while (cap < b->len + len)
		cap *= 2;
	data = realloc(b->data, cap);
	if (!data)
		return false;
	b->data = data;
	b->cap = cap;
	b->failed = false;
	return true;
}

uint8_t *buf_extend(struct buf *b, size_t len)
{
	uint8_t *p;

	if (!buf_reserve(b, len ? len : 1))
		return NULL;
	p = b->data + b->len;
	b->len += len;
	return p;
}

void buf_put(struct buf *b, const void *data, size_t len)
{
	uint8_t *p = len ? buf_extend(b, len) : NULL;

	if (p)
		memcpy(p, data, len);
}

static void store(uint8_t *p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t load(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

static void buf_put_int(struct buf *b, uint64_t v, unsigned bytes)
{
	uint8_t *p = buf_extend(b, bytes);

	if (p)
		store(p, v, bytes);
}

void buf_put_u8(struct buf *b, uint8_t v)
{
	buf_put_int(b, v, 1);
}

void buf_put_u16(struct buf *b, uint16_t v)
{
	buf_put_int(b, v, 2);
}

void buf_put_u32(struct buf *b, uint32_t v)
{
	buf_put_int(b, v, 4);
}

void buf_put_u64(struct buf *b, uint64_t v)
{
	buf_put_int(b, v, 8);
}

void buf_put_blob(struct buf *b, const void *data, size_t len)
{
	if (len > UINT32_MAX) {
		b->failed = true;
		return;
	}
	buf_put_u32(b, (uint32_t)len);
	buf_put(b, data, len);
}

void buf_put_string(struct buf *b, const char *s)
{
	buf_put_blob(b, s, s ? strlen(s) : 0);
}

void buf_set_u32(struct buf *b, size_t offset, uint32_t v)
{
	if (!b->failed)
		store(b->data + offset, v, 4);
}

void buf_set_u64(struct buf *b, size_t offset, uint64_t v)
{
	if (!b->failed)
		store(b->data + offset, v, 8);
}

int reader_error(const struct reader *r)
{
	return r->failed ? -EBADMSG : 0;
}

const uint8_t *reader_bytes(struct reader *r, size_t len)
{
	const uint8_t *p = r->data + r->pos;

	if (r->failed || len > r->len - r->pos) {
		r->failed = true;
		return NULL;
	}
	r->pos += len;
	return p;
}

static uint64_t reader_int(struct reader *r, unsigned bytes)
{
	const uint8_t *p = reader_bytes(r, bytes);

	return p ? load(p, bytes) : 0;
}

uint8_t reader_u8(struct reader *r)
{
	return (uint8_t)reader_int(r, 1);
}

uint16_t reader_u16(struct reader *r)
{
	return (uint16_t)reader_int(r, 2);
}

uint32_t reader_u32(struct reader *r)
{
	return (uint32_t)reader_int(r, 4);
}

uint64_t reader_u64(struct reader *r)
{
	return reader_int(r, 8);
}

const uint8_t *reader_blob(struct reader *r, size_t *ret_len)
{
	size_t len = reader_u32(r);
	const uint8_t *p = reader_bytes(r, len);

	*ret_len = p ? len : 0;
	return p;
}

char *reader_string(struct reader *r, size_t max)
{
	size_t len;
	const uint8_t *p = reader_blob(r, &len);
	char *s;

	if (!p)
		return NULL;
	s = len <= max && !memchr(p, 0, len) ? malloc(len + 1) : NULL;
	if (!s) {
		r->failed = true;
		return NULL;
	}
	memcpy(s, p, len);
	s[len] = 0;
	return s;
}

uint32_t load_u32(const void *p)
{
	return (uint32_t)load(p, 4);
}

uint64_t load_u64(const void *p)
{
	return load(p, 8);
}
