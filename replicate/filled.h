/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_FILLED_H
#define TANDEMFS_FILLED_H

/* Whether the tree had anything in it: a backing directory that was emptied behind our back is not
 * taken for a tree of which all was removed. */

#include <stdbool.h>

struct replica;

/* At the start. With @seed it is taken as it is, and *ret_seed is set if it was emptied. 0, or
 * -ESTALE with the reason in *ret_error, or -errno. */
int filled_check(struct replica *r, bool seed, bool *ret_seed, char **ret_error);

/* A name in the root was changed, by whomever: it may be empty now. */
void filled_touched(struct replica *r);

/* Notes how it is. For one thread at a time. */
void filled_look(struct replica *r);

#endif
