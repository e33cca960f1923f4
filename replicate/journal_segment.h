/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_JOURNAL_SEGMENT_H
#define TANDEMFS_JOURNAL_SEGMENT_H

/* One segment file of the journal: its header, its records, and reading them in order. The format
 * stands at the head of journal.c. Nothing here locks. */

#include "journal.h"

#include <sys/types.h>

#define SEGMENT_HEADER_SIZE 32
#define RECORD_HEADER_SIZE 24
#define RECORD_OPEN_MAX UINT16_MAX
#define SEGMENT_NAME_SIZE 21 /* 16 hex digits, ".log", NUL */
#define SEGMENT_TEMP "new.tmp"

void segment_name(uint64_t first, char dst[SEGMENT_NAME_SIZE]);
/* Whether @name is a segment's; its first record's number to *ret_first. */
bool segment_name_parse(const char *name, uint64_t *ret_first);

/* @leap: numbers were left out before @first. */
void segment_header_encode(uint64_t first, bool leap, uint8_t dst[SEGMENT_HEADER_SIZE]);
/* Appends a record, header, open numbers and both pieces, to @dst. Of @head kind and seq count. */
void record_encode(const struct journal_record *head, const uint64_t *open, size_t n_open,
	const void *data, size_t len, const void *data2, size_t len2, struct buf *dst);

/* A place in a segment, and the bytes that were read ahead from there. */
struct segment_cursor {
	int fd;          /* owned; -1: none */
	uint64_t offset; /* of the next record in the file */
	uint64_t at;     /* its number */
	bool leap;       /* numbers were left out before the segment */
	size_t ahead;    /* bytes that one pread(2) asks for */
	uint8_t *buf;    /* owned */
	size_t cap, len, pos;
};

/* Opens the segment whose first record is @first and goes to that record. *c must have been zeroed
 * with fd -1 or been opened before. 0, -errno, -EBADMSG for a bad header. */
int segment_cursor_open(struct segment_cursor *c, int dir, uint64_t first);
void segment_cursor_close(struct segment_cursor *c);

/* Goes to the record @at, which begins at @offset; forgets what was read ahead. */
void segment_cursor_place(struct segment_cursor *c, uint64_t at, uint64_t offset);

/* The next record; its data are valid until the next call. 0; -ENODATA when zeros or the end of the
 * file follow; -EBADMSG when the bytes are no valid record; -errno of pread(2). */
int segment_cursor_next(struct segment_cursor *c, struct journal_record *ret);

#endif
