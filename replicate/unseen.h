/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_UNSEEN_H
#define TANDEMFS_UNSEEN_H

/*
 * Our own operations that the peer may not have seen when it made those that now arrive, and what
 * that means for one of these: whether it goes together with them, and under which name. Not
 * locked: the caller guards it.
 */

#include "op.h"
#include "position.h"

struct unseen;

/* What is kept of an op. */
struct unseen_op {
	uint64_t seq;
	uint64_t time;
	enum op_type type;
	uint32_t flags;
	uint32_t mask; /* of a setattr */
	struct fid fid;
	char *path;  /* as it is called here now: follows the peer's renames */
	char *path2; /* only of a rename or link, else NULL */
	char *xname; /* only of xattrs */
	bool safe;   /* of a content: its version is in the vault already */
};

/* NULL without memory. */
struct unseen *unseen_new(void);
void unseen_free(struct unseen *u);

/* Enters an op of ours, in whatever order. Restatements (OP_FORCE) and what changes nothing are
 * left out. 0 or -ENOMEM: then nothing changed. */
int unseen_add(struct unseen *u, const struct op *op);

/* What is kept of the op @seq; NULL: nothing. Valid until the next change. */
const struct unseen_op *unseen_find(const struct unseen *u, uint64_t seq);

/* The op came to nothing. */
void unseen_remove(struct unseen *u, uint64_t seq);

/* Forgets those up to @seq: the peer has seen them in all that it will still send. */
void unseen_drop(struct unseen *u, uint64_t seq);

size_t unseen_count(const struct unseen *u);
/* The oldest number; UINT64_MAX when there is none. */
uint64_t unseen_oldest(const struct unseen *u);

/* A peer's rename was carried out here: what was done below @from is below @to now. With @exchange
 * the reverse too. 0 or -ENOMEM: then some names are stale, and conflicts may be found where there
 * are none. */
int unseen_moved(struct unseen *u, const char *from, const char *to, bool exchange);

/* How an op of the peer stands to ours that it had not seen. */
struct unseen_relation {
	bool clash;  /* they cannot both be carried out as they are */
	bool hidden; /* it clashes with what the peer is not told: a file that is being written */
	/* The names of the op's paths here, after our renames; owned. Also set with a clash: as far
	 * as they could be followed. */
	char *path, *path2;
	uint64_t attr_time; /* newest of our changes of the same attributes, ns; 0: none */
	uint32_t attr_mask; /* which of them */
};
/* A restatement (OP_FORCE) is not held up by files that are being written. 0 or -ENOMEM. The caller
 * clears *ret. */
int unseen_relate(const struct unseen *u, const struct op *op, const struct position *seen,
	struct unseen_relation *ret);
void unseen_relation_clear(struct unseen_relation *r);

/* Where our renames that are not in @seen took @path, whatever else was done to it. The caller
 * frees it; NULL without memory. */
char *unseen_follow(const struct unseen *u, const char *path, const struct position *seen);

/* The newest of ours, not in @seen, that made the name @path what it is (creation, content, rename
 * or link onto it) or changed the content of the inode @fid (NULL: any); NULL: none, or it is safe.
 * Valid until the next change. */
const struct unseen_op *unseen_version(const struct unseen *u, const char *path,
	const struct fid *fid, const struct position *seen);

/* Whether there is one, not in @seen, that put at @path what was not there before, and it is not
 * safe. */
bool unseen_put(const struct unseen *u, const char *path, const struct position *seen);

/* Whether there is a link of ours, not in @seen, of the inode @fid. */
bool unseen_link(const struct unseen *u, const struct fid *fid, const struct position *seen);

/* Whether there is one, not in @seen, that changed content or attributes of the inode @fid by
 * another name than @path ("": by any). */
bool unseen_elsewhere(const struct unseen *u, const char *path, const struct fid *fid,
	const struct position *seen);

/* Whether there is one, not in @seen, that changed a name in the directory @dir. */
bool unseen_in_dir(const struct unseen *u, const char *dir, const struct position *seen);

/* The newest rename of ours, not in @seen, that took something away from @path; NULL: none. */
const struct unseen_op *unseen_rename_from(
	const struct unseen *u, const char *path, const struct position *seen);

/* The oldest rename of ours after number @after, not in @seen, of or to @path or a directory above
 * it; NULL: none. */
const struct unseen_op *unseen_rename_above(
	const struct unseen *u, const char *path, const struct position *seen, uint64_t after);

/* The versions that our ops @seqs made, and what stood there before each, are in the vault. Sorts
 * @seqs. */
void unseen_make_safe_seqs(struct unseen *u, uint64_t *seqs, size_t n);
/* Our version at @path (and of @fid, NULL: any) is in the vault: it needs no more care. */
void unseen_make_safe(struct unseen *u, const char *path, const struct fid *fid);

#endif
