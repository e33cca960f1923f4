/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_RECEIVER_H
#define TANDEMFS_RECEIVER_H

/* What receiver.c (one spool: session, log, ack) and incoming.c (one frame: to the tree) share. */

#include "digest_staged.h"
#include "impl.h"
#include "query.h"
#include "related.h"
#include "wire.h"

/* An operation that cannot be applied now, or that is related to one that cannot. */
struct parked {
	struct parked *next, *prev;
	struct op op;
	struct buf seen; /* of ours, by the sender, when it made the op; a position */
	int error;       /* of the last try; 0: waits behind another */
	uint64_t round;  /* of the last try */
	size_t size;     /* as counted; a try may change the op */
	bool removal;
};
/* Beyond this many bytes of parked operations, or POSITION_MISSING_MAX of them, the log is not read
 * on. */
#define PARKED_BYTES_MAX (64u << 20)

struct receiver {
	struct replica *replica;
	struct origin *origin;
	struct answerer *answerer;
	struct node_identity sender;
	int dir;                       /* the spool; not trusted: the account writes there */
	int stage;                     /* its stage/; -1: none yet */
	struct digest_staged *digests; /* of what arrives there; NULL: none */
	int ack;                       /* the ack file */
	int log;                       /* the segment that is read; -1: none */
	bool accepted;
	bool lost_power; /* what the ack says of that */
	uint64_t session, segment, epoch, beat;
	uint64_t durable;
	off_t offset;  /* in the segment, of what follows `in` */
	off_t ahead;   /* in the segment, up to here room was kept last */
	struct buf in; /* read and not yet parsed */
	size_t in_pos;
	bool damaged;           /* the session has to begin anew */
	char refusal[512];      /* what was wrong then; "": a frame is damaged */
	bool against_the_rules; /* no damage explains it */
	uint64_t last_seq;      /* of the session's frames that come in order; 0: none yet */
	struct position
		shown;       /* what may be acknowledged: no kernel cache here hides it any more */
	uint64_t shown_head; /* all that is newer than this number here was made after it */
	bool unshown;        /* something was applied since */
	bool unsealed;       /* something was applied since the last seal() */
	bool ack_due;        /* something changed since the last ack */
	uint64_t beat_ms;    /* when the beat last moved */
	char problem[512];
	struct parked *parked;
	unsigned n_parked, n_removals;
	size_t parked_bytes;
	bool parked_full;       /* no more can wait */
	struct related related; /* all that is parked */
	bool related_old;       /* some that is in it no longer is */
	uint64_t retry_ms;
	uint64_t round; /* of tries of all that is parked */
};

int receiver_new(struct replica *r, const char *id, int dir, struct receiver **ret);
void receiver_free(struct receiver *v);

/* Reads what is there, applies it, acknowledges. True when something was done. */
bool receiver_turn(struct receiver *v);

/* Writes the ack file if anything changed. */
void receiver_acknowledge(struct receiver *v);
/* Moves the beat, at most twice a second, so that the sender sees that long work goes on. */
void receiver_alive(void *receiver);

/* ---- incoming.c ---- */

/* Carries out one frame of the log. 0; -EBADMSG: damaged, or not what this protocol sends (refusal
 * says what): the session must begin anew; -EAGAIN: cannot go on now, give the frame again later.
 */
int incoming_frame(struct receiver *v, const struct wire_frame *f);

/* Carries out what a frame says. 0, -EBADMSG (damaged), -EAGAIN (later), or why it cannot be now.
 */
int incoming_carry_out(struct receiver *v, struct op *op, const struct position *seen);
/* A number that is to follow later, or that nothing is left of. 0, -EAGAIN (too many are missing)
 * or -errno. */
int incoming_number(struct receiver *v, uint64_t seq, enum remote_how how);
bool incoming_is_missing(struct receiver *v, uint64_t seq);
/* Removes the staged content of an op that is not to be applied. */
void incoming_drop_content(struct receiver *v, struct op *op);

/* Where ops of this sender are applied. */
struct apply_target receiver_target(struct receiver *v);

/* Applies @op as number @m->seq of its origin: record, change, directory times, position, hook. The
 * tree is locked as for the op. 0 or -errno with nothing changed. */
int incoming_apply(struct receiver *v, struct op *op, struct remote_record *m);

/* Carries out a part of what an op comes to, without a record: should it be cut short, the op
 * comes again. The tree is locked in TREE_RENAME mode. 0 or -errno. */
int incoming_step(struct receiver *v, struct op *op);

/* Nothing at @path any more, of whatever type. As incoming_step(). */
int incoming_remove(struct receiver *v, const char *path, uint64_t time);

/* ---- parked.c ---- */

/* Takes @op over, to be tried again; @error 0: behind another one. 0, or -EAGAIN: give it again
 * later. */
int park(struct receiver *v, struct op *op, const struct position *seen, int error);
/* Whether @op must queue behind one that is parked. */
bool parked_related(struct receiver *v, const struct op *op);
/* Tries what is parked again, once a second. 0 or -EBADMSG: something is damaged. */
int parked_retry(struct receiver *v);
/* Forgets it all (it stays among the missing: the sender has it). */
void parked_forget(struct receiver *v);

/* ---- resolve.c ---- */

/* @op and changes of ours, of which neither side had seen the other's, do not go together. This
 * node decides what becomes of them; the other asks it. The tree is locked in TREE_RENAME mode.
 * @restated: it is part of an answer of the peer.
 * *ret_apply: the op, changed as need be, is to be applied; else it is settled. 0 or -errno
 * (tried again later). */
int resolve(struct receiver *v, struct op *op, const struct position *seen, bool restated,
	bool *ret_apply);

/* ---- restate.c ---- */

/* Asks again for the names that took part in conflicts, once all is quiet (review.c). */
void review_turn(struct receiver *v);
/* Of what is about to be replaced or removed: while names are being compared it goes into the
 * vault, unless it is there. @other: the number of the op that takes its place, 0: of none. 0 or
 * -errno. */
int review_keep(struct receiver *v, const char *path, const struct stat *st, uint64_t other);

/* Carries out an OP_ASK of the peer. */
int restate_answer(struct receiver *v, const struct op *op, const struct position *seen);

#endif
