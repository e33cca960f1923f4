/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "replicate/touched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void add(struct touched *t, enum op_type type, const char *path, const char *path2)
{
	struct op op = {.type = type, .path = (char *)path, .path2 = (char *)path2};

	touched_add(t, &op);
}

static void names_and_what_was_renamed(void **state)
{
	struct touched *t = touched_new();

	(void)state;
	assert_non_null(t);
	touched_begin(t);
	add(t, OP_CONTENT, "a/b", NULL);
	add(t, OP_RENAME, "old", "new/name");
	add(t, OP_LINK, "first", "second");
	add(t, OP_SYMLINK, "sym", "its/target");
	assert_true(touched_has(t, "a/b"));
	assert_false(touched_has(t, "a"));
	assert_false(touched_has(t, "a/b/c"));
	assert_true(touched_has(t, "old"));
	assert_true(touched_has(t, "old/deep/er"));
	assert_true(touched_has(t, "new/name/x"));
	assert_false(touched_has(t, "new/names"));
	assert_false(touched_has(t, "new"));
	assert_true(touched_has(t, "second"));
	assert_false(touched_has(t, "its/target"));
	touched_free(t);
}

static void only_while_somebody_looks(void **state)
{
	struct touched *t = touched_new();

	(void)state;
	add(t, OP_CONTENT, "before", NULL);
	touched_begin(t);
	assert_false(touched_has(t, "before"));
	add(t, OP_CONTENT, "x", NULL);
	touched_begin(t);
	assert_false(touched_has(t, "x"));
	touched_end(t);
	add(t, OP_CONTENT, "x", NULL);
	assert_false(touched_has(t, "x"));
	touched_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_and_what_was_renamed),
		cmocka_unit_test(only_while_somebody_looks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
