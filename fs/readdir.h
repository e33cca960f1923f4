/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_READDIR_H
#define TANDEMFS_READDIR_H

/* Reading a directory through the handle that opendir gave. */

#include "fs.h"

struct dir_stream;
int dir_stream_new(struct dir_stream **ret);
void dir_stream_free(struct dir_stream *d);

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);

#endif
