/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Ops that cannot be replayed: those that may have been done before a crash or a cut, those made
 * while the trees were compared, those of other nodes, and those that met a tree there which is not
 * as it was here. To replay them would go wrong: rename X to Y, create X, replayed from the rename,
 * moves the new X over Y.
 *
 * Instead each path that such an op names is made there as it is here now. That may be newer than
 * the op, so that all ops up to the journal's end at that moment must be settled likewise
 * (plain.zone_end); beyond that nothing there is newer than the op that comes up, and ops are
 * replayed again.
 *
 * Contents of settled ops are always sent, since an in-place change that was cut short may have the
 * right size and, to the second, the right mtime. One whose path is gone here is noted in
 * `skipped`, which follows the renames, and forces the content of whatever it ends up as. `fresh`
 * knows what was read late enough to need no more.
 *
 * A rename is done as one where the source is still there; then the target's tree is gone over.
 * Nothing is removed there but what an op says is gone, and what is certainly a copy of ours: when
 * a directory was renamed and its old name is in use again, settled contents may have gone to
 * either (`mixed`). What fits neither is moved aside.
 */

#include "plain.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/log.h"
#include "content.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define TRIES_MAX 3

/* What there may be at a path, on either side. */
struct sides {
	bool here, there;
	struct stat st_here, st_there;
	char *name; /* absolute, at the peer; owned */
};

static void sides_clear(struct sides *s)
{
	free(s->name);
}
#define _cleanup_sides_ _cleanup_(sides_clear)

static bool is_absent(int error)
{
	return error == -ENOENT || error == -ENOTDIR || error == -ELOOP;
}

static int look(struct plain *p, const char *path, struct sides *ret)
{
	int r = confine_stat(p->replica->root, path, &ret->st_here);

	ret->here = r == 0;
	if (r < 0 && !is_absent(r))
		return r;
	ret->name = plain_there(p, path);
	if (!ret->name)
		return -ENOMEM;
	r = p->remote->ops->stat(p->remote, ret->name, &ret->st_there);
	ret->there = r == 0;
	return r == -ENOENT ? 0 : r;
}

/* ---- directories ---- */

void plain_touched(struct plain *p, const char *path)
{
	_cleanup_free_ char *dir = strndup(path, confine_parent_len(path));

	if (dir)
		paths_put(&p->dirs, dir, 1);
}

int plain_flush_dirs(struct plain *p)
{
	int r = 0;

	while (r == 0 && p->dirs.table) {
		_cleanup_free_ char *dir = paths_pop(&p->dirs);
		_cleanup_free_ char *there = plain_there(p, dir);
		struct op attrs = {0};
		struct stat st;

		if (!there)
			return -ENOMEM;
		if (confine_stat(p->replica->root, dir, &st) < 0 || !S_ISDIR(st.st_mode))
			continue; /* its end has its own op */
		plain_attrs_of(&st, &attrs);
		attrs.mask = OP_MTIME;
		r = plain_set_attrs(p, p->remote, there, &attrs, S_IFDIR);
		if (r == -ENOENT)
			r = 0;
		if (r < 0)
			paths_put(&p->dirs, dir, 1);
	}
	return r;
}

static int make_dir(struct plain *p, const char *path, const struct stat *here, const char *there)
{
	struct op attrs = {0};
	int r = p->remote->ops->mkdir(p->remote, there, 0700);

	if (r < 0 && r != -EEXIST)
		return r;
	plain_touched(p, path);
	paths_put(&p->dirs, path, 1);
	plain_attrs_of(here, &attrs);
	attrs.mask &= ~(uint32_t)OP_MTIME; /* with the other directories */
	return plain_set_attrs(p, p->remote, there, &attrs, S_IFDIR);
}

