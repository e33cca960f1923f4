/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "manifest.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/confine.h"
#include "manifest_format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * DESIGN: the stream comes from the peer and nothing in it is believed. A record's length is
 * checked before it is read, so the reader never holds more than one record and one entry. Paths
 * must be such as may be replicated, below the subtree and strictly ascending: so a merge of two
 * streams ends, and a name cannot come twice. manifest_write.c has the format.
 */

struct manifest_reader {
	struct manifest_source source;
	struct manifest_entry entry; /* owned strings */
	char *root, *digest_name;    /* owned */
	uint8_t flags;
	bool ended;
	uint64_t count, skipped;
	uint8_t record[MANIFEST_RECORD_MAX];
};

int manifest_path_compare(const char *a, const char *b)
{
	int x, y;

	while (*a && *a == *b) {
		a++;
		b++;
	}
	/* The end comes first, then what is below, then longer names. */
	x = *a == '/' ? 1 : *a ? (unsigned char)*a + 1 : 0;
	y = *b == '/' ? 1 : *b ? (unsigned char)*b + 1 : 0;
	return x - y;
}

int manifest_get_fd(void *ctx, void *dst, size_t size, size_t *ret_len)
{
	ssize_t n;

	do {
		n = read(*(int *)ctx, dst, size);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	*ret_len = (size_t)n;
	return 0;
}

/* Exactly @len bytes; a stream that ends before is -EBADMSG. */
static int get_all(struct manifest_reader *m, void *dst, size_t len)
{
	uint8_t *p = dst;
	size_t n;
	int r;

	while (len > 0) {
		r = m->source.get(m->source.ctx, p, len, &n);
		if (r < 0)
			return r;
		if (n == 0)
			return -EBADMSG;
		p += n;
		len -= n;
	}
	return 0;
}

/* The next record into m->record; *ret_len 0 is the end mark. */
static int get_record(struct manifest_reader *m, size_t *ret_len)
{
	uint8_t head[4];
	uint32_t len;
	int r = get_all(m, head, sizeof(head));

	if (r < 0)
		return r;
	len = load_u32(head);
	if (len > MANIFEST_RECORD_MAX)
		return -EBADMSG;
	*ret_len = len;
	return get_all(m, m->record, len);
}

static int read_head(struct manifest_reader *m)
{
	char magic[MANIFEST_MAGIC_LEN];
	struct reader r;
	size_t len;
	int e = get_all(m, magic, sizeof(magic));

	if (e < 0)
		return e;
	if (memcmp(magic, MANIFEST_MAGIC, sizeof(magic)) != 0)
		return -EBADMSG;
	e = get_record(m, &len);
	if (e < 0)
		return e;
	r = reader_of(m->record, len);
	m->digest_name = reader_string(&r, 64);
	m->root = reader_string(&r, TANDEMFS_PATH_MAX);
	m->flags = reader_u8(&r);
	if (reader_error(&r) < 0 || reader_left(&r) > 0)
		return -EBADMSG;
	if (m->flags & ~MANIFEST_FLAGS || confine_check(m->root, true) < 0)
		return -EBADMSG;
	return 0;
}

int manifest_reader_new(const struct manifest_source *source, struct manifest_reader **ret)
{
	_cleanup_manifest_ struct manifest_reader *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return -ENOMEM;
	m->source = *source;
	r = read_head(m);
	if (r < 0)
		return r;
	*ret = steal_pointer(&m);
	return 0;
}

static void entry_clear(struct manifest_entry *e)
{
	free(e->path);
	free(e->target);
	free(e->link);
	*e = (struct manifest_entry){0};
}

void manifest_reader_free(struct manifest_reader *m)
{
	if (!m)
		return;
	entry_clear(&m->entry);
	free(m->root);
	free(m->digest_name);
	free(m);
}

const char *manifest_root(const struct manifest_reader *m)
{
	return m->root;
}

const char *manifest_digest_name(const struct manifest_reader *m)
{
	return m->digest_name;
}

void manifest_reader_skip(struct manifest_reader *m, uint64_t entries)
{
	m->skipped = entries;
}

static void read_digest(struct reader *r, uint8_t dst[OP_DIGEST_MAX], uint8_t *ret_len)
{
	size_t len;
	const uint8_t *p = reader_blob(r, &len);

	if (len > OP_DIGEST_MAX) {
		reader_fail(r);
		return;
	}
	if (p && len > 0)
		memcpy(dst, p, len);
	*ret_len = (uint8_t)len;
}

static int decode(const uint8_t *data, size_t len, struct manifest_entry *e)
{
	struct reader r = reader_of(data, len);

	e->path = reader_string(&r, TANDEMFS_PATH_MAX);
	e->mode = reader_u32(&r);
	e->uid = reader_u32(&r);
	e->gid = reader_u32(&r);
	e->nlink = reader_u32(&r);
	e->size = reader_u64(&r);
	e->mtime = (int64_t)reader_u64(&r);
	e->rdev = reader_u64(&r);
	e->target = reader_string(&r, TANDEMFS_PATH_MAX);
	e->link = reader_string(&r, TANDEMFS_PATH_MAX);
	read_digest(&r, e->content, &e->content_len);
	read_digest(&r, e->xattrs, &e->xattrs_len);
	return reader_error(&r) < 0 || reader_left(&r) > 0 ? -EBADMSG : 0;
}

static bool mode_is_known(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return (mode & ~(uint32_t)(S_IFMT | 07777)) == 0;
	default:
		return false;
	}
}

