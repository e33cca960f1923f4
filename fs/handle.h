/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_HANDLE_H
#define TANDEMFS_HANDLE_H

/*
 * Open files, and what was changed in a file since its last OP_CONTENT.
 *
 * An inode becomes dirty by its creation or by the first write; the record that says so (OP_CREATE,
 * OP_DIRTY) is in the journal before the bytes are in the file, so that a killed daemon finds it
 * again. It becomes clean when content_emit() has noted what changed, or when it is gone.
 */

#include "inode.h"
#include "replicate/op.h"
#include "replicate/ranges.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mount;
struct dir_stream;

struct handle {
	struct handle *next, *prev; /* of one inode; guarded by its lock */
	struct inode *inode;        /* holds a reference */
	int fd;
	bool writable;
	pid_t opener;           /* thread that opened it; 0: unknown */
	struct dir_stream *dir; /* of a directory's */
};

/* Takes over @fd. 0 or -ENOMEM (then @fd is closed). */
int handle_new(struct mount *m, struct inode *i, int fd, int flags, struct handle **ret);
/* Whether thread @pid has opened the inode for writing and not closed it. */
bool handle_opened_by(struct inode *i, pid_t pid);
/* Closes and frees. Does not emit. */
void handle_free(struct mount *m, struct handle *h);
/* At the end of a mount: closes what nobody released. */
void handles_close(struct inode *i);

/* More ranges than this are merged with their nearest. */
#define DIRTY_RANGES 64

struct dirty {
	struct dirty *next, *prev; /* in the mount's list, under its lock */
	struct inode *inode;
	/* Guarded by the inode's lock; the timer looks at the atomic ones without it. */
	uint64_t seq;                     /* of the record that marks it */
	uint64_t made;                    /* op.time of the creation; 0: it was there before */
	atomic_bool whole;                /* new or truncated: no part of it is at the peers */
	bool written;                     /* bytes came since it was made or truncated */
	unsigned writers;                 /* changes under way */
	atomic_uint_fast64_t first, last; /* of the changes, ns of the monotonic clock */
	uint64_t front;                   /* whole: written front to back up to here, bytes */
	bool scattered;                   /* whole: and elsewhere */
	uint64_t told;                    /* front as replication was last told; 0: never */
	struct ranges ranges;             /* in room: adding to it cannot fail */
	struct range room[DIRTY_RANGES + 1];
};

struct dirty_list {
	pthread_mutex_t lock;
	struct dirty *head; /* guarded by lock */
};

void dirty_free(struct dirty *d);

/* Before a change of the content: the inode is marked as dirty in the journal, with @whole as one
 * that is written anew. 0 or -errno: then nothing may be changed. Followed by dirty_end(). The tree
 * must not be locked. */
int dirty_begin(struct mount *m, struct inode *i, bool whole);

/* After it: @len bytes at @start are new (len 0: only the size, or nothing); @whole: all of it
 * is. */
void dirty_end(struct mount *m, struct inode *i, uint64_t start, uint64_t len, bool whole);

/* A file was created by the record @seq at @time (op.time). Tree locked. 0 or -ENOMEM. */
int dirty_created(struct mount *m, struct inode *i, uint64_t seq, uint64_t time);

/* Whether the file was made or truncated and nothing has been written to it yet. */
bool dirty_empty(struct inode *i);
/* Whether it is being written anew. */
bool dirty_whole(struct inode *i);

/* Whether the inode has not been sent once: its content will carry attributes and xattrs. */
bool dirty_unsent(struct inode *i);

/* The last link is gone: what is dirty needs no journal any more. */
void dirty_drop(struct mount *m, struct inode *i);
/* The same under the inode's lock, but for what the caller has to do then if the mark that is
 * returned is not 0: replica_clean() it, and inode_unpin(). */
uint64_t dirty_detach(struct mount *m, struct inode *i);

/* If the inode is dirty, notes an OP_CONTENT. *ret_seq (may be NULL) is the newest one's number,
 * also when it was clean; 0 when there never was one. 0 or -errno. */
int content_emit(struct mount *m, struct inode *i, uint64_t *ret_seq);

/* The same for a caller that holds the tree for TREE_RENAME, or the guard of the inode's path. */
int content_emit_locked(struct mount *m, struct inode *i, uint64_t *ret_seq);

/* All dirty inodes at or below @dir; tree locked for TREE_RENAME. */
int content_emit_below(struct mount *m, const char *dir);

/* All dirty inodes: the end of the mount. Errors are logged. */
void content_emit_all(struct mount *m);

/* Emits what has been dirty for long while still open; for the timer. */
void content_emit_aged(struct mount *m);

#endif
