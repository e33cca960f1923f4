/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "journal_state.h"
#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"

#include <fcntl.h>
#include <string.h>

/*
 * DESIGN: group commit. Whoever finds nobody syncing does it for all records that are there; the
 * others wait, and what was appended meanwhile is the next one's. Only the newest segment can hold
 * anything that is not on the disk: a full one is synced before its successor gets its name.
 *
 * After a failed fdatasync(2) the kernel takes the pages for clean, and a later success proves
 * nothing. So the first error is the answer to every sync from then on.
 */

static void sync_failed(struct journal *j, int error)
{
	if (!j->sync_error)
		log_error("journal: sync: %s; fsync fails from now on until a restart",
			strerror(-error));
	j->sync_error = -EIO;
}

void journal_sync_segment(struct journal *j, int fd)
{
	if (fdatasync(fd) < 0)
		sync_failed(j, -errno);
	/* Its name too, so that the next sync of the directory answers for the next one only. */
	if (j->dir_dirty && fsync(j->dir) < 0)
		sync_failed(j, -errno);
	j->dir_dirty = false;
}

/* Called with the lock, which is let go meanwhile. */
static void sync_all(struct journal *j)
{
	_cleanup_close_ int fd = -1;
	uint64_t target = j->head;
	bool dir = j->dir_dirty, none = j->fd < 0;
	int r = 0;

	/* A descriptor of its own: the segment may be finished in the meantime. */
	if (!none)
		fd = fcntl(j->fd, F_DUPFD_CLOEXEC, 0);
	if (!none && fd < 0)
		r = -errno;
	j->dir_dirty = false;
	j->syncing = true;
	pthread_mutex_unlock(&j->lock);
	fault_point("journal.sync");
	if (r == 0 && fd >= 0 && fdatasync(fd) < 0)
		r = -errno;
	if (r == 0 && dir && fsync(j->dir) < 0)
		r = -errno;
	pthread_mutex_lock(&j->lock);
	j->syncing = false;
	if (r < 0)
		sync_failed(j, r);
	else
		j->synced = target;
	pthread_cond_broadcast(&j->synced_cond);
}

int journal_sync(struct journal *j, uint64_t seq)
{
	int r;

	pthread_mutex_lock(&j->lock);
	if (seq > j->head)
		seq = j->head;
	while (!j->sync_error && j->synced < seq) {
		if (j->syncing)
			pthread_cond_wait(&j->synced_cond, &j->lock);
		else
			sync_all(j);
	}
	r = j->sync_error;
	pthread_mutex_unlock(&j->lock);
	return r;
}