/* @previous: the path before it, NULL for the first entry. */
static bool entry_fits(
	const struct manifest_reader *m, const struct manifest_entry *e, const char *previous)
{
	if (!mode_is_known(e->mode) || confine_check(e->path, true) < 0)
		return false;
	if (!previous)
		return strcmp(e->path, m->root) == 0 && S_ISDIR(e->mode) && !e->link[0];
	if (!confine_below(e->path, m->root) || manifest_path_compare(previous, e->path) >= 0)
		return false;
	return !e->link[0] || (confine_check(e->link, false) == 0 && !S_ISDIR(e->mode) &&
				      manifest_path_compare(e->link, e->path) < 0);
}

static int read_end(struct manifest_reader *m)
{
	uint8_t count[8];
	int r = get_all(m, count, sizeof(count));

	if (r < 0)
		return r;
	if (load_u64(count) != m->count + m->skipped || m->count == 0)
		return -EBADMSG;
	m->ended = true;
	return 0;
}

int manifest_next(struct manifest_reader *m, const struct manifest_entry **ret)
{
	struct manifest_entry e = {0};
	size_t len;
	int r;

	if (m->ended)
		return 0;
	r = get_record(m, &len);
	if (r < 0)
		return r;
	if (len == 0)
		return read_end(m);
	r = decode(m->record, len, &e);
	if (r == 0 && !entry_fits(m, &e, m->entry.path))
		r = -EBADMSG;
	if (r < 0) {
		entry_clear(&e);
		return r;
	}
	entry_clear(&m->entry);
	m->entry = e;
	m->count++;
	*ret = &m->entry;
	return 1;
}

/* ---- comparing ---- */

static bool same_digest(const uint8_t *a, uint8_t a_len, const uint8_t *b, uint8_t b_len)
{
	return a_len == b_len && memcmp(a, b, a_len) == 0;
}

unsigned manifest_differences(const struct manifest_entry *a, const struct manifest_entry *b)
{
	unsigned d = 0;

	if ((a->mode & S_IFMT) != (b->mode & S_IFMT))
		return MANIFEST_TYPE;
	if (a->size != b->size)
		d |= MANIFEST_SIZE;
	else if (!same_digest(a->content, a->content_len, b->content, b->content_len))
		d |= MANIFEST_CONTENT;
	if (strcmp(a->target, b->target) != 0)
		d |= MANIFEST_TARGET;
	if (a->rdev != b->rdev)
		d |= MANIFEST_DEVICE;
	if (a->mode != b->mode)
		d |= MANIFEST_MODE;
	if (a->uid != b->uid || a->gid != b->gid)
		d |= MANIFEST_OWNER;
	if (a->mtime != b->mtime)
		d |= MANIFEST_MTIME;
	if (!same_digest(a->xattrs, a->xattrs_len, b->xattrs, b->xattrs_len))
		d |= MANIFEST_XATTRS;
	if (strcmp(a->link, b->link) != 0)
		d |= MANIFEST_LINKS;
	return d;
}

const char *manifest_difference_name(unsigned bit)
{
	static const char *const names[] = {"type", "size", "content", "target", "device", "mode",
		"owner", "mtime", "xattrs", "hard links"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (bit == 1u << i)
			return names[i];
	return "?";
}

static int advance(struct manifest_reader *m, const struct manifest_entry **entry)
{
	int r = manifest_next(m, entry);

	if (r == 0)
		*entry = NULL;
	return r < 0 ? r : 0;
}

int manifest_merge(struct manifest_reader *here, struct manifest_reader *there,
	manifest_visitor visit, void *ctx)
{
	const struct manifest_entry *a, *b;
	int r, order;

	if (strcmp(here->root, there->root) != 0 || here->flags != there->flags ||
		strcmp(here->digest_name, there->digest_name) != 0)
		return -EINVAL;
	r = advance(here, &a);
	if (r == 0)
		r = advance(there, &b);
	while (r == 0 && (a || b)) {
		order = !a ? 1 : !b ? -1 : manifest_path_compare(a->path, b->path);
		r = visit(ctx, order <= 0 ? a : NULL, order >= 0 ? b : NULL);
		if (r == 0 && order <= 0)
			r = advance(here, &a);
		if (r == 0 && order >= 0)
			r = advance(there, &b);
	}
	return r;
}

struct comparison {
	void (*report)(void *ctx, const char *path, const char *what);
	void *ctx;
	uint64_t count;
};

static void found(struct comparison *c, const char *path, const char *what)
{
	c->count++;
	c->report(c->ctx, path, what);
}

static int report_pair(void *ctx, const struct manifest_entry *a, const struct manifest_entry *b)
{
	struct comparison *c = ctx;
	unsigned d = a && b ? manifest_differences(a, b) : 0;

	if (!b)
		found(c, a->path, "only here");
	else if (!a)
		found(c, b->path, "only there");
	for (; d; d &= d - 1)
		found(c, a->path, manifest_difference_name(d & -d));
	return 0;
}

int manifest_compare(struct manifest_reader *here, struct manifest_reader *there,
	void (*report)(void *ctx, const char *path, const char *what), void *ctx,
	uint64_t *ret_count)
{
	struct comparison c = {.report = report, .ctx = ctx};
	int r = manifest_merge(here, there, report_pair, &c);

	if (r < 0)
		return r;
	*ret_count = c.count;
	return 0;
}
