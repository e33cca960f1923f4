/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "replicate/pending.h"
#include "replicate/ranges.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* ---- ranges, against a bitmap ---- */

#define SPACE 256

static void check_ranges(const struct ranges *r, const uint8_t *bitmap, bool exact)
{
	uint8_t seen[SPACE] = {0};

	for (size_t i = 0; i < r->n; i++) {
		if (i > 0)
			assert_true(r->list[i].start > r->list[i - 1].start + r->list[i - 1].len);
		for (uint64_t k = 0; k < r->list[i].len; k++)
			seen[r->list[i].start + k] = 1;
	}
	for (size_t i = 0; i < SPACE; i++) {
		assert_true(seen[i] >= bitmap[i]);
		if (exact)
			assert_int_equal(seen[i], bitmap[i]);
	}
}

static void test_ranges_random(void **state)
{
	(void)state;
	srand(7);
	for (int round = 0; round < 500; round++) {
		struct ranges r = {0};
		uint8_t bitmap[SPACE] = {0};
		size_t max = round % 2 ? 1000 : 4;

		for (int i = 0; i < 30; i++) {
			unsigned start = (unsigned)rand() % 240, len = (unsigned)rand() % 16;

			assert_int_equal(ranges_add(&r, start, len, max), 0);
			memset(bitmap + start, 1, len);
			check_ranges(&r, bitmap, max == 1000);
			assert_true(r.n <= max);
		}
		ranges_clear(&r);
	}
}

static void test_ranges_at_the_end(void **state)
{
	struct ranges r = {0};

	(void)state;
	assert_int_equal(ranges_add(&r, UINT64_MAX - 5, 100, 10), 0);
	assert_int_equal(r.list[0].len, 5);
	assert_int_equal(ranges_bytes(&r), 5);
	ranges_clear(&r);
}

/* ---- pending ---- */

static struct op content(uint64_t seq, uint64_t ino, bool whole, uint64_t start)
{
	struct op op = {.type = OP_CONTENT, .seq = seq, .flags = whole ? OP_WHOLE : 0};

	op.fid.ino = ino;
	if (!whole) {
		op.ranges = calloc(1, sizeof(*op.ranges));
		op.ranges[0] = (struct range){start, 10};
		op.n_ranges = 1;
	}
	return op;
}

static void add(struct pending *p, uint64_t seq, uint64_t ino, bool whole, uint64_t start)
{
	_cleanup_op_ struct op op = content(seq, ino, whole, start);

	assert_int_equal(pending_add(p, &op, whole ? 1000 : 0), 0);
}

static void test_later_ones_are_covered(void **state)
{
	struct pending *p;
	_cleanup_op_ struct op first = content(1, 10, false, 0),
			       second = content(3, 10, false, 100),
			       other = content(2, 11, false, 0);

	(void)state;
	assert_int_equal(pending_new(&p), 0);
	add(p, 1, 10, false, 0);
	add(p, 2, 11, false, 0);
	add(p, 3, 10, false, 100);
	assert_true(pending_take(p, &first));
	assert_int_equal(first.n_ranges, 2); /* what 3 names goes along */
	assert_true(pending_take(p, &other));
	assert_false(pending_take(p, &second));
	pending_free(p);
}

static void test_rewritten(void **state)
{
	struct pending *p;
	_cleanup_op_ struct op first = content(1, 10, true, 0), second = content(2, 10, false, 7),
			       third = content(3, 10, true, 0);

	(void)state;
	assert_int_equal(pending_new(&p), 0);
	assert_false(pending_rewritten(p, &first.fid));
	add(p, 1, 10, true, 0);
	assert_true(pending_rewritten(p, &first.fid));
	assert_true(pending_take(p, &first));
	assert_false(pending_rewritten(p, &first.fid));
	add(p, 2, 10, false, 7);
	assert_false(pending_rewritten(p, &first.fid)); /* in place */
	assert_true(pending_take(p, &second));
	add(p, 3, 10, true, 0);
	assert_true(pending_rewritten(p, &first.fid));
	assert_true(pending_take(p, &third));
	assert_false(pending_rewritten(p, &first.fid));
	pending_free(p);
}

