/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Questions and restatements: how two trees become equal again after both sides changed one name.
 *
 * What happens when an op arrives that does not go together with changes of ours that its sender
 * had not seen? One of the two nodes, the one with the smaller id, decides (resolve.c); its tree
 * is right by definition. The other one does not carry the op out but asks for the names that it
 * concerns (OP_ASK). The answer restates what stands there by then, in ops that replace whatever
 * is found (OP_FORCE), followed by OP_ANSWER. If the one that asked has changed the name again
 * meanwhile, it asks again: that change will have been decided when the answer is given.
 * The deciding node asks as well, for what it does not have: the whole of a file of which it was
 * sent ranges only.
 *
 * As long as a question is open, its node's tree lacks what the journal position says it has. So
 * its changes count as made in the knowledge of what had been there before the question (the
 * frozen position), and what arrives about names that were asked for is not carried out but asked
 * for again.
 *
 * A restatement is what stands at a name and nothing else: for a directory its attributes, and with
 * OP_DEEP all below it. What a file contains is read when it is sent, like any content. The
 * directories above come along.
 */

#include "receiver.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/log.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* The mtime of the directory of @path: what its name is made with there. */
static uint64_t parent_time(struct replica *r, const char *path)
{
	_cleanup_free_ char *dir = strndup(path, confine_parent_len(path));
	struct stat st;

	return dir && confine_stat(r->root, dir, &st) == 0 ? (uint64_t)clock_ns_of(&st.st_mtim) : 1;
}

static struct op forced(enum op_type type, const char *path, const struct stat *st)
{
	return (struct op){
		.type = type,
		.flags = OP_FORCE,
		.path = (char *)path,
		.mask = OP_MODE | OP_UID | OP_GID,
		.mode = st->st_mode & (type == OP_MKNOD ? S_IFMT | 07777 : 07777),
		.uid = st->st_uid,
		.gid = st->st_gid,
		.rdev = type == OP_MKNOD ? st->st_rdev : 0,
	};
}

static int say_at(struct replica *r, struct op *op)
{
	op->time = parent_time(r, op->path);
	return replica_say(r, op);
}

/* The mtime of what is no file, after all that moves it. */
static int say_mtime(struct replica *r, const char *path, const struct stat *st)
{
	struct op op = forced(OP_SETATTR, path, st);

	op.mask = OP_MTIME;
	op.mtime = clock_ns_of(&st->st_mtim);
	return say_at(r, &op);
}

static int say_xattrs(struct replica *r, const char *path)
{
	_cleanup_close_ int fd = confine_open(r->root, path, O_PATH, 0);
	struct xattr *list;
	size_t n;
	int e = fd < 0 ? fd : xattrs_read(fd, &list, &n);

	if (e < 0)
		return e;
	for (size_t i = 0; i < n && e == 0; i++) {
		struct op op = {.type = OP_SETXATTR,
			.flags = OP_FORCE,
			.path = (char *)path,
			.xname = list[i].name,
			.value = list[i].value,
			.value_len = list[i].len};

		e = say_at(r, &op);
	}
	xattrs_free(list, n);
	return e;
}

static int say_dir(struct replica *r, const char *path, const struct stat *st)
{
	struct op op = forced(*path ? OP_MKDIR : OP_SETATTR, path, st);
	int e = say_at(r, &op);

	return e < 0 ? e : say_xattrs(r, path);
}

static int say_symlink(struct replica *r, const char *path, const struct stat *st)
{
	struct op op = forced(OP_SYMLINK, path, st);
	char text[TANDEMFS_PATH_MAX + 1];
	_cleanup_close_ int dir = -1;
	const char *name;
	ssize_t n;
	int e = confine_parent(r->root, path, &dir, &name);

	if (e < 0)
		return e;
	n = readlinkat(dir, name, text, sizeof(text) - 1);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	op.path2 = text;
	e = say_at(r, &op);
	return e < 0 ? e : say_mtime(r, path, st);
}

static int say_node(struct replica *r, const char *path, const struct stat *st)
{
	struct op op = forced(OP_MKNOD, path, st);
	int e = say_at(r, &op);

	return e < 0 ? e : say_mtime(r, path, st);
}

/* ---- walking ---- */

