/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_REPLICATE_H
#define TANDEMFS_REPLICATE_H

/*
 * The facade of replication, the only header of replicate/ (with what it includes) that
 * fs/ sees. A replica is one node: a backing directory, its journal and its peers.
 *
 * A local change goes like this (see fs/record.h for the handlers' side):
 *
 *     replica_admit()                      on_peer_down=fail: EIO before anything is done
 *     tree_lock(), path text, tree_guard()
 *     replica_log(op)          -> seq      write-ahead record, open
 *     the system call on the backing directory
 *     replica_touch()                      mtime of the directories := op->time
 *     replica_done(seq, result)            settled or aborted; senders may take it
 *     tree_unguard(), tree_unlock()
 *     replica_wait(seq)                    sync modes: the peers have applied it
 *     answer to the kernel
 */

#include "apply.h"
#include "op.h"
#include "tree.h"
#include "vault.h"

#include <stdbool.h>
#include <stdint.h>

struct replica;

enum replica_mode { MODE_ASYNC, MODE_SYNC, MODE_SYNC_WRITE };
enum replica_peer_down { PEER_DOWN_CONTINUE, PEER_DOWN_BLOCK, PEER_DOWN_FAIL };
enum replica_order { ORDER_RELAXED, ORDER_STRICT };

struct replica_peer_config {
	const char *url;  /* as given, for messages */
	const char *user; /* NULL: the local user's name */
	const char *host;
	uint16_t port;
	const char *path; /* the peer's backing directory, absolute */
};

struct replica_config {
	const char *backing; /* absolute path, for messages */
	int root;            /* the backing directory, open for reading; kept by the caller */
	const char *state;   /* directory; made 0700 when absent */
	const char *node;    /* this server's name */
	const char *account; /* local account that peers log in with; owns the spool; NULL: root */
	const struct replica_peer_config *peers;
	size_t n_peers;
	enum replica_mode mode;
	enum replica_peer_down on_peer_down;
	enum replica_order order;
	const char *identity, *password_file, *known_hosts; /* NULL: ssh's own places */
	unsigned streams;                                   /* 1 to 16 */
	const char *verify;                                 /* OpenSSL digest name or "none" */
	uint64_t segment_size;                              /* of the journal, bytes; 0: 16 MiB */
	uint64_t vault_max;   /* bytes that the versions which lost a conflict may have; 0: 1 GiB */
	uint64_t journal_max; /* bytes that the journal may have while a peer is away; 0: 1 GiB */
	bool seed; /* a backing directory that is not the one of the state is taken, and reconciled
		    */
	unsigned stall_ms; /* silence after which a peer is down; 0: 2000 */
};

/* What replication asks of the file system side. Called from replication's threads. All may be
 * NULL. */
struct replica_hooks {
	void *ctx;
	/* A peer's op was carried out. Called while the tree is locked as for the op: the inode
	 * table follows the names, and kernel invalidations are queued, not sent. Must not wait. */
	void (*applied)(void *ctx, const struct op *op, const struct apply_result *result);
	/* Returns when what `applied` queued so far no longer can be seen in the kernel's caches.
	 * Must not wait for a directory or file in which a local call itself waits in
	 * replica_wait(). Called without locks, before the ack. */
	void (*settle)(void *ctx);
	/* Whether a local writer has changed the inode since its last OP_CONTENT. */
	bool (*busy)(void *ctx, const struct fid *fid);
};

/* Opens the journal, recovers, pairs with what the state directory remembers. Starts no thread,
 * connects to nobody. On error *ret_error (freed by the caller) says what failed and what to do
 * about it. 0 or -errno. */
int replica_open(const struct replica_config *config, struct replica **ret, char **ret_error);

/* Sets the hooks and starts the threads: a sender and a receiver per peer. Not before a daemon's
 * fork. */
int replica_start(struct replica *r, const struct replica_hooks *hooks);

/* Stops the threads (what is not sent stays in the journal), wakes all waiters, closes, frees. */
void replica_close(struct replica *r);

struct tree *replica_tree(struct replica *r);

/* Called before a change: 0, or -EIO when on_peer_down=fail and a peer is away. */
int replica_admit(struct replica *r);

/* Nanoseconds since the epoch for op.time; never smaller than one given before. */
uint64_t replica_now(struct replica *r);

/* Appends @op to the journal; sets op->seq. Must be followed by replica_done(). 0 or -errno (the
 * journal's disk is full: -ENOSPC); then the change must not be made. */
int replica_log(struct replica *r, struct op *op);

/* The change with @seq was made (@result 0) or failed (-errno). */
void replica_done(struct replica *r, uint64_t seq, int result);

