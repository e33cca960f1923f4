/* SPDX-License-Identifier: GPL-2.0-or-later */

/* How an op of the peer stands to ours that it had not seen: each line of the table at the head of
 * unseen.c, names that move, and that both nodes find the same pairs in conflict. */

#include "replicate/unseen.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/confine.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct unseen *u;
static const struct position nothing;
static uint64_t last;

static int setup(void **state)
{
	(void)state;
	u = unseen_new();
	last = 0;
	return u ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	unseen_free(u);
	return 0;
}

/* What is made short here; strings are borrowed. */
static struct op op(enum op_type type, const char *path, const char *path2)
{
	return (struct op){.type = type,
		.path = (char *)path,
		.path2 = (char *)path2,
		.time = 100,
		.mask = type == OP_SETATTR ? OP_MODE : 0,
		.xname = type == OP_SETXATTR || type == OP_REMOVEXATTR ? (char *)"user.k" : NULL};
}

/* Ours. */
static uint64_t add_op(struct op o)
{
	o.seq = ++last;
	assert_int_equal(unseen_add(u, &o), 0);
	return o.seq;
}

static uint64_t ours(enum op_type type, const char *path, const char *path2)
{
	return add_op(op(type, path, path2));
}

static struct fid fid_of(uint64_t ino)
{
	return (struct fid){.ino = ino, .type = 1, .len = 1, .bytes = {(uint8_t)ino}};
}

static uint64_t ours_of(enum op_type type, const char *path, uint64_t ino)
{
	struct op o = op(type, path, NULL);

	o.fid = fid_of(ino);
	return add_op(o);
}

static uint64_t ours_link(const char *path, const char *path2, uint64_t ino)
{
	struct op o = op(OP_LINK, path, path2);

	o.fid = fid_of(ino);
	return add_op(o);
}

/* Forgets them. */
static void anew(void)
{
	unseen_drop(u, UINT64_MAX);
	assert_int_equal(unseen_count(u), 0);
}

/* An op of the peer, and where its names are here; NULL: not looked at. */
static void expect(
	struct op o, const struct position *seen, bool clash, const char *path, const char *path2)
{
	struct unseen_relation rel;

	assert_int_equal(unseen_relate(u, &o, seen, &rel), 0);
	if (rel.clash != clash)
		fail_msg("%s of %s: %s", op_name(o.type), o.path,
			clash ? "no clash" : "a clash that should be none");
	if (path)
		assert_string_equal(rel.path, path);
	if (path2)
		assert_string_equal(rel.path2, path2);
	unseen_relation_clear(&rel);
}

static void goes(struct op theirs)
{
	expect(theirs, &nothing, false, NULL, NULL);
}

static void clashes(struct op theirs)
{
	expect(theirs, &nothing, true, NULL, NULL);
}

/* ---- the table ---- */

static void a_rename_and_a_change_of_it(void **state)
{
	(void)state;
	ours(OP_RENAME, "a", "b");
	expect(op(OP_CONTENT, "a", NULL), &nothing, false, "b", NULL);
	expect(op(OP_SETATTR, "a", NULL), &nothing, false, "b", NULL);
	expect(op(OP_SETXATTR, "a", NULL), &nothing, false, "b", NULL);
	expect(op(OP_LINK, "a", "c"), &nothing, false, "b", "c");
	anew();
	ours(OP_CONTENT, "a", NULL);
	ours(OP_SETATTR, "a", NULL);
	ours(OP_SETXATTR, "a", NULL);
	ours(OP_LINK, "a", "c");
	expect(op(OP_RENAME, "a", "b"), &nothing, false, "a", "b");
}

static void a_rename_and_what_is_below(void **state)
{
	(void)state;
	ours(OP_RENAME, "d", "e");
	expect(op(OP_CONTENT, "d/f/g", NULL), &nothing, false, "e/f/g", NULL);
	expect(op(OP_MKDIR, "d/n", NULL), &nothing, false, "e/n", NULL);
	expect(op(OP_UNLINK, "d/f", NULL), &nothing, false, "e/f", NULL);
	expect(op(OP_RENAME, "d/f", "x"), &nothing, false, "e/f", "x");
	expect(op(OP_RENAME, "x", "d/f"), &nothing, false, "x", "e/f");
	expect(op(OP_CONTENT, "dd/f", NULL), &nothing, false, "dd/f", NULL);
	anew();
	ours(OP_CONTENT, "d/f/g", NULL);
	ours(OP_MKDIR, "d/n", NULL);
	ours(OP_UNLINK, "d/f", NULL);
	expect(op(OP_RENAME, "d", "e"), &nothing, false, "d", "e");
}

