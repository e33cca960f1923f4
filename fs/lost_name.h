/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_LOST_NAME_H
#define TANDEMFS_LOST_NAME_H

/*
 * Names that nobody has looked up. A file may be open while all the names by which it was found
 * are gone and another hard link remains: what is written to it belongs to that one.
 */

#include "fs.h"

/* Sees to it that the table knows a name of the inode if it has one below the root. Costs nothing
 * when it does, else a walk over the tree, once. The tree must not be locked. */
void lost_name_find(struct mount *m, struct inode *i);

#endif
