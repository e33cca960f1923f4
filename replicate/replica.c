/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Gives out sequence numbers to local changes, and keeps what the other modules of a node share:
 * what of each origin was applied, what a rename moves, which part of the journal is needed.
 */

#include "filled.h"
#include "growing.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* Most origins that a record names; more peers than that need another format. */
#define ORIGINS_MAX 16

struct origin *origin_find_locked(struct replica *r, const char *id)
{
	for (struct origin *o = r->origins; o; o = o->next)
		if (strcmp(o->id, id) == 0)
			return o;
	return NULL;
}

struct origin *replica_origin(struct replica *r, const char *id)
{
	struct origin *o;

	(void)pthread_mutex_lock(&r->lock);
	o = origin_find_locked(r, id);
	if (!o && (o = calloc(1, sizeof(*o)))) {
		(void)snprintf(o->id, sizeof(o->id), "%s", id);
		o->next = r->origins;
		r->origins = o;
	}
	(void)pthread_mutex_unlock(&r->lock);
	return o;
}

static void put_seen(struct replica *r, struct buf *b)
{
	size_t at = b->len;
	uint8_t n = 0;

	buf_put_u8(b, 0);
	(void)pthread_mutex_lock(&r->lock);
	for (struct origin *o = r->origins; o && n < ORIGINS_MAX; o = o->next, n++) {
		uint8_t raw[WIRE_ID_LEN / 2];

		id_to_raw(o->id, raw);
		buf_put(b, raw, sizeof(raw));
		position_encode(r->asks ? &o->frozen : &o->applied, b);
	}
	(void)pthread_mutex_unlock(&r->lock);
	if (!b->failed)
		b->data[at] = n;
}

void replica_moved(struct replica *r, const char *from, const char *to, bool exchange, bool theirs)
{
	(void)pthread_mutex_lock(&r->lock);
	if (theirs && unseen_moved(r->unseen, from, to, exchange) < 0)
		log_warning("no memory to follow a rename: conflicts may be seen where none are");
	marks_follow_locked(r, from, to, exchange);
	asks_follow_locked(r, from, to);
	review_follow_locked(r, from, to);
	if (exchange) {
		asks_follow_locked(r, to, from);
		review_follow_locked(r, to, from);
	}
	(void)pthread_mutex_unlock(&r->lock);
}

bool replica_is_aborted(struct replica *r, uint64_t seq)
{
	struct aborted *a;

	HASH_FIND(hh, r->aborted, &seq, sizeof(seq), a);
	return a != NULL;
}

static uint64_t oldest_needed(struct replica *r)
{
	uint64_t seq = journal_head(r->journal);
	struct dirty *d, *next;
	bool given_up = false;

	(void)pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < r->n_peers; i++) {
		uint64_t has = position_contiguous(&r->peers[i].applied);

		if (r->peers[i].resync_needed & RESYNC_JOURNAL)
			given_up = true;
		else if (has < seq)
			seq = has;
	}
	HASH_ITER (hh, r->dirty, d, next)
		if (d->seq <= seq)
			seq = d->seq - 1;
	if (!given_up && unseen_oldest(r->unseen) <= seq)
		seq = unseen_oldest(r->unseen) - 1;
	(void)pthread_mutex_unlock(&r->lock);
	return seq + 1;
}

void replica_trim(struct replica *r)
{
	int e = journal_trim(r->journal, oldest_needed(r));

	if (e < 0)
		log_warning("journal: cannot delete old segments: %s", strerror(-e));
}

/* ---- local changes ---- */

struct tree *replica_tree(struct replica *r)
{
	return r->tree;
}

uint64_t replica_now(struct replica *r)
{
	uint64_t now = clock_real_ns();
	uint64_t last = atomic_load(&r->last_time);

	do {
		if (now <= last)
			now = last;
	} while (!atomic_compare_exchange_weak(&r->last_time, &last, now));
	return now;
}

