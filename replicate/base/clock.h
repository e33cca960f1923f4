/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CLOCK_H
#define TANDEMFS_CLOCK_H

/* The two clocks that replication reads, so that a simulation can hand in its own. */

#include <stdint.h>
#include <time.h>

/* A time as nanoseconds since the epoch. */
static inline int64_t clock_ns_of(const struct timespec *ts)
{
	return (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
}

/* Nanoseconds since the epoch (CLOCK_REALTIME). */
uint64_t clock_real_ns(void);

/* Milliseconds since some start (CLOCK_MONOTONIC); never goes back. */
uint64_t clock_mono_ms(void);

/* Both clocks from @source instead, in nanoseconds; NULL: the system's again. */
void clock_set_source(uint64_t (*source)(void));

#endif
