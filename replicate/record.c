/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Payload of a JOURNAL_LOCAL record:
 *     u64 when it was made, ns since the epoch
 *     u8 origins, each: 16 bytes id, position       what had been applied here when the op was made
 *     op (OP_ENCODE_LOCAL)
 * Payload of a JOURNAL_REMOTE record:
 *     16 bytes id of the origin, u64 its sequence number, u8 enum remote_how
 *     u64 and u64 the mtimes that the directories are to have
 *     op (OP_ENCODE_BRIEF, with the fid that the path had here), for PASS and LATE
 */

#include "impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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
	if (m->how == REMOTE_DEFER) /* a checkpoint may have said so already */
		return position_is_missing(p, m->seq) ? 0 : position_defer(p, m->seq);
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
	struct position other;
	char id[WIRE_ID_LEN + 1];

	ret_head->logged = logged;
	ret_head->tries = 0;
	ret_head->seen.high = ret_head->seen.n_missing = 0;
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *raw = reader_bytes(&r, WIRE_ID_LEN / 2);

		if (!raw)
			return -EBADMSG;
		id_from_raw(raw, id);
		position_decode(
			&r, origin_id && strcmp(id, origin_id) == 0 ? &ret_head->seen : &other);
	}
	*ret_op = r;
	return reader_error(&r);
}
