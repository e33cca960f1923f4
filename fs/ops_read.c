/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ops.h"
#include "readdir.h"
#include "replicate/base/cleanup.h"

#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>

/*
 * DESIGN: nothing here takes the tree's lock, so that a slow change never makes a reader wait. An
 * inode is opened by its handle, whatever its name is by now. A look-up that crossed a change by a
 * peer is done again; its answer can no longer be outdated by one that comes later, because the
 * invalidation then waits for the directory that the kernel has locked for the look-up.
 */

struct inode *inode_of(fuse_req_t req, fuse_ino_t ino)
{
	return inode_find(mount_of(req)->inodes, ino);
}

bool name_hidden(struct mount *m, const struct inode *parent, const char *name)
{
	return parent == inode_root(m->inodes) && strcmp(name, TANDEMFS_DIR) == 0;
}

int entry_fill(struct mount *m, struct inode *parent, const char *name, int fd, uint64_t epoch,
	struct fuse_entry_param *e)
{
	struct inode *i;
	int r = inode_enter(m->inodes, parent, name, fd, epoch, &e->attr, &i);

	if (r < 0)
		return r;
	e->ino = i->id;
	e->attr_timeout = e->entry_timeout = CACHE_TIMEOUT;
	return 0;
}

void entry_drop(struct mount *m, const struct fuse_entry_param *e)
{
	struct inode *i = e->ino ? inode_find(m->inodes, e->ino) : NULL;

	if (i)
		inode_forget(m->inodes, i, 1);
}

int entry_wait(struct change *c, const struct fuse_entry_param *e, fuse_req_t req)
{
	int r = change_wait(c, req);

	if (r < 0)
		entry_drop(c->m, e);
	return r;
}

void reply_entry(fuse_req_t req, struct mount *m, const struct fuse_entry_param *e)
{
	if (fuse_reply_entry(req, e) < 0)
		entry_drop(m, e);
}

static int lookup_once(
	struct mount *m, struct inode *parent, const char *name, struct fuse_entry_param *e)
{
	uint64_t epoch = inode_epoch(m->inodes);
	_cleanup_close_ int dir = inode_open(m->inodes, parent, O_PATH | O_DIRECTORY), fd = -1;

	if (dir < 0)
		return dir;
	fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0) {
		int r = entry_fill(m, parent, name, fd, epoch, e);

		if (r == 0)
			kept_add(&m->kept, e->ino, &fd);
		return r;
	}
	if (errno != ENOENT)
		return -errno;
	e->ino = 0; /* the kernel remembers that there is none */
	e->entry_timeout = CACHE_TIMEOUT;
	return epoch == inode_epoch(m->inodes) ? 0 : -EAGAIN;
}

static int lookup(
	struct mount *m, struct inode *parent, const char *name, struct fuse_entry_param *e)
{
	int r = -EAGAIN;

	if (name_hidden(m, parent, name))
		return -ENOENT;
	for (int tries = 0; tries < 10 && r == -EAGAIN; tries++)
		r = lookup_once(m, parent, name, e);
	if (r != -EAGAIN)
		return r;
	/* A peer is very busy: keep it out for once. */
	tree_lock(m->tree, TREE_RENAME);
	r = lookup_once(m, parent, name, e);
	tree_unlock(m->tree);
	return r;
}

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = {0};
	struct mount *m = mount_of(req);
	int r = lookup(m, inode_of(req, parent), name, &e);

	if (r < 0)
		fuse_reply_err(req, -r);
	else
		reply_entry(req, m, &e);
}

static void forget(struct mount *m, fuse_ino_t ino, uint64_t n)
{
	struct inode *i = inode_find(m->inodes, ino);

	if (i)
		inode_forget(m->inodes, i, n);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	forget(mount_of(req), ino, nlookup);
	fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t k = 0; k < count; k++)
		forget(mount_of(req), forgets[k].ino, forgets[k].nlookup);
	fuse_reply_none(req);
}

static int inode_stat(struct mount *m, struct inode *i, const struct handle *h, struct stat *ret)
{
	_cleanup_close_ int fd = -1;

	if (h)
		return fstat(h->fd, ret) < 0 ? -errno : 0;
	fd = inode_open(m->inodes, i, O_PATH);
	if (fd < 0)
		return fd;
	return fstat(fd, ret) < 0 ? -errno : 0;
}