static void attributes(void **state)
{
	struct op mode = op(OP_SETATTR, "f", NULL), key = op(OP_SETXATTR, "f", NULL);
	struct unseen_relation rel;

	(void)state;
	ours(OP_SETATTR, "f", NULL);
	assert_int_equal(unseen_relate(u, &mode, &nothing, &rel), 0);
	assert_false(rel.clash);
	assert_int_equal(rel.attr_time, 100);
	assert_int_equal(rel.attr_mask, OP_MODE);
	unseen_relation_clear(&rel);
	goes(op(OP_LINK, "f", "g"));
	clashes(op(OP_UNLINK, "f", NULL));
	clashes(op(OP_CONTENT, "f", NULL));
	anew();
	ours(OP_SETXATTR, "f", NULL);
	assert_int_equal(unseen_relate(u, &key, &nothing, &rel), 0);
	assert_false(rel.clash);
	assert_int_equal(rel.attr_time, 100);
	unseen_relation_clear(&rel);
	key.xname = (char *)"user.other";
	assert_int_equal(unseen_relate(u, &key, &nothing, &rel), 0);
	assert_false(rel.clash);
	assert_int_equal(rel.attr_time, 0);
	unseen_relation_clear(&rel);
	/* of a directory, and something in it */
	anew();
	ours(OP_SETATTR, "d", NULL);
	goes(op(OP_CONTENT, "d/f", NULL));
	goes(op(OP_RMDIR, "d/e", NULL));
	clashes(op(OP_RMDIR, "d", NULL));
	anew();
	ours(OP_CONTENT, "d/f", NULL);
	goes(op(OP_SETATTR, "d", NULL));
}

static void two_alike(void **state)
{
	static const enum op_type alike[] = {OP_UNLINK, OP_RMDIR, OP_MKDIR, OP_SETATTR};

	(void)state;
	for (size_t i = 0; i < sizeof(alike) / sizeof(*alike); i++) {
		ours(alike[i], "x", NULL);
		goes(op(alike[i], "x", NULL));
		anew();
	}
	ours(OP_MKDIR, "d", NULL);
	goes(op(OP_MKDIR, "d/e", NULL));
	clashes(op(OP_SYMLINK, "d", "target"));
}

static void two_versions(void **state)
{
	static const enum op_type makes[] = {OP_CONTENT, OP_SYMLINK, OP_MKNOD};

	(void)state;
	for (size_t i = 0; i < sizeof(makes) / sizeof(*makes); i++)
		for (size_t k = 0; k < sizeof(makes) / sizeof(*makes); k++) {
			ours(makes[i], "x", "t");
			clashes(op(makes[k], "x", "t"));
			goes(op(makes[k], "y", "t"));
			anew();
		}
	ours(OP_CONTENT, "x", NULL);
	clashes(op(OP_UNLINK, "x", NULL));
	clashes(op(OP_RENAME, "y", "x"));
	clashes(op(OP_LINK, "y", "x"));
	anew();
	ours(OP_UNLINK, "x", NULL);
	clashes(op(OP_CONTENT, "x", NULL));
	clashes(op(OP_RENAME, "x", "y"));
}

static void another_name(void **state)
{
	(void)state;
	ours(OP_LINK, "f", "g");
	goes(op(OP_CONTENT, "f", NULL));
	goes(op(OP_SETATTR, "f", NULL));
	goes(op(OP_RENAME, "f", "h"));
	clashes(op(OP_UNLINK, "f", NULL));
	clashes(op(OP_CONTENT, "g", NULL));
	clashes(op(OP_LINK, "x", "g"));
}

static void removed_directories(void **state)
{
	(void)state;
	ours(OP_RMDIR, "d", NULL);
	clashes(op(OP_CONTENT, "d/f", NULL));
	clashes(op(OP_RENAME, "x", "d/e/f"));
	goes(op(OP_RMDIR, "d", NULL));
	anew();
	ours(OP_CONTENT, "d/e/f", NULL);
	clashes(op(OP_RMDIR, "d", NULL));
	clashes(op(OP_RENAME, "x", "d"));
	anew();
	ours(OP_SYMLINK, "d", "t");
	clashes(op(OP_CONTENT, "d/f", NULL));
}

