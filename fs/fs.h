/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_FS_H
#define TANDEMFS_FS_H

/*
 * What the modules of the FUSE side share.
 *
 * Lock order: a directory handle's, the tree (replicate/tree.h), its guard, an inode's lock, the
 * dirty list's, the notifier's, the inode table's.
 * Nothing is locked across an answer to the kernel, a notification or replica_wait().
 */

#include "handle.h"
#include "inode.h"
#include "kept.h"
#include "mount.h"
#include "replicate/base/log.h"

#include <fuse_lowlevel.h>

#include <errno.h>
#include <fcntl.h>

struct notifier;

struct mount {
	struct fuse_session *session;
	struct replica *replica;
	struct tree *tree;
	struct inode_table *inodes;
	struct dirty_list dirty;
	struct notifier *notifier;
	struct kept kept;
	int root; /* the backing directory */
	char *mountpoint;
	bool served;    /* mount_run() has begun */
	bool unmounted; /* the mount point is free */
	bool expire;    /* the kernel knows FUSE_NOTIFY_EXPIRE_ENTRY */
	bool killpriv;  /* setuid and setgid bits of changed files are ours to take (privs.h) */
	int stop_fd;    /* eventfd: mount_stop() */
	bool direct;    /* bytes written past the kernel's cache make it forget the older ones */
	/* session_io.c, until the session is up: what the kernel said in its first request */
	atomic_bool init_done;
	bool init_killpriv;
	uint64_t init_unique;
};

static inline struct mount *mount_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* The inode of a request; the kernel's reference holds it. Never NULL: the kernel sends only ids
 * that it was given. */
struct inode *inode_of(fuse_req_t req, fuse_ino_t ino);

static inline struct handle *handle_of(const struct fuse_file_info *fi)
{
	return (struct handle *)(uintptr_t)fi->fh;
}

/* Seconds that the kernel may keep entries and attributes: every change of ours or of a peer's
 * passes by it. */
#define CACHE_TIMEOUT 86400.0

/* Whether what is opened so is better written past the kernel's cache: nobody reads or maps it by
 * this descriptor. Saves the question for security.capability before the first write, and a second
 * copy of the file in memory. */
static inline bool opens_direct(const struct mount *m, int flags)
{
	return m->direct && (flags & O_ACCMODE) == O_WRONLY;
}

/* Whether the name is the one that the mount hides. */
bool name_hidden(struct mount *m, const struct inode *parent, const char *name);

/* The handlers. */
extern const struct fuse_lowlevel_ops mount_ops;

#endif
