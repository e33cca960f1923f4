/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "manifest_index.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "digest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

/*
 * DESIGN: the format, integers and strings as in buf.h:
 *
 *     magic   8 bytes "tandemI1", u64 id
 *     dir*    string path, u64 start, u64 end, u64 entries, blob digest      in order of start
 *
 * A directory's digest is over its own entry, the entries of what is right in it and the digests of
 * the directories in it, in the manifest's order: a change shows in all directories above and in no
 * other one. A subtree is contiguous in a manifest, so one is left out by its two offsets.
 */

#define INDEX_MAGIC "tandemI1"
#define INDEX_MAGIC_LEN 8

struct dir {
	char *path; /* owned */
	uint64_t start, end, entries;
	uint8_t digest[OP_DIGEST_MAX];
	uint8_t digest_len;
	/* while it is written */
	size_t parent;
	struct digest *under_way; /* owned */
	UT_hash_handle hh;
};

struct manifest_index {
	char *digest_name; /* owned; NULL of one that was decoded */
	struct dir **dirs; /* owned, with the directories */
	size_t n, cap;
	size_t open;         /* the one under way; SIZE_MAX: none */
	struct dir *by_path; /* of one that was decoded */
};

static struct manifest_index *allocate(void)
{
	struct manifest_index *x = calloc(1, sizeof(*x));

	if (x)
		x->open = SIZE_MAX;
	return x;
}

int manifest_index_new(const char *digest, struct manifest_index **ret)
{
	struct digest *d;
	struct manifest_index *x;
	int r = digest_new(digest, &d);

	if (r < 0)
		return r;
	digest_free(d);
	x = allocate();
	if (!x || !(x->digest_name = strdup(digest))) {
		free(x);
		return -ENOMEM;
	}
	*ret = x;
	return 0;
}

static void dir_free(struct dir *d)
{
	if (!d)
		return;
	digest_free(d->under_way);
	free(d->path);
	free(d);
}
static void dir_cleanup(struct dir **d)
{
	dir_free(*d);
}
#define _cleanup_dir_ __attribute__((cleanup(dir_cleanup)))

void manifest_index_free(struct manifest_index *x)
{
	if (!x)
		return;
	HASH_CLEAR(hh, x->by_path);
	for (size_t i = 0; i < x->n; i++)
		dir_free(x->dirs[i]);
	free(x->dirs);
	free(x->digest_name);
	free(x);
}

static int add(struct manifest_index *x, struct dir **d)
{
	if (x->n == x->cap) {
		size_t cap = x->cap ? 2 * x->cap : 64;
		struct dir **dirs = reallocarray(x->dirs, cap, sizeof(*dirs));

		if (!dirs)
			return -ENOMEM;
		x->dirs = dirs;
		x->cap = cap;
	}
	x->dirs[x->n++] = steal_pointer(d);
	return 0;
}

/* ---- writing ---- */

int manifest_index_enter(struct manifest_index *x, const char *path, uint64_t start)
{
	_cleanup_dir_ struct dir *d = calloc(1, sizeof(*d));
	int r;

	if (!d || !(d->path = strdup(path)))
		return -ENOMEM;
	d->start = start;
	d->parent = x->open;
	r = digest_new(x->digest_name, &d->under_way);
	if (r == 0)
		r = add(x, &d);
	if (r == 0)
		x->open = x->n - 1;
	return r;
}

int manifest_index_feed(struct manifest_index *x, const void *entry, size_t len)
{
	struct dir *d = x->dirs[x->open];

	d->entries++;
	return digest_update(d->under_way, entry, len);
}

int manifest_index_leave(struct manifest_index *x, uint64_t end)
{
	struct dir *d = x->dirs[x->open], *parent;
	int r = digest_final(d->under_way, d->digest, &d->digest_len);

	digest_free(d->under_way);
	d->under_way = NULL;
	d->end = end;
	x->open = d->parent;
	if (r < 0 || x->open == SIZE_MAX)
		return r;
	parent = x->dirs[x->open];
	parent->entries += d->entries;
	return digest_update(parent->under_way, d->digest, d->digest_len);
}

