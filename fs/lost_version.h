/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_LOST_VERSION_H
#define TANDEMFS_LOST_VERSION_H

/*
 * Files that a local process has open for writing while a peer's version takes their name. They are
 * no part of the tree any more; what is written to them is kept in the conflict vault.
 */

#include "inode.h"

#include <stdbool.h>

struct mount;
struct lost_version;

/* The inode lost its last name, @path, to a peer's op; @replaced: another version stands there. The
 * tree is locked as for the op. True: somebody still writes to it, and dirty_drop() is done. */
bool lost_version_begin(struct mount *m, struct inode *i, const char *path, bool replaced);

/* Bytes were written. The inode's lock is held. */
void lost_version_changed(struct inode *i);

/* What was written is put into the vault. 0, also for any other inode, or -errno. */
int lost_version_keep(struct mount *m, struct inode *i);

/* A handle was closed: after the last writer's nothing is remembered. */
void lost_version_closed(struct mount *m, struct inode *i);

void lost_version_free(struct lost_version *l);

#endif
