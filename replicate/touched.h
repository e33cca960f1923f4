/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_TOUCHED_H
#define TANDEMFS_TOUCHED_H

/*
 * The names that were changed since somebody began to look: what the reconciler found out about
 * them no longer holds. Nothing is kept while nobody looks. Any thread may call.
 */

#include "op.h"

#include <stdbool.h>

struct touched;

/* NULL without memory. */
struct touched *touched_new(void);
void touched_free(struct touched *t);

/* From now on names are kept, those from before are forgotten. */
void touched_begin(struct touched *t);
void touched_end(struct touched *t);

/* @op changes its names here. */
void touched_add(struct touched *t, const struct op *op);

/* Whether @path was changed, or is below a name that was renamed. Without memory to keep them, all
 * names count as changed. */
bool touched_has(struct touched *t, const char *path);

#endif
