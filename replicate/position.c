/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 *     u64 high, u8 n, n times u64                           up to 64 missing
 *     u64 high, u8 255, u16 n, n times the difference to the one before (0 for the first)
 *
 * A difference has seven bits in each byte, the lowest first; all bytes but the last have the
 * highest bit set. With thousands that are missing each takes a byte or two.
 */

#include "position.h"

#include <errno.h>
#include <string.h>

#define FEW 64
#define MANY 255

/* Index of the first missing that is not below @seq. */
static unsigned find(const struct position *p, uint64_t seq)
{
	unsigned low = 0, high = p->n_missing;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (p->missing[middle] < seq)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool position_is_missing(const struct position *p, uint64_t seq)
{
	unsigned i = find(p, seq);

	return i < p->n_missing && p->missing[i] == seq;
}

bool position_has(const struct position *p, uint64_t seq)
{
	return seq <= p->high && !position_is_missing(p, seq);
}

uint64_t position_contiguous(const struct position *p)
{
	return p->n_missing ? p->missing[0] - 1 : p->high;
}

void position_pass(struct position *p, uint64_t seq)
{
	if (seq > p->high)
		p->high = seq;
}

int position_defer(struct position *p, uint64_t seq)
{
	if (p->n_missing == POSITION_MISSING_MAX)
		return -ENOBUFS;
	if (seq <= p->high)
		return -EINVAL;
	p->missing[p->n_missing++] = seq;
	p->high = seq;
	return 0;
}

void position_fill(struct position *p, uint64_t seq)
{
	unsigned i = find(p, seq);

	if (i == p->n_missing || p->missing[i] != seq)
		return;
	p->n_missing--;
	memmove(&p->missing[i], &p->missing[i + 1], (p->n_missing - i) * sizeof(p->missing[0]));
}

void position_copy(struct position *dst, const struct position *src)
{
	dst->high = src->high;
	dst->n_missing = src->n_missing;
	memcpy(dst->missing, src->missing, src->n_missing * sizeof(src->missing[0]));
}

static void put_difference(struct buf *dst, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		buf_put_u8(dst, (uint8_t)(v | 0x80));
	buf_put_u8(dst, (uint8_t)v);
}

static uint64_t get_difference(struct reader *src)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t byte = reader_u8(src);

		v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return v;
	}
	reader_fail(src);
	return 0;
}

void position_encode(const struct position *p, struct buf *dst)
{
	bool many = p->n_missing > FEW;
	uint64_t before = 0;

	buf_put_u64(dst, p->high);
	buf_put_u8(dst, many ? MANY : (uint8_t)p->n_missing);
	if (many)
		buf_put_u16(dst, (uint16_t)p->n_missing);
	for (unsigned i = 0; i < p->n_missing; i++) {
		if (many)
			put_difference(dst, p->missing[i] - before);
		else
			buf_put_u64(dst, p->missing[i]);
		before = p->missing[i];
	}
}

void position_decode(struct reader *src, struct position *ret)
{
	uint64_t before = 0;
	unsigned n;
	bool many;

	ret->high = reader_u64(src);
	n = reader_u8(src);
	many = n == MANY;
	if (many)
		n = reader_u16(src);
	ret->n_missing = 0;
	if (n > (many ? POSITION_MISSING_MAX : FEW)) {
		reader_fail(src);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		uint64_t seq = many ? before + get_difference(src) : reader_u64(src);

		if (seq <= before || seq > ret->high) {
			reader_fail(src);
			return;
		}
		ret->missing[ret->n_missing++] = before = seq;
	}
}