static void test_whole_swallows_ranges(void **state)
{
	struct pending *p;
	_cleanup_op_ struct op first = content(1, 10, false, 0), last = content(2, 10, true, 0),
			       later = content(4, 10, false, 7);

	(void)state;
	assert_int_equal(pending_new(&p), 0);
	add(p, 1, 10, false, 0);
	add(p, 2, 10, true, 0);
	assert_true(pending_take(p, &first));
	assert_true(first.flags & OP_WHOLE);
	assert_int_equal(first.n_ranges, 0);
	add(p, 4, 10, false, 7); /* after the taking: news */
	assert_false(pending_take(p, &last));
	assert_true(pending_take(p, &later));
	assert_false(later.flags & OP_WHOLE);
	pending_free(p);
}

static void test_rewind(void **state)
{
	struct pending *p;
	_cleanup_op_ struct op first = content(1, 10, false, 0), again = content(1, 10, false, 0),
			       second = content(2, 10, false, 50);

	(void)state;
	assert_int_equal(pending_new(&p), 0);
	add(p, 1, 10, false, 0);
	add(p, 2, 10, false, 50);
	assert_true(pending_take(p, &first));
	pending_rewind(
		p, &(struct position){0}); /* the connection was lost: each goes by itself again */
	assert_true(pending_take(p, &again));
	assert_int_equal(again.n_ranges, 1);
	assert_true(pending_take(p, &second));
	pending_free(p);
}

static void take(struct pending *p, uint64_t seq, uint64_t ino, bool whole, uint64_t start)
{
	_cleanup_op_ struct op op = content(seq, ino, whole, start);

	(void)pending_take(p, &op);
}

static void test_bytes(void **state)
{
	struct pending *p;

	(void)state;
	assert_int_equal(pending_new(&p), 0);
	assert_int_equal(pending_bytes(p), 0);
	add(p, 1, 10, false, 0);
	add(p, 2, 10, false, 5); /* five of its ten are known */
	assert_int_equal(pending_bytes(p), 15);
	add(p, 3, 11, true, 0);
	add(p, 4, 11, false, 500); /* within the whole file */
	assert_int_equal(pending_bytes(p), 1015);
	take(p, 1, 10, false, 0);
	assert_int_equal(pending_bytes(p), 1015); /* on its way */
	add(p, 5, 10, false, 5);                  /* news */
	assert_int_equal(pending_bytes(p), 1025);
	pending_acked(p, &(struct position){.high = 2});
	assert_int_equal(pending_bytes(p), 1010);
	take(p, 3, 11, true, 0);
	pending_acked(p, &(struct position){.high = 4});
	assert_int_equal(pending_bytes(p), 10);
	take(p, 5, 10, false, 5);
	pending_acked(p, &(struct position){.high = 5});
	assert_int_equal(pending_bytes(p), 0);
	pending_free(p);
}

static void test_bytes_of_what_is_missing(void **state)
{
	struct position late = {.high = 3, .missing = {1, 3}, .n_missing = 2};
	struct pending *p;

	(void)state;
	assert_int_equal(pending_new(&p), 0);
	add(p, 1, 10, true, 0);
	add(p, 2, 11, true, 0);
	add(p, 3, 12, true, 0);
	take(p, 1, 10, true, 0);
	take(p, 2, 11, true, 0);
	pending_acked(p, &late);
	assert_int_equal(pending_bytes(p), 2000);
	pending_rewind(p, &late); /* 3 was sent by a session before */
	assert_int_equal(pending_bytes(p), 2000);
	position_fill(&late, 3);
	pending_acked(p, &late);
	assert_int_equal(pending_bytes(p), 1000);
	position_fill(&late, 1);
	pending_acked(p, &late);
	assert_int_equal(pending_bytes(p), 0);
	pending_free(p);
}

static void test_rewind_keeps_count(void **state)
{
	struct pending *p;

	(void)state;
	assert_int_equal(pending_new(&p), 0);
	add(p, 1, 10, false, 0);
	add(p, 2, 11, false, 0);
	take(p, 1, 10, false, 0);
	pending_rewind(p, &(struct position){0});
	assert_int_equal(pending_bytes(p), 20);
	take(p, 1, 10, false, 0); /* once more: not twice the bytes */
	assert_int_equal(pending_bytes(p), 20);
	pending_rewind(p, &(struct position){.high = 2});
	assert_int_equal(pending_bytes(p), 0);
	pending_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges_random),
		cmocka_unit_test(test_ranges_at_the_end),
		cmocka_unit_test(test_later_ones_are_covered),
		cmocka_unit_test(test_rewritten),
		cmocka_unit_test(test_whole_swallows_ranges),
		cmocka_unit_test(test_rewind),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_bytes_of_what_is_missing),
		cmocka_unit_test(test_rewind_keeps_count),
	};

	return cmocka_run_group_tests_name("pending", tests, NULL, NULL);
}