struct walk {
	struct replica *r;
	int (*visit)(struct walk *w, const char *path, const struct stat *st);
	const char *path; /* for say_link, say_other, each_other */
	ino_t ino;
	int (*tell)(struct replica *r, const char *path); /* for each_other */
};

static int walk_entry(void *ctx, const char *path)
{
	struct walk *w = ctx;
	struct stat st;
	int e;

	if (strcmp(path, TANDEMFS_DIR) == 0)
		return 0;
	e = confine_stat(w->r->root, path, &st);
	if (e == 0)
		e = w->visit(w, path, &st);
	return e == -ENOENT ? 0 : e;
}

static int walk_dir(struct walk *w, const char *dir)
{
	return confine_each(w->r->root, dir, walk_entry, w);
}

/* ---- files ---- */

static int say_link(struct walk *w, const char *path, const struct stat *st)
{
	struct op op = {
		.type = OP_LINK, .flags = OP_FORCE, .path = (char *)w->path, .path2 = (char *)path};

	if (S_ISDIR(st->st_mode))
		return walk_dir(w, path);
	if (st->st_ino != w->ino || strcmp(path, w->path) == 0)
		return 0;
	op.time = parent_time(w->r, path);
	return replica_say(w->r, &op);
}

/* The content, and all other names of the inode, wherever they are. */
static int say_file(struct replica *r, const char *path, const struct stat *st)
{
	struct op op = {.type = OP_CONTENT, .flags = OP_WHOLE | OP_FORCE, .path = (char *)path};
	struct walk links = {.r = r, .visit = say_link, .path = path, .ino = st->st_ino};
	int e = fid_of_path(r->root, path, &op.fid);

	if (e == 0)
		e = replica_say(r, &op);
	return e == 0 && st->st_nlink > 1 ? walk_dir(&links, "") : e;
}

static int say_other(struct walk *w, const char *path, const struct stat *st)
{
	int e;

	if (S_ISDIR(st->st_mode))
		return walk_dir(w, path);
	if (st->st_ino != w->ino || strcmp(path, w->path) == 0)
		return 0;
	e = say_file(w->r, path, st);
	return e < 0 ? e : 1; /* the others are told as its links */
}

int restate_others(struct replica *r, const char *path, const struct stat *st)
{
	struct walk names = {.r = r, .visit = say_other, .path = path, .ino = st->st_ino};
	int e = st->st_nlink > 1 ? walk_dir(&names, "") : 0;

	return e < 0 ? e : 0;
}

static int each_other(struct walk *w, const char *path, const struct stat *st)
{
	if (S_ISDIR(st->st_mode))
		return walk_dir(w, path);
	return st->st_ino == w->ino && strcmp(path, w->path) != 0 ? w->tell(w->r, path) : 0;
}

int restate_each_other(struct replica *r, const char *path, const struct stat *st,
	int (*fn)(struct replica *r, const char *other))
{
	struct walk names = {
		.r = r, .visit = each_other, .path = path, .ino = st->st_ino, .tell = fn};

	return st->st_nlink > 1 && !S_ISDIR(st->st_mode) ? walk_dir(&names, "") : 0;
}

/* ---- names ---- */

static int say_nothing(struct replica *r, const char *path)
{
	struct op op = {.type = OP_UNLINK, .flags = OP_FORCE, .path = (char *)path};

	return say_at(r, &op);
}

static int say_deep(struct walk *w, const char *path, const struct stat *st);

static int say_it(struct replica *r, const char *path, const struct stat *st, bool deep)
{
	struct walk below = {.r = r, .visit = say_deep};
	int e;

	if (S_ISREG(st->st_mode))
		return say_file(r, path, st);
	if (S_ISLNK(st->st_mode))
		return say_symlink(r, path, st);
	if (!S_ISDIR(st->st_mode))
		return say_node(r, path, st);
	e = say_dir(r, path, st);
	if (e == 0 && deep)
		e = walk_dir(&below, path);
	return e < 0 ? e : say_mtime(r, path, st);
}

static int say_deep(struct walk *w, const char *path, const struct stat *st)
{
	return say_it(w->r, path, st, true);
}

