/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "handle.h"
#include "fs.h"
#include "lost_name.h"
#include "lost_version.h"
#include "readdir.h"
#include "replicate/base/cleanup.h"

#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <utlist.h>

/*
 * DESIGN: a change of a file's bytes is bracketed by dirty_begin() and dirty_end(). The first one
 * of a clean file notes OP_DIRTY; the range is added after the bytes are there, so that an
 * OP_CONTENT never names bytes that are not yet written. An OP_CONTENT that is noted in the middle
 * of other changes leaves the inode dirty under a new OP_DIRTY.
 *
 * A file written in place is emitted 2 s after its first change even if nobody closes it; one that
 * is new is kept back until it is closed, since a peer shows it whole or not at all, unless it has
 * been quiet for 30 s or dirty for 10 min.
 */

#define NS_PER_S 1000000000ull
#define AGE_RANGES (2 * NS_PER_S)
#define AGE_WHOLE_QUIET (30 * NS_PER_S)
#define AGE_WHOLE (600 * NS_PER_S)

/* A file that is written front to back travels ahead of its close from here on; in such steps. */
#define GROWN_MIN (4u << 20)
#define GROWN_STEP (1u << 20)

static uint64_t monotonic_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

int handle_new(struct mount *m, struct inode *i, int fd, int flags, struct handle **ret)
{
	struct handle *h = calloc(1, sizeof(*h));

	if (!h) {
		(void)close(fd);
		return -ENOMEM;
	}
	h->inode = i;
	h->fd = fd;
	h->writable = (flags & O_ACCMODE) != O_RDONLY;
	inode_pin(m->inodes, i);
	(void)pthread_mutex_lock(&i->lock);
	DL_APPEND(i->handles, h);
	(void)pthread_mutex_unlock(&i->lock);
	*ret = h;
	return 0;
}

bool handle_opened_by(struct inode *i, pid_t pid)
{
	struct handle *h;
	bool found = false;

	(void)pthread_mutex_lock(&i->lock);
	DL_FOREACH (i->handles, h)
		found |= h->writable && h->opener == pid;
	(void)pthread_mutex_unlock(&i->lock);
	return found && pid > 0;
}

void handle_free(struct mount *m, struct handle *h)
{
	struct inode *i = h->inode;

	(void)pthread_mutex_lock(&i->lock);
	DL_DELETE(i->handles, h);
	(void)pthread_mutex_unlock(&i->lock);
	lost_version_closed(m, i);
	(void)close(h->fd);
	dir_stream_free(h->dir);
	free(h);
	inode_unpin(m->inodes, i);
}

void handles_close(struct inode *i)
{
	struct handle *h, *next;

	DL_FOREACH_SAFE (i->handles, h, next) {
		(void)close(h->fd);
		dir_stream_free(h->dir);
		free(h);
	}
	i->handles = NULL;
}

void dirty_free(struct dirty *d)
{
	free(d);
}

/* The inode's lock is held. */
static struct dirty *dirty_new(struct mount *m, struct inode *i)
{
	struct dirty *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->inode = i;
	d->ranges = (struct ranges){.list = d->room, .cap = DIRTY_RANGES + 1};
	d->first = d->last = monotonic_ns();
	i->dirty = d;
	inode_pin(m->inodes, i);
	(void)pthread_mutex_lock(&m->dirty.lock);
	DL_APPEND(m->dirty.head, d);
	(void)pthread_mutex_unlock(&m->dirty.lock);
	return d;
}

/* Takes the state from the inode; its reference goes to the caller. The inode's lock is held. */
static void dirty_unlink(struct mount *m, struct inode *i)
{
	struct dirty *d = i->dirty;

	i->dirty = NULL;
	(void)pthread_mutex_lock(&m->dirty.lock);
	DL_DELETE(m->dirty.head, d);
	(void)pthread_mutex_unlock(&m->dirty.lock);
	free(d);
}

static int note_dirty(struct mount *m, struct inode *i, char *path, bool whole, uint64_t *ret_seq)
{
	struct op op = {.type = OP_DIRTY, .path = path, .flags = whole ? OP_WHOLE : 0};
	int r;

	op.time = replica_now(m->replica);
	inode_fid(i, &op.fid);
	r = replica_note(m->replica, &op);
	if (r == 0)
		*ret_seq = op.seq;
	return r;
}