int plain_ensure_dir(struct plain *p, const char *path)
{
	_cleanup_sides_ struct sides s = {0};
	int r = look(p, path, &s);

	if (r < 0 || !path[0] || !s.here || !S_ISDIR(s.st_here.st_mode))
		return r; /* it has gone meanwhile: its op follows */
	if (s.there && S_ISDIR(s.st_there.st_mode))
		return 0;
	if (s.there)
		r = p->remote->ops->remove(p->remote, s.name);
	else {
		_cleanup_free_ char *parent = strndup(path, confine_parent_len(path));

		r = parent ? plain_ensure_dir(p, parent) : -ENOMEM;
	}
	return r < 0 ? r : make_dir(p, path, &s.st_here, s.name);
}

/* ---- one path ---- */

int plain_keep(struct plain *p, const char *path)
{
	plain_count(p, PLAIN_ONLY_THERE);
	log_notice("%s: directory %s is gone here; what is only there stays", peer_label(p->peer),
		path);
	return 0;
}

static bool is_closing(const void *ctx)
{
	return plain_closing(ctx);
}

static void forget(struct plain *p, const char *path)
{
	paths_drop(&p->skipped, path);
	paths_drop(&p->fresh, path);
}

/* Removes what stands there and is gone here. A directory that is not empty stays: what is in it
 * has ops of its own, or is only there. */
static int remove_there(struct plain *p, const char *path, const struct sides *s)
{
	int r;

	if (S_ISDIR(s->st_there.st_mode)) {
		r = p->remote->ops->rmdir(p->remote, s->name);
		if (r < 0 && r != -EACCES && plain_refused(p, r))
			return 0;
	} else {
		r = p->remote->ops->remove(p->remote, s->name);
	}
	if (r == 0)
		plain_touched(p, path);
	return r == -ENOENT ? 0 : r;
}

static int write_in_place(struct plain *p, int fd, const struct op *op, const struct sides *s)
{
	if (s->st_here.st_nlink < 2 || !s->there || !S_ISREG(s->st_there.st_mode) ||
		!(p->features & REMOTE_HARDLINK))
		return -ENOENT;
	return plain_patch(p, fd, op, s->name);
}

static int put_once(struct plain *p, const char *path, int fd, struct op *op, const struct sides *s)
{
	_cleanup_free_ char *tmp = NULL;
	int r = write_in_place(p, fd, op, s);

	if (r != -ENOENT && r != -EACCES)
		return r;
	tmp = plain_tmp(p);
	r = tmp ? plain_upload(p, p->remote, fd, op, tmp, is_closing, p) : -ENOMEM;
	if (r == 0)
		r = plain_place(p, tmp, path);
	if (r < 0 && tmp && plain_refused(p, r)) {
		r = plain_cause(p, r); /* as long as the part of it may be what fills the disk */
		(void)p->remote->ops->remove(p->remote, tmp);
	}
	return r;
}

static void log_sent(struct plain *p, const struct op *op, uint64_t started_ms)
{
	char what[512];
	struct change_line line = {.verb = "sent",
		.peer = peer_label(p->peer),
		.what = op_describe(op, what, sizeof(what)),
		.bytes = op->content->data_len,
		.seconds = (double)(clock_mono_ms() - started_ms) / 1000};

	changes_add(p->replica->changes, &line);
	(void)pthread_mutex_lock(&p->replica->lock);
	p->peer->sent_bytes += op->content->data_len;
	(void)pthread_mutex_unlock(&p->replica->lock);
}

/* Sends the file as it is now; one that changes all the time goes as it was read in the end. */
static int put_file(struct plain *p, const char *path, const struct sides *s)
{
	_cleanup_close_ int fd = confine_open(p->replica->root, path, O_RDONLY | O_NONBLOCK, 0);
	_cleanup_op_ struct op op = {.type = OP_CONTENT, .flags = OP_WHOLE, .path = strdup(path)};
	uint64_t head = journal_settled(p->replica->journal), started = clock_mono_ms();
	struct stat st = {0};
	int r = fd < 0 ? fd : op.path ? fid_of_fd(fd, &op.fid) : -ENOMEM;

	if (is_absent(r))
		return 0;
	if (r == 0 && replica_whole_dirty(p->replica, &op.fid)) {
		paths_put(&p->skipped, path, UINT64_MAX); /* its writer's close brings it */
		return 0;
	}
	for (unsigned i = 0; i < TRIES_MAX && r == 0; i++) {
		r = content_describe(fd, &op, &st);
		if (r == 0)
			r = put_once(p, path, fd, &op, s);
		if (r < 0 || content_unchanged(&st, fd))
			break;
	}
	if (r < 0)
		return r == -EINVAL && !S_ISREG(st.st_mode) ? 0 : r;
	forget(p, path);
	paths_put(&p->fresh, path, head);
	log_sent(p, &op, started);
	return 0;
}

