/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_IMPL_H
#define TANDEMFS_IMPL_H

/*
 * What the files of a replica share: replica.c, recover.c, wait.c, sender.c, bulk.c, receiver.c,
 * inbound.c, query.c, status.c, the reconciler's. Nobody else includes it.
 *
 * Threads: one sender and `streams` bulk threads per peer; one inbound thread that starts a
 * receiver thread per node that writes to us; the file system's own.
 *
 * Lock order: resync, survey, tree, stripes, (fs: inode table), journal, replica.lock. The journal
 * calls back into the checkpoint with its lock held, so nobody calls the journal while holding
 * replica.lock.
 */

#include "base/say.h"
#include "changes.h"
#include "journal.h"
#include "node.h"
#include "pending.h"
#include "position.h"
#include "remote.h"
#include "removed.h"
#include "replicate.h"
#include "touched.h"
#include "unseen.h"
#include "vault.h"

#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

/* Contents up to this many bytes travel inside the record. */
#define INLINE_MAX (64u << 10)

struct sender;
struct inbound;
struct growing;

/* A node whose operations are applied here. */
struct origin {
	struct origin *next;
	char id[WIRE_ID_LEN + 1];
	struct position applied; /* guarded by replica.lock */
	/* What had been applied when the oldest question was asked that is still open: as long as
	 * we do not know what stands at some name, our changes must not count as made in the
	 * knowledge of what came since. Guarded by replica.lock. */
	struct position frozen;
	/* for status; guarded by replica.lock */
	uint64_t applied_ops;
	bool seen;     /* has said hello since the start */
	char *waiting; /* owned */
	uint64_t refusals;
	char *refused; /* the last one; owned */
};

struct peer {
	struct replica *replica;
	const struct replica_peer_config *config;
	struct sender *sender;
	pthread_t thread;
	bool thread_started;

	/* guarded by replica.lock */
	enum peer_state state;
	bool known; /* the node file was read */
	struct node_identity node;
	char *error;             /* owned */
	struct position applied; /* of our operations; high also covers those that are not sent */
	uint64_t durable;        /* newest OP_FSYNC that it has carried out */
	uint64_t stuck_seq;
	bool lost_power;   /* it says so of itself */
	char problem[512]; /* what it says of that operation */
	/* An op whose content its server refuses, and why, with what to do; 0 and NULL: none. */
	uint64_t refused_seq;
	char *refused;        /* owned */
	bool room_doubtful;   /* since one was: it is asked before anything is uploaded */
	bool blocked;         /* for one of these two reasons it takes nothing at all */
	uint64_t oldest_time; /* op.time of the oldest op not acknowledged; 0: none */
	uint64_t sent_ops, sent_bytes;
	struct pending *pending;
	bool covered; /* what the journal no longer has, the peer has had */
	bool is_plain;
	bool plain_rescan; /* the trees are to be compared; false once they were */
	struct plain_status plain;
	/* What it had when the rest was given up: what it does counts as done in ignorance of our
	 * changes after that until it is reconciled. 0: nothing was. */
	uint64_t ignorant_after;
	uint64_t acked;           /* its position as it last said; the sender's */
	unsigned resync_needed;   /* enum resync_reason, bits */
	const char *resync_phase; /* what the reconciler does with it, static text; NULL: nothing */
	uint64_t resync_done, resync_total;
};

/* An open file that differs from what its last OP_CONTENT said. */
struct dirty {
	UT_hash_handle hh;
	uint64_t seq;
	struct op op; /* the OP_CREATE or OP_DIRTY; its path follows renames */
	bool orphan;  /* the file has lost its name to the peer's version */
	bool synced;  /* an fsync since says that there is something of it on the disk */
};

/* A question to the peer that it has not answered. */
struct ask {
	struct ask *next, *prev;
	uint64_t seq; /* of the OP_ASK; 0: just being journaled */
	char *path;
	bool deep;
	bool compare; /* of a review */
	bool again;   /* what came while it was open met newer changes of ours */
	bool moved;   /* the peer was asked by another name, which we have renamed since */
};

/* An open file that lost its name to the peer's version; its bytes are a link in the vault. */
struct orphan {
	struct orphan *next;
	struct fid fid;
	char name[VAULT_NAME_SIZE];
};

