/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_DIGEST_STAGED_H
#define TANDEMFS_DIGEST_STAGED_H

/* Digests of large staged files, computed while they arrive. */

#include "digest.h"

#include <stdbool.h>
#include <sys/types.h>

struct digest_staged;

/* Watches the directory @stage (a descriptor, the caller's), and computes the digest @name of what
 * grows there; @threaded: in a thread of its own, else in digest_staged_round(). 0, -EINVAL for an
 * unknown name, or -errno. */
int digest_staged_new(const char *name, int stage, bool threaded, struct digest_staged **ret);
void digest_staged_free(struct digest_staged *s);

/* Gives up the staged file with inode @ino: *ret, now the caller's, has the digest @name of its
 * first *ret_done bytes. False: there is none. From any thread. */
bool digest_staged_take(struct digest_staged *s, ino_t ino, const char *name, struct digest **ret,
	uint64_t *ret_done);

/* One look at the directory, as the thread does it. Whether something was computed. */
bool digest_staged_round(struct digest_staged *s);

/* Smaller files are left to whoever checks them. */
#define DIGEST_STAGED_MIN (4u << 20)

#endif
