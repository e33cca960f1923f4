/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "invalidate.h"
#include "ops.h"
#include "record.h"
#include "caller.h"
#include "lost_name.h"
#include "privs.h"
#include "replicate/base/cleanup.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/uio.h>

/*
 * DESIGN: bytes go to the backing file at once. What changed is kept with the inode (handle.h) and
 * noted when the writer closes: FLUSH is the barrier that close(2) waits for, RELEASE the last
 * word. In sync-write mode each write is noted and waited for.
 *
 * Appends are made with RWF_APPEND, whose place only the backing file knows: the kernel's idea
 * of the size is old when a peer has just appended. The place is read from the descriptor's
 * position under the inode's lock.
 */

static ssize_t write_there(int fd, struct fuse_bufvec *in, off_t off)
{
	struct fuse_bufvec out = FUSE_BUFVEC_INIT(fuse_buf_size(in));

	out.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	out.buf[0].fd = fd;
	out.buf[0].pos = off;
	return fuse_buf_copy(&out, in, 0);
}

/* *ret_off: where the bytes are. */
static ssize_t append_from(struct handle *h, void *mem, size_t len, off_t *ret_off)
{
	struct iovec iov = {.iov_base = mem, .iov_len = len};
	ssize_t n;

	(void)pthread_mutex_lock(&h->inode->lock);
	n = pwritev2(h->fd, &iov, 1, -1, RWF_APPEND);
	if (n < 0)
		n = -errno;
	else
		*ret_off = lseek(h->fd, 0, SEEK_CUR) - n;
	(void)pthread_mutex_unlock(&h->inode->lock);
	return n;
}

static ssize_t append_there(struct handle *h, struct fuse_bufvec *in, off_t *ret_off)
{
	size_t len = fuse_buf_size(in);
	_cleanup_free_ void *copy = NULL;
	struct fuse_bufvec mem = FUSE_BUFVEC_INIT(len);
	ssize_t n;

	if (in->count == 1 && !(in->buf[0].flags & FUSE_BUF_IS_FD))
		return append_from(h, (char *)in->buf[0].mem + in->off, len, ret_off);
	copy = malloc(len);
	if (!copy)
		return -ENOMEM;
	mem.buf[0].mem = copy;
	n = fuse_buf_copy(&mem, in, 0);
	return n < 0 ? n : append_from(h, copy, (size_t)n, ret_off);
}

/* In sync-write mode: what was just changed is at the peers when this returns. */
static int write_wait(struct mount *m, struct inode *i, fuse_req_t req)
{
	uint64_t seq;
	int r;

	if (!replica_waits(m->replica, REPLICA_WRITE))
		return 0;
	r = content_emit(m, i, &seq);
	return r < 0 ? r : record_wait(m, i, seq, REPLICA_WRITE, req);
}

static ssize_t file_write(
	struct mount *m, struct handle *h, struct fuse_bufvec *in, off_t off, bool append)
{
	off_t at = off;
	ssize_t n = dirty_begin(m, h->inode, false);

	if (n < 0)
		return n;
	n = append ? append_there(h, in, &at) : write_there(h->fd, in, off);
	dirty_end(m, h->inode, (uint64_t)at, n > 0 ? (uint64_t)n : 0, false);
	if (n > 0 && at != off) /* the kernel has put the bytes elsewhere in its pages */
		notifier_content(m->notifier, h->inode);
	return n;
}

void op_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *in, off_t off,
	struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct handle *h = handle_of(fi);
	ssize_t n = replica_admit(m->replica);

	(void)ino;
	if (n == 0 && !fi->writepage)
		n = privs_drop(m, h->inode, h->fd, req);
	if (n == 0)
		n = file_write(m, h, in, off, (fi->flags & O_APPEND) && !fi->writepage);
	if (n > 0) {
		int r = write_wait(m, h->inode, req);

		n = r < 0 ? r : n;
	}
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_write(req, (size_t)n);
}

/*
 * close(2) of one of several descriptors. A shell that runs `echo > file` duplicates the descriptor
 * and closes the first one before a byte is written: the peers are not to see the file empty in
 * between. Without another descriptor the file is meant to be empty, and a sync mode's close must
 * wait. A peer that nobody waits for gets it on release.
 */
static bool flush_is_early(struct mount *m, struct inode *i, fuse_req_t req)
{
	char path[TANDEMFS_PATH_MAX + 1];

	if (!dirty_empty(i))
		return false;
	if (!replica_waits(m->replica, REPLICA_CHANGE))
		return true;
	return inode_path(m->inodes, i, NULL, path) == 0 &&
	       caller_has_open(fuse_req_ctx(req)->pid, path);
}

void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct handle *h = handle_of(fi);
	uint64_t seq = 0;
	int r = h->writable && !flush_is_early(m, h->inode, req) ? content_emit(m, h->inode, &seq)
								 : 0;

	(void)ino;
	if (r == 0)
		r = record_wait(m, NULL, seq, REPLICA_CHANGE, req);
	fuse_reply_err(req, -r);
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct handle *h = handle_of(fi);
	int r = h->writable ? content_emit(m, h->inode, NULL) : 0;

	(void)ino;
	if (r < 0) /* nobody waits for this answer */
		log_error("release of inode %ju: %s", (uintmax_t)h->inode->key.ino, strerror(-r));
	handle_free(m, h);
	fuse_reply_err(req, 0);
}