void reply_attr(fuse_req_t req, struct mount *m, struct inode *i, const struct handle *h)
{
	struct stat st;
	int r = inode_stat(m, i, h, &st);

	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_attr(req, &st, CACHE_TIMEOUT);
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	reply_attr(req, mount_of(req), inode_of(req, ino), fi ? handle_of(fi) : NULL);
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char target[TANDEMFS_PATH_MAX + 1];
	_cleanup_close_ int fd = inode_open(mount_of(req)->inodes, inode_of(req, ino), O_PATH);
	ssize_t n = fd < 0 ? -1 : readlinkat(fd, "", target, sizeof(target));

	if (fd < 0) {
		fuse_reply_err(req, -fd);
	} else if (n < 0) {
		fuse_reply_err(req, errno);
	} else if ((size_t)n == sizeof(target)) {
		fuse_reply_err(req, ENAMETOOLONG);
	} else {
		target[n] = 0;
		fuse_reply_readlink(req, target);
	}
}

/* What of open(2)'s flags goes to the backing file. The kernel does O_APPEND, O_DIRECT and O_SYNC
 * by flags of its writes and by FSYNC. */
#define OPEN_FLAGS (O_ACCMODE | O_NOATIME | O_LARGEFILE)

static int file_open(struct mount *m, struct inode *i, int flags, struct handle **ret)
{
	int fd = inode_open(m->inodes, i, flags & OPEN_FLAGS);

	if (fd == -ESTALE)
		fd = kept_open(&m->kept, i->id, flags & OPEN_FLAGS);
	if (fd == -ESTALE)
		kept_begin(&m->kept);
	if (fd < 0)
		return fd;
	return handle_new(m, i, fd, flags, ret);
}

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct handle *h;
	int r = file_open(m, inode_of(req, ino), fi->flags, &h);

	if (r < 0) {
		fuse_reply_err(req, -r);
		return;
	}
	h->opener = fuse_req_ctx(req)->pid;
	fi->fh = (uintptr_t)h;
	fi->keep_cache = 1;
	fi->noflush = !h->writable;
	fi->direct_io = opens_direct(m, fi->flags);
	if (fuse_reply_open(req, fi) < 0)
		handle_free(m, h); /* interrupted: nobody will release it */
}

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fuse_bufvec out = FUSE_BUFVEC_INIT(size);

	(void)ino;
	out.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	out.buf[0].fd = handle_of(fi)->fd;
	out.buf[0].pos = off;
	fuse_reply_data(req, &out, FUSE_BUF_SPLICE_MOVE);
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);
	off_t r;

	(void)ino;
	/* Appends read the descriptor's position. */
	(void)pthread_mutex_lock(&h->inode->lock);
	r = lseek(h->fd, off, whence);
	if (r < 0)
		r = -errno;
	(void)pthread_mutex_unlock(&h->inode->lock);
	if (r < 0)
		fuse_reply_err(req, (int)-r);
	else
		fuse_reply_lseek(req, r);
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;

	(void)ino;
	if (fstatvfs(mount_of(req)->root, &st) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &st);
}

static int dir_open(struct mount *m, struct inode *i, struct handle **ret)
{
	int r, fd = inode_open(m->inodes, i, O_RDONLY | O_DIRECTORY);

	if (fd < 0)
		return fd;
	r = handle_new(m, i, fd, O_RDONLY, ret);
	if (r < 0)
		return r;
	r = dir_stream_new(&(*ret)->dir);
	if (r < 0)
		handle_free(m, *ret);
	return r;
}

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct handle *h;
	int r = dir_open(m, inode_of(req, ino), &h);

	if (r < 0) {
		fuse_reply_err(req, -r);
		return;
	}
	fi->fh = (uintptr_t)h;
	fi->keep_cache = 1;
	fi->cache_readdir = 1;
	if (fuse_reply_open(req, fi) < 0)
		handle_free(m, h);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	handle_free(mount_of(req), handle_of(fi));
	fuse_reply_err(req, 0);
}
