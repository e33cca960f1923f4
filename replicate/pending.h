/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_PENDING_H
#define TANDEMFS_PENDING_H

/*
 * Contents that one peer has not been sent yet, by inode. Bytes are read when they are sent, so
 * the first OP_CONTENT of an inode that comes up carries all that its later ones name, and those
 * are passed over: a file written a hundred times while the peer was away travels once.
 *
 * Their bytes count until the peer has acknowledged them.
 *
 * Not locked: the owner's lock guards it.
 */

#include "op.h"
#include "position.h"

struct pending;

int pending_new(struct pending **ret);
void pending_free(struct pending *p);

/* @op, an OP_CONTENT with its seq, was journaled; a whole file has @size bytes (0: not known). 0 or
 * -ENOMEM: then it will travel by itself. */
int pending_add(struct pending *p, const struct op *op, uint64_t size);

/* @op comes up. Returns false when it was covered by one that was taken before. Otherwise its flags
 * and ranges become the union of all that is known of the inode, which then counts as taken. */
bool pending_take(struct pending *p, struct op *op);

/* Whether the inode @fid was written anew, and that op was neither taken nor covered. */
bool pending_rewritten(struct pending *p, const struct fid *fid);

/* What was taken and has been applied counts no longer. */
void pending_acked(struct pending *p, const struct position *applied);

/* Forgets what was taken, and what the peer turns out to have: from here on every op travels by
 * itself again. For a new session. */
void pending_rewind(struct pending *p, const struct position *applied);

/* Bytes of content that the peer is not known to have. */
uint64_t pending_bytes(const struct pending *p);

#endif
