/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CONTENT_H
#define TANDEMFS_CONTENT_H

/* Reading what an OP_CONTENT names from the backing file, at the time when it is sent. */

#include "op.h"

#include <sys/stat.h>

/* The inode at @fd or at @path below @root. 0 or -errno; a file system without
 * handles gives len 0. */
int fid_of_fd(int fd, struct fid *ret);
int fid_of_path(int root, const char *path, struct fid *ret);

/* open_by_handle_at(2), O_CLOEXEC added. A descriptor or -errno. */
int fid_open_handle(int root, int32_t type, const uint8_t *bytes, uint8_t len, int flags);

/* Opens the inode wherever it is now (open_by_handle_at(2) with @root as the mount's descriptor);
 * without a handle, or where that is refused, the inode that stands at @path if it
 * has the same number. @path may be NULL. A descriptor, -ESTALE when the inode is gone or has no
 * name left, or -errno.
 */
int fid_open(int root, const struct fid *fid, const char *path, int flags);

/* Fills in what @op (OP_CONTENT) carries on the wire from the open backing file @fd: size,
 * extents (SEEK_DATA within the ranges, or in the whole file), mode, owner, times, and for OP_WHOLE
 * the xattrs. No data yet. *ret_stat is the state that was read. @op gains content and mask. */
int content_describe(int fd, struct op *op, struct stat *ret_stat);

/* Sum of the extents, bytes. */
uint64_t content_data_len(const struct content *c);

/* Reads the data into op->content->data and computes the digest (@digest_name NULL or "none":
 * none). For contents that travel inline. 0 or -errno; a file that became shorter meanwhile reads
 * as zeros there. */
int content_load(int fd, struct op *op, const char *digest_name);

/* Reads @len bytes of the data stream (the extents one after another) at @offset of it. */
int content_read(int fd, const struct content *c, uint64_t offset, void *dst, size_t len);

/* Whether the file still is as it was when @before was read: size, mtime, ctime. */
bool content_unchanged(const struct stat *before, int fd);

/* All xattrs of @fd that are replicated: user.*, trusted.* (not trusted.overlay.*),
 * security.capability and POSIX ACLs. The caller frees with xattrs_free(). */
int xattrs_read(int fd, struct xattr **ret, size_t *ret_n);
void xattrs_free(struct xattr *x, size_t n);
bool xattr_is_replicated(const char *name);

#endif
