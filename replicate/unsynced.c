/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * DESIGN: contents whose record came through a power failure, and whose bytes perhaps did not.
 *
 * A record is on the disk as soon as anybody's fsync has synced the journal; the bytes of another
 * file are there when the kernel has written them back, half a minute later. In between a file may
 * be found empty or with holes, and must not take the place of what the peer has of it. So the
 * contents of the last minute before the failure count as not made, unless the file was synced
 * after them, or since it began to change: the reconciler finds what is left of them.
 */

#include "impl.h"

#include <errno.h>
#include <uthash.h>

/* What is older the kernel has written (dirty_expire_centisecs, dirty_writeback_centisecs), and the
 * file system has committed. */
#define WRITTEN_NS 60000000000ull

struct content_record {
	struct content_record *next;
	uint64_t seq, logged;
};

struct unsynced_file {
	UT_hash_handle hh;
	uint64_t ino;
	bool synced; /* since it began to change */
	struct content_record *records;
};

static void forget_records(struct unsynced_file *f)
{
	while (f->records) {
		struct content_record *one = f->records;

		f->records = one->next;
		free(one);
	}
}

static struct unsynced_file *file_get(struct unsynced *u, uint64_t ino)
{
	struct unsynced_file *f;

	HASH_FIND(hh, u->files, &ino, sizeof(ino), f);
	if (f)
		return f;
	f = calloc(1, sizeof(*f));
	if (f) {
		f->ino = ino;
		HASH_ADD(hh, u->files, ino, sizeof(f->ino), f);
	}
	return f;
}

static int add(struct unsynced_file *f, uint64_t seq, uint64_t logged)
{
	struct content_record *one;

	if (f->synced)
		return 0;
	one = calloc(1, sizeof(*one));
	if (!one)
		return -ENOMEM;
	*one = (struct content_record){.next = f->records, .seq = seq, .logged = logged};
	f->records = one;
	return 0;
}

static int take(struct unsynced *u, const struct op *op, uint64_t logged)
{
	struct unsynced_file *f;

	if (op->type != OP_FSYNC && op->type != OP_DIRTY &&
		(op->type != OP_CONTENT || op->flags & OP_FORCE))
		return 0;
	f = file_get(u, op->fid.ino);
	if (!f)
		return -ENOMEM;
	if (op->type == OP_CONTENT)
		return add(f, op->seq, logged);
	f->synced = op->type == OP_FSYNC;
	if (f->synced)
		forget_records(f);
	return 0;
}

int unsynced_take(struct unsynced *u, const struct journal_record *rec)
{
	struct local_head head;
	struct reader src;
	struct op op = {0};
	const char *why;
	int e = local_split(rec->data, rec->len, NULL, &head, &src);

	if (e == 0)
		e = op_decode(&src, OP_ENCODE_LOCAL, &op, &why);
	op.seq = rec->seq;
	if (e == 0) {
		u->newest = head.logged > u->newest ? head.logged : u->newest;
		e = take(u, &op, head.logged);
	}
	op_clear(&op);
	return e;
}

int unsynced_each(struct unsynced *u, int (*fn)(void *ctx, uint64_t seq), void *ctx)
{
	struct unsynced_file *f, *next;
	int e = 0;

	HASH_ITER (hh, u->files, f, next)
		for (struct content_record *one = f->records; one && e >= 0; one = one->next) {
			if (!one->seq || one->logged + WRITTEN_NS < u->newest)
				continue;
			e = fn(ctx, one->seq);
			if (e > 0)
				one->seq = 0;
		}
	return e < 0 ? e : 0;
}

void unsynced_clear(struct unsynced *u)
{
	struct unsynced_file *f, *next;

	HASH_ITER (hh, u->files, f, next) {
		HASH_DEL(u->files, f);
		forget_records(f);
		free(f);
	}
}
