/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The comparison of both trees by size and mtime: at the first contact, and when the journal or
 * what is remembered does not tell what the peer has. Directory by directory, deepest last found
 * first; what differs is uploaded by the bulk threads. It can be cut short at any moment: begun
 * again, it finds what it has done.
 *
 * Nothing is deleted: that a name is missing here is no sign that somebody deleted it. At the first
 * contact a file there that is younger than ours is moved aside, since it may be somebody's work.
 *
 * The trees are in use meanwhile. What was made after the comparison began (for the first time,
 * when it was cut short) has its op in the journal, and these are settled (plain_settle.c), not
 * replayed.
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

/* A directory on the list; or a name in one. */
struct place {
	struct place *next;
	char *path; /* owned */
};

struct entry {
	UT_hash_handle hh;
	struct stat st;
	char *name; /* owned */
};

struct inode_name {
	UT_hash_handle hh;
	uint64_t ino;
	char *path; /* owned */
};

struct plain_scan {
	struct place *dirs;      /* to be compared */
	char *dir;               /* under way; NULL: none */
	char **names;            /* in it, here; owned */
	size_t n_names, next;    /* the first that is not compared */
	struct entry *there;     /* what stands there */
	struct inode_name *seen; /* of files with several names the first */
	uint64_t done;
	bool failed; /* no memory */
};

/* ---- making, freeing ---- */

static int push(struct plain_scan *s, const char *path)
{
	struct place *d = calloc(1, sizeof(*d));

	if (!d || !(d->path = strdup(path))) {
		free(d);
		return -ENOMEM;
	}
	d->next = s->dirs;
	s->dirs = d;
	return 0;
}

static void drop_entry(struct plain_scan *s, struct entry *e)
{
	HASH_DEL(s->there, e);
	free(e->name);
	free(e);
}

static void leave_dir(struct plain_scan *s)
{
	struct entry *e, *next;

	HASH_ITER (hh, s->there, e, next)
		drop_entry(s, e);
	for (size_t i = 0; i < s->n_names; i++)
		free(s->names[i]);
	free(s->names);
	free(s->dir);
	s->names = NULL;
	s->dir = NULL;
	s->n_names = s->next = 0;
}

void plain_scan_free(struct plain *p)
{
	struct plain_scan *s = p->scan;
	struct inode_name *i, *next;

	if (!s)
		return;
	leave_dir(s);
	while (s->dirs) {
		struct place *d = s->dirs;

		s->dirs = d->next;
		free(d->path);
		free(d);
	}
	HASH_ITER (hh, s->seen, i, next) {
		HASH_DEL(s->seen, i);
		free(i->path);
		free(i);
	}
	free(s);
	p->scan = NULL;
}

int plain_scan_start(struct plain *p)
{
	struct plain_scan *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	p->scan = s;
	atomic_store(&p->counts[PLAIN_ONLY_THERE], 0);
	atomic_store(&p->counts[PLAIN_SPECIALS], 0);
	log_notice("%s: comparing by size and mtime", peer_label(p->peer));
	return push(s, "");
}

uint64_t plain_scan_done(const struct plain *p)
{
	return p->scan ? p->scan->done : 0;
}

const char *plain_scan_path(const struct plain *p)
{
	const struct plain_scan *s = p->scan;

	if (s->dir && s->next < s->n_names)
		return s->names[s->next];
	return s->dir ? s->dir : "";
}

/* ---- listings ---- */

static void take_there(void *ctx, const char *name, const struct stat *st)
{
	struct plain_scan *s = ctx;
	struct entry *e = calloc(1, sizeof(*e));

	if (!e || !(e->name = strdup(name))) {
		free(e);
		s->failed = true;
		return;
	}
	e->st = *st;
	HASH_ADD_KEYPTR(hh, s->there, e->name, strlen(e->name), e);
}

static int add_name(struct plain_scan *s, const char *name)
{
	if ((s->n_names & (s->n_names - 1)) == 0) {
		size_t cap = s->n_names ? 2 * s->n_names : 1;
		char **names = reallocarray(s->names, cap, sizeof(*names));

		if (!names)
			return -ENOMEM;
		s->names = names;
	}
	s->names[s->n_names] = strdup(name);
	if (!s->names[s->n_names])
		return -ENOMEM;
	s->n_names++;
	return 0;
}

