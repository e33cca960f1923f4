/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t range_end(const struct range *r)
{
	return r->start + r->len;
}

void ranges_clear(struct ranges *r)
{
	free(r->list);
	*r = (struct ranges){0};
}

/* First range that ends at or after @start. */
static size_t find(const struct ranges *r, uint64_t start)
{
	size_t low = 0, high = r->n;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (range_end(&r->list[mid]) < start)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static void drop(struct ranges *r, size_t at, size_t count)
{
	memmove(&r->list[at], &r->list[at + count], (r->n - at - count) * sizeof(*r->list));
	r->n -= count;
}

static void join_closest(struct ranges *r)
{
	size_t best = 0;
	uint64_t best_gap = UINT64_MAX;

	for (size_t i = 0; i + 1 < r->n; i++) {
		uint64_t gap = r->list[i + 1].start - range_end(&r->list[i]);

		if (gap < best_gap) {
			best_gap = gap;
			best = i;
		}
	}
	r->list[best].len = range_end(&r->list[best + 1]) - r->list[best].start;
	drop(r, best + 1, 1);
}

static int insert(struct ranges *r, size_t at, struct range new)
{
	if (r->n == r->cap) {
		size_t cap = r->cap ? 2 * r->cap : 4;
		struct range *list = realloc(r->list, cap * sizeof(*list));

		if (!list)
			return -ENOMEM;
		r->list = list;
		r->cap = cap;
	}
	memmove(&r->list[at + 1], &r->list[at], (r->n - at) * sizeof(*r->list));
	r->list[at] = new;
	r->n++;
	return 0;
}

int ranges_add(struct ranges *r, uint64_t start, uint64_t len, size_t max)
{
	uint64_t end = len > UINT64_MAX - start ? UINT64_MAX : start + len;
	size_t first = find(r, start), last = first;
	int e;

	if (len == 0)
		return 0;
	while (last < r->n && r->list[last].start <= end) {
		if (r->list[last].start < start)
			start = r->list[last].start;
		if (range_end(&r->list[last]) > end)
			end = range_end(&r->list[last]);
		last++;
	}
	if (last > first) {
		r->list[first] = (struct range){start, end - start};
		drop(r, first + 1, last - first - 1);
		return 0;
	}
	e = insert(r, first, (struct range){start, end - start});
	if (e == 0 && r->n > max)
		join_closest(r);
	return e;
}

uint64_t ranges_bytes(const struct ranges *r)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < r->n; i++)
		sum += r->list[i].len;
	return sum;
}
