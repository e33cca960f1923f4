/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Changes of the tree here that no record of the journal names, since they are steps in the
 * resolution of a conflict: each becomes a JOURNAL_NOTE: u8 1, op (OP_ENCODE_BRIEF). It is open
 * until the step was made, so that nobody looks too early. Plain peers need them, and recovery
 * follows the renames among them.
 */

#include "plain.h"

#include <errno.h>

#define NOTE_STEP 1

int plain_note_begin(struct replica *r, const struct op *op, uint64_t *ret_seq)
{
	_cleanup_buf_ struct buf b = {0};
	int e;

	*ret_seq = 0;
	buf_put_u8(&b, NOTE_STEP);
	op_encode(op, OP_ENCODE_BRIEF, &b);
	e = buf_error(&b);
	return e < 0 ? e
		     : journal_append(
			       r->journal, JOURNAL_NOTE, true, b.data, b.len, NULL, 0, ret_seq);
}

void plain_note_end(struct replica *r, uint64_t seq)
{
	if (seq)
		journal_settle(r->journal, seq);
}

bool plain_note_take(struct reader *src)
{
	return reader_left(src) > 1 && reader_u8(src) == NOTE_STEP;
}
