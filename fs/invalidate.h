/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_INVALIDATE_H
#define TANDEMFS_INVALIDATE_H

/*
 * Tells the kernel what a peer changed, so that its caches do not show what is gone.
 *
 * Notifications wait inside the kernel for locks that it holds for a call of ours, and such a call
 * may itself wait for the peer. So they are sent by threads without locks, and nobody waits for one
 * whose directory (or file) a local call waits in: see notifier_wait_begin().
 */

#include "inode.h"

#include <stdbool.h>

struct mount;
struct notifier;
struct apply_result;

int notifier_new(struct mount *m, struct notifier **ret);
/* Starts the first thread; not before a daemon's fork. 0 or -errno. */
int notifier_start(struct notifier *n);
/* Stops all threads; the file system must be unmounted, or nobody would answer the kernel. What is
 * queued is dropped. */
void notifier_stop(struct notifier *n);
void notifier_free(struct notifier *n);

/* Queues; none of them waits. Attributes and ACLs of @i; with its pages or cached listing; a name,
 * @dir: of a directory. Without memory the loss is logged. */
void notifier_attributes(struct notifier *n, struct inode *i);
void notifier_content(struct notifier *n, struct inode *i);
void notifier_entry(struct notifier *n, struct inode *parent, const char *name, bool dir);

/* Returns when what is queued now is sent, but for what stands behind a local call that waits for
 * the peers: there every name is made to be looked up again, where the kernel can do so without
 * locks. */
void notifier_settle(struct notifier *n);

/* A local call for which the kernel may hold locks of @i waits for the peers from now on. */
void notifier_wait_begin(struct notifier *n, struct inode *i);
void notifier_wait_end(struct notifier *n, struct inode *i);

/* Hooks of the replica; @ctx is the mount. */
void invalidate_applied(void *ctx, const struct op *op, const struct apply_result *result);
void invalidate_settle(void *ctx);
bool invalidate_busy(void *ctx, const struct fid *fid);

#endif
