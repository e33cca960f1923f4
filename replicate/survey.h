/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SURVEY_H
#define TANDEMFS_SURVEY_H

/*
 * The manifests of one subtree here and at a peer, side by side: what `verify` reports from and the
 * reconciler works on. A connection of its own is used for it, by one thread.
 */

#include "query.h"

#include "manifest.h"

struct survey {
	struct replica *replica;
	struct peer *peer;
	/* As for replica_verify(); may be NULL. */
	bool (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;

	/* the survey's own */
	struct remote *remote;
	uint64_t entries; /* of the last manifest written here */
	int here;
	struct remote_file *file;
};

/* Connects. The fields above are set by the caller, the others zeroed. 0 or -errno; *ret_error as
 * for replica_open. */
int survey_begin(struct survey *s, char **ret_error);
void survey_end(struct survey *s);

/* Reports progress. 0, or -ECANCELED when it is to end. */
int survey_go_on(struct survey *s, uint64_t done, uint64_t total);

/* Has both manifests made and calls @merge with their readers, unless they are the same byte by
 * byte, which a digest tells. Directories that are the same with all below are left out of both. 0,
 * what @merge returns, or -errno of the connection, the peer or the walk. */
struct survey_what {
	const char *path;
	bool one_level, without_content;
	bool settle; /* as of a query */
};
int survey_take(struct survey *s, const struct survey_what *what,
	int (*merge)(void *ctx, struct manifest_reader *here, struct manifest_reader *there),
	void *ctx);

#endif
