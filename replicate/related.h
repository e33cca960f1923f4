/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_RELATED_H
#define TANDEMFS_RELATED_H

/* A set of operations that is asked whether one is op_related() to any in it, without looking at
 * each. All zeros is the empty set. */

#include "op.h"

#include <stdbool.h>

struct related_name;
struct related_inode;

struct related {
	struct related_name *names;   /* owned */
	struct related_inode *inodes; /* owned */
};

/* 0 or -ENOMEM: then it may be in the set in part. */
int related_add(struct related *r, const struct op *op);
bool related_has(const struct related *r, const struct op *op);
void related_clear(struct related *r);

#endif
