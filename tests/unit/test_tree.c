/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The tree's locks: related changes exclude each other, renames get their turn, nobody deadlocks.
 */

#include "replicate/tree.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define THREADS 4
#define ROUNDS 20000
#define NAMES 16

static struct tree *tree;
static long counters[NAMES]; /* guarded by the guard of their name */
static long all;             /* guarded by TREE_RENAME, or unused */

static void *changer(void *arg)
{
	uint64_t x = (uintptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		struct tree_guard g;
		char a[16], b[16];
		unsigned na, nb;

		x = x * 6364136223846793005u + 1442695040888963407u;
		na = (x >> 33) % NAMES;
		nb = (x >> 40) % NAMES;
		snprintf(a, sizeof(a), "d%u/f", na);
		snprintf(b, sizeof(b), "d%u/f", nb);
		if (i % 100 == 0) {
			tree_lock(tree, TREE_RENAME);
			for (int k = 0; k < NAMES; k++)
				all += counters[k];
			tree_unlock(tree);
		}
		tree_lock(tree, TREE_CHANGE);
		tree_guard(tree, a, i % 2 ? b : NULL, &g);
		assert_true(g.held != 0);
		counters[na]++;
		if (i % 2)
			counters[nb]++;
		tree_unguard(&g);
		assert_true(g.held == 0);
		tree_unlock(tree);
	}
	return NULL;
}

static void changes_exclude_each_other(void **state)
{
	pthread_t threads[THREADS];
	long sum = 0;

	(void)state;
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, changer, (void *)(i + 1));
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < NAMES; i++)
		sum += counters[i];
	assert_int_equal(sum, THREADS * (ROUNDS + ROUNDS / 2));
}

static atomic_bool stop;

/* Always somebody in: two of these overlap. */
static void *holder(void *arg)
{
	(void)arg;
	while (!stop) {
		tree_lock(tree, TREE_CHANGE);
		usleep(1000);
		tree_unlock(tree);
	}
	return NULL;
}

static void renames_do_not_starve(void **state)
{
	pthread_t threads[THREADS];
	struct timespec from, to;

	(void)state;
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, holder, NULL);
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (int i = 0; i < 50; i++) {
		tree_lock(tree, TREE_RENAME);
		tree_unlock(tree);
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	stop = true;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_true(to.tv_sec - from.tv_sec < 10); /* 50 waits of about 1 ms */
}

/* The stripes that are held for a change of the path, or of both. */
static uint64_t held(const char *path, const char *path2)
{
	struct tree_guard g;
	uint64_t bits;

	tree_lock(tree, TREE_CHANGE);
	tree_guard(tree, path, path2, &g);
	bits = g.held;
	tree_unguard(&g);
	tree_unlock(tree);
	return bits;
}

static void guards_hold_parents(void **state)
{
	uint64_t root = held("", NULL); /* its own parent */

	(void)state;
	assert_int_equal(__builtin_popcountll(root), 1);
	assert_true(held("dir", NULL) & root);
	/* rmdir of a directory and creation in it */
	assert_true(held("dir", NULL) & ~root & held("dir/new", NULL));
	assert_true(held("dir/x", "y/z") == (held("dir/x", NULL) | held("y/z", NULL)));
}

static int setup(void **state)
{
	(void)state;
	return tree_new(&tree);
}

static int teardown(void **state)
{
	(void)state;
	tree_free(tree);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(changes_exclude_each_other),
		cmocka_unit_test(renames_do_not_starve),
		cmocka_unit_test(guards_hold_parents),
	};

	return cmocka_run_group_tests_name("tree", tests, setup, teardown);
}
