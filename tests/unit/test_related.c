/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "replicate/related.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

static const char *const paths[] = {"", "a", "a/b", "a/b/c", "ab", "a/bc", "b", "b/a", "b/a/c/d"};
#define N_PATHS (sizeof(paths) / sizeof(paths[0]))

static struct op any_op(void)
{
	struct op op = {.type = rand() % 2 ? OP_RENAME : OP_UNLINK};

	op.path = (char *)paths[(size_t)rand() % N_PATHS];
	if (op.type == OP_RENAME)
		op.path2 = (char *)paths[(size_t)rand() % N_PATHS];
	if (rand() % 4 == 0)
		op.fid.ino = 1 + (uint64_t)rand() % 3;
	return op;
}

/* The set says what a look at each says. */
static void test_as_one_by_one(void **state)
{
	unsigned yes = 0, no = 0;

	(void)state;
	srand(7);
	for (unsigned turn = 0; turn < 20000; turn++) {
		struct related set = {0};
		struct op in[3], op = any_op();
		unsigned n = (unsigned)rand() % 4;
		bool expected = false;

		for (unsigned i = 0; i < n; i++) {
			in[i] = any_op();
			assert_int_equal(related_add(&set, &in[i]), 0);
			expected |= op_related(&in[i], &op);
		}
		assert_int_equal(related_has(&set, &op), expected);
		yes += expected;
		no += !expected;
		related_clear(&set);
		assert_false(related_has(&set, &op));
	}
	assert_true(yes > 100 && no > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_one_by_one)};

	return cmocka_run_group_tests_name("related", tests, NULL, NULL);
}