static int dirty_mark_new(struct mount *m, struct inode *i, char *path, bool whole)
{
	uint64_t seq;
	int r = note_dirty(m, i, path, whole, &seq);

	if (r == 0 && !dirty_new(m, i)) {
		replica_clean(m->replica, seq);
		r = -ENOMEM;
	}
	if (r == 0)
		i->dirty->seq = seq;
	return r;
}

/* A file that was changed in place begins anew: until its close no peer may be sent what is in it.
 */
static int dirty_mark_whole(struct mount *m, struct inode *i, char *path)
{
	uint64_t seq;
	int r = note_dirty(m, i, path, true, &seq);

	if (r < 0)
		return r;
	replica_clean(m->replica, i->dirty->seq);
	i->dirty->seq = seq;
	i->dirty->whole = true;
	i->dirty->scattered = true; /* until it is empty */
	i->dirty->ranges.n = 0;
	return 0;
}

/* The inode's lock is held. */
static void writer_add(struct inode *i)
{
	if (i->dirty)
		i->dirty->writers++;
	else if (i->orphan)
		i->loose++;
}

static void writer_drop(struct inode *i)
{
	if (i->loose)
		i->loose--;
	else if (i->dirty && i->dirty->writers)
		i->dirty->writers--;
}

static int dirty_mark_locked(struct mount *m, struct inode *i, char *path, bool whole)
{
	int r = 0;

	(void)pthread_mutex_lock(&i->lock);
	if (!i->dirty && !i->orphan)
		r = dirty_mark_new(m, i, path, whole);
	else if (i->dirty && whole && !i->dirty->whole)
		r = dirty_mark_whole(m, i, path);
	if (r == 0)
		writer_add(i);
	(void)pthread_mutex_unlock(&i->lock);
	return r;
}

/* The slow way of dirty_begin(): the first change. */
static int dirty_mark(struct mount *m, struct inode *i, bool whole)
{
	char path[TANDEMFS_PATH_MAX + 1];
	int r;

	lost_name_find(m, i);
	tree_lock(m->tree, TREE_CHANGE);
	r = inode_path(m->inodes, i, NULL, path);
	if (r == 0)
		r = dirty_mark_locked(m, i, path, whole);
	else if (r == -ENOENT)
		r = 0; /* no name: nothing to replicate */
	tree_unlock(m->tree);
	return r;
}

int dirty_begin(struct mount *m, struct inode *i, bool whole)
{
	bool done;

	(void)pthread_mutex_lock(&i->lock);
	done = i->orphan || (i->dirty && (i->dirty->whole || !whole));
	if (done)
		writer_add(i);
	(void)pthread_mutex_unlock(&i->lock);
	return done ? 0 : dirty_mark(m, i, whole);
}

static void tell_growth(struct mount *m, struct inode *i, struct dirty *d)
{
	struct fid fid;

	inode_fid(i, &fid);
	replica_grown(m->replica, d->seq, &fid, d->front);
	d->told = d->front;
}

/* After a change of a file that is written anew; the inode's lock is held. */
static void note_growth(
	struct mount *m, struct inode *i, uint64_t start, uint64_t len, bool emptied)
{
	struct dirty *d = i->dirty;

	if (emptied && !d->told) {
		d->front = 0;
		d->scattered = false;
	} else if (len > 0 && start == d->front && !d->scattered) {
		d->front += len;
		if (d->front >= GROWN_MIN && d->front - d->told >= GROWN_STEP)
			tell_growth(m, i, d);
	} else if (!d->scattered) {
		d->scattered = true;
		if (d->told)
			replica_rewritten(m->replica, d->seq);
	}
}

void dirty_end(struct mount *m, struct inode *i, uint64_t start, uint64_t len, bool whole)
{
	struct dirty *d;

	(void)pthread_mutex_lock(&i->lock);
	writer_drop(i);
	lost_version_changed(i);
	d = i->dirty;
	if (d) { /* else its last link went meanwhile */
		d->last = monotonic_ns();
		d->whole |= whole;
		d->written = !whole && (d->written || len > 0);
		if (d->whole) {
			d->ranges.n = 0;
			note_growth(m, i, start, len, whole);
		} else {
			(void)ranges_add(&d->ranges, start, len, DIRTY_RANGES); /* has room */
		}
	}
	(void)pthread_mutex_unlock(&i->lock);
}

