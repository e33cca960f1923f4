/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SIM_QUEUE_H
#define TANDEMFS_SIM_QUEUE_H

/* Writes to a file of a simulated remote that have not arrived yet, oldest first. */

#include <stddef.h>
#include <stdint.h>

struct chunk {
	struct chunk *next;
	uint64_t offset;
	size_t len;
	uint8_t *data; /* owned */
};

/* Queues a copy of @data. */
void queue_add(struct chunk **queue, uint64_t offset, const void *data, size_t len);

/* Takes the oldest one: its first @len bytes arrive in the file @fd, the rest is lost. */
void queue_take(struct chunk **queue, int fd, size_t len);

/* Loses all. */
void queue_drop(struct chunk **queue);

/* The flags of open(2) for those of remote.h. */
int queue_open_flags(unsigned flags);

#endif
