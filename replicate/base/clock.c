/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "clock.h"

#include <stddef.h>
#include <time.h>

static uint64_t (*clock_source)(void);

static uint64_t system_ns(clockid_t id)
{
	struct timespec ts;

	(void)clock_gettime(id, &ts); /* cannot fail for the two ids given */
	return (uint64_t)clock_ns_of(&ts);
}

uint64_t clock_real_ns(void)
{
	return clock_source ? clock_source() : system_ns(CLOCK_REALTIME);
}

uint64_t clock_mono_ms(void)
{
	return (clock_source ? clock_source() : system_ns(CLOCK_MONOTONIC)) / 1000000u;
}

void clock_set_source(uint64_t (*source)(void))
{
	clock_source = source;
}
