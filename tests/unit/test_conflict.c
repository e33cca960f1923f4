/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The properties of the decision over all pairs of kinds, times and nodes, and each row of the
 * table.
 */

#include "replicate/conflict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define N_NODES 3
#define N_TIMES 3
#define N_SIDES (CONFLICT_KIND_END * N_TIMES * N_NODES)

static struct conflict_side side(unsigned i)
{
	static const char *const names[N_NODES] = {"web1", "web2", "web2"};
	static const char *const ids[N_NODES] = {"cc", "aa", "bb"};
	static const int64_t times[N_TIMES] = {INT64_MIN, 7, INT64_MAX};

	return (struct conflict_side){
		.kind = i / (N_TIMES * N_NODES),
		.when = times[i / N_NODES % N_TIMES],
		.node = names[i % N_NODES],
		.id = ids[i % N_NODES],
	};
}

static int sign(int n)
{
	return (n > 0) - (n < 0);
}

static enum conflict_winner exchanged(enum conflict_winner w)
{
	return w == CONFLICT_A ? CONFLICT_B : w == CONFLICT_B ? CONFLICT_A : CONFLICT_BOTH;
}

static void both_sides_decide_alike(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2 * N_SIDES * N_SIDES; i++) {
		struct conflict_side a = side(i / 2 % N_SIDES), b = side(i / 2 / N_SIDES);
		struct conflict_verdict there = conflict_decide(&b, &a, i % 2);
		struct conflict_verdict here = conflict_decide(&a, &b, i % 2);

		assert_int_equal(here.winner, exchanged(there.winner));
		assert_int_equal(here.vault, there.vault);
		assert_false(here.vault && here.winner == CONFLICT_BOTH);
	}
}

static void order_is_total(void **state)
{
	(void)state;
	for (unsigned i = 0; i < N_TIMES * N_NODES; i++) {
		for (unsigned j = 0; j < N_TIMES * N_NODES; j++) {
			struct conflict_side a = side(i), b = side(j);

			assert_int_equal(
				sign(conflict_order(&a, &b)), -sign(conflict_order(&b, &a)));
			assert_int_equal(conflict_order(&a, &b) == 0, i == j);
			for (unsigned k = 0; k < N_TIMES * N_NODES; k++) {
				struct conflict_side c = side(k);

				if (conflict_order(&a, &b) > 0 && conflict_order(&b, &c) > 0)
					assert_true(conflict_order(&a, &c) > 0);
			}
		}
	}
}

/* Whichever of three versions meet first, one and the same is left. */
static void order_of_arrival_does_not_matter(void **state)
{
	static const enum conflict_kind kinds[] = {CONFLICT_FILE, CONFLICT_OTHER, CONFLICT_DIR};

	(void)state;
	for (unsigned i = 0; i < 27; i++) {
		struct conflict_side s[3], *left[3];

		for (unsigned n = 0; n < 3; n++) {
			s[n] = side((i * 5 + n * 4) % (N_TIMES * N_NODES));
			s[n].kind = kinds[(n == 0 ? i : n == 1 ? i / 3 : i / 9) % 3];
		}
		for (unsigned n = 0; n < 3; n++) {
			struct conflict_side *p = &s[n], *q = &s[(n + 1) % 3], *r = &s[(n + 2) % 3];

			p = conflict_decide(p, q, false).winner == CONFLICT_A ? p : q;
			left[n] = conflict_decide(p, r, false).winner == CONFLICT_A ? p : r;
		}
		assert_ptr_equal(left[0], left[1]);
		assert_ptr_equal(left[1], left[2]);
	}
}

static void each_row_of_the_table(void **state)
{
	static const struct {
		enum conflict_kind older, newer;
		bool same;
		struct conflict_verdict want;
	} rows[] = {
		{CONFLICT_FILE, CONFLICT_FILE, true, {CONFLICT_B, false}},
		{CONFLICT_FILE, CONFLICT_FILE, false, {CONFLICT_B, true}},
		{CONFLICT_FILE, CONFLICT_OTHER, false, {CONFLICT_B, true}},
		{CONFLICT_FILE, CONFLICT_OTHER, true, {CONFLICT_B, true}},
		{CONFLICT_FILE, CONFLICT_REMOVE, false, {CONFLICT_A, false}},
		{CONFLICT_REMOVE, CONFLICT_FILE, false, {CONFLICT_B, false}},
		{CONFLICT_DIR, CONFLICT_REMOVE, false, {CONFLICT_A, false}},
		{CONFLICT_MOVE, CONFLICT_REMOVE, false, {CONFLICT_A, false}},
		{CONFLICT_REMOVE, CONFLICT_REMOVE, false, {CONFLICT_BOTH, false}},
		{CONFLICT_DIR, CONFLICT_DIR, false, {CONFLICT_B, false}},
		{CONFLICT_DIR, CONFLICT_FILE, false, {CONFLICT_A, true}},
		{CONFLICT_OTHER, CONFLICT_DIR, false, {CONFLICT_B, true}},
		{CONFLICT_MOVE, CONFLICT_FILE, false, {CONFLICT_BOTH, false}},
		{CONFLICT_MOVE, CONFLICT_MOVE, false, {CONFLICT_B, false}},
		{CONFLICT_ATTR, CONFLICT_ATTR, false, {CONFLICT_B, false}},
		{CONFLICT_ATTR, CONFLICT_FILE, false, {CONFLICT_BOTH, false}},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct conflict_side a = {rows[i].older, 1, "web2", "bb"};
		struct conflict_side b = {rows[i].newer, 2, "web1", "aa"};
		struct conflict_verdict v = conflict_decide(&a, &b, rows[i].same);

		assert_int_equal(v.winner, rows[i].want.winner);
		assert_int_equal(v.vault, rows[i].want.vault);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_decide_alike),
		cmocka_unit_test(order_is_total),
		cmocka_unit_test(order_of_arrival_does_not_matter),
		cmocka_unit_test(each_row_of_the_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