void replica_saw_time(struct replica *r, uint64_t time)
{
	uint64_t last = atomic_load(&r->last_time);

	while (last < time && !atomic_compare_exchange_weak(&r->last_time, &last, time))
		;
}

uint64_t replica_content_size(struct replica *r, const struct op *op)
{
	struct stat st;

	if (!(op->flags & OP_WHOLE) || confine_stat(r->root, op->path, &st) < 0 ||
		!S_ISREG(st.st_mode))
		return 0;
	return (uint64_t)st.st_size;
}

static void note_pending(struct replica *r, const struct op *op)
{
	uint64_t size = op->type == OP_CONTENT && r->n_peers ? replica_content_size(r, op) : 0;

	(void)pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < r->n_peers; i++) {
		struct peer *p = &r->peers[i];

		if (op->type == OP_CONTENT && !(op->flags & OP_FORCE) &&
			pending_add(p->pending, op, size) < 0)
			log_debug("no memory to merge contents; they travel one by one");
		if (p->oldest_time == 0 && op_is_sent(op->type))
			p->oldest_time = clock_real_ns();
	}
	(void)pthread_mutex_unlock(&r->lock);
}

/* A content may make its name new at the peer, which must not make the directory there look younger
 * than here. */
static uint64_t time_of_parent(struct replica *r, const char *path)
{
	_cleanup_free_ char *dir = strndup(path, confine_parent_len(path));
	struct stat st;

	if (!dir || confine_stat(r->root, dir, &st) < 0)
		return replica_now(r);
	return (uint64_t)clock_ns_of(&st.st_mtim);
}

static bool has_asks(struct replica *r)
{
	bool asks;

	(void)pthread_mutex_lock(&r->lock);
	asks = r->asks != NULL;
	(void)pthread_mutex_unlock(&r->lock);
	return asks;
}

/* Whether the file was made here and no content of it was journaled so far. */
static bool is_first_content(struct replica *r, const struct op *op)
{
	uint64_t mark;

	if (op->type != OP_CONTENT || !(op->flags & OP_WHOLE) || op->flags & OP_FORCE)
		return false;
	mark = replica_dirty_mark(r, op->path, &op->fid);
	return mark && replica_dirty_new(r, mark);
}

static int append_local(struct replica *r, struct op *op)
{
	_cleanup_buf_ struct buf b = {0};
	uint64_t seq;
	int e;

	if (is_first_content(r, op))
		op->flags |= OP_NEW;
	if (op_is_sent(op->type) && has_asks(r))
		op->flags |= OP_UNSURE;
	if (op->type == OP_CONTENT)
		op->time = time_of_parent(r, op->path);
	else if (op->time == 0)
		op->time = replica_now(r);
	buf_put_u64(&b, clock_real_ns());
	put_seen(r, &b);
	op_encode(op, OP_ENCODE_LOCAL, &b);
	e = buf_error(&b);
	if (e == 0)
		e = journal_append(r->journal, JOURNAL_LOCAL, true, b.data, b.len, NULL, 0, &seq);
	if (e < 0)
		return e;
	op->seq = seq;
	return 0;
}

static int mark_appended(struct replica *r, struct op *op)
{
	uint64_t last = atomic_load(&r->last_local);
	int e;

	if (op_is_sent(op->type))
		while (last < op->seq &&
			!atomic_compare_exchange_weak(&r->last_local, &last, op->seq))
			;
	(void)pthread_mutex_lock(&r->lock);
	e = r->n_peers ? unseen_add(r->unseen, op) : 0;
	(void)pthread_mutex_unlock(&r->lock);
	if (e < 0)
		return e;
	if (!(op->flags & OP_FORCE))
		touched_add(r->touched, op);
	if ((op->type == OP_CONTENT && !(op->flags & OP_FORCE)) || op->type == OP_DIRTY)
		growing_journaled(r, op);
	if (op->type == OP_CREATE || op->type == OP_DIRTY)
		return replica_mark_dirty(r, op);
	if (op->type == OP_FSYNC)
		replica_dirty_synced(r, op);
	note_pending(r, op);
	if (op->type == OP_RENAME)
		replica_moved(r, op->path, op->path2, op->flags & OP_EXCHANGE, false);
	return 0;
}