struct aborted {
	UT_hash_handle hh;
	uint64_t seq;
};

struct replica {
	struct replica_config config; /* strings and peers owned */
	struct replica_hooks hooks;
	struct node_identity node;
	int root;                 /* the backing directory */
	int control;              /* its .tandemfs */
	int scratch, acks, spool; /* tmp, acks, in below it */
	int state;
	struct journal *journal;
	struct tree *tree;
	struct changes *changes;
	struct vault *vault;
	struct touched *touched;
	pthread_t resync_thread;
	bool resync_started;
	bool opened; /* an orderly end is noted */
	int reserve; /* see room.h; the inbound thread's */
	atomic_bool short_of_room;
	/* See filled.h. */
	bool filled; /* the inbound thread's, and before and after it nobody's */
	atomic_bool root_touched;
	struct peer *peers;
	size_t n_peers;
	struct inbound *inbound;
	/* Makes an unconnected remote for the peer; the simulation puts its own here. */
	int (*make_remote)(struct replica *r, struct peer *p, struct remote **ret);
	void *make_remote_ctx;
	/* The simulation's, with make_remote_ctx: whoever waits, the others go on. NULL: threads.
	 */
	void (*pause)(void *ctx, unsigned ms);
	struct aborted *aborted; /* from before the start; not changed after replica_open */
	atomic_uint_fast64_t last_time;
	atomic_uint_fast64_t last_local;   /* newest JOURNAL_LOCAL record */
	atomic_uint sync_waiters;          /* callers in replica_wait */
	atomic_uint_fast64_t growing_made; /* newest id of growing */
	atomic_bool closing;
	unsigned stall_ms;
	bool threaded; /* set by replica_start; false under simulation */

	bool lost_power; /* the last run ended by a power failure; set before there are threads */
	pthread_mutex_t survey_lock; /* one at a time asks peers about their trees */
	pthread_mutex_t resync_lock; /* one reconciler at a time */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* a peer's position or state; CLOCK_MONOTONIC */
	/* guarded by lock */
	struct origin *origins; /* only ever grows */
	struct pairings pairings;
	struct dirty *dirty;
	struct unseen *unseen;
	struct ask *asks;    /* ascending */
	struct ask *reviews; /* names to be compared again, see review.c */
	unsigned n_reviews;
	struct orphan *orphans;
	/* Once all of the peer's ops up to unseen_head were applied, it has seen ours up to
	 * unseen_upto in all that it still sends. */
	uint64_t unseen_head, unseen_upto;
	struct growing *growing; /* see growing.h */
};

/* ---- replica.c ---- */

/* The origin with @id, made when it is new; NULL without memory. Takes the lock. */
struct origin *replica_origin(struct replica *r, const char *id);
struct origin *origin_find_locked(struct replica *r, const char *id);

/* Whether a writer truncated @fid or made it and has not closed it since. */
bool replica_whole_dirty(struct replica *r, const struct fid *fid);
/* Whether what was read of @fd since fstat(2) said @before may be partly of one version and partly
 * of the next: somebody has truncated the file since, and perhaps closed it. */
bool replica_torn(struct peer *p, const struct fid *fid, const struct stat *before, int fd);

/* From now on replica_now() gives no time before @time, an applied op's: the directories' mtimes on
 * both sides come to the latest op that changed them, whatever the order in which they arrive. */
void replica_saw_time(struct replica *r, uint64_t time);

/* The mtimes that the directories of the names that @op changes are to have after it: its time,
 * unless theirs is later. */
void replica_parent_times(struct replica *r, const struct op *op, uint64_t ret[2]);
/* Gives them these. */
void replica_touch_parents(struct replica *r, const struct op *op, const uint64_t times[2]);

/* Bytes of the whole file that the OP_CONTENT @op names, as its path is now; 0 when that is not a
 * file, or only ranges changed. */
uint64_t replica_content_size(struct replica *r, const struct op *op);

/* The number of the mark that says that a local writer changed the file at @path, inode @fid (may
 * be NULL), and has not closed it; 0: none. */
uint64_t replica_dirty_mark(struct replica *r, const char *path, const struct fid *fid);
/* The file that the OP_FSYNC @op names is on the disk as it is: its marks say so. */
void replica_dirty_synced(struct replica *r, const struct op *op);
/* Whether there is any such mark. */
bool replica_any_dirty(struct replica *r);
/* Whether there is such a mark of a file below @dir. */
bool replica_dirty_below(struct replica *r, const char *dir);
/* Whether that mark says that the file is new. */
bool replica_dirty_new(struct replica *r, uint64_t seq);

