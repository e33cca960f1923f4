/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * One node: opens the backing directory's bookkeeping and the journal, gives out sequence numbers
 * to local changes, starts the threads.
 *
 * Payload of a JOURNAL_LOCAL record:
 *     u64 when it was made, ns since the epoch
 *     u8 origins, each: 16 bytes id, position       what had been applied here when the op was made
 *     op (OP_ENCODE_LOCAL)
 * Payload of a JOURNAL_REMOTE record:
 *     16 bytes id of the origin, u64 its sequence number, u8 enum remote_how, u64 and u64 the
 * mtimes that the directories are to have op (OP_ENCODE_BRIEF, with the fid that the path had
 * here), for PASS and LATE The checkpoint's layout stands in recover.c.
 */

#include "content.h"
#include "growing.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/durable.h"
#include "base/log.h"
#include "base/say.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>
#include <utlist.h>

/* Most origins that a record names; more peers than that need another format. */
#define ORIGINS_MAX 16
#define JOURNAL_MAX_DEFAULT (1ull << 30)
/* Of the journal's segments; a journal that may not grow large has smaller ones. */
#define SEGMENT_SIZE (16ull << 20)

/* ---- records ---- */

void id_to_raw(const char *id, uint8_t raw[WIRE_ID_LEN / 2])
{
	for (size_t i = 0; i < WIRE_ID_LEN / 2; i++) {
		unsigned v = 0;

		(void)sscanf(id + 2 * i, "%2x", &v); /* ids are checked where they enter */
		raw[i] = (uint8_t)v;
	}
}

void id_from_raw(const uint8_t raw[WIRE_ID_LEN / 2], char *id)
{
	for (size_t i = 0; i < WIRE_ID_LEN / 2; i++)
		(void)snprintf(id + 2 * i, 3, "%02x", raw[i]);
}

void remote_record_put(struct buf *b, const struct remote_record *m)
{
	id_to_raw(m->id, buf_extend(b, WIRE_ID_LEN / 2) ?: (uint8_t[WIRE_ID_LEN / 2]){0});
	buf_put_u64(b, m->seq);
	buf_put_u8(b, (uint8_t)m->how);
	buf_put_u64(b, m->touch[0]);
	buf_put_u64(b, m->touch[1]);
}

int remote_record_get(struct reader *r, struct remote_record *ret)
{
	const uint8_t *raw = reader_bytes(r, WIRE_ID_LEN / 2);
	uint64_t seq = reader_u64(r);
	uint8_t how = reader_u8(r);

	ret->touch[0] = reader_u64(r);
	ret->touch[1] = reader_u64(r);
	if (reader_error(r) < 0 || how > REMOTE_VOID)
		return -EBADMSG;
	id_from_raw(raw, ret->id);
	ret->seq = seq;
	ret->how = how;
	return 0;
}

int remote_record_move(const struct remote_record *m, struct position *p)
{
	if (m->how == REMOTE_DEFER)
		return position_defer(p, m->seq);
	if (position_is_missing(p, m->seq))
		position_fill(p, m->seq);
	else
		position_pass(p, m->seq);
	return 0;
}

int local_split(const void *data, size_t len, const char *origin_id, struct local_head *ret_head,
	struct reader *ret_op)
{
	struct reader r = reader_of(data, len);
	uint64_t logged = reader_u64(&r);
	unsigned n = reader_u8(&r);
	struct position p;
	char id[WIRE_ID_LEN + 1];

	*ret_head = (struct local_head){.logged = logged};
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *raw = reader_bytes(&r, WIRE_ID_LEN / 2);

		position_decode(&r, &p);
		if (reader_error(&r) < 0)
			return -EBADMSG;
		if (!origin_id)
			continue;
		id_from_raw(raw, id);
		if (strcmp(id, origin_id) == 0)
			ret_head->seen = p;
	}
	*ret_op = r;
	return reader_error(&r);
}

/* ---- origins, dirty marks ---- */

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

static int copy_op(const struct op *op, struct op *ret)
{
	_cleanup_buf_ struct buf b = {0};
	struct reader reader;
	const char *why;
	int r;

	op_encode(op, OP_ENCODE_LOCAL, &b);
	r = buf_error(&b);
	if (r < 0)
		return r;
	reader = reader_of(b.data, b.len);
	r = op_decode(&reader, OP_ENCODE_LOCAL, ret, &why);
	if (r == 0)
		ret->seq = op->seq;
	return r;
}

