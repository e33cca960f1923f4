/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "position.h"

#include <errno.h>
#include <string.h>

bool position_is_missing(const struct position *p, uint64_t seq)
{
	for (unsigned i = 0; i < p->n_missing; i++)
		if (p->missing[i] == seq)
			return true;
	return false;
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
	for (unsigned i = 0; i < p->n_missing; i++) {
		if (p->missing[i] != seq)
			continue;
		p->n_missing--;
		memmove(&p->missing[i], &p->missing[i + 1],
			(p->n_missing - i) * sizeof(p->missing[0]));
		return;
	}
}

void position_encode(const struct position *p, struct buf *dst)
{
	buf_put_u64(dst, p->high);
	buf_put_u8(dst, (uint8_t)p->n_missing);
	for (unsigned i = 0; i < p->n_missing; i++)
		buf_put_u64(dst, p->missing[i]);
}

void position_decode(struct reader *src, struct position *ret)
{
	uint64_t before = 0;
	unsigned n;

	ret->high = reader_u64(src);
	n = reader_u8(src);
	ret->n_missing = 0;
	if (n > POSITION_MISSING_MAX) {
		reader_fail(src);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		uint64_t seq = reader_u64(src);

		if (seq <= before || seq > ret->high) {
			reader_fail(src);
			return;
		}
		ret->missing[ret->n_missing++] = before = seq;
	}
}