/* Journals @op, which describes what is so already (a restatement, a question, an entry of the
 * vault). */
int replica_say(struct replica *r, struct op *op);

/* Asks the peer what stands at @path. A question about it that is open already is enough; with
 * @again (an answer of which nothing could be made), one that the peer had not seen by then. 0 or
 * -errno. */
int replica_ask(struct replica *r, const char *path, bool deep, const struct position *again);
/* Asks for it unless it is there as here: @digest is that of review_digest(). */
int replica_compare(struct replica *r, const char *path, bool deep, uint64_t digest);
/* Whether @path is above, at or below a name of which we await the answer. */
bool replica_is_asked(struct replica *r, const char *path);
/* What is called @from is called @to from now on: questions follow, and with @theirs (a peer's
 * rename) our changes that the peer had not seen. */
void replica_moved(struct replica *r, const char *from, const char *to, bool exchange, bool theirs);
/* Asks anew what the answers up to @seq have not settled. The tree is locked in TREE_RENAME mode. 0
 * or -errno. */
int replica_ask_again(struct replica *r, uint64_t seq);
/* The peer has answered all questions up to @seq. */
void replica_answered(struct replica *r, uint64_t seq);

struct ask;
/* r->lock is held. */
void ask_free_locked(struct replica *r, struct ask *a);
/* The paths of questions below @from are asked for below @to too. r->lock is held. */
void asks_follow_locked(struct replica *r, const char *from, const char *to);

/* Marks the file of @op, an OP_CREATE or OP_DIRTY that was journaled, as being written. 0 or
 * -ENOMEM. */
int replica_mark_dirty(struct replica *r, const struct op *op);
/* The marks below @from are below @to now, with @exchange the others there too. r->lock is held. */
void marks_follow_locked(struct replica *r, const char *from, const char *to, bool exchange);

bool replica_is_aborted(struct replica *r, uint64_t seq);

/* For whoever waits for something that others bring about. */
void replica_pause(struct replica *r, unsigned ms);

/* Drops segments that every peer has and that hold no dirty mark. */
void replica_trim(struct replica *r);

/* What stands before the op in a JOURNAL_LOCAL. */
struct local_head {
	uint64_t logged;      /* ns since the epoch */
	struct position seen; /* what had been applied of one origin when the op was made */
	unsigned tries;       /* the sender's: times that its file changed under an upload */
};

/* Splits the payload of a JOURNAL_LOCAL into its head, with `seen` of @origin_id (zeros when that
 * is NULL or unknown), and the reader at the op. 0 or -EBADMSG. */
int local_split(const void *data, size_t len, const char *origin_id, struct local_head *ret_head,
	struct reader *ret_op);

/* The payload of a JOURNAL_REMOTE, before the op (OP_ENCODE_BRIEF, absent for REMOTE_DEFER and
 * REMOTE_VOID). */
enum remote_how { REMOTE_PASS, REMOTE_DEFER, REMOTE_LATE, REMOTE_VOID };
struct remote_record {
	char id[WIRE_ID_LEN + 1];
	uint64_t seq;
	enum remote_how how;
	uint64_t touch[2]; /* the mtimes that the directories of path and path2 are to have after
			    * it, ns; 0: as they are */
};
void remote_record_put(struct buf *b, const struct remote_record *m);
int remote_record_get(struct reader *r, struct remote_record *ret);
/* Moves @p as the record says. 0, -ENOBUFS or -EINVAL: then nothing changed. */
int remote_record_move(const struct remote_record *m, struct position *p);

void id_to_raw(const char *id, uint8_t raw[WIRE_ID_LEN / 2]);
void id_from_raw(const uint8_t raw[WIRE_ID_LEN / 2], char *id);

/* Sets a peer's state and error text (NULL: none; copied) and wakes waiters; logs what is new. */
void peer_set_state(struct peer *p, enum peer_state state, const char *error);

/* The name of the peer for log lines: its node's name, or the host before the first contact. */
const char *peer_label(const struct peer *p);