static int settle_file(struct plain *p, const char *path, const struct sides *s, bool force)
{
	uint64_t skipped = paths_get(&p->skipped, path);
	enum plain_difference d =
		s->there ? plain_compare(p, &s->st_here, &s->st_there) : PLAIN_DIFFERENT;
	struct op attrs = {0};

	if (force || d == PLAIN_DIFFERENT || (skipped && paths_get(&p->fresh, path) < skipped))
		return put_file(p, path, s);
	plain_attrs_of(&s->st_here, &attrs);
	return d == PLAIN_ATTRS ? plain_set_attrs(p, p->remote, s->name, &attrs, s->st_here.st_mode)
				: 0;
}

static int settle_link(struct plain *p, const char *path, const struct sides *s)
{
	_cleanup_free_ char *theirs = NULL;
	_cleanup_close_ int fd = confine_open(p->replica->root, path, O_PATH, 0);
	char target[4096];
	ssize_t len = fd < 0 ? -1 : readlinkat(fd, "", target, sizeof(target) - 1);
	struct op attrs = {0};
	int r = 0;

	if (len < 0)
		return 0; /* gone, or another thing by now */
	target[len] = '\0';
	plain_attrs_of(&s->st_here, &attrs);
	attrs.mask &= ~(uint32_t)OP_MODE;
	if (s->there && S_ISLNK(s->st_there.st_mode))
		r = p->remote->ops->readlink(p->remote, s->name, &theirs);
	if (r < 0 && !plain_refused(p, r))
		return r;
	if (!theirs || strcmp(theirs, target) != 0)
		return plain_make_link(p, target, path, &attrs);
	if (!(p->features & REMOTE_LSETATTR) ||
		(plain_compare(p, &s->st_here, &s->st_there) == PLAIN_SAME &&
			s->st_here.st_mtim.tv_sec == s->st_there.st_mtim.tv_sec))
		return 0;
	return plain_set_attrs(p, p->remote, s->name, &attrs, S_IFLNK);
}

static int settle_dir(struct plain *p, const char *path, const struct sides *s)
{
	struct op attrs = {0};

	paths_put(&p->dirs, path, 1);
	if (!s->there)
		return plain_ensure_dir(p, path);
	plain_attrs_of(&s->st_here, &attrs);
	attrs.mask &= ~(uint32_t)OP_MTIME;
	return plain_compare(p, &s->st_here, &s->st_there) == PLAIN_ATTRS
		       ? plain_set_attrs(p, p->remote, s->name, &attrs, S_IFDIR)
		       : 0;
}

/* Something of another kind than here gives way; a directory only when it is empty. */
static int clear_other_kind(struct plain *p, struct sides *s)
{
	int r;

	if (!s->there || (s->st_here.st_mode & S_IFMT) == (s->st_there.st_mode & S_IFMT))
		return 0;
	if (S_ISDIR(s->st_there.st_mode)) {
		r = p->remote->ops->rmdir(p->remote, s->name);
		if (r < 0 && plain_refused(p, r) && r != -EACCES)
			r = -ENOTEMPTY;
	} else if (S_ISDIR(s->st_here.st_mode)) {
		r = p->remote->ops->remove(p->remote, s->name);
	} else {
		return 0; /* a rename replaces it */
	}
	s->there = r < 0;
	return r;
}

