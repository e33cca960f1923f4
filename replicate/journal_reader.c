/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "journal_state.h"
#include "base/cleanup.h"

#include <string.h>

/*
 * DESIGN: a reader works in batches. Under the journal's lock it learns up to where it may read
 * (the settled records, the end of the segment) and which of these are void; then it reads up to
 * there without any lock. What it read ahead beyond that limit may have been half-written then, and
 * is thrown away at the start of the next batch.
 */

struct journal_reader {
	struct journal *j;
	uint64_t segment; /* first record of the segment that the cursor is in; 0: none */
	struct segment_cursor cursor;
	uint64_t next;        /* number wanted */
	uint64_t limit;       /* of this batch */
	struct seq_set voids; /* aborted records of this batch, ascending */
	size_t void_at;       /* the first one that is not below next */
	bool all;             /* also aborted records, for recovery */
};

#define AHEAD_FEW (4u << 10)
#define AHEAD_MANY (128u << 10)
#define FEW 16

/* The segment that holds @seq or will; NULL below the tail. */
static const struct segment *segment_of(const struct journal *j, uint64_t seq)
{
	size_t i = j->n_segments;

	while (i > 0 && j->segments[i - 1].first > seq)
		i--;
	return i ? &j->segments[i - 1] : NULL;
}

/* The nearest known place at or before r->next, if it is nearer than the cursor is. */
static void place_cursor(struct journal_reader *r, const struct segment *s)
{
	struct segment_mark best = {.seq = s->first, .offset = SEGMENT_HEADER_SIZE};
	size_t low = 0, high = s->n_marks;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (s->marks[mid].seq <= r->next)
			low = mid + 1;
		else
			high = mid;
	}
	if (low)
		best = s->marks[low - 1];
	if (r->cursor.at > r->next || r->cursor.at < best.seq)
		segment_cursor_place(&r->cursor, best.seq, best.offset);
	else /* forget what was read ahead */
		segment_cursor_place(&r->cursor, r->cursor.at, r->cursor.offset);
}

static int copy_voids(struct journal_reader *r)
{
	const struct seq_set *a = &r->j->aborted;

	r->voids.n = r->void_at = 0;
	for (size_t i = seq_set_find(a, r->next); i < a->n && a->seqs[i] <= r->limit; i++) {
		if (seq_set_reserve(&r->voids) < 0)
			return -ENOMEM;
		r->voids.seqs[r->voids.n++] = a->seqs[i];
	}
	return 0;
}

static int begin_batch_locked(struct journal_reader *r)
{
	struct journal *j = r->j;
	const struct segment *s;
	int e;

	r->limit = 0;
	if (r->next > j->settled) {
		for (size_t i = 0; i < j->n_watches; i++)
			j->watches[i].armed = true;
		return -EAGAIN;
	}
	s = segment_of(j, r->next);
	if (!s)
		return -ESTALE;
	if (s->last && r->next > s->last) /* left out: what is settled is behind that */
		r->next = (++s)->first;
	if (r->segment != s->first) {
		r->segment = 0;
		/* Under the lock, so that it is not trimmed away; trim may be at it already. */
		e = segment_cursor_open(&r->cursor, j->dir, s->first);
		if (e < 0)
			return e == -ENOENT ? -ESTALE : e;
		r->segment = s->first;
	}
	place_cursor(r, s);
	r->limit = s->last ? s->last
		   : s == &j->segments[j->n_segments - 1] || s[1].first > j->settled
			   ? j->settled
			   : s[1].first - 1;
	r->cursor.ahead = r->limit - r->cursor.at < FEW ? AHEAD_FEW : AHEAD_MANY;
	e = copy_voids(r);
	if (e < 0)
		r->limit = 0;
	return e;
}

static int begin_batch(struct journal_reader *r)
{
	int e;

	pthread_mutex_lock(&r->j->lock);
	e = begin_batch_locked(r);
	pthread_mutex_unlock(&r->j->lock);
	return e;
}

static bool is_void(struct journal_reader *r, uint64_t seq)
{
	while (r->void_at < r->voids.n && r->voids.seqs[r->void_at] < seq)
		r->void_at++;
	return !r->all && r->void_at < r->voids.n && r->voids.seqs[r->void_at] == seq;
}

int journal_reader_next(struct journal_reader *r, struct journal_record *ret)
{
	for (;;) {
		struct journal_record record;
		int e = r->next > r->limit ? begin_batch(r) : 0;

		if (e == 0)
			e = segment_cursor_next(&r->cursor, &record);
		if (e < 0)
			/* Up to the limit there are records: zeros are damage. */
			return e == -ENODATA ? -EBADMSG : e;
		if (record.seq < r->next)
			continue;
		r->next = record.seq + 1;
		if (is_void(r, record.seq))
			continue;
		*ret = record;
		return 0;
	}
}

int journal_reader_seek(struct journal_reader *r, uint64_t seq)
{
	struct journal *j = r->j;
	uint64_t tail;
	int e = 0;

	pthread_mutex_lock(&j->lock);
	tail = j->n_segments ? j->segments[0].first : j->head + 1;
	if (seq < tail)
		e = -ESTALE;
	else if (seq > j->head + 1)
		e = -EINVAL;
	pthread_mutex_unlock(&j->lock);
	if (e < 0)
		return e;
	r->next = seq;
	r->limit = 0; /* a new batch */
	return 0;
}

int journal_reader_open(struct journal *j, uint64_t from, struct journal_reader **ret)
{
	struct journal_reader *r = calloc(1, sizeof(*r));
	int e;

	if (!r)
		return -ENOMEM;
	r->j = j;
	r->cursor.fd = -1;
	e = journal_reader_seek(r, from);
	if (e < 0) {
		journal_reader_close(r);
		return e;
	}
	*ret = r;
	return 0;
}

void journal_reader_close(struct journal_reader *r)
{
	if (!r)
		return;
	segment_cursor_close(&r->cursor);
	free(r->voids.seqs);
	free(r);
}

int journal_recover(
	struct journal *j, int (*fn)(void *ctx, const struct journal_record *r), void *ctx)
{
	struct journal_reader *reader;
	struct journal_record record;
	uint64_t head = journal_settled(j); /* nothing is open */
	int r = journal_reader_open(j, journal_tail(j), &reader);

	if (r < 0)
		return r;
	reader->all = true;
	while (r == 0 && reader->next <= head) {
		r = journal_reader_next(reader, &record);
		if (r == 0)
			r = fn(ctx, &record);
	}
	journal_reader_close(reader);
	return r;
}