/* ---- restate.c ---- */
/* All journal what stands at @path, for the peer: what it has there gives way. The tree is locked
 * in TREE_RENAME mode. 0 or -errno. */

/* With the directories above it, and with @deep all below it. */
int restate(struct replica *r, const char *path, bool deep);
/* The file at @path, whose state is @st, as its other names show it. 0 or -errno. */
int restate_others(struct replica *r, const char *path, const struct stat *st);
/* Calls @fn with the other names of the file at @path, whose state is @st. 0 or what it said. */
int restate_each_other(struct replica *r, const char *path, const struct stat *st,
	int (*fn)(struct replica *r, const char *other));
/* Calls @fn with the directories above @path whose mtimes restate() tells, since they may be new at
 * the peer: that of the root only if the name is in it. 0, what @fn said, or -ENOMEM. */
int restate_each_above(const char *path, int (*fn)(void *ctx, const char *dir), void *ctx);
/* Of this name the mtime alone. */
int restate_time(struct replica *r, const char *path);
/* Only this name, and of a file only this one of its names. */
int restate_name(struct replica *r, const char *path);
/* That it is one inode with @first. */
int restate_link(struct replica *r, const char *first, const char *path);
/* Mode, owner and mtime of a file or directory. */
int restate_attributes(struct replica *r, const char *path);

/* ---- wait.c ---- */
/* Whether the peer has all of our changes up to @seq, or but for what it cannot apply. */
bool peer_has_or_cannot(const struct peer *p, uint64_t seq);

/* ---- review.c ---- */
/* Enters a name that took part in a conflict; beyond a bound it is left out. */
void review_add_locked(struct replica *r, const char *path, bool deep);
void review_clear_locked(struct replica *r);
/* As for replica_moved(): the old name stays entered as well. */
void review_follow_locked(struct replica *r, const char *from, const char *to);
/* A restatement by the node that decides was carried out. */
void review_told(struct replica *r, const struct op *op);
/* Whether names are being compared. */
bool review_is_open(struct replica *r);
/* Of what stands at @path (with @deep: below it too) and the directories above. 0 or -errno. */
int review_digest(struct replica *r, const char *path, bool deep, uint64_t *ret);

/* ---- keep.c ---- */
/* A version that loses. */
struct keep {
	const char *path;  /* where it stands */
	const char *maker; /* name of the node that made it; NULL: this one */
	const char *maker_id, *winner;
	uint64_t seq;   /* the maker's number; 0: of our newest change of it */
	uint64_t other; /* number of the op that took its place */
	bool leaves;    /* as for vault_keep() */
	bool linked; /* set: the vault holds a link to the file, which must not be changed in place
		      */
};
/* Puts it into the vault here and at the peer. 0 or -errno. */
int keep_version(struct replica *r, struct keep *k);
/* The same for the version that our op @seq made, at @path then: wherever its file is now. What we
 * have overwritten since is not kept. */
int keep_number(struct replica *r, const char *winner, uint64_t seq, const char *path);
/* A number for an entry that no operation of ours made. 0 or -errno. */
int keep_new_number(struct replica *r, uint64_t *ret);
/* After a crash: tells the peer of entries into which a local process wrote until then. 0 or
 * -errno. */
int keep_recover(struct replica *r);
/* Journals an entry of the vault for the peer. */
int keep_tell(struct replica *r, const char *name);

/* ---- plain_note.c ---- */
/* Around a change of the tree that no record names: plain peers hear of it. 0 or -errno. */
int plain_note_begin(struct replica *r, const struct op *op, uint64_t *ret_seq);
void plain_note_end(struct replica *r, uint64_t seq);

/* ---- recover.c ---- */
/* A local OP_ASK was read from the journal: enters the question. 0 or -ENOMEM. */
int replica_asked(struct replica *r, uint64_t seq, const char *path, bool deep, bool compare);
void replica_checkpoint(void *ctx, struct buf *dst);
int replica_recover(struct replica *r);

/* ---- unsynced.c ---- */
/* What recovery finds of contents after a power failure. Starts as zeros. */
struct unsynced {
	struct unsynced_file *files; /* owned */
	uint64_t newest;             /* when the last record was made */
};
/* Takes a JOURNAL_LOCAL, in the order of the journal. 0 or -errno. */
int unsynced_take(struct unsynced *u, const struct journal_record *rec);
/* Calls @fn with the numbers of contents that perhaps never reached the disk; above 0 it wants to
 * hear no more of one. 0 or -errno. */
