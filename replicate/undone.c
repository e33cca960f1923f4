/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * DESIGN: changes of names whose record came through a power failure, and that are undone in the
 * tree.
 *
 * A record is on the disk as soon as anybody's fsync has synced the journal; the file system keeps
 * the changes of names of the last seconds to itself, and then writes them in their order. So it
 * comes back as it was at some moment, and what the journal has after that did not happen. To a
 * peer that is told of it all the same the next change of a name here is about another file.
 *
 * The last minute is gone through from the newest change on. One that nothing related followed is
 * looked for in the tree (op_applied()): where it is missing, it counts as not made, and so does
 * all that came after it. What others did to the names that they share makes a look worthless, and
 * so do steps of the peer and of conflicts, which are no news to it: those are never left out.
 */

#include "impl.h"

#include "apply.h"
#include "base/cleanup.h"
#include "plain.h"

#include <errno.h>

/* What is older is on the disk. */
#define WRITTEN_NS 60000000000ull
/* Behind so many that were done nothing is undone. */
#define DONE_MAX 4096

struct name_change {
	struct op op;
	uint64_t logged; /* as far as is known */
	bool own, left_out;
};

static bool is_of_names(const struct op *op)
{
	switch (op->type) {
	case OP_CREATE:
	case OP_MKDIR:
	case OP_SYMLINK:
	case OP_MKNOD:
	case OP_LINK:
	case OP_UNLINK:
	case OP_RMDIR:
	case OP_RENAME:
		return true;
	default:
		return false;
	}
}

/* Makes room at the end, if need be at the cost of what is too old to matter. */
static int make_room(struct undone *u)
{
	struct name_change *list;
	size_t old = 0;

	if (u->n < u->room)
		return 0;
	while (old < u->n && u->list[old].logged + WRITTEN_NS < u->newest)
		op_clear(&u->list[old++].op);
	u->n -= old;
	if (old)
		memmove(u->list, u->list + old, u->n * sizeof(*u->list));
	if (old > u->room / 2)
		return 0;
	list = reallocarray(u->list, u->room ? 2 * u->room : 64, sizeof(*list));
	if (!list)
		return -ENOMEM;
	u->list = list;
	u->room = u->room ? 2 * u->room : 64;
	return 0;
}

int undone_add(struct undone *u, struct op *op, uint64_t logged, bool own)
{
	int e;

	u->newest = logged > u->newest ? logged : u->newest;
	if (own && (!is_of_names(op) || op->flags & OP_FORCE))
		return 0;
	e = make_room(u);
	if (e < 0)
		return e;
	u->list[u->n++] = (struct name_change){.op = *op, .logged = u->newest, .own = own};
	*op = (struct op){0};
	return 0;
}

static int take_own(struct undone *u, const struct journal_record *rec)
{
	_cleanup_op_ struct op op = {0};
	struct local_head head;
	struct reader src;
	const char *why;
	int e = local_split(rec->data, rec->len, NULL, &head, &src);

	if (e == 0)
		e = op_decode(&src, OP_ENCODE_LOCAL, &op, &why);
	op.seq = rec->seq;
	return e < 0 ? e : undone_add(u, &op, head.logged, true);
}

/* What the peer did, or what became of it in a conflict. */
static int take_other(struct undone *u, const struct journal_record *rec)
{
	struct reader src = reader_of(rec->data, rec->len);
	_cleanup_op_ struct op op = {0};
	struct remote_record m;
	const char *why;
	int e = 0;

	if (rec->kind == JOURNAL_NOTE && !plain_note_take(&src))
		return 0;
	if (rec->kind == JOURNAL_REMOTE)
		e = remote_record_get(&src, &m);
	if (e < 0 || reader_left(&src) == 0)
		return e;
	e = op_decode(&src, OP_ENCODE_BRIEF, &op, &why);
	op.seq = rec->seq;
	return e < 0 ? e : undone_add(u, &op, 0, false);
}

int undone_take(struct undone *u, const struct journal_record *rec)
{
	switch (rec->kind) {
	case JOURNAL_LOCAL:
		return take_own(u, rec);
	case JOURNAL_REMOTE:
	case JOURNAL_NOTE:
		return take_other(u, rec);
	default:
		return 0;
	}
}

/* Whether one that counts changed the same names after the one at @i. */
static bool is_followed(const struct undone *u, size_t i)
{
	for (size_t k = i + 1; k < u->n; k++)
		if (!u->list[k].left_out && op_related(&u->list[i].op, &u->list[k].op))
			return true;
	return false;
}

static void leave_out_from(struct undone *u, size_t first)
{
	for (size_t i = first; i < u->n; i++)
		u->list[i].left_out = u->list[i].left_out || u->list[i].own;
}

/* What an earlier recovery has left out counts no more. */
static void forget_aborted(struct undone *u, bool (*aborted)(void *ctx, uint64_t seq), void *ctx)
{
	size_t n = 0;

	for (size_t i = 0; i < u->n; i++)
		if (aborted(ctx, u->list[i].op.seq))
			op_clear(&u->list[i].op);
		else
			u->list[n++] = u->list[i];
	u->n = n;
}

int undone_find(struct undone *u, int root, bool (*aborted)(void *ctx, uint64_t seq), void *ctx)
{
	size_t done = 0;

	forget_aborted(u, aborted, ctx);
	for (size_t i = u->n; i-- > 0 && done < DONE_MAX;) {
		const struct name_change *c = &u->list[i];
		int e = 1;

		if (c->logged + WRITTEN_NS < u->newest)
			break;
		if (c->own && !is_followed(u, i))
			e = op_applied(root, &c->op);
		if (e < 0)
			return e;
		if (e == 0) {
			leave_out_from(u, i);
			done = 0;
		} else {
			done++;
		}
	}
	return 0;
}

int undone_each(struct undone *u, int (*fn)(void *ctx, uint64_t seq), void *ctx)
{
	int e = 0;

	for (size_t i = 0; i < u->n && e >= 0; i++)
		if (u->list[i].left_out)
			e = fn(ctx, u->list[i].op.seq);
	return e < 0 ? e : 0;
}

void undone_clear(struct undone *u)
{
	for (size_t i = 0; i < u->n; i++)
		op_clear(&u->list[i].op);
	free(u->list);
	*u = (struct undone){0};
}
