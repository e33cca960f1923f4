/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_OPS_H
#define TANDEMFS_OPS_H

/* The handlers of the kernel's requests; see fuse_lowlevel.h for what each must do. */

#include "fs.h"
#include "record.h"

/* Fills in @e for the inode open at @fd, as @name in @parent, with one more look-up. 0 or
 * -errno. */
int entry_fill(struct mount *m, struct inode *parent, const char *name, int fd, uint64_t epoch,
	struct fuse_entry_param *e);
/* Takes the look-up of an entry back that did not reach the kernel. */
void entry_drop(struct mount *m, const struct fuse_entry_param *e);
/* Waits for the peers (change_wait()) with an entry in hand, which is dropped when the caller gets
 * an error. 0 or -errno. */
int entry_wait(struct change *c, const struct fuse_entry_param *e, fuse_req_t req);
void reply_entry(fuse_req_t req, struct mount *m, const struct fuse_entry_param *e);
/* Answers with the attributes. */
void reply_attr(fuse_req_t req, struct mount *m, struct inode *i, const struct handle *h);

/* ops_read.c */
void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup);
void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void op_statfs(fuse_req_t req, fuse_ino_t ino);
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

/* ops_write.c */
void op_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *in, off_t off,
	struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
	struct fuse_file_info *fi);
void op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
	struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
	struct fuse_file_info *fi_out, size_t len, int flags);
/* The size of a file is set: by setattr. 0 or -errno. */
int file_truncate(struct mount *m, struct inode *i, const struct handle *h, off_t size);

/* ops_name.c */
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fuse_file_info *fi);
void op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi);

/* ops_move.c */
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	const char *newname, unsigned int flags);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname);

/* ops_xattr.c */
/* chmod, with its record and wait. 0 or -errno. */
int inode_set_mode(struct mount *m, struct inode *i, mode_t mode, fuse_req_t req);
void op_setattr(
	fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi);
void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
	int flags);
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

#endif
