/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CONFLICT_H
#define TANDEMFS_CONFLICT_H

/*
 * What becomes of two changes to one name of which neither side had seen the other's. Pure: both
 * nodes come to the same end without asking each other.
 */

#include <stdbool.h>
#include <stdint.h>

/* What a change does to the name that both changed. */
enum conflict_kind {
	CONFLICT_FILE,  /* a file is there with what the writer wrote: content, link, rename onto */
	CONFLICT_OTHER, /* a symlink, FIFO, socket or device is there */
	CONFLICT_DIR,   /* a directory is there: mkdir, rename onto */
	CONFLICT_ATTR,  /* one attribute or xattr of what is there; compare like with like */
	CONFLICT_REMOVE, /* nothing is there */
	CONFLICT_MOVE,   /* what was there has another name */
	CONFLICT_KIND_END,
};

struct conflict_side {
	enum conflict_kind kind;
	int64_t when;     /* ns since the epoch: a file's mtime, else the op's time */
	const char *node; /* its name */
	const char *id;   /* of the node; decides between nodes of one name */
};

enum conflict_winner {
	CONFLICT_BOTH, /* they go together, in whatever order */
	CONFLICT_A,
	CONFLICT_B,
};

struct conflict_verdict {
	enum conflict_winner winner;
	bool vault; /* the loser's version is to be kept */
};

/* Newest first, then the greater name, then the greater id. Below, at or above zero; zero only for
 * one time of one node. */
int conflict_order(const struct conflict_side *a, const struct conflict_side *b);

/* @same: both end in the same bytes and attributes but for the times. Exchanging the sides
 * exchanges the winner and nothing else. */
struct conflict_verdict conflict_decide(
	const struct conflict_side *a, const struct conflict_side *b, bool same);

#endif
