/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kept.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/*
 * DESIGN: the kernel opens in two steps, a look-up (or its cached answer) and OPEN. When a peer's
 * change replaces the file in between, the inode is gone, OPEN says ESTALE and the kernel tries
 * both once more; when that fails too the caller gets ESTALE, which no local file system gives. A
 * peer that applies a batch replaces a name often enough for this. So from the first ESTALE on each
 * look-up's descriptor is kept for a while, and the second OPEN cannot miss: it gets the file that
 * the name meant when it was looked up.
 *
 * Not always, since a deleted file that is held goes on taking its space.
 */

#define KEPT_NS INT64_C(1000000000)

static int64_t now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void kept_init(struct kept *k)
{
	*k = (struct kept){0};
	(void)pthread_mutex_init(&k->lock, NULL);
}

/* Lock held. */
static void slot_clear(struct kept *k, unsigned slot)
{
	if (k->slots[slot].id)
		(void)close(k->slots[slot].fd);
	k->slots[slot].id = 0;
}

void kept_destroy(struct kept *k)
{
	for (unsigned slot = 0; slot < KEPT_MAX; slot++)
		slot_clear(k, slot);
	(void)pthread_mutex_destroy(&k->lock);
}

void kept_begin(struct kept *k)
{
	atomic_store(&k->until, now_ns() + KEPT_NS);
}

void kept_add(struct kept *k, uint64_t id, int *fd)
{
	if (atomic_load_explicit(&k->until, memory_order_relaxed) == 0)
		return;
	(void)pthread_mutex_lock(&k->lock);
	if (atomic_load(&k->until) != 0) {
		slot_clear(k, k->next);
		k->slots[k->next].id = id;
		k->slots[k->next].fd = *fd;
		k->next = (k->next + 1) % KEPT_MAX;
		*fd = -1;
	}
	(void)pthread_mutex_unlock(&k->lock);
}

int kept_open(struct kept *k, uint64_t id, int flags)
{
	char path[32];
	int fd = -ESTALE;

	(void)pthread_mutex_lock(&k->lock);
	for (unsigned slot = 0; slot < KEPT_MAX; slot++) {
		if (k->slots[slot].id != id)
			continue;
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", k->slots[slot].fd);
		fd = open(path, flags | O_CLOEXEC);
		if (fd < 0)
			fd = -errno;
		break;
	}
	(void)pthread_mutex_unlock(&k->lock);
	return fd;
}

void kept_expire(struct kept *k)
{
	int64_t until = atomic_load(&k->until);

	if (until == 0 || now_ns() < until)
		return;
	(void)pthread_mutex_lock(&k->lock);
	/* Not if it has begun again. */
	if (atomic_compare_exchange_strong(&k->until, &until, 0)) {
		for (unsigned slot = 0; slot < KEPT_MAX; slot++)
			slot_clear(k, slot);
	}
	(void)pthread_mutex_unlock(&k->lock);
}
