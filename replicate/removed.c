/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "removed.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <xxhash.h>

/*
 * DESIGN: the bytes are
 *     8 bytes "tandemR1", u64 number up to which the journal was read
 *     each: 16 bytes XXH3-128 of the path, u64 when, u8 whether all below it went along
 *     u64 XXH3-64 of all before
 */

#define MAGIC "tandemR1"
#define MAGIC_LEN 8

struct tombstone {
	UT_hash_handle hh;
	XXH128_canonical_t name;
	uint64_t time;
	bool below;
};

struct removed {
	struct tombstone *table; /* owned */
	uint64_t upto;
};

struct removed *removed_new(void)
{
	return calloc(1, sizeof(struct removed));
}

void removed_free(struct removed *t)
{
	struct tombstone *s, *next;

	if (!t)
		return;
	HASH_ITER (hh, t->table, s, next) {
		HASH_DEL(t->table, s);
		free(s);
	}
	free(t);
}

static const struct tombstone *find(const struct removed *t, const char *path, size_t len)
{
	struct tombstone *s;
	XXH128_canonical_t name;

	XXH128_canonicalFromHash(&name, XXH3_128bits(path, len));
	HASH_FIND(hh, t->table, &name, sizeof(name), s);
	return s;
}

static int put(struct removed *t, const XXH128_canonical_t *name, uint64_t time, bool below)
{
	struct tombstone *s;

	HASH_FIND(hh, t->table, name, sizeof(*name), s);
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return -ENOMEM;
		s->name = *name;
		HASH_ADD(hh, t->table, name, sizeof(s->name), s);
	}
	if (time > s->time)
		s->time = time;
	s->below |= below;
	return 0;
}

int removed_add(struct removed *t, const struct op *op)
{
	bool rename = op->type == OP_RENAME && !(op->flags & OP_EXCHANGE);
	XXH128_canonical_t name;

	if (!rename && op->type != OP_UNLINK && op->type != OP_RMDIR)
		return 0;
	XXH128_canonicalFromHash(&name, XXH3_128bits(op->path, strlen(op->path)));
	return put(t, &name, op->time, rename);
}

void removed_pass(struct removed *t, uint64_t seq)
{
	if (seq > t->upto)
		t->upto = seq;
}

uint64_t removed_upto(const struct removed *t)
{
	return t->upto;
}

bool removed_has(const struct removed *t, const char *path, int64_t time)
{
	const struct tombstone *s = find(t, path, strlen(path));
	uint64_t when = time > 0 ? (uint64_t)time : 0;

	if (s && s->time >= when)
		return true;
	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		s = find(t, path, (size_t)(p - path));
		if (s && s->below && s->time >= when)
			return true;
	}
	return false;
}

int removed_encode(const struct removed *t, struct buf *dst)
{
	const struct tombstone *s;
	size_t start = dst->len;

	buf_put(dst, MAGIC, MAGIC_LEN);
	buf_put_u64(dst, t->upto);
	for (s = t->table; s; s = s->hh.next) {
		buf_put(dst, &s->name, sizeof(s->name));
		buf_put_u64(dst, s->time);
		buf_put_u8(dst, s->below);
	}
	if (buf_error(dst) == 0)
		buf_put_u64(dst, XXH3_64bits(dst->data + start, dst->len - start));
	return buf_error(dst);
}

int removed_decode(struct removed *t, const void *data, size_t len)
{
	struct reader r = reader_of(data, len);
	const uint8_t *magic = reader_bytes(&r, MAGIC_LEN);
	int e = 0;

	if (!magic || len < MAGIC_LEN + 16 || memcmp(magic, MAGIC, MAGIC_LEN) != 0 ||
		XXH3_64bits(data, len - 8) != load_u64((const uint8_t *)data + len - 8))
		return -EBADMSG;
	removed_pass(t, reader_u64(&r));
	while (e == 0 && reader_left(&r) > 8) {
		const uint8_t *raw = reader_bytes(&r, sizeof(XXH128_canonical_t));
		uint64_t time = reader_u64(&r);
		bool below = reader_u8(&r);
		XXH128_canonical_t name;

		if (reader_error(&r) < 0)
			return -EBADMSG;
		memcpy(&name, raw, sizeof(name));
		e = put(t, &name, time, below);
	}
	return e;
}
