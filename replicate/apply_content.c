/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "apply_steps.h"

#include "base/cleanup.h"
#include "base/durable.h"
#include "base/fault.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/*
 * DESIGN: OP_CONTENT, in one of two ways.
 *
 * By rename (OP_WHOLE, a file with at most one link): the new file is put together in scratch from
 * the extents, or is the staged file itself, gets owner, mode, xattrs, times, and is renamed over
 * the path. Readers see the old file or the new one.
 *
 * In place (ranges, or OP_WHOLE on a file with several links, whose other names must see it too,
 * unless OP_FORCE says that this name alone is meant):
 * the data was verified before; room is reserved first, so that a full disk is met before a byte
 * is changed. Then the parts of the ranges that no extent covers become holes, the extents are
 * written, the size is set. Doing it again gives the same bytes.
 *
 * A staged file that is missing may have become the file in an attempt that a crash cut off: when
 * the file at the path has the content's size, bytes and mtime, the op was done.
 */

/* The same range list for both ways: a whole file is one range. */
struct work {
	const struct apply_target *t;
	const struct op *op;
	const struct content *content;
	struct range whole;
	const struct range *ranges;
	size_t n_ranges;
	struct place place;
};

/* ---- in place ---- */

static int reserve(int fd, const struct content *c)
{
	size_t i;

	for (i = 0; i < c->n_extents; i++) {
		if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)c->extents[i].start,
			    (off_t)c->extents[i].len) == 0)
			continue;
		if (errno == EINTR) {
			i--;
			continue;
		}
		return errno == EOPNOTSUPP || errno == ENOSYS ? 0 : -errno;
	}
	return 0;
}

/* Gives back what lies past the end, and the mtime: as if nothing had been tried. */
static int unreserve(int fd, const struct stat *before, int error)
{
	struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, before->st_mtim};

	if (ftruncate(fd, before->st_size) == 0)
		(void)inode_times(fd, ts);
	return error;
}