/* Sets the mtime of directory @dir (path below the root) to @time: what the peer will set too.
 * Errors are logged. */
void replica_touch(struct replica *r, const char *dir, uint64_t time);

/* As replica_log, for what changes nothing itself: OP_CONTENT, OP_DIRTY, OP_FSYNC. Settled at once.
 */
int replica_note(struct replica *r, struct op *op);

/* The file @fid, being written anew since the record @seq marked it so, has grown front to back:
 * its first @front bytes stay as they are, or replica_rewritten() is called before the file's
 * OP_CONTENT is noted. So the peers can be sent them already. @front is exact when the OP_CONTENT
 * is noted. The caller holds what orders the writes of the inode. */
void replica_grown(struct replica *r, uint64_t seq, const struct fid *fid, uint64_t front);
void replica_rewritten(struct replica *r, uint64_t seq);

/* A dirty inode (OP_CREATE or OP_DIRTY) has its OP_CONTENT, or is gone: the record that marked it,
 * @seq, need not be kept any more. */
void replica_clean(struct replica *r, uint64_t seq);

/* The last writer of an inode that lost its name to a peer's version has closed it: what it wrote
 * goes into the vault, here and at the peers. 0; -ENOENT: it is not such an inode; or -errno. */
int replica_orphan_closed(struct replica *r, const struct fid *fid);

/*
 * The same step by step, for an inode @fid that a local process has open for writing and that has
 * lost its name @path to a peer's version. After bytes were written, at the close or an fsync:
 * replica_orphan_changed() puts them into the vault, here and at the peers, under one entry for the
 * inode; @fd is a descriptor of it. After the last close: replica_orphan_forget().
 */
int replica_orphan_changed(struct replica *r, const struct fid *fid, const char *path, int fd);
void replica_orphan_forget(struct replica *r, const struct fid *fid);
/* Whether the vault holds a link to the inode. */
bool replica_orphan_kept(struct replica *r, const struct fid *fid);

/*
 * Waits as the mode and on_peer_down say until the peers have applied @seq.
 * REPLICA_WRITE is a write's wait (sync-write only), REPLICA_CHANGE any other change's,
 * REPLICA_DISK that of fsync (on the peers' disks; sync modes). @interrupted is asked now and then
 * (may be NULL). 0; -EINTR; -EIO with on_peer_down=fail when a peer is away (the change stays in
 * the journal and is replicated later).
 */
enum replica_scope { REPLICA_WRITE, REPLICA_CHANGE, REPLICA_DISK };
int replica_wait(struct replica *r, uint64_t seq, enum replica_scope scope,
	bool (*interrupted)(void *ctx), void *ctx);

/* Whether the mode makes @scope wait at all: lets callers skip preparations. */
bool replica_waits(const struct replica *r, enum replica_scope scope);

/* The journal up to @seq is on this machine's disk. For fsync. 0 or -errno. */
int replica_sync_journal(struct replica *r, uint64_t seq);

/* Number of the newest local record: everything done before the call is at or below it. */
uint64_t replica_head(struct replica *r);

/* For `tandemfs wait`: until every peer has applied @seq, whatever the mode. @timeout_ms -1: for
 * ever. 0, -ETIMEDOUT, -EINTR, -ECANCELED when the replica is closing. */
int replica_wait_all(
	struct replica *r, uint64_t seq, int timeout_ms, bool (*interrupted)(void *ctx), void *ctx);

/* ---- the conflict vault ---- */

/* All versions that lost a conflict, oldest first: vault_list(). */
int replica_conflicts(struct replica *r, struct vault_entry **ret, size_t *ret_n);
/* The name of the entry that people call @text: vault_find(). */
int replica_conflict_find(struct replica *r, const char *text, char ret[VAULT_NAME_SIZE]);
/* Its bytes, open for reading: a descriptor or -errno. */
int replica_conflict_open(struct replica *r, const char *name);
/* Drops it, here and at the peers. 0, -ENOENT or -errno. */
int replica_conflict_drop(struct replica *r, const char *name);
/* Puts a copy of what stands at @path, no directory, into the vault, here and at the peers:
 * somebody is about to put another version there. 0, -ENOENT, -EISDIR, ... */
int replica_conflict_keep(struct replica *r, const char *path);

/* ---- for status ---- */

enum peer_state {
	PEER_CONNECTING, /* never reached since the start, or lost and being tried again */
	PEER_CATCHING_UP,
	PEER_IN_SYNC,
	PEER_REFUSED, /* reached, and it will not do: wrong key, not the node paired with, ... */
};
const char *peer_state_name(enum peer_state s);

