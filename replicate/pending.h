/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_PENDING_H
#define TANDEMFS_PENDING_H

/*
 * Contents that one peer has not been sent yet, by inode. Bytes are read when they are sent, so
 * the first OP_CONTENT of an inode that comes up carries all that its later ones name, and those
 * are passed over: a file written a hundred times while the peer was away travels once.
 *
 * Not locked: the owner's lock guards it.
 */

#include "op.h"

struct pending;

int pending_new(struct pending **ret);
void pending_free(struct pending *p);

/* @op, an OP_CONTENT with its seq, was journaled. 0 or -ENOMEM: then it will travel by itself. */
int pending_add(struct pending *p, const struct op *op);

/* @op comes up. Returns false when it was covered by one that was taken before. Otherwise its flags
 * and ranges become the union of all that is known of the inode, which then counts as taken. */
bool pending_take(struct pending *p, struct op *op);

/* Forgets what was taken: from here on every op travels by itself again. For a new session. */
void pending_rewind(struct pending *p);

#endif