int unsynced_each(struct unsynced *u, int (*fn)(void *ctx, uint64_t seq), void *ctx);
void unsynced_clear(struct unsynced *u);

/* ---- undone.c ---- */
/* What recovery finds of changes of names after a power failure. Starts as zeros. */
struct undone {
	struct name_change *list; /* owned */
	size_t n, room;
	uint64_t newest; /* when the last record was made */
};
/* Takes a record, in the order of the journal. 0 or -errno. */
int undone_take(struct undone *u, const struct journal_record *rec);
/* The same, of an op, which it takes over; not @own: somebody else's. */
int undone_add(struct undone *u, struct op *op, uint64_t logged, bool own);
/* Looks which of them the tree at @root does not have; @aborted: that one does not count. */
int undone_find(struct undone *u, int root, bool (*aborted)(void *ctx, uint64_t seq), void *ctx);
/* Calls @fn with the numbers of these, while it does not return -errno. 0 or that. */
int undone_each(struct undone *u, int (*fn)(void *ctx, uint64_t seq), void *ctx);
void undone_clear(struct undone *u);

/* ---- resync_need.c ---- */
enum resync_reason {
	RESYNC_PAIRING = 1 << 0,
	RESYNC_POWER = 1 << 1,
	RESYNC_RESTORED = 1 << 2,
	RESYNC_FORGOTTEN = 1 << 3,
	RESYNC_SEED = 1 << 4,
	RESYNC_JOURNAL = 1 << 5,
};
/* The trees are to be reconciled, from now on and over restarts, until that was done. 0 or -errno:
 * then it is not remembered over a restart. */
int resync_need(struct peer *p, unsigned reason);
/* The peer has our changes up to @high, which we do not know of: our numbers go on above that. 0 or
 * -errno. */
int resync_restored(struct peer *p, uint64_t high);
/* Whether power failed here, and the tree was not reconciled with the node @id since. */
bool resync_lost_power(struct replica *r, const char *id);
/* Whether the peer cannot count as in sync before that. */
bool resync_is_due(struct peer *p);
/* For status: what is done or waited for; NULL: nothing. The caller frees. */
char *resync_text_locked(const struct peer *p);
/* Before the journal is opened: whether power failed in the last run. 0 or -errno. */
int resync_look_back(struct replica *r);
/* At the start, once the journal is open, and at an orderly end. @seeded: the backing directory is
 * another than before. */
int resync_open(struct replica *r, bool seeded);
void resync_close(struct replica *r);
void *resync_thread(void *replica);
/* Reconciles with each peer for which there is a reason, unless *retry_ms of it is to come. */
void resync_turn(struct replica *r, uint64_t *retry_ms);

/* ---- resync_bound.c ---- */
/* Most bytes of a list of removed names that are read. */
#define RESYNC_REMOVED_MAX (1u << 30)
/* The names that dropped changes took away; the caller frees it. 0 or -errno. */
int resync_removed(struct replica *r, struct removed **ret);
/* Notes of all that the journal has which names it took away; then a peer that is to be reconciled
 * need not get what is up to *ret_upto. 0 or -errno. */
int resync_give_up(struct replica *r, uint64_t *ret_upto);
/* Some peer was reconciled. */
void resync_forget_removed(struct replica *r);
/* Cuts a journal that is longer than it may be. */
void resync_bound_journal(struct replica *r);

/* ---- sender.c ---- */
int sender_new(struct peer *p, struct sender **ret);
void sender_free(struct sender *s);
/* One round: connects, sends, takes acks; waits at most @timeout_ms for something to do. */
void sender_turn(struct sender *s, int timeout_ms);
/* Wakes a waiting round, from any thread. */
void sender_wake(struct sender *s);
/* A file that is being written (growing.h) has news. From any thread. */
void sender_grown(struct sender *s);

/* ---- inbound.c ---- */
int inbound_new(struct replica *r, struct inbound **ret);
int inbound_start(struct inbound *in);
void inbound_stop(struct inbound *in);
void inbound_free(struct inbound *in);
/* One round over all spools without threads, for the simulation. True when something was done. */
bool inbound_turn(struct inbound *in);

#endif