static int note_fsync(struct mount *m, struct inode *i, uint64_t *ret_seq)
{
	char path[TANDEMFS_PATH_MAX + 1];
	struct op op = {.type = OP_FSYNC, .path = path};
	int r;

	lost_name_find(m, i);
	tree_lock(m->tree, TREE_CHANGE);
	r = inode_path(m->inodes, i, NULL, path);
	if (r == 0) {
		op.time = replica_now(m->replica);
		inode_fid(i, &op.fid);
		r = replica_note(m->replica, &op);
	}
	tree_unlock(m->tree);
	*ret_seq = op.seq;
	return r == -ENOENT ? 0 : r; /* no name: of this server only */
}

static int file_fsync(struct mount *m, struct handle *h, bool data, fuse_req_t req)
{
	uint64_t seq = 0;
	int r = (data ? fdatasync(h->fd) : fsync(h->fd)) < 0 ? -errno : 0;

	/* nobody waits for a peer that would see a part of it */
	if (r == 0 && (replica_waits(m->replica, REPLICA_DISK) || !dirty_whole(h->inode)))
		r = content_emit(m, h->inode, NULL);
	if (r == 0)
		r = note_fsync(m, h->inode, &seq);
	if (r < 0 || !seq)
		return r;
	r = replica_sync_journal(m->replica, seq);
	return r < 0 ? r : record_wait(m, h->inode, seq, REPLICA_DISK, req);
}

void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)ino;
	fuse_reply_err(req, -file_fsync(mount_of(req), handle_of(fi), datasync, req));
}

/* What a change of the size leaves to be sent: the part that grew, without data. */
static void truncate_end(struct mount *m, struct inode *i, off_t before, off_t after)
{
	uint64_t grown = after > before ? (uint64_t)(after - before) : 0;

	dirty_end(m, i, (uint64_t)before, grown, after == 0);
}

static int truncate_fd(struct mount *m, struct inode *i, int fd, off_t size)
{
	struct stat st;
	int r = dirty_begin(m, i, size == 0);

	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0 || ftruncate(fd, size) < 0) {
		r = -errno;
		dirty_end(m, i, 0, 0, false);
		return r;
	}
	truncate_end(m, i, st.st_size, size);
	return 0;
}

int file_truncate(struct mount *m, struct inode *i, const struct handle *h, off_t size)
{
	_cleanup_close_ int fd = -1;

	if (h && h->writable)
		return truncate_fd(m, i, h->fd, size);
	fd = inode_open(m->inodes, i, O_WRONLY);
	if (fd < 0)
		return fd;
	return truncate_fd(m, i, fd, size);
}

static int file_fallocate(struct mount *m, struct handle *h, int mode, off_t offset, off_t length)
{
	bool shifts = mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE);
	struct stat st;
	int r = dirty_begin(m, h->inode, false);

	if (r < 0)
		return r;
	if (fallocate(h->fd, mode, offset, length) < 0 || fstat(h->fd, &st) < 0) {
		r = -errno;
		dirty_end(m, h->inode, 0, 0, false);
	} else if (shifts) {
		dirty_end(m, h->inode, (uint64_t)offset,
			st.st_size > offset ? (uint64_t)(st.st_size - offset) : 0, false);
	} else {
		dirty_end(m, h->inode, (uint64_t)offset, (uint64_t)length, false);
	}
	return r;
}

void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
	struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct handle *h = handle_of(fi);
	int r = replica_admit(m->replica);

	(void)ino;
	if (r == 0)
		r = privs_drop(m, h->inode, h->fd, req);
	if (r == 0)
		r = file_fallocate(m, h, mode, offset, length);
	if (r == 0)
		r = write_wait(m, h->inode, req);
	fuse_reply_err(req, r == -ENOSYS ? EOPNOTSUPP : -r);
}

static ssize_t file_copy(struct mount *m, struct handle *in, off_t off_in, struct handle *out,
	off_t off_out, size_t len)
{
	off_t at = off_out;
	ssize_t n = dirty_begin(m, out->inode, false);

	if (n < 0)
		return n;
	n = copy_file_range(in->fd, &off_in, out->fd, &off_out, len, 0);
	if (n < 0)
		n = errno == ENOSYS ? -EOPNOTSUPP : -errno;
	dirty_end(m, out->inode, (uint64_t)at, n > 0 ? (uint64_t)n : 0, false);
	return n;
}

void op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
	struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
	struct fuse_file_info *fi_out, size_t len, int flags)
{
	struct mount *m = mount_of(req);
	struct handle *out = handle_of(fi_out);
	ssize_t n = flags ? -EINVAL : replica_admit(m->replica);

	(void)ino_in;
	(void)ino_out;
	if (n == 0)
		n = privs_drop(m, out->inode, out->fd, req);
	if (n == 0)
		n = file_copy(m, handle_of(fi_in), off_in, out, off_out, len);
	if (n > 0) {
		int r = write_wait(m, out->inode, req);

		n = r < 0 ? r : n;
	}
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_write(req, (size_t)n);
}
