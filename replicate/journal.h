/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_JOURNAL_H
#define TANDEMFS_JOURNAL_H

/*
 * The journal of one node: append-only segments of numbered records.
 *
 * It is a write-ahead log. A record is appended before the change is made (it is "open" then) and
 * settled after. Every record carries the numbers of the records that were open when it was
 * appended, so that after a crash only the last record and those are in doubt; whoever opened the
 * journal looks at the tree to decide them. A change that failed gets a JOURNAL_ABORT record.
 *
 * Record numbers are contiguous (but for journal_skip() and journal_leap()) and never reused; a
 * local operation's sequence number is the number of its record; each segment takes one number for
 * its checkpoint. What write(2) took survives the death of the process; journal_sync() makes it
 * survive the machine's.
 *
 * Deciding what is in doubt may itself be cut short. Until the first record that is neither an
 * abort nor a checkpoint was appended, records name what is in doubt as open; so the owner
 * appends nothing but aborts before it has decided all. An owner that appends a JOURNAL_NOTE last
 * thing before a clean close leaves nothing in doubt.
 *
 * All functions may be called from any thread, but for open, recover and close.
 */

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

struct journal;

enum journal_kind {
	JOURNAL_CHECKPOINT = 1, /* first record of each segment: the owner's state, see below */
	JOURNAL_LOCAL,          /* an operation made here (OP_ENCODE_LOCAL) */
	JOURNAL_REMOTE,         /* an operation of a peer (replica.c has the layout) */
	JOURNAL_ABORT,          /* u64: the record with this number came to nothing */
	JOURNAL_NOTE,           /* anything else the owner wants to find again */
};

struct journal_record {
	uint64_t seq;
	const uint8_t
		*open; /* numbers of the records that were open when it was appended, u64 each */
	size_t n_open;
	enum journal_kind kind;
	const uint8_t *data; /* valid until the reader's next call */
	size_t len;
};

/* Largest payload of a record, bytes. */
#define JOURNAL_RECORD_MAX (1u << 20)

struct journal_config {
	uint64_t segment_size; /* bytes; 0: 16 MiB, which is the most */
	/* Fills in the checkpoint with which a new segment starts (the first is made by the first
	 * append after open, not by open): all that is needed so that older
	 * segments can be dropped. Called under the journal's lock: it may take the
	 * owner's leaf locks, and must not call the journal. May be NULL. */
	void (*checkpoint)(void *ctx, struct buf *dst);
	void *ctx;
};

/* Opens or makes the journal in directory @dir (absolute path; made 0700 when absent). Cuts a torn
 * tail, with a notice in the log. The next record number is above every one found. 0 or -errno
 * (-EBADMSG: a segment before the last is damaged; the log line names it). */
int journal_open(const char *dir, const struct journal_config *config, struct journal **ret);

/* Syncs and closes. */
void journal_close(struct journal *j);

/* Calls @fn for each record, also aborted ones, from the oldest kept one to the newest; stops at
 * the first error of @fn and returns it. For use between open and the first append. */
int journal_recover(
	struct journal *j, int (*fn)(void *ctx, const struct journal_record *r), void *ctx);

/* Appends a record and returns its number. With @open it must be settled later and readers do not
 * pass it before that. @data may be two pieces, so that a head need not be copied (either may be
 * NULL with length 0). 0 or -errno (-ENOSPC, -EIO): then nothing was appended. */
int journal_append(struct journal *j, enum journal_kind kind, bool open, const void *data,
	size_t len, const void *data2, size_t len2, uint64_t *ret_seq);

/* The change of an open record was made. */
void journal_settle(struct journal *j, uint64_t seq);

/* The change of an open record, or of one that was in doubt at the start, failed: appends
 * JOURNAL_ABORT and settles. Readers skip all aborted records. Room is kept for aborts on a full
 * disk; on an error the record is void and settled all the same, but a restart may find it in
 * doubt. 0 or -errno. */
int journal_abort(struct journal *j, uint64_t seq);

/* Number of the newest record, settled or not; 0 when there is none. */
uint64_t journal_head(struct journal *j);

/* Highest number such that it and all below are settled. */
uint64_t journal_settled(struct journal *j);

/* Oldest number still kept. */
uint64_t journal_tail(struct journal *j);

/* Bytes in segments that are kept. */
uint64_t journal_bytes(struct journal *j);

/* Returns once every record up to @seq is on the disk; callers at the same time share one
 * fdatasync(2). 0 or -errno; after an error the journal stays failed (-EIO) for syncs. */
int journal_sync(struct journal *j, uint64_t seq);

/* Deletes the segments that hold only records below @seq. The newest is always kept. */
int journal_trim(struct journal *j, uint64_t seq);

/* The next record has the number @seq, if that is above what it would be. Older records are
 * deleted: what they told is in the checkpoint. Readers below get -ESTALE. 0 or -errno. */
int journal_skip(struct journal *j, uint64_t seq);

/* Between open and the first append, when power has failed: the next number is above all that may
 * have been given out and not have reached the disk. What is kept stays. Another power failure may
 * take that back until a record was appended and synced. */
void journal_leap(struct journal *j);

/* A descriptor (eventfd, non-blocking, owned by the caller, closed by journal_unwatch) that
 * becomes readable when records are settled. It is signalled once, and again only after some
 * reader has said -EAGAIN or journal_settled() was called: read the descriptor, then take all that
 * there is, then wait. It may become readable without need. */
int journal_watch(struct journal *j, int *ret_fd);
void journal_unwatch(struct journal *j, int fd);

/* A cursor. Each belongs to one thread. @from (and seek's @seq) may be one above the newest record.
 * 0, -ESTALE below the tail, -EINVAL above that, -ENOMEM. */
struct journal_reader;
int journal_reader_open(struct journal *j, uint64_t from, struct journal_reader **ret);
void journal_reader_close(struct journal_reader *r);

/* The next settled record of any kind, not aborted. 0; -EAGAIN when there is none yet; -ESTALE when
 * the place was trimmed away; -EBADMSG when the bytes are damaged. */
int journal_reader_next(struct journal_reader *r, struct journal_record *ret);

/* Goes to the record @seq, which becomes the next one. */
int journal_reader_seek(struct journal_reader *r, uint64_t seq);

#endif
