/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pending.h"

#include "ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

struct entry {
	UT_hash_handle hh;
	uint64_t last;    /* newest op that was added */
	uint64_t covered; /* newest op that was taken along; 0: none */
	bool waiting;     /* something was added since */
	bool whole;
	struct ranges ranges;
	uint64_t size;  /* of the file when it is whole, as last heard of */
	uint64_t bytes; /* that it stands for in the total */
	size_t key_len;
	uint8_t key[sizeof(uint64_t) + FID_MAX];
};

/* A content that was taken and is not acknowledged. */
struct taken {
	UT_hash_handle hh;
	struct taken *next, *prev;
	uint64_t seq, bytes;
};

struct pending {
	struct entry *table;
	struct taken *taken;
	struct taken *by_age; /* ascending, but what a new session found missing comes first */
	uint64_t bytes;       /* of both */
};

static size_t make_key(const struct fid *fid, uint8_t *dst)
{
	memcpy(dst, &fid->ino, sizeof(fid->ino));
	memcpy(dst + sizeof(fid->ino), fid->bytes, fid->len);
	return sizeof(fid->ino) + fid->len;
}

static struct entry *find(struct pending *p, const struct fid *fid)
{
	uint8_t key[sizeof(uint64_t) + FID_MAX];
	size_t len = make_key(fid, key);
	struct entry *e;

	HASH_FIND(hh, p->table, key, len, e);
	return e;
}

/* After what @e names has changed. */
static void recount(struct pending *p, struct entry *e)
{
	uint64_t now = e->whole ? e->size : ranges_bytes(&e->ranges);

	p->bytes += now - e->bytes;
	e->bytes = now;
}

static void drop(struct pending *p, struct entry *e)
{
	p->bytes -= e->bytes;
	HASH_DEL(p->table, e);
	ranges_clear(&e->ranges);
	free(e);
}

static void drop_taken(struct pending *p, struct taken *t)
{
	p->bytes -= t->bytes;
	HASH_DEL(p->taken, t);
	DL_DELETE(p->by_age, t);
	free(t);
}

/* Moves the bytes of @e to the op that takes them along. Without memory they count no longer. */
static void take_bytes(struct pending *p, struct entry *e, uint64_t seq, bool oldest)
{
	struct taken *t;

	HASH_FIND(hh, p->taken, &seq, sizeof(seq), t);
	if (!t && e->bytes && (t = calloc(1, sizeof(*t)))) {
		t->seq = seq;
		HASH_ADD(hh, p->taken, seq, sizeof(t->seq), t);
		if (oldest)
			DL_PREPEND(p->by_age, t);
		else
			DL_APPEND(p->by_age, t);
	}
	if (!t)
		return;
	t->bytes += e->bytes;
	p->bytes += e->bytes;
}

int pending_new(struct pending **ret)
{
	struct pending *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	*ret = p;
	return 0;
}

void pending_free(struct pending *p)
{
	struct entry *e, *next;

	if (!p)
		return;
	HASH_ITER (hh, p->table, e, next)
		drop(p, e);
	while (p->by_age)
		drop_taken(p, p->by_age);
	free(p);
}

static int add_ranges(struct entry *e, const struct op *op)
{
	int r = 0;

	for (size_t i = 0; i < op->n_ranges && r == 0; i++) {
		const struct range *range = &op->ranges[i];

		r = ranges_add(&e->ranges, range->start, range->len, OP_RANGES_MAX);
		if (range->start + range->len > e->size)
			e->size = range->start + range->len;
	}
	return r;
}

int pending_add(struct pending *p, const struct op *op, uint64_t size)
{
	struct entry *e = find(p, &op->fid);
	int r = 0;

	if (!e) {
		e = calloc(1, sizeof(*e));
		if (!e)
			return -ENOMEM;
		e->key_len = make_key(&op->fid, e->key);
		HASH_ADD_KEYPTR(hh, p->table, e->key, e->key_len, e);
	}
	e->waiting = true;
	if (op->flags & OP_WHOLE) {
		e->whole = true;
		e->size = size;
	}
	r = add_ranges(e, op);
	if (r == 0)
		e->last = op->seq;
	recount(p, e);
	return r;
}

static void merge_into(struct pending *p, struct entry *e, struct op *op)
{
	for (size_t i = 0; i < op->n_ranges; i++)
		if (ranges_add(&e->ranges, op->ranges[i].start, op->ranges[i].len, OP_RANGES_MAX) <
			0)
			return; /* it travels by itself, the later ones too */
	recount(p, e);
	take_bytes(p, e, op->seq, false);
	if (e->whole || (op->flags & OP_WHOLE)) {
		op->flags |= OP_WHOLE;
		free(op->ranges);
		op->ranges = NULL;
		op->n_ranges = 0;
	} else {
		free(op->ranges);
		op->ranges = e->ranges.list;
		op->n_ranges = e->ranges.n;
		e->ranges = (struct ranges){0};
	}
	e->covered = e->last;
	ranges_clear(&e->ranges);
	e->whole = e->waiting = false;
	recount(p, e);
}

bool pending_take(struct pending *p, struct op *op)
{
	struct entry *e = find(p, &op->fid);

	if (!e)
		return true;
	if (op->seq <= e->covered) {
		if (op->seq == e->covered && !e->waiting)
			drop(p, e);
		return false;
	}
	if (op->seq > e->last) /* older news of another life of the inode */
		return true;
	merge_into(p, e, op);
	if (e->covered == op->seq)
		drop(p, e);
	return true;
}

bool pending_rewritten(struct pending *p, const struct fid *fid)
{
	const struct entry *e = find(p, fid);

	return e && e->waiting && e->whole;
}

void pending_acked(struct pending *p, const struct position *applied)
{
	struct taken *t, *next;

	DL_FOREACH_SAFE (p->by_age, t, next) {
		if (t->seq > applied->high)
			break;
		if (position_has(applied, t->seq))
			drop_taken(p, t);
	}
}

void pending_rewind(struct pending *p, const struct position *applied)
{
	struct entry *e, *next;

	pending_acked(p, applied);
	HASH_ITER (hh, p->table, e, next) {
		e->covered = 0;
		/* what is missing there is read from the journal again, by itself */
		if (e->waiting && position_is_missing(applied, e->last))
			take_bytes(p, e, e->last, true);
		if (!e->waiting || e->last <= applied->high)
			drop(p, e);
	}
}

uint64_t pending_bytes(const struct pending *p)
{
	return p->bytes;
}