/* What was not carried to a plain peer, or found there, per change since the first contact. */
enum plain_count {
	PLAIN_XATTRS,      /* changes of extended attributes and ACLs */
	PLAIN_OWNERS,      /* owners that the account there may not set */
	PLAIN_REFUSED,     /* modes or times that the account there may not set */
	PLAIN_NANOSECONDS, /* times cut to whole seconds */
	PLAIN_SPECIALS,    /* devices, FIFOs, sockets */
	PLAIN_HARD_LINKS,  /* names that are files of their own there */
	PLAIN_LINK_ATTRS,  /* owners and times of symbolic links */
	PLAIN_TWO_STEPS,   /* files that were missing for a moment while they were replaced */
	PLAIN_ONLY_THERE,  /* names found there and not here, kept */
	PLAIN_ASIDE,       /* moved aside there: younger files of the first contact, rests */
	PLAIN_COUNTS,
};
/* "owners", and for people "owners that the account may not set". */
const char *plain_count_name(enum plain_count what);
const char *plain_count_text(enum plain_count what);

struct plain_status {
	uint64_t counts[PLAIN_COUNTS];
	bool comparing;    /* the trees are being compared */
	uint64_t compared; /* entries so far */
	bool replaces;     /* its rename replaces at once */
	bool hard_links, link_attrs, fsync;
	const char *check; /* how contents are checked: "size" or a digest's name; static */
};

struct peer_status {
	char *url;            /* owned, as all strings here */
	char *node, *node_id; /* NULL before the first contact */
	enum peer_state state;
	bool active; /* tandemfs runs there, or it was not reached yet; else plain */
	struct plain_status plain;
	char *error; /* last error, a sentence; NULL: none */
	uint64_t lag_ops, lag_bytes;
	double lag_seconds;            /* age of the oldest op that is not acknowledged */
	uint64_t sent_ops, sent_bytes; /* since the start */
	/* the other direction */
	bool inbound;         /* it has written to our spool since the start */
	uint64_t applied_ops; /* of its operations, since the start */
	char *waiting; /* op that cannot be applied here and is tried again, with errno's text; NULL
			*/
	/* what arrived damaged or against the rules since the start, and the last of it; NULL: none
	 */
	uint64_t refusals;
	char *refused;
	char *resync; /* what the reconciler does or waits for, a sentence; NULL: nothing */
};

struct replica_status {
	char *node, *node_id, *backing, *state_dir;
	enum replica_mode mode;
	uint64_t journal_head, journal_bytes;
	uint64_t conflicts; /* entries in the vault */
	struct peer_status *peers;
	size_t n_peers;
};
int replica_status(struct replica *r, struct replica_status *ret);
void replica_status_clear(struct replica_status *s);
const char *replica_mode_name(enum replica_mode m);

/* Whether verify= may be @name: a digest that OpenSSL knows, or "none". */
bool replica_verify_known(const char *name);

/* The log of replicated changes, one line each: a file in the state directory (changes.log; the one
 * before it changes.log.1). */
#define REPLICA_CHANGES_LOG "changes.log"

/*
 * Compares the tree here with each active peer's by digest (type, mode, owner, size, mtime, bytes,
 * xattrs, link target, which names are one inode), and with each plain peer's by what its server
 * lists (type, size, mtime in seconds, mode, link target). Differences are looked at again before
 * they are reported, since both mounts are in use. @report is called for each; @progress, once a
 * second or more often, with entries done and the total, 0 while not known; when it returns false
 * the comparison ends with -ECANCELED. Returns the number of differences or -errno; *ret_error as
 * for replica_open.
 */
struct replica_difference {
	const char *peer, *path;
	const char *what; /* "only here", "only there", "content", "mode", "owner", "mtime", ... */
};
int replica_verify(struct replica *r, void (*report)(void *ctx, const struct replica_difference *d),
	bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, char **ret_error);

/*
 * Makes the tree here and each active peer's equal again, when their journals cannot: what only one
 * side has goes to the other, of two versions the newer stays and the other is kept in the vault;
 * nothing is deleted but what a journal says was deleted. A plain peer is sent what differs there.
 * Both mounts may be in use. With @dry_run
 * nothing is done. @report (may be NULL) is called for each name, @progress as for replica_verify,
 * with what is done at present ("comparing", ...). Returns the number of names that differed,
 * -EBUSY when it is under way already, or -errno; *ret_error as for replica_open.
 */
struct replica_repair {
	const char *peer, *path;
	const char *action; /* "sent", "fetched", ... */
};
int replica_resync(struct replica *r, bool dry_run,
	void (*report)(void *ctx, const struct replica_repair *d),
	bool (*progress)(void *ctx, const char *phase, uint64_t done, uint64_t total), void *ctx,
	char **ret_error);

#endif
