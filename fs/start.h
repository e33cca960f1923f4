/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_START_H
#define TANDEMFS_START_H

/* What must be true before a mount is begun, and the paths as they will be used. */

#include "options.h"

struct start {
	char *backing, *mountpoint, *state; /* absolute, without symbolic links but in state */
	char *node;
	int root;     /* the backing directory */
	bool mounted; /* the same source is mounted there already: nothing to do */
};

/* Fills in *ret from the options. 0, or -errno with a sentence in *ret_error (freed by the
 * caller). Changes nothing, but for a mount of the same source whose daemon is dead: that is taken
 * away. */
int start_prepare(const struct options *o, struct start *ret, char **ret_error);
void start_clear(struct start *s);

#define _cleanup_start_ __attribute__((cleanup(start_clear)))

#endif
