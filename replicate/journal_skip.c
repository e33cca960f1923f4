/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "journal_state.h"

#include "journal_segment.h"

#include <errno.h>
#include <unistd.h>

/*
 * DESIGN: numbers are skipped between two segments of which the first holds nothing but its
 * checkpoint. That one says nothing that the second one's checkpoint does not say, so it is
 * dropped: right away, or at the next start when a crash came between. A gap anywhere else is
 * damage, unless the segment behind it says in its header that it is meant: after a power failure
 * the numbers of what was lost are left out, and what is left stays. All segments but the last were
 * on the disk, so no more can be lost than one of them holds.
 */

#define LEAP (1u << 20)
_Static_assert(LEAP > JOURNAL_SEGMENT_SIZE / RECORD_HEADER_SIZE, "a segment holds more records");

static int drop_segment(struct journal *j)
{
	char name[SEGMENT_NAME_SIZE];

	segment_name(j->segments[0].first, name);
	if (unlinkat(j->dir, name, 0) < 0 && errno != ENOENT)
		return -errno;
	journal_drop_oldest(j);
	j->dir_dirty = true;
	return 0;
}

static int drop_all_but_newest(struct journal *j)
{
	int r = 0;

	while (r == 0 && j->n_segments > 1)
		r = drop_segment(j);
	if (r == 0)
		seq_set_drop_below(&j->aborted, j->segments[0].first);
	return r;
}

int journal_skip_gap(struct journal *j, uint64_t next)
{
	int r;

	if (j->n_segments != 1 || j->head != j->segments[0].first)
		return -EBADMSG;
	r = drop_segment(j);
	if (r == 0)
		j->head = next - 1;
	return r;
}

static int skip_locked(struct journal *j, uint64_t seq)
{
	int r;

	if (seq <= j->head + 1)
		return 0;
	r = journal_rotate(j, 0);
	if (r == 0)
		r = drop_all_but_newest(j);
	if (r < 0)
		return r;
	j->head = seq - 1;
	r = journal_rotate(j, 0);
	if (r < 0) {
		j->head = j->segments[0].first;
		return r;
	}
	r = drop_all_but_newest(j);
	journal_update_settled(j);
	return r;
}

void journal_leap(struct journal *j)
{
	if (j->n_segments)
		j->segments[j->n_segments - 1].last = j->head;
	j->head += LEAP;
	j->leap = true;
}

int journal_skip(struct journal *j, uint64_t seq)
{
	int r;

	pthread_mutex_lock(&j->trim_lock);
	pthread_mutex_lock(&j->lock);
	r = skip_locked(j, seq);
	pthread_mutex_unlock(&j->lock);
	pthread_mutex_unlock(&j->trim_lock);
	return r;
}
