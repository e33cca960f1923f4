/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pending.h"

#include "ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

struct entry {
	UT_hash_handle hh;
	uint64_t last;    /* newest op that was added */
	uint64_t covered; /* newest op that was taken along; 0: none */
	bool waiting;     /* something was added since */
	bool whole;
	struct ranges ranges;
	size_t key_len;
	uint8_t key[sizeof(uint64_t) + FID_MAX];
};

struct pending {
	struct entry *table;
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

static void drop(struct pending *p, struct entry *e)
{
	HASH_DEL(p->table, e);
	ranges_clear(&e->ranges);
	free(e);
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
	free(p);
}

int pending_add(struct pending *p, const struct op *op)
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
	e->whole |= (op->flags & OP_WHOLE) != 0;
	for (size_t i = 0; i < op->n_ranges && r == 0; i++)
		r = ranges_add(&e->ranges, op->ranges[i].start, op->ranges[i].len, OP_RANGES_MAX);
	if (r == 0)
		e->last = op->seq;
	return r;
}

static void merge_into(struct entry *e, struct op *op)
{
	for (size_t i = 0; i < op->n_ranges; i++)
		if (ranges_add(&e->ranges, op->ranges[i].start, op->ranges[i].len, OP_RANGES_MAX) <
			0)
			return; /* it travels by itself, the later ones too */
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
	merge_into(e, op);
	if (e->covered == op->seq)
		drop(p, e);
	return true;
}

void pending_rewind(struct pending *p)
{
	struct entry *e, *next;

	HASH_ITER (hh, p->table, e, next) {
		e->covered = 0;
		if (!e->waiting)
			drop(p, e);
	}
}
