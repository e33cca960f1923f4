/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "replicate/impl.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct replica two[2]; /* only what is used here */
static char top[2][32];

static int setup(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		(void)snprintf(top[i], sizeof(top[i]), "/tmp/test_review.XXXXXX");
		assert_non_null(mkdtemp(top[i]));
		two[i] = (struct replica){.root = open(top[i], O_RDONLY | O_DIRECTORY)};
		assert_true(two[i].root >= 0);
		assert_int_equal(pthread_mutex_init(&two[i].lock, NULL), 0);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		char command[128];

		review_clear_locked(&two[i]);
		(void)close(two[i].root);
		(void)snprintf(command, sizeof(command), "rm -rf %s", top[i]);
		assert_int_equal(system(command), 0);
	}
	return 0;
}

static void settle_time(int root, const char *path)
{
	const struct timespec at[2] = {{.tv_sec = 1000}, {.tv_sec = 2000, .tv_nsec = 5}};

	assert_int_equal(utimensat(root, path, at, AT_SYMLINK_NOFOLLOW), 0);
}

static void make(int root, const char *path, const char *text)
{
	int fd = openat(root, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	assert_int_equal(close(fd), 0);
	settle_time(root, path);
}

static void make_trees(void)
{
	for (int i = 0; i < 2; i++) {
		int root = two[i].root;

		assert_int_equal(mkdirat(root, "d", 0755), 0);
		/* in another order */
		make(root, i ? "d/b" : "d/a", "12345");
		make(root, i ? "d/a" : "d/b", "12345");
		assert_int_equal(symlinkat("x", root, "d/s"), 0);
		settle_time(root, "d/s");
		settle_time(root, "d");
		settle_time(root, ".");
	}
}

static bool same(const char *path, bool deep)
{
	uint64_t digest[2];

	for (int i = 0; i < 2; i++)
		assert_int_equal(review_digest(&two[i], path, deep, &digest[i]), 0);
	return digest[0] == digest[1];
}

static void digests(void **state)
{
	int root = two[1].root;

	(void)state;
	make_trees();
	assert_true(same("d", true) && same("d/a", false) && same("absent", false));
	assert_true(same("d/s", false));
	make(root, "d/a", "123456");
	settle_time(root, "d");
	assert_false(same("d/a", false) || same("d", true));
	assert_true(same("d", false) && same("d/b", false));
	make(root, "d/a", "12345");
	settle_time(root, "d");
	assert_true(same("d", true));
	assert_int_equal(linkat(root, "d/b", root, "other", 0), 0);
	settle_time(root, ".");
	assert_false(same("d/b", false)); /* one has another name */
	assert_int_equal(unlinkat(root, "d/s", 0), 0);
	assert_int_equal(symlinkat("y", root, "d/s"), 0);
	settle_time(root, "d/s");
	settle_time(root, "d");
	assert_false(same("d/s", false));
	assert_true(same("d/a", false));
	assert_int_equal(fchmodat(root, "d", 0700, 0), 0);
	assert_false(same("d/a", false)); /* a directory above differs */
}

static bool has(const char *path, bool deep)
{
	const struct ask *a;

	for (a = two[0].reviews; a; a = a->next)
		if (strcmp(a->path, path) == 0 && a->deep == deep)
			return true;
	return false;
}

static void names(void **state)
{
	struct replica *r = &two[0];
	struct op link = {.type = OP_LINK, .path = (char[]){"one"}, .path2 = (char[]){"two"}};
	struct op attr = {.type = OP_SETATTR, .path = (char[]){"attr"}};

	(void)state;
	review_add_locked(r, "d/f", false);
	review_add_locked(r, "d/f", false);
	review_add_locked(r, "", true); /* with every name below it */
	assert_int_equal(r->n_reviews, 1);
	review_add_locked(r, "d/f", true);
	assert_int_equal(r->n_reviews, 2);
	review_follow_locked(r, "d", "e");
	assert_true(has("d/f", true) && has("e/f", true) && !has("e", false));
	review_told(r, &link);
	review_told(r, &attr); /* comes with a name in it */
	assert_true(has("one", false) && has("two", false) && !has("attr", false));
	for (int i = 0; i < 10000; i++) {
		char name[16];

		(void)snprintf(name, sizeof(name), "n%d", i);
		review_add_locked(r, name, false);
	}
	assert_true(r->n_reviews > 1000 && r->n_reviews < 10000);
}

static void while_comparing(void **state)
{
	struct replica *r = &two[0];
	struct op op = {.type = OP_CONTENT, .path = (char[]){"f"}};
	struct ask open = {.path = (char[]){"g"}, .compare = true};

	(void)state;
	open.prev = &open;
	r->asks = &open;
	assert_true(review_is_open(r));
	review_told(r, &op); /* or it would never end */
	assert_int_equal(r->n_reviews, 0);
	open.compare = false;
	assert_false(review_is_open(r));
	review_told(r, &op);
	assert_int_equal(r->n_reviews, 1);
	r->asks = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(digests, setup, teardown),
		cmocka_unit_test_setup_teardown(names, setup, teardown),
		cmocka_unit_test_setup_teardown(while_comparing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