static int mark_dirty(struct replica *r, const struct op *op)
{
	struct dirty *d = calloc(1, sizeof(*d));
	int e;

	if (!d)
		return -ENOMEM;
	d->seq = op->seq;
	e = copy_op(op, &d->op);
	if (e < 0) {
		free(d);
		return e;
	}
	(void)pthread_mutex_lock(&r->lock);
	HASH_ADD(hh, r->dirty, seq, sizeof(d->seq), d);
	(void)pthread_mutex_unlock(&r->lock);
	return 0;
}

void replica_clean(struct replica *r, uint64_t seq)
{
	struct dirty *d;

	growing_settled(r, seq);
	(void)pthread_mutex_lock(&r->lock);
	HASH_FIND(hh, r->dirty, &seq, sizeof(seq), d);
	if (d)
		HASH_DEL(r->dirty, d);
	(void)pthread_mutex_unlock(&r->lock);
	if (!d)
		return;
	/* a sender may have waited for this writer */
	for (size_t i = 0; i < r->n_peers && (d->op.flags & OP_WHOLE); i++)
		sender_wake(r->peers[i].sender);
	op_clear(&d->op);
	free(d);
}

bool replica_whole_dirty(struct replica *r, const struct fid *fid)
{
	struct dirty *d, *next;
	bool found = false;

	(void)pthread_mutex_lock(&r->lock);
	HASH_ITER (hh, r->dirty, d, next) {
		found = (d->op.flags & OP_WHOLE) && fid_equal(&d->op.fid, fid);
		if (found)
			break;
	}
	(void)pthread_mutex_unlock(&r->lock);
	return found;
}

static bool is_mark_of(const struct dirty *d, const char *path, const struct fid *fid)
{
	if (d->orphan)
		return false;
	return fid && d->op.fid.ino ? fid_equal(&d->op.fid, fid) : strcmp(d->op.path, path) == 0;
}

void replica_dirty_synced(struct replica *r, const struct op *op)
{
	struct dirty *d, *next;

	(void)pthread_mutex_lock(&r->lock);
	HASH_ITER (hh, r->dirty, d, next)
		d->synced = d->synced || is_mark_of(d, op->path, &op->fid);
	(void)pthread_mutex_unlock(&r->lock);
}

bool replica_torn(struct peer *p, const struct fid *fid, const struct stat *before, int fd)
{
	struct replica *r = p->replica;
	bool rewritten;

	if (replica_whole_dirty(r, fid))
		return true;
	(void)pthread_mutex_lock(&r->lock);
	rewritten = pending_rewritten(p->pending, fid);
	(void)pthread_mutex_unlock(&r->lock);
	return rewritten && !content_unchanged(before, fd);
}

uint64_t replica_dirty_mark(struct replica *r, const char *path, const struct fid *fid)
{
	struct dirty *d, *next;
	uint64_t seq = 0;

	(void)pthread_mutex_lock(&r->lock);
	HASH_ITER (hh, r->dirty, d, next)
		if (is_mark_of(d, path, fid))
			seq = d->seq;
	(void)pthread_mutex_unlock(&r->lock);
	return seq;
}

bool replica_any_dirty(struct replica *r)
{
	bool any;

	(void)pthread_mutex_lock(&r->lock);
	any = r->dirty != NULL;
	(void)pthread_mutex_unlock(&r->lock);
	return any;
}

bool replica_dirty_below(struct replica *r, const char *dir)
{
	struct dirty *d, *next;
	bool found = false;

	(void)pthread_mutex_lock(&r->lock);
	HASH_ITER (hh, r->dirty, d, next)
		found = found || (!d->orphan && confine_below(d->op.path, dir) &&
					 strcmp(d->op.path, dir) != 0);
	(void)pthread_mutex_unlock(&r->lock);
	return found;
}

bool replica_dirty_new(struct replica *r, uint64_t seq)
{
	struct dirty *d;
	bool is_new;

	(void)pthread_mutex_lock(&r->lock);
	HASH_FIND(hh, r->dirty, &seq, sizeof(seq), d);
	is_new = d && d->op.type == OP_CREATE;
	(void)pthread_mutex_unlock(&r->lock);
	return is_new;
}

