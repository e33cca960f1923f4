/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_APPLY_H
#define TANDEMFS_APPLY_H

/*
 * Carries out ops of a peer in the local backing directory. Everything is relative to one directory
 * descriptor and confined to it (confine.h). The caller holds the locks of the paths.
 *
 * Each op is written so that doing it again right after itself gives the same tree: what is already
 * so is success. That covers the one op that was in flight at a crash; it does not make a whole log
 * replayable (see journal.h).
 */

#include "op.h"

#include <sys/stat.h>

struct digest;

struct apply_target {
	int root;    /* the backing directory */
	int scratch; /* directory on the same file system where what is new is put together; out of
		      * reach of everybody else */
	int stage;   /* where staged contents of this sender lie; -1: none */
	/* Called now and then during long work, so that the peer sees life; may be NULL. */
	void (*alive)(void *ctx);
	/* Whether the digest @name of the first *ret_done bytes of the staged file @ino is known
	 * already: *ret, then the caller's. May be NULL. */
	bool (*digested)(
		void *ctx, ino_t ino, const char *name, struct digest **ret, uint64_t *ret_done);
	void *ctx;
};

/* What the apply did, for kernel caches and for the inode table. */
struct apply_result {
	bool changed;       /* false: it was already so, or the op was void (OP_GONE) */
	bool new_inode;     /* the path has another inode than before (renamed over) */
	struct stat before; /* of the inode that stood at path (path2 for rename, link) before;
			       st_ino 0: none */
	struct stat after;  /* of the inode that stands there after; st_ino 0: none */
};

/*
 * Applies @op. 0, or -errno with nothing changed:
 *   -EBADMSG  the digest or a length does not fit: the data must be sent again
 *   -ENOENT, -ENOTDIR, -EEXIST, -EISDIR, -ENOTEMPTY
 *             the tree is not as the sender's was: a conflict, or drift
 *   anything else: ENOSPC, EDQUOT, EROFS, EIO, ...: may work later
 *
 * - OP_CONTENT with OP_WHOLE: the file is put together in scratch (a staged file is used as it is
 *   when its extents make up the whole file, else copied), digest checked, owner,
 *   mode, xattrs, times set, and renamed over the path. A file with more than one link is written
 * in place.
 * - without OP_WHOLE: size, holes and extents in place, then times. The file must exist.
 * - a link to an inode at path, rename of path: the path must exist; for a rename that is
 *   already done (fid tells: op->fid is the receiver's inode when the op was journaled) success.
 * - a staged file is consumed: gone after success and after -EBADMSG, back in the stage after any
 * other error. When it is missing and the file at the path has the content's bytes, size and mtime
 * the op was done before: success; else -EBADMSG.
 * - a whole file over an existing one leaves its directory's mtime as it is.
 * - rename over something without OP_REPLACED: -EEXIST. An exchange of which path2 is missing moves
 * path there.
 * - OP_GONE: content, link, attributes: nothing. Rename: if path exists it is renamed as usual,
 * else what stands at path2 is removed.
 * - unlink, rmdir of what is not there: success, not changed. rmdir of a directory that is not
 * empty: -ENOTEMPTY.
 * - mkdir where a directory is: its mode and owner are set. Creation over something of another
 * kind: -EEXIST.
 * - parents' mtime become max(present, op->time) after every change of names; see apply_touch().
 */
int op_apply(const struct apply_target *t, const struct op *op, struct apply_result *ret);

/* The long part of op_apply(), for which no lock is needed: takes a staged content out of the
 * sender's reach and checks its digest. 0, or -errno as op_apply(). What was prepared and is not
 * applied goes back with op_unprepare(). */
int op_prepare(const struct apply_target *t, struct op *op);
void op_unprepare(const struct apply_target *t, struct op *op);

/* Whether @op, which was in flight at a crash, had been carried out: looks at the tree, by inode
 * where the op has a fid. For content and attributes the answer is false (they can be repeated). 1,
 * 0 or -errno. */
int op_applied(int root, const struct op *op);

/* Removes what a crash left in scratch, none of it deeper than one level. To be called before the
 * first op: a staged content that had been taken there is asked for again (-EBADMSG). 0 or -errno.
 */
int apply_clean_scratch(int scratch);

/* Sets the directory's mtime to @time (ns) if it is older or @force. 0 or -errno. */
int apply_touch(int root, const char *dir, uint64_t time, bool force);

#endif
