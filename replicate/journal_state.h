/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_JOURNAL_STATE_H
#define TANDEMFS_JOURNAL_STATE_H

/* What the files of the journal share: the journal in memory. */

#include "journal.h"
#include "journal_segment.h"

#include <pthread.h>

#define JOURNAL_SEGMENT_SIZE (16u << 20) /* at most, but for a record that needs more */

/* Numbers in ascending order. */
struct seq_set {
	uint64_t *seqs; /* owned */
	size_t n, cap;
};

int seq_set_reserve(struct seq_set *s); /* room for one more: 0 or -ENOMEM */
void seq_set_add(struct seq_set *s, uint64_t seq);
bool seq_set_remove(struct seq_set *s, uint64_t seq);
/* Index of the first number that is not below @seq. */
size_t seq_set_find(const struct seq_set *s, uint64_t seq);
void seq_set_drop_below(struct seq_set *s, uint64_t seq);

/* Where a record begins; some of them, so that a seek need not read a whole segment. */
struct segment_mark {
	uint64_t seq, offset;
};

struct segment {
	uint64_t first; /* its first record; its name */
	uint64_t last;  /* its last record, when the next segment does not go on there */
	uint64_t end;   /* offset behind its last record */
	struct segment_mark *marks; /* owned; ascending; not the first record */
	size_t n_marks, cap_marks;
};

struct watch {
	int fd;
	bool armed; /* somebody found nothing to do since it was last signalled */
};

/* Lock order: trim_lock, lock. */
struct journal {
	int dir;
	struct journal_config config;

	pthread_mutex_t trim_lock; /* one trim at a time: segments go oldest first */

	pthread_mutex_t lock;
	/* all of the following: guarded by lock */
	struct segment *segments; /* owned; oldest first */
	size_t n_segments, cap_segments;
	int fd;               /* of the newest segment, when records may be added to it; else -1 */
	uint64_t size;        /* of its file; the space is allocated */
	uint64_t zeroed;      /* offset up to which zeros or records were written */
	bool sealed;          /* an append went wrong in it: the next record starts a new one */
	uint64_t head;        /* newest record; 0: none */
	uint64_t settled;     /* all up to here are settled */
	bool leap;            /* the next segment starts above what was the head */
	struct seq_set doubt; /* records in doubt since the start */
	struct seq_set open;
	struct seq_set aborted; /* of the records that are kept */
	struct watch *watches;  /* owned */
	size_t n_watches;
	struct buf scratch; /* the record that is being put together */

	pthread_cond_t synced_cond;
	uint64_t synced; /* all up to here are on the disk */
	bool syncing;    /* somebody is in fdatasync(2) for all */
	bool dir_dirty;  /* a segment was made since the directory was synced */
	int sync_error;  /* sticks */
};

/* Adds a segment to the list. 0 or -ENOMEM. */
int journal_add_segment(struct journal *j, uint64_t first);
/* Remembers where record @seq of the newest segment begins, when it is far enough from the last
 * place remembered. */
void journal_mark(struct journal *j, uint64_t seq, uint64_t offset);
void journal_drop_oldest(struct journal *j);

/* Starts the next segment, with room for a record of @need bytes. */
int journal_rotate(struct journal *j, size_t need);
/* After records were appended or settled. */
void journal_update_settled(struct journal *j);

/* journal_skip.c: the next segment does not go on where the only one so far ends: 0 when numbers
 * were skipped there, and the older one is gone; -EBADMSG when it is a hole. */
int journal_skip_gap(struct journal *j, uint64_t next);

/* journal_open.c: finds and checks the segments. */
int journal_load(struct journal *j, const char *dir);

/* journal_sync.c: syncs a segment that gets no more records; an error shows in sync_error. */
void journal_sync_segment(struct journal *j, int fd);

#endif