int plain_settle_path(struct plain *p, const char *path, bool force)
{
	_cleanup_sides_ struct sides s = {0};
	int r = look(p, path, &s);

	if (r < 0)
		return r;
	if (!s.here)
		return s.there ? remove_there(p, path, &s) : 0;
	if (!S_ISREG(s.st_here.st_mode) && !S_ISDIR(s.st_here.st_mode) &&
		!S_ISLNK(s.st_here.st_mode)) {
		plain_count(p, PLAIN_SPECIALS);
		return s.there ? remove_there(p, path, &s) : 0;
	}
	r = clear_other_kind(p, &s);
	if (r < 0)
		return r;
	if (S_ISDIR(s.st_here.st_mode))
		return settle_dir(p, path, &s);
	if (S_ISLNK(s.st_here.st_mode))
		return settle_link(p, path, &s);
	return settle_file(p, path, &s, force);
}

/* ---- trees ---- */

static int settle_tree(struct plain *p, const char *path);

static int settle_entries(struct plain *p, const char *path, DIR *dir)
{
	struct dirent *entry;
	int r = 0;

	while (r == 0 && (errno = 0, entry = readdir(dir))) {
		_cleanup_free_ char *child = NULL;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (asprintf(&child, "%s/%s", path, entry->d_name) < 0) {
			child = NULL;
			return -ENOMEM;
		}
		r = plain_closing(p) ? -ECANCELED : settle_tree(p, child);
	}
	return r < 0 ? r : -errno;
}

static int settle_tree(struct plain *p, const char *path)
{
	_cleanup_closedir_ DIR *dir = NULL;
	int r = plain_settle_path(p, path, false);

	if (r < 0)
		return r;
	r = confine_opendir(p->replica->root, path, &dir);
	if (r < 0)
		return r == -ENOTDIR || is_absent(r) ? 0 : r;
	return settle_entries(p, path, dir);
}

struct children {
	struct buf list;
};

static void take_child(void *ctx, const char *name, const struct stat *st)
{
	struct children *c = ctx;

	buf_put_u8(&c->list, S_ISDIR(st->st_mode));
	buf_put(&c->list, name, strlen(name) + 1);
}

#define LEFT_OVER "was left of a renamed directory"

/* A directory was renamed by op @seq and both names are or were in use, here or there. What stands
 * below one of them there is compared with both here; what fits nowhere is moved aside, and files
 * that have the same name in both are sent again. */
static int prune(struct plain *p, const char *dir, const char *other, uint64_t seq);

static int prune_file(struct plain *p, const char *path, const char *other, uint64_t seq)
{
	_cleanup_sides_ struct sides s = {0};
	struct stat st;
	bool both;
	int r = look(p, path, &s);

	if (r < 0 || !s.there)
		return r;
	both = confine_stat(p->replica->root, other, &st) == 0;
	if (s.here) {
		if (both)
			paths_put(&p->skipped, path, seq); /* it may be the other one */
		return 0;
	}
	if (both && plain_compare(p, &st, &s.st_there) != PLAIN_DIFFERENT)
		return p->remote->ops->remove(p->remote, s.name);
	return plain_move_aside(p, path, LEFT_OVER);
}

static int prune_child(struct plain *p, const char *dir, const char *other, const char *name,
	bool is_dir, uint64_t seq)
{
	_cleanup_free_ char *a = NULL, *b = NULL;

	if (asprintf(&a, "%s/%s", dir, name) < 0)
		a = NULL;
	if (asprintf(&b, "%s/%s", other, name) < 0)
		b = NULL;
	if (!a || !b)
		return -ENOMEM;
	return is_dir ? prune(p, a, b, seq) : prune_file(p, a, b, seq);
}

