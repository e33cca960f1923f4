/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_DIGEST_ASYNC_H
#define TANDEMFS_DIGEST_ASYNC_H

/* A digest that is computed beside other work on the same bytes. Belongs to one caller. */

#include "digest.h"

#include <stdbool.h>

struct digest_async;

/* @threaded: in a thread of its own; else within feed. 0, -EINVAL for an unknown name, or -errno.
 */
int digest_async_new(const char *name, bool threaded, struct digest_async **ret);

/* Waits for the block before and hands over this one, which must stay as it is until the next feed
 * or finish returns. 0, or the error of an earlier block. */
int digest_async_feed(struct digest_async *d, const void *data, size_t len);

/* Waits for the last block; the digest. 0 or the first error. */
int digest_async_finish(struct digest_async *d, uint8_t dst[OP_DIGEST_MAX], uint8_t *ret_len);

/* Waits and frees; NULL is allowed. */
void digest_async_free(struct digest_async *d);

static inline void digest_async_cleanup(struct digest_async **d)
{
	digest_async_free(*d);
}
#define _cleanup_digest_async_ __attribute__((cleanup(digest_async_cleanup)))

#endif
