/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_KEPT_H
#define TANDEMFS_KEPT_H

/* Inodes of recent look-ups, held so that the open that follows finds them. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#define KEPT_MAX 64

struct kept {
	_Atomic int64_t until; /* ns, monotonic; 0: nothing is kept */
	pthread_mutex_t lock;  /* guards what follows; a leaf */
	unsigned next;
	struct {
		uint64_t id; /* 0: free */
		int fd;
	} slots[KEPT_MAX];
};

void kept_init(struct kept *k);
void kept_destroy(struct kept *k);

/* Look-ups are kept for a second from now. */
void kept_begin(struct kept *k);
/* If look-ups are kept, takes *fd of the inode and leaves -1 there. */
void kept_add(struct kept *k, uint64_t id, int *fd);
/* Opens it anew. A descriptor or -errno; -ESTALE: it is not kept. */
int kept_open(struct kept *k, uint64_t id, int flags);
/* Lets go of all when the second is over; for the timer. */
void kept_expire(struct kept *k);

#endif
