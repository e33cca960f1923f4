/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Which changes of names count as undone by a power failure, by what stands in the tree. */

#include "apply_fixture.h"

#include "replicate/impl.h"

#define MINUTE 60000000000ull

static struct undone u;
static uint64_t last, found[8];
static size_t n_found;

static int begin(void **state)
{
	u = (struct undone){0};
	last = 0;
	n_found = 0;
	return setup(state);
}

static int end(void **state)
{
	undone_clear(&u);
	return teardown(state);
}

/* The inode is the one that stands at @at now. */
static void add(struct fixture *f, enum op_type type, const char *path, const char *path2,
	const char *at, bool own)
{
	struct op op = {.type = type,
		.seq = ++last,
		.path = strdup(path),
		.path2 = path2 ? strdup(path2) : NULL};

	if (at)
		assert_int_equal(fid_of_path(f->t.root, at, &op.fid), 0);
	assert_int_equal(undone_add(&u, &op, T0, own), 0);
}

static bool is_aborted(void *ctx, uint64_t seq)
{
	return ctx && *(uint64_t *)ctx == seq;
}

static int note(void *ctx, uint64_t seq)
{
	(void)ctx;
	assert_true(n_found < 8);
	found[n_found++] = seq;
	return 0;
}

static void look(struct fixture *f, uint64_t *aborted)
{
	assert_int_equal(undone_find(&u, f->t.root, is_aborted, aborted), 0);
	assert_int_equal(undone_each(&u, note, NULL), 0);
}

static void what_was_done_stays(void **state)
{
	struct fixture *f = *state;

	put_file(f->t.root, "b", "text");
	add(f, OP_CREATE, "a", NULL, NULL, true);
	add(f, OP_RENAME, "a", "b", "b", true);
	add(f, OP_UNLINK, "c", NULL, "b", true);
	look(f, NULL);
	assert_int_equal(n_found, 0);
}

static void what_followed_goes_too(void **state)
{
	struct fixture *f = *state;

	put_file(f->t.root, "a", "text");
	add(f, OP_CREATE, "a", NULL, NULL, true);
	add(f, OP_RENAME, "a", "b", "a", true);
	add(f, OP_UNLINK, "c", NULL, NULL, true);
	look(f, NULL);
	assert_int_equal(n_found, 2);
	assert_int_equal(found[0], 2);
	assert_int_equal(found[1], 3);
}

/* Each one is looked for when those after it have turned out not to count. */
static void chain_of_changes(void **state)
{
	struct fixture *f = *state;

	put_file(f->t.root, "a", "text");
	add(f, OP_RENAME, "a", "b", "a", true);
	add(f, OP_RENAME, "b", "c", "a", true);
	add(f, OP_LINK, "c", "d", "a", true);
	look(f, NULL);
	assert_int_equal(n_found, 3);
}

static void others_make_it_unknown(void **state)
{
	struct fixture *f = *state;

	put_file(f->t.root, "a", "text");
	add(f, OP_RENAME, "a", "b", "a", true);
	add(f, OP_CONTENT, "b", NULL, NULL, false);
	look(f, NULL);
	assert_int_equal(n_found, 0);
}

static void aborted_ones_do_not_count(void **state)
{
	struct fixture *f = *state;
	uint64_t aborted = 2;

	put_file(f->t.root, "a", "text");
	add(f, OP_RENAME, "a", "b", "a", true);
	add(f, OP_RENAME, "b", "a", "a", true);
	look(f, &aborted);
	assert_int_equal(n_found, 1);
	assert_int_equal(found[0], 1);
}

static void old_ones_are_written(void **state)
{
	struct fixture *f = *state;
	struct op late = op_of(OP_MKDIR, "d", NULL);

	put_file(f->t.root, "d", "");
	add(f, OP_RENAME, "a", "b", NULL, true);
	late.path = strdup("d");
	late.type = OP_CREATE;
	assert_int_equal(undone_add(&u, &late, T0 + MINUTE + 1, true), 0);
	look(f, NULL);
	assert_int_equal(n_found, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_was_done_stays, begin, end),
		cmocka_unit_test_setup_teardown(what_followed_goes_too, begin, end),
		cmocka_unit_test_setup_teardown(chain_of_changes, begin, end),
		cmocka_unit_test_setup_teardown(others_make_it_unknown, begin, end),
		cmocka_unit_test_setup_teardown(aborted_ones_do_not_count, begin, end),
		cmocka_unit_test_setup_teardown(old_ones_are_written, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
