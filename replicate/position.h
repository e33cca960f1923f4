/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_POSITION_H
#define TANDEMFS_POSITION_H

/*
 * Which operations of one origin have been applied: all up to `high`, but for those in `missing`
 * (large contents still on their way, and operations that cannot be applied yet). Numbers that the
 * origin never sent count as applied once a higher one was.
 */

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

#define POSITION_MISSING_MAX 2048
/* Bytes that it takes at most. */
#define POSITION_BYTES_MAX (16 + 10 * POSITION_MISSING_MAX)

struct position {
	uint64_t high;
	uint64_t missing[POSITION_MISSING_MAX]; /* ascending */
	unsigned n_missing;
};

/* Whether @seq has been applied. */
bool position_has(const struct position *p, uint64_t seq);

/* Highest number such that it and all below have been applied. */
uint64_t position_contiguous(const struct position *p);

/* @seq, above high, was applied. */
void position_pass(struct position *p, uint64_t seq);

/* @seq, above high, will follow later. -ENOBUFS when too many are missing: then nothing changed. */
int position_defer(struct position *p, uint64_t seq);

/* @seq, one of the missing, was applied. */
void position_fill(struct position *p, uint64_t seq);

bool position_is_missing(const struct position *p, uint64_t seq);

/* As an assignment, which would copy the room for thousands as well. */
void position_copy(struct position *dst, const struct position *src);

void position_encode(const struct position *p, struct buf *dst);
/* Errors show in reader_error(): too many missing, not ascending, above high. */
void position_decode(struct reader *src, struct position *ret);

#endif