void manifest_index_encode(const struct manifest_index *x, uint64_t id, struct buf *b)
{
	buf_put(b, INDEX_MAGIC, INDEX_MAGIC_LEN);
	buf_put_u64(b, id);
	for (size_t i = 0; i < x->n; i++) {
		const struct dir *d = x->dirs[i];

		buf_put_string(b, d->path);
		buf_put_u64(b, d->start);
		buf_put_u64(b, d->end);
		buf_put_u64(b, d->entries);
		buf_put_blob(b, d->digest, d->digest_len);
	}
}

/* ---- reading ---- */

static int decode_dir(struct reader *r, uint64_t after, struct dir *d)
{
	const uint8_t *digest;
	size_t len;

	d->path = reader_string(r, TANDEMFS_PATH_MAX);
	d->start = reader_u64(r);
	d->end = reader_u64(r);
	d->entries = reader_u64(r);
	digest = reader_blob(r, &len);
	if (reader_error(r) < 0 || len == 0 || len > OP_DIGEST_MAX || d->start <= after ||
		d->end <= d->start || confine_check(d->path, true) < 0)
		return -EBADMSG;
	memcpy(d->digest, digest, len);
	d->digest_len = (uint8_t)len;
	return 0;
}

static int decode_all(struct reader *r, struct manifest_index *x)
{
	uint64_t after = 0;
	int e = 0;

	while (e == 0 && reader_left(r) > 0) {
		_cleanup_dir_ struct dir *d = calloc(1, sizeof(*d));
		struct dir *known, *added = d;

		e = d ? decode_dir(r, after, d) : -ENOMEM;
		if (e < 0)
			return e;
		after = d->start;
		HASH_FIND_STR(x->by_path, d->path, known);
		e = known ? -EBADMSG : add(x, &d);
		if (e == 0)
			HASH_ADD_KEYPTR(hh, x->by_path, added->path, strlen(added->path), added);
	}
	return e;
}

int manifest_index_decode(const void *data, size_t len, uint64_t id, struct manifest_index **ret)
{
	_cleanup_manifest_index_ struct manifest_index *x = allocate();
	struct reader r = reader_of(data, len);
	const uint8_t *magic = reader_bytes(&r, INDEX_MAGIC_LEN);
	int e;

	if (!x)
		return -ENOMEM;
	if (!magic || memcmp(magic, INDEX_MAGIC, INDEX_MAGIC_LEN) != 0 || reader_u64(&r) != id ||
		reader_error(&r) < 0)
		return -EBADMSG;
	e = decode_all(&r, x);
	if (e == 0)
		*ret = steal_pointer(&x);
	return e;
}

/* ---- comparing ---- */

void manifest_skips_clear(struct manifest_skips *s)
{
	free(s->list);
	*s = (struct manifest_skips){0};
}

static void skip(struct manifest_skips *s, const struct dir *d)
{
	s->list[s->n++] = (struct manifest_skip){d->start, d->end};
	s->entries += d->entries;
}

static uint64_t skipped_to(const struct manifest_skips *s)
{
	return s->n ? s->list[s->n - 1].end : 0;
}

static bool same(const struct dir *a, const struct dir *b)
{
	return a->digest_len == b->digest_len && memcmp(a->digest, b->digest, a->digest_len) == 0 &&
	       a->entries == b->entries;
}

int manifest_index_compare(const struct manifest_index *here, const struct manifest_index *there,
	struct manifest_skips *ret_here, struct manifest_skips *ret_there)
{
	_cleanup_manifest_skips_ struct manifest_skips a = {0}, b = {0};

	a.list = calloc(here->n + 1, sizeof(*a.list));
	b.list = calloc(here->n + 1, sizeof(*b.list));
	if (!a.list || !b.list)
		return -ENOMEM;
	for (size_t i = 1; i < here->n; i++) {
		const struct dir *d = here->dirs[i];
		struct dir *t;

		if (d->start < skipped_to(&a))
			continue;
		HASH_FIND_STR(there->by_path, d->path, t);
		if (!t || t == there->dirs[0] || t->start < skipped_to(&b) || !same(d, t))
			continue;
		skip(&a, d);
		skip(&b, t);
	}
	*ret_here = a;
	*ret_there = b;
	a = b = (struct manifest_skips){0};
	return 0;
}
