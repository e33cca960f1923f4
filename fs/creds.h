/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CREDS_H
#define TANDEMFS_CREDS_H

/* Makes new inodes as the caller would: the backing kernel then gives owner, group, mode and ACL
 * by its own rules (setgid directories, default ACLs, umask). */

#include <fuse_lowlevel.h>
#include <stdbool.h>

/* This thread acts as the caller until creds_leave(). 0 or -errno. */
int creds_enter(const struct fuse_ctx *ctx);
void creds_leave(const struct fuse_ctx *ctx);

/* Whether the caller of @req is in group @gid. */
bool creds_in_group(fuse_req_t req, gid_t gid);

#endif
