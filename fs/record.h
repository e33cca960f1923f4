/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_RECORD_H
#define TANDEMFS_RECORD_H

/*
 * How a handler makes a change that other nodes are told of:
 *
 *     change_begin()    admitted, tree locked, paths known and guarded
 *     fill in change.op
 *     change_log()      write-ahead record
 *     the system call
 *     the inode table follows
 *     change_end(r)     directories touched, record settled, tree unlocked
 *     change_wait()     sync modes: the peers have it
 *
 * After a failed begin nothing is held; after anything else change_end() is due exactly once.
 */

#include "fs.h"

/* A place in the tree: an inode (@name NULL), or a name in a directory. */
struct place {
	struct inode *inode;
	const char *name;
};

struct change {
	struct mount *m;
	struct op op;
	enum tree_mode mode;
	struct tree_guard guard;
	bool silent; /* carried by a later record: nothing is logged */
	bool logged;
	uint64_t seq;          /* that change_wait() waits for; 0: none */
	struct inode *held[4]; /* whose kernel locks the caller's caller may hold, for the wait */
	size_t n_held;
	struct place places[2];
	size_t n_places;
	char path[TANDEMFS_PATH_MAX + 1], path2[TANDEMFS_PATH_MAX + 1];
};

/* @b may be NULL. -EPERM for what the mount hides. */
int change_begin(struct change *c, struct mount *m, enum op_type type, enum tree_mode mode,
	const struct place *a, const struct place *b);

int change_log(struct change *c);

/* The parent of path gets its time now: before a content is noted within the change, which takes
 * the time from there. */
void change_touch(struct change *c);

/* @touch: how many parents got other names: 0 none, 1 that of path, 2 also that of path2. Returns
 * @result. */
enum touch { TOUCH_NONE, TOUCH_FIRST, TOUCH_SECOND, TOUCH_BOTH };
int change_end(struct change *c, int result, enum touch touch);

/* 0 or -errno: then the kernel's caches, which take the change for not done, are told. Nothing may
 * be locked, the names of the places still be there. */
int change_wait(struct change *c, fuse_req_t req);

/* Waits for @seq on behalf of a call on @i. */
int record_wait(
	struct mount *m, struct inode *i, uint64_t seq, enum replica_scope scope, fuse_req_t req);

/* The mtime that a new directory, symlink or node has at the peers too. */
int stamp_mtime(int dir, const char *name, uint64_t time);

#endif