static void renames_of_one_thing(void **state)
{
	(void)state;
	ours(OP_RENAME, "x", "a");
	clashes(op(OP_RENAME, "x", "b"));
	clashes(op(OP_RENAME, "y", "a"));
	clashes(op(OP_UNLINK, "x", NULL));
	anew();
	/* each into the other */
	ours(OP_RENAME, "x", "y/x");
	clashes(op(OP_RENAME, "y", "x/y"));
	anew();
	ours(OP_RENAME, "y", "x/y");
	clashes(op(OP_RENAME, "x", "y/x"));
}

static void exchanges(void **state)
{
	struct op swap = op(OP_RENAME, "x", "y");

	(void)state;
	swap.flags = OP_EXCHANGE;
	add_op(swap);
	clashes(op(OP_CONTENT, "x", NULL));
	clashes(op(OP_SETATTR, "y", NULL));
	clashes(op(OP_CONTENT, "y/f", NULL));
	goes(op(OP_CONTENT, "z", NULL));
	anew();
	ours(OP_SETATTR, "y", NULL);
	clashes(swap);
}

/* What both nodes decide must be the same pairs. */
static void both_find_the_same_pairs(void **state)
{
	static const char *const names[] = {"d", "d/f", "d/f/x", "e", "e/g"};
	static const enum op_type ones[] = {OP_CONTENT, OP_SETATTR, OP_SETXATTR, OP_UNLINK,
		OP_RMDIR, OP_MKDIR, OP_SYMLINK, OP_MKNOD};
	enum { NAMES = sizeof(names) / sizeof(*names), ONES = sizeof(ones) / sizeof(*ones) };
	struct op all[NAMES * ONES + 3 * NAMES * NAMES];
	size_t n = 0, pairs = 0;

	(void)state;
	for (size_t i = 0; i < NAMES; i++) {
		for (size_t k = 0; k < ONES; k++)
			all[n++] = op(ones[k], names[i], ones[k] == OP_SYMLINK ? "t" : NULL);
		for (size_t k = 0; k < NAMES; k++) {
			if (confine_below(names[i], names[k]) || confine_below(names[k], names[i]))
				continue; /* nobody can do that */
			all[n++] = op(OP_RENAME, names[i], names[k]);
			all[n++] = op(OP_LINK, names[i], names[k]);
			all[n] = op(OP_RENAME, names[i], names[k]);
			all[n++].flags = OP_EXCHANGE;
		}
	}
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < n; k++) {
			struct unseen_relation a, b;

			add_op(all[k]);
			assert_int_equal(unseen_relate(u, &all[i], &nothing, &a), 0);
			anew();
			add_op(all[i]);
			assert_int_equal(unseen_relate(u, &all[k], &nothing, &b), 0);
			anew();
			if (a.clash != b.clash) {
				char x[200], y[200];

				print_message("%s %s past %s; the reverse %s\n",
					op_describe(&all[i], x, sizeof(x)),
					a.clash ? "clashes" : "goes",
					op_describe(&all[k], y, sizeof(y)),
					b.clash ? "clashes" : "goes");
				pairs++;
			}
			unseen_relation_clear(&a);
			unseen_relation_clear(&b);
		}
	assert_int_equal(pairs, 0);
}

/* ---- which of ours ---- */

static void only_what_was_not_seen(void **state)
{
	struct position seen = {.high = 3, .missing = {2}, .n_missing = 1};

	(void)state;
	ours(OP_CONTENT, "a", NULL); /* 1 */
	ours(OP_CONTENT, "b", NULL);
	ours(OP_RENAME, "c", "d"); /* 3 */
	ours(OP_CONTENT, "e", NULL);
	expect(op(OP_CONTENT, "a", NULL), &seen, false, "a", NULL);
	expect(op(OP_CONTENT, "b", NULL), &seen, true, NULL, NULL);
	expect(op(OP_SETATTR, "c", NULL), &seen, false, "c", NULL);
	expect(op(OP_CONTENT, "e", NULL), &seen, true, NULL, NULL);
}

static void what_changes_nothing_is_left_out(void **state)
{
	struct op forced = op(OP_CONTENT, "a", NULL);

	(void)state;
	forced.flags = OP_FORCE | OP_WHOLE;
	add_op(forced);
	ours(OP_FSYNC, "a", NULL);
	ours(OP_ASK, "a", NULL);
	ours(OP_ANSWER, "", NULL);
	ours(OP_VAULT, "a", "entry");
	assert_int_equal(unseen_count(u), 0);
}

