/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_ROOM_H
#define TANDEMFS_ROOM_H

/* Room for removals on a full disk. */

#include "op.h"

#include <sys/types.h>

struct replica;

#define ROOM_LOG_AHEAD (256u << 10)

void room_open(struct replica *r);
void room_close(struct replica *r);

/* Gives the reserve up, or makes it again. Each second, by one thread. */
void room_look(struct replica *r);

/* Whether the disk is full but for what the reserve was. */
bool room_is_short(const struct replica *r);

/* 0, or -ENOSPC: @op would take what was reserved for removals. */
int room_check(struct replica *r, const struct op *op);

/* Gives back the blocks of the log @fd up to @done, and takes some for what comes from @end on. */
void room_for_log(int fd, off_t done, off_t end);

#endif