static int write_zeros(int fd, uint64_t start, uint64_t end)
{
	_cleanup_free_ uint8_t *zeros = calloc(1, 65536);
	size_t n;
	int r;

	if (!zeros)
		return -ENOMEM;
	for (; start < end; start += n) {
		n = end - start < 65536 ? (size_t)(end - start) : 65536;
		r = pwrite_all(fd, zeros, n, (off_t)start);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Makes [start, end) a hole, as far as the file reaches. */
static int punch(int fd, uint64_t start, uint64_t end, uint64_t size)
{
	if (end > size)
		end = size;
	if (start >= end)
		return 0;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start,
		    (off_t)(end - start)) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return -errno;
	return write_zeros(fd, start, end);
}

/* Punches the gaps between the extents of each range. @size is the file's present one. */
static int punch_gaps(int fd, const struct work *w, uint64_t size)
{
	const struct content *c = w->content;
	uint64_t at, end;
	size_t i, e = 0;
	int r;

	for (i = 0; i < w->n_ranges; i++) {
		at = w->ranges[i].start;
		end = at + w->ranges[i].len;
		for (; e < c->n_extents && c->extents[e].start < end; e++) {
			r = punch(fd, at, c->extents[e].start, size);
			if (r < 0)
				return r;
			at = c->extents[e].start + c->extents[e].len;
		}
		r = punch(fd, at, end, size);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ftruncate(2) to the present size is no no-op: ext4 may start to write. */
static int set_size(int fd, uint64_t size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size == size)
		return 0;
	return ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

static int set_attributes(int fd, const struct stat *now, const struct op *op)
{
	int r = inode_own(fd, now, op->mask, op);

	if (r == 0 && op->flags & OP_WHOLE)
		r = inode_set_xattrs(fd, op->content->xattrs, op->content->n_xattrs);
	return r < 0 ? r : inode_set_times(fd, op);
}

static int change_in_place(const struct work *w, const struct source *s)
{
	_cleanup_close_ int fd = -1;
	struct stat st;
	int r;

	fd = openat(w->place.dir, w->place.name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = reserve(fd, w->content);
	if (r < 0)
		return unreserve(fd, &w->place.st, r);
	r = punch_gaps(fd, w, (uint64_t)w->place.st.st_size);
	if (r == 0)
		r = source_copy(w->t, s, fd);
	if (r < 0)
		return r;
	r = set_size(fd, w->content->size);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	return set_attributes(fd, &st, w->op);
}

/* ---- by rename ---- */

/* Puts the file together under a new name in scratch. The mode is given at once, as far as the
 * umask lets it, to save the call; nobody else reaches scratch. */
static int assemble(const struct work *w, const struct source *s, const char *name, int *ret)
{
	_cleanup_close_ int fd = -1;
	int r;

	fd = openat(w->t->scratch, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		w->op->mask & OP_MODE ? w->op->mode & 0777 : 0600);
	if (fd < 0)
		return -errno;
	r = source_copy(w->t, s, fd);
	if (r < 0)
		return r;
	r = set_size(fd, w->content->size);
	if (r < 0)
		return r;
	*ret = steal_fd(&fd);
	return 0;
}

static int finish(const struct work *w, int fd, const char *name)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	r = set_attributes(fd, &st, w->op);
	if (r < 0)
		return r;
	fault_point("apply.content.before_rename");
	if (renameat(w->t->scratch, name, w->place.dir, w->place.name) < 0)
		return -errno;
	fault_point("apply.content.after_rename");
	/* A file that was there before keeps its name: no change of the directory for anybody. */
	return w->place.st.st_ino ? place_untouch(&w->place) : place_touch(&w->place, w->op->time);
}

static int change_by_rename(const struct work *w, struct source *s)
{
	_cleanup_close_ int fd = -1;
	char name[SCRATCH_NAME_SIZE];
	int r;

	if (source_is_whole(s)) {
		r = finish(w, s->fd, s->name);
		if (r == 0)
			s->name[0] = '\0'; /* it is the file now */
		return r;
	}
	do {
		scratch_name(name);
		r = assemble(w, s, name, &fd);
	} while (r == -EEXIST);
	if (r == 0)
		r = finish(w, fd, name);
	if (r < 0)
		(void)unlinkat(w->t->scratch, name, 0);
	return r;
}

/* ---- both ---- */

static int is_done(const struct work *w)
{
	struct timespec mtime = timespec_of(w->op->mtime);
	_cleanup_close_ int fd = -1;

	if (!w->place.st.st_ino || !(w->op->mask & OP_MTIME) ||
		w->place.st.st_mtim.tv_sec != mtime.tv_sec ||
		w->place.st.st_mtim.tv_nsec != mtime.tv_nsec)
		return 0;
	fd = openat(w->place.dir, w->place.name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? -errno : content_is_there(w->t, w->content, fd);
}

/* Whether what stands at the path can take the content. */
static int check_place(const struct work *w)
{
	const struct stat *st = &w->place.st;

	if (S_ISDIR(st->st_mode))
		return -EISDIR;
	if (st->st_ino && !S_ISREG(st->st_mode))
		return -EEXIST;
	return st->st_ino || w->op->flags & OP_WHOLE ? 0 : -ENOENT;
}

static int change(const struct work *w, bool *ret_changed)
{
	struct source s;
	int r, done;

	r = source_open(w->t, w->content, &s);
	if (r == -ENOENT) {
		done = is_done(w);
		if (done < 0)
			return done;
		*ret_changed = false;
		return done ? 0 : -EBADMSG;
	}
	if (r < 0)
		return r;
	if (w->op->flags & OP_WHOLE && (w->place.st.st_nlink <= 1 || w->op->flags & OP_FORCE))
		r = change_by_rename(w, &s);
	else
		r = change_in_place(w, &s);
	source_close(w->t, &s, r);
	*ret_changed = true;
	return r;
}

int apply_content(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	struct work w = {.t = t, .op = op, .content = op->content, .place = PLACE_NONE};
	int r;

	if (!op->content)
		return -EBADMSG;
	w.whole.len = op->content->size;
	w.ranges = op->flags & OP_WHOLE ? &w.whole : op->ranges;
	w.n_ranges = op->flags & OP_WHOLE ? 1 : op->n_ranges;
	r = place_open(t->root, op->path, &w.place);
	if (r == 0)
		r = check_place(&w);
	if (r == 0)
		r = change(&w, &ret->changed);
	if (r == 0) {
		ret->before = w.place.st;
		r = place_stat(&w.place, &ret->after);
	}
	place_close(&w.place);
	return r;
}
