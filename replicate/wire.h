/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_WIRE_H
#define TANDEMFS_WIRE_H

/*
 * What two daemons write for each other, all of it in files below the receiver's backing directory:
 *
 *   .tandemfs/node             the receiver's identity, text (node.h); made at its first start
 *   .tandemfs/in/SENDER/       the spool, SENDER being the sender's id; the only place to which the
 *                              SFTP account writes
 *       hello                  one frame, replaced at each connection
 *       log.SESSION.N          frames, appended; N from 1, 16 hex digits each
 *       stage/SESSION-SEQ      contents that do not travel inline
 *       request                one frame, replaced at each question (query.h)
 *   .tandemfs/acks/SENDER      one frame, overwritten in place by the receiver
 *   .tandemfs/acks/SENDER.reply  the answer to a request
 *
 *   sender                                        receiver
 *   get node: the id that was paired with?
 *   put hello {session, head}                -->  drains the log of the session before, deletes it
 *   reads ack until its session is this one  <--  ack {session, position}
 *   append log: frames above the position    -->  applies each, in order
 *   puts stage/..., then its LATE frame      -->  verifies, renames into place
 *   reads ack                                <--  ack {position, durable}, segments deleted
 *
 * A connection that breaks may leave a torn frame at the end of a log, and a server process that
 * still writes to it. Neither matters: the next session has files of its own, and starts after the
 * position that the receiver reports once it is done with the one before.
 *
 * Frame: u32 length of the payload, u32 kind, u64 XXH3 of kind and payload, payload.
 */

#include "base/buf.h"
#include "position.h"

#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION 1
#define WIRE_FRAME_HEAD 16
/* Largest payload: an inline content and a full set of xattrs fit. */
#define WIRE_PAYLOAD_MAX (8u << 20)
#define WIRE_ID_LEN 32 /* hex digits of a node id */
#define WIRE_HELLO_MAX 4096
#define WIRE_ACK_MAX (1024 + POSITION_BYTES_MAX)

enum wire_kind {
	WIRE_HELLO = 1,
	WIRE_ACK,
	WIRE_OP,    /* u64 seq, position seen, op (OP_ENCODE_WIRE) */
	WIRE_DEFER, /* u64 seq: its operation follows as LATE */
	WIRE_VOID,  /* u64 seq: nothing is left to do for it (the inode is gone) */
	WIRE_SEEN,  /* u64 head, position seen: nothing but what the sender has seen by now */
	WIRE_REQUEST,
	WIRE_KIND_END,
};

/* Starts a frame at the end of @b and returns its offset; wire_end() fills in length and checksum.
 */
size_t wire_begin(struct buf *b, enum wire_kind kind);
void wire_end(struct buf *b, size_t start);

/* Looks at the first frame of @data. 0 and the whole frame's length in *ret_len, kind and
 * payload; -EAGAIN when it is not complete yet; -EBADMSG when it is damaged. */
struct wire_frame {
	enum wire_kind kind;
	const uint8_t *payload;
	size_t len;
};
int wire_parse(const uint8_t *data, size_t len, struct wire_frame *ret, size_t *ret_len);

struct wire_hello {
	uint32_t version;
	char id[WIRE_ID_LEN + 1];
	char name[65];
	uint64_t session;
	uint64_t head; /* the sender's newest sequence number: a restored backup shows by it */
};
void wire_put_hello(struct buf *b, const struct wire_hello *h);
int wire_get_hello(const void *data, size_t len, struct wire_hello *ret);

struct wire_ack {
	uint32_t version;
	char id[WIRE_ID_LEN + 1]; /* the receiver's */
	uint64_t session;         /* of the hello that this answers */
	uint64_t epoch;           /* random at each start of the receiver */
	uint64_t beat;            /* grows while it works */
	struct position applied;
	uint64_t durable; /* all up to here are on its disk */
	/* The receiver's newest sequence number at that moment: what it made after that was made in
	 * the knowledge of @applied. UINT64_MAX: that cannot be said now. */
	uint64_t head;
	uint8_t restart; /* 1: something arrived damaged, begin a new session */
	/* an operation that cannot be applied now (it is among the missing), with its errno; 0:
	 * none */
	uint64_t stuck_seq;
	int32_t stuck_errno;
	char problem[512];  /* a sentence: why the sender is refused, or what is stuck; "" */
	uint8_t refused;    /* 1: @problem is the reason, nothing is accepted */
	uint8_t lost_power; /* 1: its tree may lack what it had acknowledged, and is not reconciled
			       yet */
};
void wire_put_ack(struct buf *b, const struct wire_ack *a);
int wire_get_ack(const void *data, size_t len, struct wire_ack *ret);

#endif
