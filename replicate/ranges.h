/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_RANGES_H
#define TANDEMFS_RANGES_H

/* Sets of byte ranges: ascending, disjoint, not touching. */

#include "op.h"

struct ranges {
	struct range *list; /* owned; or the holder's own, with a cap of one more than any @max */
	size_t n;
	size_t cap;
};

void ranges_clear(struct ranges *r);

/* Adds [start, start+len). With more than @max ranges the two that lie closest become one, so that
 * the set may grow beyond what was added but never misses any. 0 or -ENOMEM. */
int ranges_add(struct ranges *r, uint64_t start, uint64_t len, size_t max);

/* Sum of the lengths, bytes. */
uint64_t ranges_bytes(const struct ranges *r);

#endif
