/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_PRIVS_H
#define TANDEMFS_PRIVS_H

/*
 * The setuid and setgid bits that a file loses when it is changed, where the kernel leaves that to
 * us (mount.killpriv). Capabilities go by themselves: the backing file system takes them.
 */

#include "fs.h"

/* Before the content of a regular file, open at @fd, is changed. 0 or -errno. */
int privs_drop(struct mount *m, struct inode *i, int fd, fuse_req_t req);

/* The kernel asks for it along with other attributes: @op sets the mode too if need be. 0 or
 * -errno. */
int privs_drop_along(struct mount *m, struct inode *i, struct op *op, fuse_req_t req);

#endif