static void files_that_are_being_written(void **state)
{
	struct op theirs = op(OP_CONTENT, "f", NULL);
	struct unseen_relation rel;

	(void)state;
	ours(OP_DIRTY, "f", NULL);
	assert_int_equal(unseen_relate(u, &theirs, &nothing, &rel), 0);
	assert_true(rel.clash && rel.hidden);
	unseen_relation_clear(&rel);
	theirs.flags = OP_FORCE | OP_WHOLE;
	assert_int_equal(unseen_relate(u, &theirs, &nothing, &rel), 0);
	assert_false(rel.clash);
	unseen_relation_clear(&rel);
}

static void drops_and_removes(void **state)
{
	struct op late = op(OP_CONTENT, "late", NULL);

	(void)state;
	ours(OP_CONTENT, "a", NULL);
	ours(OP_RENAME, "b", "c");
	ours(OP_CONTENT, "d/e/f", NULL);
	last = 10;
	ours(OP_CONTENT, "g", NULL);
	late.seq = 5;
	assert_int_equal(unseen_add(u, &late), 0); /* overtaken by another caller */
	assert_int_equal(unseen_oldest(u), 1);
	assert_int_equal(unseen_find(u, 5)->type, OP_CONTENT);
	assert_string_equal(unseen_find(u, 2)->path2, "c");
	assert_null(unseen_find(u, 4));
	unseen_drop(u, 2);
	assert_int_equal(unseen_count(u), 3);
	assert_int_equal(unseen_oldest(u), 3);
	goes(op(OP_CONTENT, "a", NULL));
	expect(op(OP_CONTENT, "b", NULL), &nothing, false, "b", NULL);
	unseen_remove(u, 3);
	unseen_remove(u, 7); /* none */
	goes(op(OP_RMDIR, "d", NULL));
	clashes(op(OP_CONTENT, "late", NULL));
	clashes(op(OP_CONTENT, "g", NULL));
	unseen_drop(u, 5);
	goes(op(OP_CONTENT, "late", NULL));
	clashes(op(OP_CONTENT, "g", NULL));
	unseen_drop(u, 100);
	assert_int_equal(unseen_count(u), 0);
	assert_true(unseen_oldest(u) == UINT64_MAX);
	goes(op(OP_CONTENT, "g", NULL));
}

/* ---- names that move ---- */

static void several_renames_in_order(void **state)
{
	_cleanup_free_ char *at = NULL, *elsewhere = NULL;

	(void)state;
	ours(OP_RENAME, "d", "e");
	ours(OP_RENAME, "e/f", "g");
	ours(OP_RENAME, "g", "h/i");
	expect(op(OP_CONTENT, "d/f", NULL), &nothing, false, "h/i", NULL);
	expect(op(OP_CONTENT, "d/k", NULL), &nothing, false, "e/k", NULL);
	at = unseen_follow(u, "d/f/x", &nothing);
	assert_string_equal(at, "h/i/x");
	elsewhere = unseen_follow(u, "q", &nothing);
	assert_string_equal(elsewhere, "q");
	assert_int_equal(unseen_rename_from(u, "d", &nothing)->seq, 1);
	assert_null(unseen_rename_from(u, "d/f", &nothing));
}

/* What stands there now is another thing than the one that the peer means. */
static void a_name_that_was_used_again(void **state)
{
	(void)state;
	ours(OP_RENAME, "a", "b");
	add_op((struct op){.type = OP_CONTENT, .flags = OP_WHOLE | OP_NEW, .path = (char[]){"a"}});
	expect(op(OP_SETATTR, "a", NULL), &nothing, false, "b", NULL);
	clashes(op(OP_MKDIR, "a", NULL));
}

static void our_names_follow_the_peers_renames(void **state)
{
	(void)state;
	ours(OP_CONTENT, "d/f", NULL);
	ours(OP_RENAME, "x", "d/y");
	ours(OP_CONTENT, "other", NULL);
	assert_int_equal(unseen_moved(u, "d", "e", false), 0);
	clashes(op(OP_CONTENT, "e/f", NULL));
	goes(op(OP_CONTENT, "d/f", NULL));
	clashes(op(OP_RMDIR, "e", NULL));
	goes(op(OP_RMDIR, "d", NULL));
	expect(op(OP_SETATTR, "x", NULL), &nothing, false, "e/y", NULL);
	clashes(op(OP_CONTENT, "other", NULL));
	assert_int_equal(unseen_moved(u, "e", "other", true), 0);
	clashes(op(OP_CONTENT, "other/f", NULL));
	clashes(op(OP_CONTENT, "e", NULL));
	assert_int_equal(unseen_moved(u, "none", "nowhere", false), 0);
	assert_int_equal(unseen_count(u), 3);
}

