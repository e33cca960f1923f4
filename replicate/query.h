/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_QUERY_H
#define TANDEMFS_QUERY_H

/*
 * Questions that one node asks another: the manifest of a subtree.
 *
 *   asker                                       answerer
 *   put in/ASKER/request {id, path, ...}   -->  a thread writes acks/ASKER.manifest and .index
 *   reads acks/ASKER.reply                 <--  {id, working, entries, bytes}, and in the end
 *                                               {id, done} or {id, failed, errno}
 *   reads acks/ASKER.index, and of acks/ASKER.manifest the directories that differ
 */

#include "impl.h"
#include "manifest_index.h"

/* ---- the answerer's side, one for each spool ---- */

struct answerer;

/* @spool is the asker's spool (kept by the caller), @id its node. */
int answerer_new(struct replica *r, int spool, const char *id, struct answerer **ret);
void answerer_free(struct answerer *a);
/* Looks whether there is a new request and starts to answer it. */
void answerer_turn(struct answerer *a);

/* ---- the asker's side ---- */

struct query {
	const char *path;   /* subtree */
	const char *digest; /* OpenSSL's name */
	bool one_level, without_content;
	uint8_t own[OP_DIGEST_MAX]; /* digest of the asker's manifest of that */
	uint8_t own_len;
	bool settle; /* answered once the asker has all that was done there before */
	uint64_t id; /* set by query_manifest() */
};

/* Asks the peer over @remote (connected, the caller's) and waits for the answer; then *ret is its
 * manifest, open for reading on the side channel; NULL when it is the same as the asker's.
 * @progress as for replica_verify. 0; -EINTR when it says so; or -errno of the connection or of the
 * peer. */
int query_manifest(struct peer *p, struct remote *remote, struct query *q,
	int (*progress)(void *ctx, uint64_t entries), void *ctx, struct remote_file **ret);

/* The directories of the manifest that was the answer; the caller frees. NULL when there are too
 * many. 0 or -errno. */
int query_index(
	struct peer *p, struct remote *remote, const struct query *q, struct manifest_index **ret);

/* After an answer with `settle`: the names that the peer has removed and no longer journaled. The
 * caller frees. 0 or -errno. */
int query_removed(struct peer *p, struct remote *remote, struct removed **ret);

#endif