/* ---- questions ---- */

static void ask_free_locked(struct replica *r, struct ask *a)
{
	DL_DELETE(r->asks, a);
	free(a->path);
	free(a);
}

static struct ask *ask_add_locked(
	struct replica *r, uint64_t seq, const char *path, bool deep, bool compare)
{
	struct ask *a = calloc(1, sizeof(*a));

	if (!a || !(a->path = strdup(path))) {
		free(a);
		return NULL;
	}
	a->seq = seq;
	a->deep = deep;
	a->compare = compare;
	DL_APPEND(r->asks, a);
	return a;
}

int replica_asked(struct replica *r, uint64_t seq, const char *path, bool deep, bool compare)
{
	return ask_add_locked(r, seq, path, deep, compare) ? 0 : -ENOMEM;
}

static struct ask *begin_ask(
	struct replica *r, const struct op *op, const struct position *again, bool *open)
{
	const char *path = op->path;
	bool deep = op->flags & OP_DEEP;
	struct ask *a;

	*open = false;
	(void)pthread_mutex_lock(&r->lock);
	DL_FOREACH (r->asks, a)
		if ((a->deep || !deep) && strcmp(a->path, path) == 0 &&
			!(again && a->seq && position_has(again, a->seq)))
			*open = true;
	if (!r->asks)
		for (struct origin *o = r->origins; o; o = o->next)
			o->frozen = o->applied;
	a = *open ? NULL : ask_add_locked(r, 0, path, deep, op->flags & OP_COMPARE);
	(void)pthread_mutex_unlock(&r->lock);
	return a;
}

static int ask(struct replica *r, struct op *op, const struct position *again)
{
	bool open;
	struct ask *a = begin_ask(r, op, again, &open);
	int e;

	if (!a)
		return open ? 0 : -ENOMEM;
	e = replica_say(r, op);
	(void)pthread_mutex_lock(&r->lock);
	if (e == 0)
		a->seq = op->seq;
	else
		ask_free_locked(r, a);
	(void)pthread_mutex_unlock(&r->lock);
	return e;
}

int replica_ask(struct replica *r, const char *path, bool deep, const struct position *again)
{
	struct op op = {.type = OP_ASK, .path = (char *)path, .flags = deep ? OP_DEEP : 0};

	return ask(r, &op, again);
}

int replica_compare(struct replica *r, const char *path, bool deep, uint64_t digest)
{
	struct op op = {.type = OP_ASK,
		.flags = OP_COMPARE | (deep ? OP_DEEP : 0),
		.path = (char *)path,
		.about = digest};

	return ask(r, &op, NULL);
}

bool replica_is_asked(struct replica *r, const char *path)
{
	const struct ask *a;
	bool found = false;

	(void)pthread_mutex_lock(&r->lock);
	DL_FOREACH (r->asks, a)
		found = found || confine_below(path, a->path) || confine_below(a->path, path);
	(void)pthread_mutex_unlock(&r->lock);
	return found;
}

static bool has_ask_locked(const struct replica *r, uint64_t seq, const char *path)
{
	const struct ask *a;

	DL_FOREACH (r->asks, a)
		if (a->seq == seq && strcmp(a->path, path) == 0)
			return true;
	return false;
}

/* The old name stays asked for as well. */
static void asks_follow_locked(struct replica *r, const char *from, const char *to)
{
	struct ask *a, *last = r->asks ? r->asks->prev : NULL;

	DL_FOREACH (r->asks, a) {
		_cleanup_free_ char *path = NULL;

		if (confine_below(a->path, from) && (path = confine_moved(a->path, from, to)) &&
			!has_ask_locked(r, a->seq, path) &&
			!ask_add_locked(r, a->seq, path, a->deep, a->compare))
			log_warning("no memory to follow a rename");
		if (a == last)
			break;
	}
}

