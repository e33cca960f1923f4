/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "replicate/removed.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void add(struct removed *t, enum op_type type, const char *path, uint64_t time)
{
	struct op op = {.type = type, .path = (char *)path, .path2 = "to", .time = time};

	assert_int_equal(removed_add(t, &op), 0);
}

static struct removed *some(void)
{
	struct removed *t = removed_new();

	assert_non_null(t);
	add(t, OP_UNLINK, "a/file", 100);
	add(t, OP_RMDIR, "a", 110);
	add(t, OP_RENAME, "old/dir", 120);
	add(t, OP_CONTENT, "kept", 130);
	removed_pass(t, 77);
	removed_pass(t, 70);
	return t;
}

static void check(const struct removed *t)
{
	assert_int_equal(removed_upto(t), 77);
	assert_true(removed_has(t, "a/file", 100));
	assert_false(removed_has(t, "a/file", 101)); /* a younger one */
	assert_true(removed_has(t, "a", 1));
	assert_false(removed_has(t, "a/other", 1)); /* nobody removed that */
	assert_true(removed_has(t, "old/dir/in/x", -5));
	assert_false(removed_has(t, "old", 1));
	assert_false(removed_has(t, "to", 1));
	assert_false(removed_has(t, "kept", 1));
}

static void names(void **state)
{
	struct removed *t = some();

	(void)state;
	check(t);
	removed_free(t);
}

static void there_and_back(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct removed *t = some(), *u = removed_new();

	(void)state;
	assert_int_equal(removed_encode(t, &b), 0);
	removed_free(t);
	assert_int_equal(removed_decode(u, b.data, b.len), 0);
	check(u);
	for (size_t i = 0; i < b.len; i++) {
		assert_int_equal(removed_decode(u, b.data, i), -EBADMSG);
		b.data[i] ^= 1;
		assert_int_equal(removed_decode(u, b.data, b.len), -EBADMSG);
		b.data[i] ^= 1;
	}
	removed_free(u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(there_and_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
