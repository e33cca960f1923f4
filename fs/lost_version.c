/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs.h"
#include "lost_version.h"
#include "replicate/base/cleanup.h"

#include <fcntl.h>
#include <string.h>
#include <utlist.h>

/*
 * DESIGN: whether the peer had seen what the file contained when it was replaced, replication has
 * decided by then: if not, the vault holds a link to the inode. Either way a process that goes on
 * writing makes a version that no peer has seen. At its close, and at an fsync, that version is
 * told to replication, which keeps one entry per inode in the vault.
 *
 * A file that a peer removed and had seen is not such a version: what is written to it after is as
 * ephemeral as what one writes to a file that one has removed oneself. So is a file that was
 * replaced by a local rename.
 *
 * The mark of a dirty file stays in the journal until the last writer has closed it, so that after
 * a crash the peer is told of the entry again.
 */

struct lost_version {
	char *path;    /* that it had */
	uint64_t mark; /* of the record that says that it was dirty; 0: it was clean */
	bool changed;  /* since it was kept */
};

void lost_version_free(struct lost_version *l)
{
	if (!l)
		return;
	free(l->path);
	free(l);
}

/* The inode's lock is held. */
static bool has_writer(const struct inode *i)
{
	struct handle *h;

	DL_FOREACH (i->handles, h)
		if (h->writable)
			return true;
	return false;
}

static struct lost_version *lost_version_new(const char *path)
{
	struct lost_version *l = calloc(1, sizeof(*l));

	if (l)
		l->path = strdup(path);
	if (l && l->path)
		return l;
	log_error("no memory: what is still written to the old %s is not kept", path);
	lost_version_free(l);
	return NULL;
}

bool lost_version_begin(struct mount *m, struct inode *i, const char *path, bool replaced)
{
	struct lost_version *l;
	uint64_t mark = 0;
	bool taken;
	struct fid fid;

	inode_fid(i, &fid);
	if (!S_ISREG(i->type) || !(replaced || replica_orphan_kept(m->replica, &fid)))
		return false;
	l = lost_version_new(path);
	(void)pthread_mutex_lock(&i->lock);
	taken = l && has_writer(i) && !i->lost;
	if (taken) {
		mark = dirty_detach(m, i);
		l->mark = mark;
		l->changed = mark != 0;
		i->lost = l;
	}
	(void)pthread_mutex_unlock(&i->lock);
	if (!taken)
		lost_version_free(l);
	else if (mark)
		inode_unpin(m->inodes, i);
	return taken;
}

void lost_version_changed(struct inode *i)
{
	if (i->lost)
		i->lost->changed = true;
}

/* A descriptor of a writer, or -1. The inode's lock is held. */
static int writer_fd(const struct inode *i)
{
	struct handle *h;

	DL_FOREACH (i->handles, h)
		if (h->writable)
			return fcntl(h->fd, F_DUPFD_CLOEXEC, 3);
	return -1;
}

int lost_version_keep(struct mount *m, struct inode *i)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	struct fid fid;
	bool changed;
	int r;

	(void)pthread_mutex_lock(&i->lock);
	changed = i->lost && i->lost->changed;
	if (changed) {
		path = strdup(i->lost->path);
		fd = writer_fd(i);
		i->lost->changed = false;
	}
	(void)pthread_mutex_unlock(&i->lock);
	if (!changed)
		return 0;
	inode_fid(i, &fid);
	r = path && fd >= 0 ? replica_orphan_changed(m->replica, &fid, path, fd) : -ENOMEM;
	if (r < 0) {
		log_error("%s was replaced by a peer while it was open, and what is written to it "
			  "cannot be put into the conflict vault: %s",
			path ? path : "a file", strerror(-r));
		(void)pthread_mutex_lock(&i->lock);
		lost_version_changed(i);
		(void)pthread_mutex_unlock(&i->lock);
	}
	return r;
}

void lost_version_closed(struct mount *m, struct inode *i)
{
	struct lost_version *l = NULL;
	struct fid fid;

	(void)pthread_mutex_lock(&i->lock);
	if (i->lost && !has_writer(i)) {
		l = i->lost;
		i->lost = NULL;
	}
	(void)pthread_mutex_unlock(&i->lock);
	if (!l)
		return;
	inode_fid(i, &fid);
	replica_orphan_forget(m->replica, &fid);
	if (l->mark)
		replica_clean(m->replica, l->mark);
	lost_version_free(l);
}