static int list_here(struct plain *p, struct plain_scan *s)
{
	_cleanup_closedir_ DIR *dir = NULL;
	int r = confine_opendir(p->replica->root, s->dir, &dir);
	struct dirent *entry;

	if (r < 0)
		return r == -ENOENT || r == -ENOTDIR || r == -ELOOP ? 0 : r;
	while (r == 0 && (errno = 0, entry = readdir(dir))) {
		bool own = !s->dir[0] && strcmp(entry->d_name, TANDEMFS_DIR) == 0;

		if (!own && strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = add_name(s, entry->d_name);
	}
	return r < 0 ? r : -errno;
}

static int enter_dir(struct plain *p, struct plain_scan *s)
{
	struct place *d = s->dirs;
	_cleanup_free_ char *there = plain_there(p, d->path);
	int r = there ? p->remote->ops->scan(p->remote, there, take_there, s) : -ENOMEM;

	s->dirs = d->next;
	s->dir = d->path;
	free(d);
	if (r == -ENOENT)
		r = 0; /* it was removed here meanwhile, and there with it: its op is to come */
	if (r == 0 && s->failed)
		r = -ENOMEM;
	return r < 0 ? r : list_here(p, s);
}

/* ---- one name ---- */

static int start_upload(struct plain *p, const char *path)
{
	_cleanup_close_ int fd = confine_open(p->replica->root, path, O_RDONLY | O_NONBLOCK, 0);
	struct plain_item *item;
	struct stat st;
	int r;

	if (fd < 0)
		return fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP ? 0 : fd;
	item = plain_item_new(p);
	if (!item)
		return -ENOMEM;
	item->scan = item->large = true;
	item->op = (struct op){.type = OP_CONTENT, .flags = OP_WHOLE, .path = strdup(path)};
	r = item->op.path ? fid_of_fd(fd, &item->op.fid) : -ENOMEM;
	if (r == 0 && replica_whole_dirty(p->replica, &item->op.fid)) {
		plain_item_free(p, item); /* its close has its own op */
		return 0;
	}
	if (r == 0)
		r = content_describe(fd, &item->op, &st);
	if (r == 0)
		r = plain_stage(p, item, &fd);
	if (r < 0)
		plain_item_free(p, item);
	return r == -EINVAL ? 0 : r; /* it is no file any more: it has an op */
}

/* 1 when @path is one more name of a file that was met before and is dealt with. */
static int other_name(
	struct plain *p, const char *path, const struct stat *here, const struct stat *there)
{
	struct plain_scan *s = p->scan;
	struct inode_name *seen;
	uint64_t ino = here->st_ino;
	struct op op = {.type = OP_LINK};

	HASH_FIND(hh, s->seen, &ino, sizeof(ino), seen);
	if (!seen) {
		seen = calloc(1, sizeof(*seen));
		if (!seen || !(seen->path = strdup(path))) {
			free(seen);
			return -ENOMEM;
		}
		seen->ino = ino;
		HASH_ADD(hh, s->seen, ino, sizeof(seen->ino), seen);
		return 0;
	}
	if (!(p->features & REMOTE_HARDLINK)) {
		plain_count(p, PLAIN_HARD_LINKS);
		return 0;
	}
	if (there && plain_compare(p, here, there) != PLAIN_DIFFERENT)
		return 0;
	op.path = seen->path;
	op.path2 = (char *)path;
	return plain_settle(p, &op) ?: 1;
}

static int compare_file(
	struct plain *p, const char *path, const struct stat *here, const struct entry *there)
{
	const struct stat *st = there ? &there->st : NULL;
	int r = here->st_nlink > 1 ? other_name(p, path, here, st) : 0;

	if (r != 0)
		return r < 0 ? r : 0;
	if (st && plain_compare(p, here, st) != PLAIN_DIFFERENT)
		return plain_settle_path(p, path, false);
	if (!p->state.met && st && S_ISREG(st->st_mode) &&
		st->st_mtim.tv_sec > here->st_mtim.tv_sec)
		r = plain_move_aside(p, path, "there was younger than ours"); /* somebody's work? */
	if (r == 0 && ((st && S_ISDIR(st->st_mode)) || here->st_nlink > 1))
		r = plain_settle_path(p, path, true); /* a directory may have to stay */
	else if (r == 0)
		r = start_upload(p, path);
	return r;
}

static int compare_name(struct plain *p, const char *name)
{
	struct plain_scan *s = p->scan;
	_cleanup_free_ char *path = NULL;
	struct entry *there;
	struct stat here = {0};
	int r;

	HASH_FIND_STR(s->there, name, there);
	if (asprintf(&path, "%s%s%s", s->dir, s->dir[0] ? "/" : "", name) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	r = confine_stat(p->replica->root, path, &here);
	if (r < 0)
		r = r == -ENOENT || r == -ENOTDIR || r == -ELOOP ? 0 : r;
	else if (S_ISREG(here.st_mode))
		r = compare_file(p, path, &here, there);
	else
		r = plain_settle_path(p, path, false);
	if (r < 0)
		return r;
	if (S_ISDIR(here.st_mode))
		r = push(s, path);
	if (there)
		drop_entry(s, there);
	s->done++;
	return r;
}

/* What is left in the table was not met here. */
static void count_only_there(struct plain *p)
{
	struct plain_scan *s = p->scan;
	struct entry *e, *next;

	HASH_ITER (hh, s->there, e, next) {
		if (!s->dir[0] && strcmp(e->name, TANDEMFS_DIR) == 0)
			continue;
		plain_count(p, PLAIN_ONLY_THERE);
		log_info("%s: only there, and kept: %s%s%s", peer_label(p->peer), s->dir,
			s->dir[0] ? "/" : "", e->name);
	}
}

/* ---- the walk ---- */

/* Uploads under way at most. */
static bool has_room(const struct plain *p)
{
	return p->n_items < 4 + 4 * p->replica->config.streams;
}

static int step_in_dir(struct plain *p)
{
	struct plain_scan *s = p->scan;
	uint64_t until = clock_mono_ms() + 100;
	int r = 0;

	while (r == 0 && s->next < s->n_names && has_room(p) && clock_mono_ms() < until) {
		r = plain_closing(p) ? -ECANCELED : compare_name(p, s->names[s->next]);
		if (r == 0)
			s->next++;
	}
	if (r == 0 && s->next == s->n_names) {
		count_only_there(p);
		leave_dir(s);
	}
	return r;
}

int plain_scan_step(struct plain *p)
{
	struct plain_scan *s = p->scan;
	int r;

	if (!s->dir && s->dirs) {
		r = enter_dir(p, s);
		if (r < 0)
			return r;
		paths_put(&p->dirs, s->dir, 1);
	}
	if (s->dir)
		return step_in_dir(p);
	return p->n_items ? 0 : 1;
}
