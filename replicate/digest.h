/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_DIGEST_H
#define TANDEMFS_DIGEST_H

/* Message digests by OpenSSL's name (EVP_MD_fetch(3)). digest.c is the only file that includes
 * OpenSSL. */

#include "op.h"

#include <stddef.h>
#include <stdint.h>

struct digest;

/* 0, -EINVAL for a name that OpenSSL does not know (or "none"), -ENOMEM. */
int digest_new(const char *name, struct digest **ret);
void digest_free(struct digest *d);
int digest_update(struct digest *d, const void *data, size_t len);
/* Writes the digest, *ret_len bytes of at most OP_DIGEST_MAX, and starts anew. */
int digest_final(struct digest *d, uint8_t dst[OP_DIGEST_MAX], uint8_t *ret_len);

/* All at once. */
int digest_of(const char *name, const void *data, size_t len, uint8_t dst[OP_DIGEST_MAX],
	uint8_t *ret_len);

/* @len random bytes from OpenSSL's generator, for identities. 0 or -EIO. */
int digest_random(void *dst, size_t len);

/* Bytes from @source instead, for a simulation that must replay; NULL: OpenSSL's again. */
void digest_set_random(void (*source)(void *dst, size_t len));

static inline void digest_cleanup(struct digest **d)
{
	digest_free(*d);
}
#define _cleanup_digest_ __attribute__((cleanup(digest_cleanup)))

#endif