static int prune(struct plain *p, const char *dir, const char *other, uint64_t seq)
{
	_cleanup_free_ char *there = plain_there(p, dir);
	struct children c = {0};
	struct stat here;
	int r = there ? p->remote->ops->scan(p->remote, there, take_child, &c) : -ENOMEM;

	if (r == 0)
		r = buf_error(&c.list);
	for (size_t at = 0; r == 0 && at < c.list.len;) {
		const char *name = (const char *)c.list.data + at + 1;

		r = prune_child(p, dir, other, name, c.list.data[at], seq);
		at += strlen(name) + 2;
	}
	buf_clear(&c.list);
	if (r < 0 || confine_stat(p->replica->root, dir, &here) == 0)
		return r == -ENOENT ? 0 : r;
	r = p->remote->ops->rmdir(p->remote, there);
	if (r < 0 && plain_refused(p, r))
		r = plain_move_aside(p, dir, LEFT_OVER);
	return r;
}

/* ---- ops ---- */

static int rename_there(
	struct plain *p, const struct op *op, const struct sides *a, const struct sides *b)
{
	int r = plain_replace(p, a->name, b->name);

	if (r == -ENOENT) {
		_cleanup_free_ char *dir = strndup(op->path2, confine_parent_len(op->path2));

		r = dir ? plain_ensure_dir(p, dir) : -ENOMEM;
		if (r == 0)
			r = plain_replace(p, a->name, b->name);
	}
	if (r < 0)
		return r;
	paths_rename(&p->fresh, op->path, op->path2);
	if (a->here) /* what was fresh is another one, which stands at the old name here */
		paths_drop(&p->fresh, op->path2);
	return 0;
}

/* Whether the new name there is free, or becomes it. 1, 0 or -errno. */
static int make_free(struct plain *p, const struct sides *b)
{
	int r;

	if (!b->there)
		return 1;
	if (!S_ISDIR(b->st_there.st_mode))
		r = p->remote->ops->remove(p->remote, b->name);
	else
		r = p->remote->ops->rmdir(p->remote, b->name);
	return r == 0 ? 1 : plain_refused(p, r) ? 0 : r;
}

/* The directory there is moved unless its new place is taken: then it was moved before, by an
 * attempt that may have been cut short. What stands below the old name there by now belongs to
 * another directory of that name, or to nobody. */
static int settle_dir_rename(
	struct plain *p, const struct op *op, const struct sides *a, const struct sides *b)
{
	bool mixed = a->here || paths_covers(&p->mixed, op->path);
	int r = make_free(p, b);

	if (r > 0)
		r = rename_there(p, op, a, b);
	else if (r == 0)
		r = prune(p, op->path, op->path2, op->seq);
	paths_rename(&p->mixed, op->path, op->path2);
	if (mixed)
		paths_put(&p->mixed, op->path2, op->seq);
	if (r == 0 && b->here && mixed)
		r = prune(p, op->path2, op->path, op->seq);
	if (r == 0 && b->here)
		r = settle_tree(p, op->path2);
	if (r == 0 && a->here)
		r = settle_tree(p, op->path);
	return r;
}

/* Whether what is to be moved there stands at its new place already. */
static bool has_arrived(struct plain *p, const struct sides *to)
{
	return to->here && to->there &&
	       plain_compare(p, &to->st_here, &to->st_there) != PLAIN_DIFFERENT;
}

/* A file that was not moved just now may be an older one of the same size and second. */
static int settle_target(struct plain *p, const struct op *op, const struct sides *b, bool force)
{
	if (!b->here)
		return 0; /* another op has taken it away, and needs it to be there */
	if (force && S_ISREG(b->st_here.st_mode) && paths_get(&p->fresh, op->path2) < op->seq)
		return plain_settle_path(p, op->path2, true);
	return settle_tree(p, op->path2);
}

static int settle_file_rename(
	struct plain *p, const struct op *op, const struct sides *a, const struct sides *b)
{
	bool move = a->there && ((!a->here && !has_arrived(p, b)) || (b->here && !b->there));
	int r = 0;

	if (move && b->there && S_ISDIR(b->st_there.st_mode)) {
		r = make_free(p, b);
		move = r > 0;
	}
	if (move)
		r = rename_there(p, op, a, b);
	if (r >= 0)
		r = plain_settle_path(p, op->path, false);
	return r < 0 ? r : settle_target(p, op, b, !move || a->here);
}

