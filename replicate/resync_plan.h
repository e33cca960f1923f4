/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_RESYNC_PLAN_H
#define TANDEMFS_RESYNC_PLAN_H

/*
 * What the reconciler does about a name that is not the same on both nodes, when nothing is known
 * of how it came to that. Pure: the other node would decide the same, seen from its side.
 *
 *     only on one side              to the other
 *     directory and something else  the directory keeps the name, the other goes to the vault
 *     different bytes, targets, ... the newer (mtime, then the node's name), the other to the vault
 *     the same with other owner,
 *     mode, times, xattrs, links    those of the newer
 */

#include "manifest.h"

enum resync_act {
	RESYNC_NOTHING,
	RESYNC_SEND,            /* what stands here goes there */
	RESYNC_FETCH,           /* and the reverse */
	RESYNC_SEND_LINK,       /* it is another name of the inode that `link` names */
	RESYNC_SEND_ATTRIBUTES, /* mode, owner and mtime only */
	RESYNC_TAKE_ATTRIBUTES,
	RESYNC_REMOVE,      /* it was removed here; not decided by resync_decide(), as the next */
	RESYNC_REMOVE_HERE, /* it was removed there */
};

struct resync_plan {
	enum resync_act act;
	bool keep_ours, keep_theirs; /* this version goes into the vault first */
};

/* A node: its name and id. After a power failure a file may be there without bytes that were
 * acknowledged, or be what it was before, while the peer has all that was: then its version loses
 * whatever its time. When both failed, the longer one of two that are equally old wins. */
struct resync_node {
	const char *name, *id;
	bool lost_power;
};

/* @here, @there: what stands there; NULL: nothing. */
struct resync_plan resync_decide(const struct manifest_entry *here,
	const struct manifest_entry *there, const struct resync_node *us,
	const struct resync_node *them);

/* For people: "sent", "fetched, the version here to the vault". Static text. */
const char *resync_describe(const struct resync_plan *p);

#endif
