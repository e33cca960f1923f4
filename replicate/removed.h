/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_REMOVED_H
#define TANDEMFS_REMOVED_H

/*
 * Tombstones: the names that changes which the journal no longer has took away. Who reconciles the
 * trees must not bring them back. A name is kept as a hash of 128 bits, so the list is a small part
 * of what was dropped.
 */

#include "op.h"

#include <stdbool.h>
#include <stdint.h>

struct removed;

/* NULL without memory. */
struct removed *removed_new(void);
void removed_free(struct removed *t);

/* Adds what @op, made at @op->seq, took away, if anything. 0 or -ENOMEM. */
int removed_add(struct removed *t, const struct op *op);
/* Nothing up to @seq need be added any more. */
void removed_pass(struct removed *t, uint64_t seq);
uint64_t removed_upto(const struct removed *t);

/* Whether @path was removed, or renamed with what is above it, at @time (ns since the epoch) or
 * later: so it is not a younger file of that name. */
bool removed_has(const struct removed *t, const char *path, int64_t time);

/* The list as bytes, and back: adds to @t. 0, -ENOMEM or -EBADMSG. */
int removed_encode(const struct removed *t, struct buf *dst);
int removed_decode(struct removed *t, const void *data, size_t len);

#endif