int dirty_created(struct mount *m, struct inode *i, uint64_t seq, uint64_t time)
{
	struct dirty *d;

	(void)pthread_mutex_lock(&i->lock);
	d = i->dirty ? i->dirty : dirty_new(m, i);
	if (d) {
		d->seq = seq;
		d->made = time;
		d->whole = true;
	}
	(void)pthread_mutex_unlock(&i->lock);
	return d ? 0 : -ENOMEM;
}

bool dirty_empty(struct inode *i)
{
	bool empty;

	(void)pthread_mutex_lock(&i->lock);
	empty = i->dirty && i->dirty->whole && !i->dirty->written;
	(void)pthread_mutex_unlock(&i->lock);
	return empty;
}

bool dirty_whole(struct inode *i)
{
	bool whole;

	(void)pthread_mutex_lock(&i->lock);
	whole = i->dirty && i->dirty->whole;
	(void)pthread_mutex_unlock(&i->lock);
	return whole;
}

bool dirty_unsent(struct inode *i)
{
	bool unsent;

	(void)pthread_mutex_lock(&i->lock);
	unsent = i->orphan || (i->dirty && i->dirty->made);
	(void)pthread_mutex_unlock(&i->lock);
	return unsent;
}

uint64_t dirty_detach(struct mount *m, struct inode *i)
{
	uint64_t mark = i->dirty ? i->dirty->seq : 0;

	i->orphan = true;
	if (i->dirty)
		dirty_unlink(m, i);
	return mark;
}

void dirty_drop(struct mount *m, struct inode *i)
{
	uint64_t mark;

	(void)pthread_mutex_lock(&i->lock);
	mark = dirty_detach(m, i);
	(void)pthread_mutex_unlock(&i->lock);
	if (!mark)
		return;
	replica_clean(m->replica, mark);
	inode_unpin(m->inodes, i);
}

/* Notes the OP_CONTENT. The inode is dirty and its lock held. */
static int content_note(struct mount *m, struct inode *i, char *path)
{
	struct dirty *d = i->dirty;
	struct op op = {.type = OP_CONTENT, .path = path};
	int r;

	inode_fid(i, &op.fid);
	/* of a name that the peers have, replication itself takes the directory's time */
	op.time = d->made ? d->made : replica_now(m->replica);
	if (d->whole) {
		op.flags = OP_WHOLE;
		if (d->told && !d->scattered && d->told < d->front)
			tell_growth(m, i, d);
	} else {
		op.ranges = d->ranges.list;
		op.n_ranges = d->ranges.n;
	}
	r = replica_note(m->replica, &op);
	if (r == 0)
		i->content_seq = op.seq;
	return r;
}

/* After the note: clean, or marked anew while others write. Returns the mark that is done with;
 * *ret_clean: the reference is the caller's. The inode's lock is held. */
static int dirty_renew(
	struct mount *m, struct inode *i, char *path, uint64_t *ret_old, bool *ret_clean)
{
	struct dirty *d = i->dirty;
	uint64_t old = d->seq;

	if (d->writers == 0 && i->loose == 0) {
		dirty_unlink(m, i);
		*ret_clean = true;
	} else {
		int r = note_dirty(m, i, path, false, &d->seq);

		if (r < 0)
			return r;
		d->ranges.n = 0;
		d->whole = false;
		d->made = d->front = d->told = 0;
		d->first = monotonic_ns();
	}
	*ret_old = old;
	return 0;
}

static int emit_at(struct mount *m, struct inode *i, char *path, uint64_t *ret_seq)
{
	uint64_t old = 0;
	bool clean = false;
	int r = 0;

	(void)pthread_mutex_lock(&i->lock);
	if (i->dirty) {
		r = content_note(m, i, path);
		if (r == 0)
			r = dirty_renew(m, i, path, &old, &clean);
	}
	if (r == 0 && ret_seq)
		*ret_seq = i->content_seq;
	(void)pthread_mutex_unlock(&i->lock);
	if (old)
		replica_clean(m->replica, old);
	if (clean)
		inode_unpin(m->inodes, i);
	return r;
}

