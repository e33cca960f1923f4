/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SENDER_H
#define TANDEMFS_SENDER_H

/* What sender.c (the session with a peer) and outgoing.c (from the journal to frames) share. */

#include "bulk.h"
#include "impl.h"
#include "wire.h"

/* Frames are gathered up to this many bytes before they are written. */
#define BATCH_BYTES (256u << 10)
/* No more than this much lies unacknowledged in the peer's log. */
#define WINDOW_BYTES (16u << 20)
#define WINDOW_OPS 16384
/* A new segment after this much, so that the receiver can delete what it has applied. */
#define SEGMENT_BYTES (16u << 20)
/* Contents on their way while other changes overtake them; and with those that wait because the
 * peer's server refuses them. */
#define DEFERRED_MAX 32
#define WAITING_MAX 1024

enum sender_phase {
	SENDER_OFFLINE,   /* not connected; next try at retry_at */
	SENDER_GREETING,  /* hello is there, the peer's daemon has not answered yet */
	SENDER_STREAMING, /* frames go out, acks come in */
	SENDER_PLAIN,     /* no tandemfs runs there: plain.c has the session */
};

/* A frame that was sent and is not acknowledged. */
struct flight {
	struct flight *next, *prev;
	uint64_t seq;
	uint64_t logged; /* when the change was made; 0: not told */
	uint64_t sent_ms;
	uint64_t bytes; /* of content */
	size_t frame;   /* bytes in the log that the peer has not read */
	char *what;     /* owned; NULL for what is not worth a line */
};

/* An op that others overtake: its content is on its way by bulk, or it waits. */
struct deferred {
	struct deferred *next;
	struct op op; /* paths only */
	bool stuck;   /* nobody knows for how long: what is related waits behind it */
};

/* An op that cannot be sent yet. */
struct unready {
	struct unready *next;
	struct op op;
	struct local_head head;
	uint64_t retry_ms; /* the peer's server refused its content: not before */
	uint64_t behind;   /* a deferred one that it was found to be related to; 0: none */
	bool taken;        /* from what is pending */
};

struct sender {
	struct peer *peer;
	struct replica *replica;
	struct remote *remote;
	struct bulk *bulk;
	struct plain *plain;
	uint64_t no_node_since; /* when it was first found that the peer has no node file; 0: it
				 * has */
	int wake;               /* eventfd: bulk jobs done, stop */
	int journal_wake;       /* eventfd of the journal */
	int poll;               /* epoll of the two */

	enum sender_phase phase;
	uint64_t retry_at, backoff_ms;
	char *control; /* the peer's .tandemfs, owned */
	uint64_t session, segment, segment_bytes;
	struct remote_file *log, *ack;
	bool ack_reading;
	uint64_t ack_opened_ms, ack_asked_ms, last_news_ms, last_sent_ms;
	uint64_t filled_ms; /* when something was last found in the journal */
	size_t last_batch;  /* bytes to send that were found then */
	struct wire_ack last_ack;
	bool stalled;
	bool refused;      /* the server does not let us write; the connection is well */
	uint64_t moved_ms; /* when the peer's position last moved, or had all */

	struct journal_reader *cursor;
	uint64_t passed;    /* every record up to here was looked at */
	uint64_t last_sent; /* highest sequence number in a frame of this session */
	bool at_end;        /* the cursor has met the journal's end since the last record */
	bool catching_up;
	bool catch_up_known; /* catch_up_to was found: all that was there when the cursor first met
				the end */
	uint64_t catch_up_to;
	struct op held; /* an op that must wait for a deferred one; type 0: none */
	struct local_head held_head;
	bool barrier; /* a content in strict order is on its way: nothing else goes */
	uint64_t resend[POSITION_MISSING_MAX]; /* to be read from the journal again */
	unsigned n_resend;
	struct deferred *deferred;
	unsigned n_deferred, n_stuck;
	struct unready *unready;
	uint64_t
		growing_seen; /* files that are being written, up to this id, have been looked at */

	struct buf out; /* frames not yet written */
	struct flight *flights;
	uint64_t flight_bytes;
	unsigned n_flights;
};

/* Fills s->out from the journal as far as the window allows. 0 or -errno (the session must end). */
int outgoing_fill(struct sender *s);

/* Turns finished uploads, and files that were closed meanwhile, into frames. 0 or -errno (the
 * session must end). */
int outgoing_collect(struct sender *s);

/* Begins to upload what is large and still being written. */
int outgoing_early(struct sender *s);

/* Whether something is still on its way that is not stuck. */
bool outgoing_under_way(const struct sender *s);

/* Forgets all that belongs to the session. */
void outgoing_reset(struct sender *s);

/* Places the cursor behind the position that the peer reported. 0 or -errno. */
int outgoing_start(struct sender *s, const struct position *applied);

/* A frame about @op: the op itself, or only its number for WIRE_DEFER and WIRE_VOID. */
int outgoing_frame(struct sender *s, enum wire_kind kind, const struct op *op,
	const struct local_head *head, uint64_t started_ms);
/* Nothing is left to send of @op: a number that the peer waits for is still named. */
int outgoing_void(struct sender *s, const struct op *op);
/* Sends the op, or begins to. It may be emptied. 0 or -errno. */
int outgoing_op(struct sender *s, struct op *op, const struct local_head *head);
/* The same for an op with content, whether or not it was taken from what is pending. */
int outgoing_content(struct sender *s, struct op *op, const struct local_head *head);
/* See pending_take(). */
bool outgoing_take_pending(struct sender *s, struct op *op);

/* Drops acknowledged flights and writes their lines into the log of changes. */
void outgoing_acked(struct sender *s, const struct position *applied);

/* ---- outgoing_wait.c ---- */

/* Announces that @op follows later. 0 or -errno. */
int waiting_announce(struct sender *s, const struct op *op);
/* It is sent. */
void waiting_drop(struct sender *s, uint64_t seq);
/* Whether others may overtake @op. */
bool waiting_is_relaxed(const struct sender *s, const struct op *op);
/* Whether @op is related to an earlier one that was announced and not sent; *ret_stuck: to one of
 * which nobody knows when it will be. Its number, 0: to none. */
uint64_t waiting_blocks(const struct sender *s, const struct op *op, bool *ret_stuck);
/* Whether so many were announced that nothing else must overtake them. */
bool waiting_too_many(const struct sender *s);

/* These take @op over. 0 or -errno. */

/* To be sent once no local writer has its file open, and not before @retry_ms. */
int waiting_for_writer(struct sender *s, struct op *op, const struct local_head *head, bool taken,
	uint64_t retry_ms);
/* The peer's server refuses its content. */
int waiting_for_room(struct sender *s, struct op *op, const struct local_head *head, int error);
/* It is related to one that waits. */
int waiting_behind(struct sender *s, struct op *op, const struct local_head *head);

/* The content of @seq is there, or nobody wants it any more. */
void waiting_not_refused(struct sender *s, uint64_t seq);
/* Sends what can be sent now. 0 or -errno (the session must end). */
int waiting_send(struct sender *s);
void waiting_reset(struct sender *s);

#endif
