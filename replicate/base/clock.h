/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CLOCK_H
#define TANDEMFS_CLOCK_H

/* The two clocks that replication reads, so that a simulation can hand in its own. */

#include <stdint.h>

/* Nanoseconds since the epoch (CLOCK_REALTIME). */
uint64_t clock_real_ns(void);

/* Milliseconds since some start (CLOCK_MONOTONIC); never goes back. */
uint64_t clock_mono_ms(void);

/* Both clocks from @source instead, in nanoseconds; NULL: the system's again. */
void clock_set_source(uint64_t (*source)(void));

#endif
