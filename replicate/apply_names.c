/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "apply_steps.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/fault.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/*
 * DESIGN: making and removing names. A thing is made in scratch under a name of its own, gets its
 * owner, exact mode and time there, loses what it inherited, and is renamed into place. Where a
 * thing of the same kind stands already only its owner and mode are set.
 */

/* What one kind of thing needs beyond what all have in common. */
struct maker {
	mode_t kind; /* S_IFMT bits */
	int (*make)(int scratch, const char *name, const struct op *op);
	bool (*same)(const struct place *p, const struct op *op);
};

static int set_made(int fd, const struct op *op)
{
	uint32_t mask = OP_MODE | OP_UID | OP_GID;
	struct timespec ts[2] = {timespec_of((int64_t)op->time), timespec_of((int64_t)op->time)};
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	r = inode_own(fd, &st, mask, op);
	if (r == 0)
		r = inode_set_xattrs(fd, NULL, 0);
	if (r == 0)
		r = inode_times(fd, ts);
	return r;
}

/* Makes it in scratch and moves it to its place. */
static int make_new(const struct apply_target *t, const struct op *op, const struct maker *m,
	const struct place *p)
{
	char name[SCRATCH_NAME_SIZE];
	_cleanup_close_ int fd = -1;
	int r;

	do {
		scratch_name(name);
		r = m->make(t->scratch, name, op);
	} while (r == -EEXIST);
	if (r < 0)
		return r;
	fd = openat(t->scratch, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	r = fd < 0 ? -errno : set_made(fd, op);
	if (r == 0)
		r = scratch_place(t, name, p);
	if (r < 0)
		(void)unlinkat(t->scratch, name, S_ISDIR(m->kind) ? AT_REMOVEDIR : 0);
	return r;
}

static bool is_older(const struct stat *st, uint64_t time)
{
	return (uint64_t)clock_ns_of(&st->st_mtim) < time;
}

/* Owner and mode of what stands there; a directory that two nodes made is as young as the later
 * one. The xattrs of what is restated follow one by one. */
static int make_same(const struct op *op, const struct place *p)
{
	struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, timespec_of((int64_t)op->time)};
	_cleanup_close_ int fd = openat(p->dir, p->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	r = inode_own(fd, &p->st, OP_MODE | OP_UID | OP_GID, op);
	if (r == 0 && op->flags & OP_FORCE)
		r = inode_set_xattrs(fd, NULL, 0);
	if (r == 0 && op->type == OP_MKDIR && !(op->flags & OP_FORCE) && is_older(&p->st, op->time))
		r = inode_times(fd, ts);
	return r;
}

static int make(const struct apply_target *t, const struct op *op, const struct maker *m,
	struct apply_result *ret)
{
	_cleanup_place_ struct place p = PLACE_NONE;
	int r;

	r = place_open(t->root, op->path, &p);
	if (r < 0)
		return r;
	ret->before = p.st;
	if (p.st.st_ino) {
		if ((p.st.st_mode & S_IFMT) != m->kind || (m->same && !m->same(&p, op)))
			return -EEXIST;
		r = make_same(op, &p);
	} else {
		r = make_new(t, op, m, &p);
		if (r == 0) {
			fault_point("apply.names.after");
			r = place_touch(&p, op->time);
		}
	}
	if (r == 0)
		r = place_stat(&p, &ret->after);
	ret->changed = p.st.st_ino != ret->after.st_ino || p.st.st_mode != ret->after.st_mode ||
		       p.st.st_uid != ret->after.st_uid || p.st.st_gid != ret->after.st_gid;
	return r;
}

static int make_node(int scratch, const char *name, const struct op *op)
{
	return mknodat(scratch, name, (op->mode & S_IFMT) | 0600, op->rdev) < 0 ? -errno : 0;
}

static bool same_node(const struct place *p, const struct op *op)
{
	return p->st.st_rdev == op->rdev;
}

int apply_mknod(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	struct maker m = {op->mode & S_IFMT, make_node, same_node};

	if (m.kind != S_IFIFO && m.kind != S_IFSOCK && m.kind != S_IFCHR && m.kind != S_IFBLK)
		return -EINVAL;
	return make(t, op, &m, ret);
}

static int make_dir(int scratch, const char *name, const struct op *op)
{
	(void)op;
	return mkdirat(scratch, name, 0700) < 0 ? -errno : 0;
}

int apply_mkdir(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	static const struct maker m = {S_IFDIR, make_dir, NULL};

	return make(t, op, &m, ret);
}

static int make_symlink(int scratch, const char *name, const struct op *op)
{
	return symlinkat(op->path2, scratch, name) < 0 ? -errno : 0;
}

static bool same_symlink(const struct place *p, const struct op *op)
{
	char text[TANDEMFS_PATH_MAX + 1];
	ssize_t n = readlinkat(p->dir, p->name, text, sizeof(text));

	return n >= 0 && (size_t)n == strlen(op->path2) && memcmp(text, op->path2, (size_t)n) == 0;
}

int apply_symlink(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	static const struct maker m = {S_IFLNK, make_symlink, same_symlink};

	if (!op->path2)
		return -EINVAL;
	return make(t, op, &m, ret);
}

int apply_link(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	_cleanup_place_ struct place from = PLACE_NONE, to = PLACE_NONE;
	int r;

	r = place_open(t->root, op->path, &from);
	if (r == 0)
		r = place_open(t->root, op->path2, &to);
	if (r < 0)
		return r;
	if (!from.st.st_ino)
		return -ENOENT;
	if (to.st.st_ino == from.st.st_ino) {
		result_same(ret, &to.st);
		return 0;
	}
	if (to.st.st_ino)
		return -EEXIST;
	if (linkat(from.dir, from.name, to.dir, to.name, 0) < 0)
		return -errno;
	fault_point("apply.names.after");
	ret->changed = true;
	r = place_touch(&to, op->time);
	return r < 0 ? r : place_stat(&to, &ret->after);
}

static int remove_name(
	const struct apply_target *t, const struct op *op, bool dir, struct apply_result *ret)
{
	_cleanup_place_ struct place p = PLACE_NONE;
	int r;

	r = place_open(t->root, op->path, &p);
	if (r == -ENOENT || (r == 0 && !p.st.st_ino))
		return 0;
	if (r < 0)
		return r;
	if (S_ISDIR(p.st.st_mode) != dir)
		return dir ? -ENOTDIR : -EISDIR;
	ret->before = p.st;
	r = place_remove(&p);
	if (r < 0)
		return r;
	fault_point("apply.names.after");
	ret->changed = true;
	return place_touch(&p, op->time);
}

int apply_unlink(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	return remove_name(t, op, false, ret);
}

int apply_rmdir(const struct apply_target *t, const struct op *op, struct apply_result *ret)
{
	return remove_name(t, op, true, ret);
}