static int settle_rename(struct plain *p, const struct op *op)
{
	_cleanup_sides_ struct sides a = {0}, b = {0};
	int r = look(p, op->path, &a);

	if (r == 0)
		r = look(p, op->path2, &b);
	if (r < 0)
		return r;
	paths_rename(&p->skipped, op->path, op->path2);
	paths_rename(&p->dirs, op->path, op->path2);
	plain_touched(p, op->path);
	plain_touched(p, op->path2);
	if (a.there && S_ISDIR(a.st_there.st_mode))
		return settle_dir_rename(p, op, &a, &b);
	return settle_file_rename(p, op, &a, &b);
}

static int settle_exchange(struct plain *p, const struct op *op)
{
	int r = settle_tree(p, op->path);

	return r < 0 ? r : settle_tree(p, op->path2);
}

static int settle_hard_link(struct plain *p, const struct op *op)
{
	_cleanup_sides_ struct sides a = {0}, b = {0};
	_cleanup_free_ char *tmp = NULL;
	int r = look(p, op->path, &a);

	if (r == 0)
		r = look(p, op->path2, &b);
	if (r < 0)
		return r;
	if (!(p->features & REMOTE_HARDLINK) || !a.here || !b.here || !S_ISREG(a.st_here.st_mode) ||
		a.st_here.st_ino != b.st_here.st_ino) {
		if (b.here)
			plain_count(p, PLAIN_HARD_LINKS);
		return plain_settle_path(p, op->path2, false);
	}
	r = plain_settle_path(p, op->path, false);
	tmp = plain_tmp(p);
	if (r == 0)
		r = tmp ? p->remote->ops->link(p->remote, a.name, tmp) : -ENOMEM;
	if (r == 0)
		r = plain_place(p, tmp, op->path2);
	if (r < 0)
		return r;
	r = p->remote->ops->remove(p->remote, tmp); /* rename(2) leaves two names of one inode */
	return r == -ENOENT ? 0 : r;
}

static int settle_rmdir(struct plain *p, const struct op *op)
{
	_cleanup_sides_ struct sides s = {0};
	int r = plain_settle_path(p, op->path, false);

	if (r < 0 || !paths_covers(&p->mixed, op->path))
		return r;
	r = look(p, op->path, &s);
	if (r == 0 && !s.here && s.there)
		r = plain_move_aside(p, op->path, LEFT_OVER);
	if (r == 0 && !s.here)
		paths_drop(&p->mixed, op->path);
	return r;
}

static int settle_content(struct plain *p, const struct op *op)
{
	struct stat st;

	if (paths_get(&p->fresh, op->path) >= op->seq)
		return 0;
	if (confine_stat(p->replica->root, op->path, &st) < 0)
		paths_put(&p->skipped, op->path, op->seq);
	return plain_settle_path(p, op->path, true);
}

int plain_settle(struct plain *p, const struct op *op)
{
	switch (op->type) {
	case OP_RENAME:
		return op->flags & OP_EXCHANGE ? settle_exchange(p, op) : settle_rename(p, op);
	case OP_LINK:
		return settle_hard_link(p, op);
	case OP_CONTENT:
		return settle_content(p, op);
	case OP_SETXATTR:
	case OP_REMOVEXATTR:
		plain_count(p, PLAIN_XATTRS);
		return plain_settle_path(p, op->path, false); /* an ACL changes the mode */
	case OP_RMDIR:
		forget(p, op->path);
		return settle_rmdir(p, op);
	case OP_UNLINK:
		forget(p, op->path);
		return plain_settle_path(p, op->path, false);
	case OP_VAULT: /* what stands there may have left its name for the vault */
	case OP_MKNOD:
	case OP_MKDIR:
	case OP_SYMLINK:
	case OP_SETATTR:
		return plain_settle_path(p, op->path, false);
	default:
		return 0;
	}
}