static void marks_follow_locked(struct replica *r, const char *from, const char *to, bool exchange)
{
	struct dirty *d, *next;

	HASH_ITER (hh, r->dirty, d, next) {
		char *path;

		if (d->orphan)
			continue;
		if (confine_below(d->op.path, from))
			path = confine_moved(d->op.path, from, to);
		else if (exchange && confine_below(d->op.path, to))
			path = confine_moved(d->op.path, to, from);
		else
			continue;
		if (!path) {
			log_warning("no memory to follow a rename");
			continue;
		}
		free(d->op.path);
		d->op.path = path;
	}
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

void replica_answered(struct replica *r, uint64_t seq)
{
	struct ask *a, *next;

	(void)pthread_mutex_lock(&r->lock);
	DL_FOREACH_SAFE (r->asks, a, next)
		if (a->seq && a->seq <= seq) {
			if (!a->compare)
				review_add_locked(r, a->path, a->deep);
			ask_free_locked(r, a);
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
		return mark_dirty(r, op);
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

/* ---- opening ---- */

static int open_below(int dir, const char *name, mode_t mode, int *ret)
{
	struct stat st;
	int fd;

	if (mkdirat(dir, name, mode) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0)) {
		int e = -errno;

		(void)close(fd);
		return e;
	}
	*ret = fd;
	return 0;
}

/* The spool belongs to the account that peers log in with, so that it can make a directory there.
 */
static int give_spool(struct replica *r, char **ret_error)
{
	_cleanup_free_ char *buffer = malloc(16384);
	struct passwd pw, *found = NULL;
	int e;

	if (!r->config.account)
		return 0;
	if (!buffer)
		return -ENOMEM;
	e = getpwnam_r(r->config.account, &pw, buffer, 16384, &found);
	if (!found)
		return say(ret_error, -EINVAL, "account=%s: %s", r->config.account,
			e ? strerror(e) : "there is no such user on this machine");
	if (fchown(r->spool, pw.pw_uid, pw.pw_gid) < 0)
		return say(ret_error, -errno, "cannot give .tandemfs/in to %s: %s",
			r->config.account, strerror(errno));
	return 0;
}

/* Making .tandemfs is no change of the tree: the root keeps its mtime, which is the same on all
 * nodes. */
static int open_control(struct replica *r)
{
	struct stat st;
	int e;

	if (fstat(r->root, &st) < 0)
		return -errno;
	e = open_below(r->root, TANDEMFS_DIR, 0755, &r->control);
	if (e == 0 && futimens(r->root, (struct timespec[2]){st.st_atim, st.st_mtim}) < 0)
		e = -errno;
	return e;
}

static int open_directories(struct replica *r, char **ret_error)
{
	int e = mkdir_parents(r->config.state, 0700);

	if (e == 0 && (r->state = open(r->config.state, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		e = -errno;
	if (e < 0)
		return say(ret_error, e, "state directory %s: %s", r->config.state, strerror(-e));
	e = open_control(r);
	if (e == 0)
		e = open_below(r->control, "in", 0755, &r->spool);
	if (e == 0)
		e = open_below(r->control, "acks", 0755, &r->acks);
	if (e == 0)
		e = open_below(r->control, "tmp", 0700, &r->scratch);
	if (e == 0)
		e = apply_clean_scratch(r->scratch);
	if (e < 0)
		return say(ret_error, e, "cannot make %s/" TANDEMFS_DIR ": %s", r->config.backing,
			strerror(-e));
	return give_spool(r, ret_error);
}

static char *copy(const char *s)
{
	return s ? strdup(s) : NULL;
}

static int copy_config(struct replica *r, const struct replica_config *c)
{
	struct replica_peer_config *peers = calloc(c->n_peers + 1, sizeof(*peers));

	r->config = *c;
	r->config.peers = peers;
	r->config.backing = copy(c->backing);
	r->config.state = copy(c->state);
	r->config.node = copy(c->node);
	r->config.account = copy(c->account);
	r->config.identity = copy(c->identity);
	r->config.password_file = copy(c->password_file);
	r->config.known_hosts = copy(c->known_hosts);
	r->config.verify = copy(c->verify);
	if (!peers || !r->config.backing || !r->config.state || !r->config.node ||
		!r->config.verify)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_peers; i++) {
		peers[i] = c->peers[i];
		peers[i].url = copy(c->peers[i].url);
		peers[i].user = copy(c->peers[i].user);
		peers[i].host = copy(c->peers[i].host);
		peers[i].path = copy(c->peers[i].path);
		if (!peers[i].url || !peers[i].host || !peers[i].path)
			return -ENOMEM;
	}
	return 0;
}

static int make_sftp(struct replica *r, struct peer *p, struct remote **ret)
{
	struct remote_config config = {
		.host = p->config->host,
		.port = p->config->port,
		.user = p->config->user,
		.identity = r->config.identity,
		.password_file = r->config.password_file,
		.known_hosts = r->config.known_hosts,
		.connect_timeout_ms = 10000,
		.timeout_ms = (int)r->stall_ms,
	};

	return remote_sftp_new(&config, ret);
}

static int make_peers(struct replica *r)
{
	r->peers = calloc(r->config.n_peers + 1, sizeof(*r->peers));
	if (!r->peers)
		return -ENOMEM;
	for (size_t i = 0; i < r->config.n_peers; i++) {
		struct peer *p = &r->peers[i];
		const struct node_identity *known =
			pairings_out(&r->pairings, r->config.peers[i].url);
		int e;

		p->replica = r;
		p->config = &r->config.peers[i];
		if (known)
			p->node = *known;
		p->known = known != NULL;
		r->n_peers = i + 1;
		e = pending_new(&p->pending);
		if (e == 0)
			e = sender_new(p, &p->sender);
		if (e < 0)
			return e;
	}
	return 0;
}

static struct replica *allocate(void)
{
	struct replica *r = calloc(1, sizeof(*r));
	pthread_condattr_t attr;

	if (!r)
		return NULL;
	r->control = r->scratch = r->acks = r->spool = r->state = -1;
	r->make_remote = make_sftp;
	(void)pthread_mutex_init(&r->lock, NULL);
	(void)pthread_mutex_init(&r->survey_lock, NULL);
	(void)pthread_mutex_init(&r->resync_lock, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&r->changed, &attr);
	(void)pthread_condattr_destroy(&attr);
	return r;
}

static int open_journal(struct replica *r, char **ret_error)
{
	struct journal_config config = {
		.segment_size = r->config.segment_size, .checkpoint = replica_checkpoint, .ctx = r};
	_cleanup_free_ char *dir = NULL;
	int e;

	if (asprintf(&dir, "%s/journal", r->config.state) < 0) {
		dir = NULL;
		return -ENOMEM;
	}
	e = resync_look_back(r);
	if (e == 0)
		e = journal_open(dir, &config, &r->journal);
	if (e == 0 && r->lost_power)
		journal_leap(r->journal);
	if (e == 0)
		e = replica_recover(r);
	if (e < 0)
		return say(ret_error, e, "journal %s: %s", dir, strerror(-e));
	return 0;
}

static int open_all(struct replica *r, char **ret_error)
{
	bool seed = r->config.seed;
	int e = open_directories(r, ret_error);

	if (e == 0)
		e = node_identify(r->control, r->state, r->config.node, &seed, &r->node, ret_error);
	if (e < 0)
		return e;
	e = tree_new(&r->tree);
	if (e == 0)
		e = pairings_load(r->state, &r->pairings);
	if (e == 0)
		e = changes_open(r->state, &r->changes);
	if (e < 0)
		return say(ret_error, e, "state directory %s: %s", r->config.state, strerror(-e));
	e = vault_open(r->control, r->config.vault_max, &r->vault);
	if (e < 0)
		return say(ret_error, e, "cannot make %s/" TANDEMFS_DIR "/" VAULT_DIR ": %s",
			r->config.backing, strerror(-e));
	r->unseen = unseen_new();
	r->touched = touched_new();
	e = r->unseen && r->touched ? make_peers(r) : -ENOMEM;
	if (e == 0)
		e = open_journal(r, ret_error);
	if (e == 0)
		e = inbound_new(r, &r->inbound);
	if (e == 0)
		e = resync_open(r, seed);
	r->opened = e == 0;
	return e;
}

int replica_open(const struct replica_config *config, struct replica **ret, char **ret_error)
{
	struct replica *r = allocate();
	int e;

	*ret_error = NULL;
	if (!r)
		return -ENOMEM;
	e = copy_config(r, config);
	r->root = config->root;
	if (!r->config.journal_max)
		r->config.journal_max = JOURNAL_MAX_DEFAULT;
	if (!r->config.segment_size && r->config.journal_max < 8 * SEGMENT_SIZE)
		r->config.segment_size = r->config.journal_max / 8;
	r->stall_ms = config->stall_ms ? config->stall_ms : 2000;
	if (e == 0)
		e = open_all(r, ret_error);
	if (e < 0) {
		if (!*ret_error)
			(void)say(ret_error, e, "%s", strerror(-e));
		replica_close(r);
		return e;
	}
	*ret = r;
	return 0;
}

/* ---- threads ---- */

static void *sender_thread(void *arg)
{
	struct peer *p = arg;

	while (!atomic_load(&p->replica->closing))
		sender_turn(p->sender, 500);
	return NULL;
}

int replica_start(struct replica *r, const struct replica_hooks *hooks)
{
	int e;

	r->hooks = *hooks;
	r->threaded = true;
	e = inbound_start(r->inbound);
	for (size_t i = 0; i < r->n_peers && e == 0; i++) {
		struct peer *p = &r->peers[i];

		e = -pthread_create(&p->thread, NULL, sender_thread, p);
		p->thread_started = e == 0;
	}
	if (e == 0 && r->n_peers) {
		e = -pthread_create(&r->resync_thread, NULL, resync_thread, r);
		r->resync_started = e == 0;
	}
	return e;
}

static void stop_threads(struct replica *r)
{
	atomic_store(&r->closing, true);
	(void)pthread_mutex_lock(&r->lock);
	(void)pthread_cond_broadcast(&r->changed);
	(void)pthread_mutex_unlock(&r->lock);
	if (r->resync_started)
		(void)pthread_join(r->resync_thread, NULL);
	for (size_t i = 0; i < r->n_peers; i++) {
		struct peer *p = &r->peers[i];

		if (!p->thread_started)
			continue;
		sender_wake(p->sender);
		(void)pthread_join(p->thread, NULL);
	}
	if (r->inbound)
		inbound_stop(r->inbound);
}

static void free_peers(struct replica *r)
{
	for (size_t i = 0; i < r->n_peers; i++) {
		struct peer *p = &r->peers[i];

		sender_free(p->sender);
		pending_free(p->pending);
		free(p->error);
	}
	free(r->peers);
}

static void free_tables(struct replica *r)
{
	struct dirty *d, *next_dirty;
	struct aborted *a, *next_aborted;

	HASH_ITER (hh, r->dirty, d, next_dirty) {
		HASH_DEL(r->dirty, d);
		op_clear(&d->op);
		free(d);
	}
	HASH_ITER (hh, r->aborted, a, next_aborted) {
		HASH_DEL(r->aborted, a);
		free(a);
	}
	while (r->origins) {
		struct origin *o = r->origins;

		r->origins = o->next;
		free(o->waiting);
		free(o->refused);
		free(o);
	}
	while (r->asks)
		ask_free_locked(r, r->asks);
	while (r->orphans) {
		struct orphan *o = r->orphans;

		r->orphans = o->next;
		free(o);
	}
	unseen_free(r->unseen);
	review_clear_locked(r);
	touched_free(r->touched);
	growing_free_all(r);
	pairings_clear(&r->pairings);
}

static void free_config(struct replica_config *c)
{
	for (size_t i = 0; c->peers && i < c->n_peers; i++) {
		free((char *)c->peers[i].url);
		free((char *)c->peers[i].user);
		free((char *)c->peers[i].host);
		free((char *)c->peers[i].path);
	}
	free((void *)c->peers);
	free((char *)c->backing);
	free((char *)c->state);
	free((char *)c->node);
	free((char *)c->account);
	free((char *)c->identity);
	free((char *)c->password_file);
	free((char *)c->known_hosts);
	free((char *)c->verify);
}

void replica_close(struct replica *r)
{
	if (!r)
		return;
	stop_threads(r);
	inbound_free(r->inbound);
	free_peers(r);
	if (r->journal)
		journal_close(r->journal);
	if (r->opened)
		resync_close(r);
	changes_close(r->changes);
	vault_close(r->vault);
	tree_free(r->tree);
	free_tables(r);
	cleanup_close(&r->control);
	cleanup_close(&r->scratch);
	cleanup_close(&r->acks);
	cleanup_close(&r->spool);
	cleanup_close(&r->state);
	free_config(&r->config);
	(void)pthread_cond_destroy(&r->changed);
	(void)pthread_mutex_destroy(&r->lock);
	(void)pthread_mutex_destroy(&r->survey_lock);
	(void)pthread_mutex_destroy(&r->resync_lock);
	free(r);
}
