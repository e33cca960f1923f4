/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "readdir.h"
#include "ops.h"
#include "replicate/base/cleanup.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>

/*
 * DESIGN: the offsets are the backing file system's own (d_off): they stay valid while the
 * directory changes, whatever telldir(3) and seekdir(3) do with them. Each open directory has one
 * buffer of raw entries; a request that goes on where the last one ended finds it there.
 */

#define STREAM_BUFFER 32768

struct dir_stream {
	pthread_mutex_t lock; /* for all that follows, and the descriptor's position */
	off_t next;           /* offset of the entry at pos */
	size_t pos, len;
	char buffer[STREAM_BUFFER] __attribute__((aligned(8)));
};

int dir_stream_new(struct dir_stream **ret)
{
	struct dir_stream *d = malloc(sizeof(*d));

	if (!d)
		return -ENOMEM;
	(void)pthread_mutex_init(&d->lock, NULL);
	d->next = 0;
	d->pos = d->len = 0;
	*ret = d;
	return 0;
}

void dir_stream_free(struct dir_stream *d)
{
	if (!d)
		return;
	(void)pthread_mutex_destroy(&d->lock);
	free(d);
}

static int stream_seek(struct dir_stream *d, int fd, off_t off)
{
	if (off == d->next && off != 0)
		return 0;
	if (lseek(fd, off, SEEK_SET) < 0)
		return -errno;
	d->next = off;
	d->pos = d->len = 0;
	return 0;
}

/* The next entry without passing it; *ret NULL at the end. */
static int stream_peek(struct dir_stream *d, int fd, const struct dirent64 **ret)
{
	if (d->pos == d->len) {
		long n = syscall(SYS_getdents64, fd, d->buffer, sizeof(d->buffer));

		if (n < 0)
			return -errno;
		d->pos = 0;
		d->len = (size_t)n;
	}
	*ret = d->len ? (const struct dirent64 *)(const void *)(d->buffer + d->pos) : NULL;
	return 0;
}

static void stream_pass(struct dir_stream *d, const struct dirent64 *e)
{
	d->next = e->d_off;
	d->pos += e->d_reclen;
}

struct listing {
	fuse_req_t req;
	struct mount *m;
	struct inode *dir;
	int fd;
	bool plus;
	char *dst;
	size_t size, used;
};

static bool is_dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* The attributes with one look-up; on any trouble only the name is told. */
static void listing_lookup(struct listing *l, const char *name, struct fuse_entry_param *e)
{
	uint64_t epoch = inode_epoch(l->m->inodes);
	_cleanup_close_ int fd = openat(l->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat bare = e->attr;

	if (fd >= 0 && entry_fill(l->m, l->dir, name, fd, epoch, e) == 0)
		return;
	e->attr = bare;
	e->ino = 0;
}

/* Whether there was room. */
static bool listing_add(struct listing *l, const struct dirent64 *d)
{
	size_t left = l->size - l->used, need;
	struct fuse_entry_param e = {
		.attr = {.st_ino = d->d_ino, .st_mode = DTTOIF(d->d_type)},
	};

	if (name_hidden(l->m, l->dir, d->d_name))
		return true;
	if (!l->plus) {
		need = fuse_add_direntry(
			l->req, l->dst + l->used, left, d->d_name, &e.attr, d->d_off);
	} else {
		need = fuse_add_direntry_plus(l->req, NULL, 0, d->d_name, NULL, 0);
		if (need > left)
			return false;
		if (!is_dots(d->d_name))
			listing_lookup(l, d->d_name, &e);
		(void)fuse_add_direntry_plus(
			l->req, l->dst + l->used, left, d->d_name, &e, d->d_off);
	}
	if (need > left)
		return false;
	l->used += need;
	return true;
}

static int listing_fill(struct listing *l, struct dir_stream *d, off_t off)
{
	const struct dirent64 *entry = NULL;
	int r;

	(void)pthread_mutex_lock(&d->lock);
	r = stream_seek(d, l->fd, off);
	while (r == 0) {
		r = stream_peek(d, l->fd, &entry);
		if (r < 0 || !entry || !listing_add(l, entry))
			break;
		stream_pass(d, entry);
	}
	(void)pthread_mutex_unlock(&d->lock);
	return l->used ? 0 : r;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi,
	bool plus)
{
	struct handle *h = handle_of(fi);
	_cleanup_free_ char *dst = malloc(size);
	struct listing l = {.req = req,
		.m = mount_of(req),
		.dir = inode_of(req, ino),
		.fd = h->fd,
		.plus = plus,
		.dst = dst,
		.size = size};
	int r = dst ? listing_fill(&l, h->dir, off) : -ENOMEM;

	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_buf(req, dst, l.used);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, ino, size, off, fi, false);
}

void op_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, ino, size, off, fi, true);
}
