/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sim_queue.h"

#include "sim.h"

#include "replicate/base/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <utlist.h>

void queue_add(struct chunk **queue, uint64_t offset, const void *data, size_t len)
{
	struct chunk *c = calloc(1, sizeof(*c));

	if (!c || !(c->data = malloc(len + 1)))
		sim_fail("no memory");
	memcpy(c->data, data, len);
	c->len = len;
	c->offset = offset;
	LL_APPEND(*queue, c);
}

void queue_take(struct chunk **queue, int fd, size_t len)
{
	struct chunk *c = *queue;

	if (len && pwrite_all(fd, c->data, len, (off_t)c->offset) < 0)
		sim_fail("transport: write failed: %s", strerror(errno));
	LL_DELETE(*queue, c);
	free(c->data);
	free(c);
}

void queue_drop(struct chunk **queue)
{
	while (*queue)
		queue_take(queue, -1, 0);
}

int queue_open_flags(unsigned flags)
{
	return (flags & REMOTE_WRITE ? O_WRONLY : O_RDONLY) |
	       (flags & REMOTE_CREATE ? O_CREAT : 0) | (flags & REMOTE_EXCL ? O_EXCL : 0) |
	       (flags & REMOTE_TRUNC ? O_TRUNC : 0) | O_CLOEXEC;
}