static void renames_above(void **state)
{
	struct position seen = {.high = 1};

	(void)state;
	ours(OP_RENAME, "a", "b");
	ours(OP_RENAME, "c", "d/e");
	ours(OP_CONTENT, "c", NULL);
	ours(OP_RENAME, "b", "d/e/f");
	assert_int_equal(unseen_rename_above(u, "a/x", &nothing, 0)->seq, 1);
	assert_null(unseen_rename_above(u, "a/x", &nothing, 1));
	assert_null(unseen_rename_above(u, "a/x", &seen, 0));
	assert_int_equal(unseen_rename_above(u, "b", &nothing, 0)->seq, 1);
	assert_int_equal(unseen_rename_above(u, "b", &nothing, 1)->seq, 4);
	assert_int_equal(unseen_rename_above(u, "d/e/f/g", &nothing, 0)->seq, 2);
	assert_null(unseen_rename_above(u, "d", &nothing, 0));
}

/* ---- versions ---- */

static uint64_t version(const char *path, uint64_t ino)
{
	struct fid fid = fid_of(ino);
	const struct unseen_op *own = unseen_version(u, path, ino ? &fid : NULL, &nothing);

	return own ? own->seq : 0;
}

static void versions(void **state)
{
	struct fid fid = fid_of(7), linked = fid_of(8);

	(void)state;
	ours_of(OP_CONTENT, "f", 7);         /* 1 */
	ours(OP_SETATTR, "f", NULL);         /* no version */
	ours(OP_SYMLINK, "l", "t");          /* 3 */
	ours(OP_RENAME, "x", "y");           /* 4 */
	ours_link("f", "g", 8);              /* 5 */
	ours_of(OP_CONTENT, "elsewhere", 7); /* 6 */
	ours(OP_UNLINK, "gone", NULL);
	assert_int_equal(version("f", 0), 1);
	assert_int_equal(version("f", 7), 6);
	assert_int_equal(version("l", 0), 3);
	assert_int_equal(version("y", 0), 4);
	assert_int_equal(version("x", 0), 0);
	assert_int_equal(version("g", 0), 5);
	assert_int_equal(version("gone", 0), 0);
	assert_true(unseen_elsewhere(u, "f", &fid, &nothing));
	assert_true(unseen_link(u, &linked, &nothing));
	assert_false(unseen_link(u, &fid, &nothing));
	/* kept in the vault: no more care, also not by its other name */
	unseen_make_safe(u, "f", &fid);
	assert_int_equal(version("f", 7), 0);
	assert_int_equal(version("l", 0), 3);
	ours_of(OP_CONTENT, "f", 7);
	assert_int_equal(version("f", 0), 8);
	/* found in the vault at a start */
	unseen_make_safe_seqs(u, (uint64_t[]){9, 4}, 2);
	assert_int_equal(version("y", 0), 0);
	assert_int_equal(version("f", 0), 8);
}

static void changes_in_a_directory(void **state)
{
	struct position seen = {.high = 1};

	(void)state;
	ours(OP_MKDIR, "d/e", NULL);
	assert_true(unseen_in_dir(u, "d", &nothing));
	assert_false(unseen_in_dir(u, "d", &seen));
	assert_false(unseen_in_dir(u, "", &nothing));
	assert_false(unseen_in_dir(u, "d/e", &nothing));
	ours(OP_CONTENT, "f", NULL);
	assert_false(unseen_in_dir(u, "", &nothing)); /* changes no name */
	ours(OP_RENAME, "d/x", "y");
	assert_true(unseen_in_dir(u, "", &nothing));
	assert_true(unseen_in_dir(u, "d", &seen));
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(a_rename_and_a_change_of_it),
		test(a_rename_and_what_is_below),
		test(attributes),
		test(two_alike),
		test(two_versions),
		test(another_name),
		test(removed_directories),
		test(renames_of_one_thing),
		test(exchanges),
		test(both_find_the_same_pairs),
		test(only_what_was_not_seen),
		test(what_changes_nothing_is_left_out),
		test(files_that_are_being_written),
		test(drops_and_removes),
		test(several_renames_in_order),
		test(a_name_that_was_used_again),
		test(our_names_follow_the_peers_renames),
		test(renames_above),
		test(versions),
		test(changes_in_a_directory),
	};

	return cmocka_run_group_tests_name("unseen", tests, NULL, NULL);
}
