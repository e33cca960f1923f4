/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "replicate/position.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

static void test_pass_and_defer(void **state)
{
	struct position p = {0};

	(void)state;
	position_pass(&p, 5);
	assert_true(position_has(&p, 1)); /* numbers that were never sent count */
	assert_true(position_has(&p, 5));
	assert_false(position_has(&p, 6));
	assert_int_equal(position_defer(&p, 7), 0);
	position_pass(&p, 9);
	assert_false(position_has(&p, 7));
	assert_true(position_has(&p, 8));
	assert_int_equal(position_contiguous(&p), 6);
	position_fill(&p, 7);
	assert_int_equal(position_contiguous(&p), 9);
	position_pass(&p, 3); /* an old one changes nothing */
	assert_int_equal(p.high, 9);
}

static void test_defer_refuses(void **state)
{
	struct position p = {0};

	(void)state;
	for (uint64_t i = 1; i <= POSITION_MISSING_MAX; i++)
		assert_int_equal(position_defer(&p, 2 * i), 0);
	assert_int_equal(position_defer(&p, 10000), -ENOBUFS);
	assert_int_equal(p.high, 2 * POSITION_MISSING_MAX);
	position_fill(&p, 2);
	assert_int_equal(position_defer(&p, 4), -EINVAL);
	assert_int_equal(position_defer(&p, 10000), 0);
}

static void round_trip(const struct position *p, int expected)
{
	_cleanup_buf_ struct buf b = {0};
	struct reader r;
	struct position back;

	position_encode(p, &b);
	assert_int_equal(buf_error(&b), 0);
	r = reader_of(b.data, b.len);
	position_decode(&r, &back);
	assert_int_equal(reader_error(&r), expected);
	if (expected < 0)
		return;
	assert_int_equal(back.high, p->high);
	assert_int_equal(back.n_missing, p->n_missing);
	for (unsigned i = 0; i < p->n_missing; i++)
		assert_int_equal(back.missing[i], p->missing[i]);
}

static void test_encoding(void **state)
{
	struct position p = {.high = 100, .missing = {3, 50, 100}, .n_missing = 3};

	(void)state;
	round_trip(&p, 0);
	p.missing[1] = 3; /* not ascending */
	round_trip(&p, -EBADMSG);
	p.missing[1] = 50;
	p.missing[2] = 101; /* above high */
	round_trip(&p, -EBADMSG);
	round_trip(&(struct position){.high = UINT64_MAX}, 0);
}

/* More than a few have an encoding of their own. */
static void test_many(void **state)
{
	static struct position p;
	_cleanup_buf_ struct buf b = {0};
	uint64_t far = UINT64_MAX / POSITION_MISSING_MAX;

	(void)state;
	for (unsigned n = 60; n < 70; n++) {
		p = (struct position){0};
		for (uint64_t i = 1; i <= n; i++)
			assert_int_equal(position_defer(&p, i * i * 1000), 0);
		round_trip(&p, 0);
		for (uint64_t i = 1; i <= n; i++)
			assert_true(position_is_missing(&p, i * i * 1000));
		assert_false(position_is_missing(&p, 999));
		assert_false(position_is_missing(&p, p.high + 1));
	}
	p.missing[30] = p.missing[29];
	round_trip(&p, -EBADMSG);
	p = (struct position){0};
	for (uint64_t i = 1; i <= POSITION_MISSING_MAX; i++)
		assert_int_equal(position_defer(&p, i * far), 0);
	round_trip(&p, 0);
	position_encode(&p, &b);
	assert_true(b.len <= POSITION_BYTES_MAX);
	for (uint64_t i = POSITION_MISSING_MAX; i > 0; i--)
		position_fill(&p, i * far);
	assert_int_equal(p.n_missing, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pass_and_defer),
		cmocka_unit_test(test_defer_refuses),
		cmocka_unit_test(test_encoding),
		cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests_name("position", tests, NULL, NULL);
}
