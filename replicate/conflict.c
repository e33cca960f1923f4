/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The table of conflicts.
 *
 * Each pair of kinds is settled by the first of these that fits:
 *   - what stays is stronger than its removal, and nobody loses a version by that;
 *   - a change follows what was moved to its new name, so a move and a change go together;
 *   - of two moves of one thing, two values of one attribute, two directories: the newer;
 *   - a directory keeps its name against anything else, which goes to the vault;
 *   - of two files or the like: the newer, and the older goes to the vault unless it is the same.
 * Clocks only pick the winner here. That there is a conflict was found by sequence numbers.
 */

#include "conflict.h"

#include <string.h>

int conflict_order(const struct conflict_side *a, const struct conflict_side *b)
{
	int by_name;

	if (a->when != b->when)
		return a->when > b->when ? 1 : -1;
	by_name = strcmp(a->node, b->node);
	return by_name ? by_name : strcmp(a->id, b->id);
}

static struct conflict_verdict newer(
	const struct conflict_side *a, const struct conflict_side *b, bool vault)
{
	int order = conflict_order(a, b);

	if (order == 0)
		return (struct conflict_verdict){CONFLICT_BOTH, false};
	return (struct conflict_verdict){order > 0 ? CONFLICT_A : CONFLICT_B, vault};
}

struct conflict_verdict conflict_decide(
	const struct conflict_side *a, const struct conflict_side *b, bool same)
{
	const struct conflict_verdict both = {CONFLICT_BOTH, false};
	enum conflict_kind k = a->kind, l = b->kind;

	if (k == CONFLICT_REMOVE && l == CONFLICT_REMOVE)
		return both;
	if (k == CONFLICT_REMOVE || l == CONFLICT_REMOVE)
		return (struct conflict_verdict){
			k == CONFLICT_REMOVE ? CONFLICT_B : CONFLICT_A, false};
	if (k == l && (k == CONFLICT_MOVE || k == CONFLICT_ATTR || k == CONFLICT_DIR))
		return newer(a, b, false);
	if (k == CONFLICT_MOVE || l == CONFLICT_MOVE || k == CONFLICT_ATTR || l == CONFLICT_ATTR)
		return both;
	if (k == CONFLICT_DIR || l == CONFLICT_DIR)
		return (struct conflict_verdict){k == CONFLICT_DIR ? CONFLICT_A : CONFLICT_B, true};
	return newer(a, b, k != l || !same);
}
