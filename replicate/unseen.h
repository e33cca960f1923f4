/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_UNSEEN_H
#define TANDEMFS_UNSEEN_H

/*
 * Our own operations that one peer may not have seen when it made those that now arrive. Not
 * locked: the caller guards it.
 */

#include "op.h"
#include "position.h"

struct unseen;

/* What is kept of an op. */
struct unseen_op {
	uint64_t seq;
	uint64_t time;
	enum op_type type;
	uint32_t flags;
	char *path;
	char *path2; /* only of a rename or link, else NULL */
};

/* NULL without memory. */
struct unseen *unseen_new(void);
void unseen_free(struct unseen *u);

/* Enters an op of ours; numbers ascend. 0, -EINVAL when @op->seq does not, or -ENOMEM: then nothing
 * changed. */
int unseen_add(struct unseen *u, const struct op *op);

/* Forgets those up to @seq: the peer has seen them in all that it will still send. */
void unseen_drop(struct unseen *u, uint64_t seq);

size_t unseen_count(const struct unseen *u);

/* The oldest op after number @after that names exactly @path and is not in @seen; NULL: none. Valid
 * until the next add or drop. */
const struct unseen_op *unseen_next(
	const struct unseen *u, const char *path, const struct position *seen, uint64_t after);

/* Where what the peer calls @path is here, after our renames that are not in @seen. The caller
 * frees it. 0, -ENAMETOOLONG or -ENOMEM. */
int unseen_map(
	const struct unseen *u, const char *path, const struct position *seen, char **ret_path);

#endif