/* Whether there is something to do; *ret_seq as for content_emit(). */
static bool content_pending(struct inode *i, uint64_t *ret_seq)
{
	bool pending;

	(void)pthread_mutex_lock(&i->lock);
	pending = i->dirty;
	if (ret_seq)
		*ret_seq = i->content_seq;
	(void)pthread_mutex_unlock(&i->lock);
	return pending;
}

int content_emit_locked(struct mount *m, struct inode *i, uint64_t *ret_seq)
{
	char path[TANDEMFS_PATH_MAX + 1];
	int r;

	if (!content_pending(i, ret_seq))
		return 0;
	r = inode_path(m->inodes, i, NULL, path);
	return r < 0 ? r : emit_at(m, i, path, ret_seq);
}

int content_emit(struct mount *m, struct inode *i, uint64_t *ret_seq)
{
	char path[TANDEMFS_PATH_MAX + 1];
	struct tree_guard guard;
	int r = lost_version_keep(m, i);

	if (r < 0 || !content_pending(i, ret_seq))
		return r;
	lost_name_find(m, i);
	tree_lock(m->tree, TREE_CHANGE);
	r = inode_path(m->inodes, i, NULL, path);
	if (r == 0) {
		tree_guard(m->tree, path, NULL, &guard);
		r = emit_at(m, i, path, ret_seq);
		tree_unguard(&guard);
	}
	tree_unlock(m->tree);
	/* its last name went meanwhile, and what was dirty with it */
	return r == -ENOENT && !content_pending(i, ret_seq) ? 0 : r;
}

/* The dirty inodes for which @want says so, pinned; the caller frees. 0 or -ENOMEM. */
static int dirty_collect(struct mount *m, bool (*want)(const struct dirty *d, uint64_t now),
	struct inode ***ret, size_t *ret_n)
{
	uint64_t now = monotonic_ns();
	struct inode **list = NULL;
	struct dirty *d;
	size_t n = 0;
	int count;

	(void)pthread_mutex_lock(&m->dirty.lock);
	DL_COUNT(m->dirty.head, d, count);
	if (count)
		list = calloc((size_t)count, sizeof(*list));
	if (list)
		DL_FOREACH (m->dirty.head, d) {
			if (want && !want(d, now))
				continue;
			inode_pin(m->inodes, d->inode);
			list[n++] = d->inode;
		}
	(void)pthread_mutex_unlock(&m->dirty.lock);
	if (count && !list)
		return -ENOMEM;
	*ret = list;
	*ret_n = n;
	return 0;
}

int content_emit_below(struct mount *m, const char *dir)
{
	_cleanup_free_ struct inode **list = NULL;
	char path[TANDEMFS_PATH_MAX + 1];
	size_t n = 0;
	int r = dirty_collect(m, NULL, &list, &n);

	for (size_t k = 0; k < n; k++) {
		if (r == 0 && inode_path(m->inodes, list[k], NULL, path) == 0 &&
			confine_below(path, dir))
			r = emit_at(m, list[k], path, NULL);
		inode_unpin(m->inodes, list[k]);
	}
	return r;
}

static void emit_each(struct mount *m, bool (*want)(const struct dirty *d, uint64_t now))
{
	_cleanup_free_ struct inode **list = NULL;
	size_t n = 0;
	int r = dirty_collect(m, want, &list, &n);

	for (size_t k = 0; k < n; k++) {
		int r2 = content_emit(m, list[k], NULL);

		if (r == 0)
			r = r2;
		inode_unpin(m->inodes, list[k]);
	}
	if (r < 0)
		log_error("noting changed contents: %s", strerror(-r));
}

void content_emit_all(struct mount *m)
{
	emit_each(m, NULL);
}

/* Reads what the inode's lock guards without it: the list's order of locks is the other way, and a
 * torn answer only shifts the time. */
static bool dirty_aged(const struct dirty *d, uint64_t now)
{
	uint64_t first = atomic_load(&d->first);
	uint64_t last = atomic_load(&d->last);

	if (!atomic_load(&d->whole))
		return now > first + AGE_RANGES;
	return now > last + AGE_WHOLE_QUIET || now > first + AGE_WHOLE;
}

void content_emit_aged(struct mount *m)
{
	emit_each(m, dirty_aged);
}