/* The directories above @path. False in *ret_there: one of them is missing. */
static int say_above(struct replica *r, const char *path, bool *ret_there)
{
	struct stat st;

	*ret_there = true;
	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		_cleanup_free_ char *dir = strndup(path, (size_t)(p - path));
		int e = dir ? confine_stat(r->root, dir, &st) : -ENOMEM;

		if (e == -ENOENT || e == -ENOTDIR || (e == 0 && !S_ISDIR(st.st_mode))) {
			*ret_there = false;
			return 0;
		}
		if (e == 0)
			e = say_dir(r, dir, &st);
		if (e < 0)
			return e;
	}
	return 0;
}

int restate_time(struct replica *r, const char *dir)
{
	struct stat st;
	int e = confine_stat(r->root, dir, &st);

	return e < 0 ? e : say_mtime(r, dir, &st);
}

int restate_each_above(const char *path, int (*fn)(void *ctx, const char *dir), void *ctx)
{
	_cleanup_free_ char *dir = strdup(path);
	int e = dir ? 0 : -ENOMEM;

	while (e == 0 && *dir) {
		dir[confine_parent_len(dir)] = '\0';
		if (*dir || !strchr(path, '/'))
			e = fn(ctx, dir);
	}
	return e;
}

static int say_time(void *ctx, const char *dir)
{
	return restate_time(ctx, dir);
}

int restate(struct replica *r, const char *path, bool deep)
{
	struct stat st;
	bool there;
	int e = say_above(r, path, &there);

	if (e < 0)
		return e;
	if (!there)
		return say_nothing(r, path);
	e = confine_stat(r->root, path, &st);
	if (e == 0)
		e = say_it(r, path, &st, deep);
	else if (e == -ENOENT)
		e = say_nothing(r, path);
	return e < 0 ? e : restate_each_above(path, say_time, r);
}

/* ---- for the reconciler ---- */

int restate_name(struct replica *r, const char *path)
{
	struct op op = {.type = OP_CONTENT, .flags = OP_WHOLE | OP_FORCE, .path = (char *)path};
	struct stat st;
	int e = confine_stat(r->root, path, &st);

	if (e == -ENOENT || e == -ENOTDIR)
		return say_nothing(r, path);
	if (e < 0 || !S_ISREG(st.st_mode))
		return e < 0 ? e : say_it(r, path, &st, false);
	e = fid_of_path(r->root, path, &op.fid);
	return e < 0 ? e : replica_say(r, &op);
}

int restate_link(struct replica *r, const char *first, const char *path)
{
	struct op op = {
		.type = OP_LINK, .flags = OP_FORCE, .path = (char *)first, .path2 = (char *)path};

	op.time = parent_time(r, path);
	return replica_say(r, &op);
}

int restate_attributes(struct replica *r, const char *path)
{
	struct stat st;
	struct op op;
	int e = confine_stat(r->root, path, &st);

	if (e < 0)
		return e;
	op = forced(OP_SETATTR, path, &st);
	op.mask |= OP_MTIME;
	op.mtime = clock_ns_of(&st.st_mtim);
	return say_at(r, &op);
}

/* ---- answers ---- */

/* What stands at the name itself is told as well when our renames, which the one who asked had not
 * seen, have taken away what it means. */
static int answer(struct replica *r, const struct op *op, const char *path)
{
	struct op done = {.type = OP_ANSWER, .path = (char[]){""}, .about = op->seq};
	bool deep = op->flags & OP_DEEP, same = false;
	uint64_t digest;
	int e = 0;

	if (op->flags & OP_COMPARE && strcmp(path, op->path) == 0) {
		e = review_digest(r, path, deep, &digest);
		same = e == 0 && digest == op->about;
	}
	if (e == 0 && !same)
		e = restate(r, path, deep);
	if (e == 0 && strcmp(path, op->path) != 0)
		e = restate(r, op->path, deep);
	return e < 0 ? e : replica_say(r, &done);
}

int restate_answer(struct receiver *v, const struct op *op, const struct position *seen)
{
	struct replica *r = v->replica;
	_cleanup_free_ char *path = NULL;
	int e;

	tree_lock(r->tree, TREE_RENAME);
	(void)pthread_mutex_lock(&r->lock);
	path = unseen_follow(r->unseen, op->path, seen);
	(void)pthread_mutex_unlock(&r->lock);
	if (!path)
		e = -ENOMEM;
	else if (op->flags & OP_KEEP)
		e = keep_number(r, v->sender.name, op->about, path);
	else
		e = answer(r, op, path);
	tree_unlock(r->tree);
	return e;
}