int replica_log(struct replica *r, struct op *op)
{
	int e = append_local(r, op);

	if (e < 0) {
		log_error("journal: cannot append %s of %s: %s", op_name(op->type), op->path,
			strerror(-e));
		return e;
	}
	e = mark_appended(r, op);
	if (e < 0)
		replica_done(r, op->seq, e);
	return e;
}

void replica_done(struct replica *r, uint64_t seq, int result)
{
	int e;

	if (result == 0) {
		journal_settle(r->journal, seq);
		return;
	}
	replica_clean(r, seq);
	(void)pthread_mutex_lock(&r->lock);
	unseen_remove(r->unseen, seq);
	(void)pthread_mutex_unlock(&r->lock);
	e = journal_abort(r->journal, seq);
	if (e < 0)
		log_error("journal: cannot mark record %llu as failed: %s", (unsigned long long)seq,
			strerror(-e));
}

int replica_note(struct replica *r, struct op *op)
{
	int e = replica_log(r, op);

	if (e == 0)
		replica_done(r, op->seq, 0);
	return e;
}

int replica_say(struct replica *r, struct op *op)
{
	op->seq = 0;
	return replica_note(r, op);
}

void replica_touch(struct replica *r, const char *dir, uint64_t time)
{
	int e = apply_touch(r->root, dir, time, true);

	if (!dir[0])
		filled_touched(r);
	if (e < 0 && e != -ENOENT)
		log_warning("cannot set the time of directory %s: %s", dir, strerror(-e));
}

/* The name at @path, or path2, of a change of names; NULL for none. */
static const char *changed_name(const struct op *op, int i)
{
	if (op->type > OP_RENAME && !(op->type == OP_CONTENT && (op->flags & OP_WHOLE)))
		return NULL;
	if (i == 0)
		return op->type == OP_LINK ? NULL : op->path;
	return op->type == OP_LINK || op->type == OP_RENAME ? op->path2 : NULL;
}

void replica_parent_times(struct replica *r, const struct op *op, uint64_t ret[2])
{
	struct stat st;

	for (int i = 0; i < 2; i++) {
		const char *name = changed_name(op, i);
		_cleanup_free_ char *dir = NULL;
		uint64_t now;

		ret[i] = 0;
		if (!name || !(dir = strndup(name, confine_parent_len(name))) ||
			confine_stat(r->root, dir, &st) < 0)
			continue;
		now = (uint64_t)clock_ns_of(&st.st_mtim);
		/* a content that replaces a file changes no name */
		if (now > op->time ||
			(op->type == OP_CONTENT && confine_stat(r->root, name, &st) == 0))
			ret[i] = now;
		else
			ret[i] = op->time;
	}
}

void replica_touch_parents(struct replica *r, const struct op *op, const uint64_t times[2])
{
	for (int i = 0; i < 2; i++) {
		const char *name = changed_name(op, i);
		_cleanup_free_ char *dir = NULL;

		if (name && times[i] && (dir = strndup(name, confine_parent_len(name))))
			replica_touch(r, dir, times[i]);
	}
}

int replica_sync_journal(struct replica *r, uint64_t seq)
{
	return journal_sync(r->journal, seq);
}

uint64_t replica_head(struct replica *r)
{
	return atomic_load(&r->last_local);
}

void replica_pause(struct replica *r, unsigned ms)
{
	struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	if (r->pause)
		r->pause(r->make_remote_ctx, ms);
	else
		(void)nanosleep(&pause, NULL);
}
