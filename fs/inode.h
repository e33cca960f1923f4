/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_INODE_H
#define TANDEMFS_INODE_H

/*
 * The inodes that the kernel knows, and under which names. No descriptor is kept for them:
 * an inode is opened by its file handle, or through one of its names where the backing file
 * system has no handles.
 *
 * All functions lock the table themselves unless they say otherwise. The table's lock is a leaf
 * but for allocation: nothing else is locked and no system call made while it is held.
 */

#include "replicate/base/confine.h"
#include "replicate/op.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct inode_table;
struct inode;
struct handle;
struct dirty;

/* One name of one inode. */
struct name {
	UT_hash_handle hh;
	struct inode *parent; /* holds a reference */
	struct inode *child;
	struct name *next;  /* of the same child */
	size_t len;         /* of text */
	uint64_t parent_id; /* with text the key */
	char text[];
};

struct inode_key {
	uint64_t dev, ino;
};

struct inode {
	/* Constant. */
	uint64_t id; /* never used twice in the life of a mount */
	struct inode_key key;
	mode_t type; /* S_IFMT bits */

	/* Guarded by the table's lock. */
	UT_hash_handle hh_id, hh_key;
	bool keyed;         /* found by its key; not once its last link is gone */
	uint64_t nlookup;   /* references of the kernel */
	uint64_t refs;      /* pins, open handles, names below */
	struct name *names; /* newest first */

	/* Guarded by lock. */
	pthread_mutex_t lock;
	bool orphan;               /* has no link (any more): nothing about it is replicated */
	unsigned loose;            /* changes of the content that began while it was that */
	struct handle *handles;    /* open ones */
	struct lost_version *lost; /* a peer's version took its name while it was open; NULL: no */
	struct dirty *dirty;       /* NULL: clean */
	uint64_t content_seq;      /* of the newest OP_CONTENT */
	nlink_t links_searched;    /* links that it had when no name was found; 0: found */

	unsigned waiters; /* local calls on it that wait for the peers; under the notifier's lock */

	/* Constant: the file handle, len 0 when there is none. */
	int32_t fid_type;
	uint8_t fid_len;
	uint8_t fid_bytes[];
};

/* @root is kept by the caller. 0 or -errno. */
int inode_table_new(int root, struct inode_table **ret);
void inode_table_free(struct inode_table *t);

struct inode *inode_root(struct inode_table *t);

/* The inode with that id, NULL when there is none. The kernel's reference must hold it. */
struct inode *inode_find(struct inode_table *t, uint64_t id);

/* Counts changes by peers: a look-up during which it moved may have seen the past. */
uint64_t inode_epoch(struct inode_table *t);
void inode_epoch_advance(struct inode_table *t);

/* The inode open at @fd (O_PATH will do), found or new, known from now on as @name in @parent
 * (parent NULL: no name yet), with one more look-up. With @epoch not 0: -EAGAIN if the epoch is
 * another by now. 0 or -errno. */
int inode_enter(struct inode_table *t, struct inode *parent, const char *name, int fd,
	uint64_t epoch, struct stat *ret_stat, struct inode **ret);

/* Takes @n look-ups back; the inode may be freed. */
void inode_forget(struct inode_table *t, struct inode *i, uint64_t n);

/* Keep and release. */
void inode_pin(struct inode_table *t, struct inode *i);
void inode_unpin(struct inode_table *t, struct inode *i);

/* Path of the inode, or of @name in it when not NULL, relative to the root, with its end. Names can
 * move unless the tree is locked. 0, -ENOENT (no name is known), -ENAMETOOLONG. */
int inode_path(
	struct inode_table *t, struct inode *i, const char *name, char dst[TANDEMFS_PATH_MAX + 1]);

/* The inode that the table knows by that name, pinned; NULL when none. */
struct inode *inode_child(struct inode_table *t, struct inode *parent, const char *name);
/* The same by path from the root. */
struct inode *inode_by_path(struct inode_table *t, const char *path);
/* As inode_by_path, but what the table does not know is looked for in the backing directory. 0 or
 * -errno. */
int inode_resolve(struct inode_table *t, const char *path, struct inode **ret);
/* By device and number, pinned; NULL when none. */
struct inode *inode_by_ino(struct inode_table *t, uint64_t dev, uint64_t ino);

/* Changes of names, under the tree's lock. Names that are not known are no error. */
int inode_name_add(
	struct inode_table *t, struct inode *parent, const char *name, struct inode *child);
void inode_name_drop(struct inode_table *t, struct inode *parent, const char *name);
/* Also what stood at the new name loses it. -ENOMEM: the old name was only dropped. */
int inode_name_move(struct inode_table *t, struct inode *parent, const char *name,
	struct inode *parent2, const char *name2);
int inode_name_swap(struct inode_table *t, struct inode *parent, const char *name,
	struct inode *parent2, const char *name2);

/* Its last link is gone: its number may come again for another inode. */
void inode_detach(struct inode_table *t, struct inode *i);

/* Opens the inode itself, whatever its names are. A symlink needs O_PATH. A descriptor or
 * -errno (-ESTALE: it is gone). */
int inode_open(struct inode_table *t, struct inode *i, int flags);

/* Its fid as ops carry it. */
void inode_fid(const struct inode *i, struct fid *ret);

/* Number of inodes in the table. */
size_t inode_count(struct inode_table *t);

#endif
