/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_TREE_H
#define TANDEMFS_TREE_H

/*
 * Who may change which name. Changes by local callers and changes from peers meet here: the order
 * in which two related changes are made in the backing directory is the order of their journal
 * records.
 *
 * - tree_lock() with TREE_RENAME excludes everything: while it is held no other change is under
 *   way and no path can become another's. Renames take it.
 * - TREE_CHANGE lets changes of different names run side by side: path texts cannot change meaning
 *   while it is held. Within it, tree_guard() takes the striped locks of the names that the change
 *   touches: each path and each path's parent, in one call, in an order that cannot deadlock.
 *
 * Lock order: tree, then the guard's stripes, then the inode table (fs), then the journal.
 * Neither is held across a network wait or across an answer to the kernel.
 */

#include <stddef.h>
#include <stdint.h>

struct tree;

enum tree_mode { TREE_CHANGE, TREE_RENAME };

int tree_new(struct tree **ret);
void tree_free(struct tree *t);

void tree_lock(struct tree *t, enum tree_mode mode);
void tree_unlock(struct tree *t);

#define TREE_STRIPES 64

/* The stripes held, a bit each; 0 holds nothing. */
struct tree_guard {
	struct tree *tree;
	uint64_t held;
};

/* Locks the stripes of @path, of @path2 (may be NULL) and of their parents.
 * The tree must be locked in TREE_CHANGE mode; in TREE_RENAME mode this is not needed. */
void tree_guard(struct tree *t, const char *path, const char *path2, struct tree_guard *ret);
void tree_unguard(struct tree_guard *g);

#endif
