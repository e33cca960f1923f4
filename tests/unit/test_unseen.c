/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Which own ops a peer had not seen, by path, and where its paths are here. */

#include "replicate/unseen.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

static struct unseen *u;
static const struct position nothing;

static int setup(void **state)
{
	(void)state;
	u = unseen_new();
	return u ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	unseen_free(u);
	return 0;
}

static void add(uint64_t seq, enum op_type type, uint32_t flags, char *path, char *path2)
{
	struct op op = {.seq = seq, .type = type, .flags = flags, .path = path, .path2 = path2};

	assert_int_equal(unseen_add(u, &op), 0);
}

static uint64_t next(const char *path, const struct position *seen, uint64_t after)
{
	const struct unseen_op *op = unseen_next(u, path, seen, after);

	return op ? op->seq : 0;
}

static void maps(const char *path, const struct position *seen, const char *want)
{
	char *at = NULL;

	assert_int_equal(unseen_map(u, path, seen, &at), 0);
	assert_string_equal(at, want);
	free(at);
}

static void finds_by_path_what_was_not_seen(void **state)
{
	struct position seen = {.high = 7, .missing = {3}, .n_missing = 1};

	(void)state;
	add(1, OP_CONTENT, 0, "a", NULL);
	add(3, OP_CONTENT, 0, "a", NULL);
	add(5, OP_SYMLINK, 0, "s", "a");
	add(7, OP_LINK, 0, "a", "b");
	add(9, OP_UNLINK, 0, "a", NULL);
	assert_int_equal(next("a", &nothing, 0), 1);
	assert_int_equal(next("a", &nothing, 3), 7);
	assert_int_equal(next("b", &nothing, 0), 7);
	assert_int_equal(next("a", &seen, 0), 3);
	assert_int_equal(next("a", &seen, 3), 9);
	assert_int_equal(next("b", &seen, 0), 0);
	assert_int_equal(next("a/b", &nothing, 0), 0);
}

static void drops_up_to_a_number(void **state)
{
	(void)state;
	add(1, OP_CONTENT, 0, "a", NULL);
	add(2, OP_RENAME, 0, "a", "b");
	add(4, OP_CONTENT, 0, "b", NULL);
	unseen_drop(u, 2);
	assert_int_equal(unseen_count(u), 1);
	assert_int_equal(next("a", &nothing, 0), 0);
	assert_int_equal(next("b", &nothing, 0), 4);
	maps("a", &nothing, "a");
	add(6, OP_CONTENT, 0, "a", NULL);
	assert_int_equal(next("a", &nothing, 0), 6);
}

static void refuses_numbers_that_do_not_ascend(void **state)
{
	struct op op = {.seq = 2, .type = OP_UNLINK, .path = (char[]){"a"}};

	(void)state;
	add(2, OP_CONTENT, 0, "a", NULL);
	assert_int_equal(unseen_add(u, &op), -EINVAL);
	assert_int_equal(unseen_count(u), 1);
}

static void maps_through_renames_in_order(void **state)
{
	struct position seen = {.high = 1};

	(void)state;
	add(1, OP_RENAME, OP_IS_DIR, "d", "e");
	add(2, OP_RENAME, 0, "e/f", "g");
	add(3, OP_RENAME, OP_EXCHANGE, "x", "y");
	maps("d/f", &nothing, "g");
	maps("d/h/i", &nothing, "e/h/i");
	maps("dd/f", &nothing, "dd/f");
	maps("d/f", &seen, "d/f");
	maps("e/f", &seen, "g");
	maps("x/1", &nothing, "y/1");
	maps("y/1", &nothing, "x/1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(finds_by_path_what_was_not_seen, setup, teardown),
		cmocka_unit_test_setup_teardown(drops_up_to_a_number, setup, teardown),
		cmocka_unit_test_setup_teardown(
			refuses_numbers_that_do_not_ascend, setup, teardown),
		cmocka_unit_test_setup_teardown(maps_through_renames_in_order, setup, teardown),
	};

	return cmocka_run_group_tests_name("unseen", tests, NULL, NULL);
}
