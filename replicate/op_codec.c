/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "op.h"
#include "op_spec.h"
#include "base/cleanup.h"
#include "base/confine.h"

#include <string.h>
#include <sys/stat.h>

/*
 * DESIGN: the bytes of an op, for the journal and for the wire (integers little-endian; string and
 * blob: u32 length and the bytes):
 *
 *     u8 type   u32 flags   u64 time   [fid]   string path   fields of the type...
 *
 *     fid       u64 inode, u32 handle type, u8 length, handle     LOCAL and BRIEF only
 *     name2     string
 *     target    string
 *     attrs     u32 mask, mode, uid, gid; u64 atime, mtime        all of them, whatever the mask
 *     rdev      u64
 *     xname     string
 *     value     blob
 *     about     u64
 *     ranges    u32 count; u64 start, length each                 count 0 with OP_WHOLE
 *     content   u8 present; when 1:                               WIRE and BRIEF only
 *               u64 size; u32 count; u64 start, length each extent;
 *               u32 count; string name, blob value each xattr;
 *               u64 data length; string stage; string digest name; blob digest;
 *               the data, up to the end                           WIRE, when stage is ""
 *
 * Which fields a type has stands in the table in op.c; both directions walk it in the order above.
 *
 * The decoder is handed bytes that a peer wrote. It allocates nothing of a size that the remaining
 * bytes do not bear out, and whatever it accepts fits the limits of op.h: an op that was decoded
 * needs no second check of its form. Each step returns NULL or what is wrong.
 */

/* The one complaint that is not the sender's fault. */
static const char no_memory[] = "out of memory";

static uint32_t stored_mode(const struct op *op)
{
	return op->type == OP_MKNOD ? op->mode & (S_IFMT | 07777) : op->mode & 07777;
}

/* ---- strings ---- */

/* A string of 1 to @max bytes, or of none when @empty. */
static const char *get_string(struct reader *r, size_t max, bool empty, char **ret)
{
	size_t len;
	const uint8_t *p = reader_blob(r, &len);
	char *s;

	if (!p)
		return "string cut short";
	if (len > max)
		return "string too long";
	if (len == 0 && !empty)
		return "empty string";
	if (memchr(p, 0, len))
		return "NUL in a string";
	s = malloc(len + 1);
	if (!s)
		return no_memory;
	memcpy(s, p, len);
	s[len] = 0;
	*ret = s;
	return NULL;
}

/* The same into an array of @size bytes. */
static const char *get_chars(struct reader *r, char *dst, size_t size)
{
	_cleanup_free_ char *s = NULL;
	const char *why = get_string(r, size - 1, true, &s);

	if (!why)
		memcpy(dst, s, strlen(s) + 1);
	return why;
}

static const char *get_path(struct reader *r, bool root, char **ret)
{
	const char *why = get_string(r, TANDEMFS_PATH_MAX, true, ret);

	if (why)
		return why;
	switch (confine_check(*ret, root)) {
	case 0:
		return NULL;
	case -EPERM:
		return "path in " TANDEMFS_DIR;
	case -ENAMETOOLONG:
		return "name too long";
	default:
		return "path is not one below the root";
	}
}

static const char *get_blob(struct reader *r, size_t max, uint8_t **ret, size_t *ret_len)
{
	size_t len;
	const uint8_t *p = reader_blob(r, &len);
	uint8_t *copy;

	if (!p)
		return "value cut short";
	if (len > max)
		return "value too long";
	copy = malloc(len ? len : 1);
	if (!copy)
		return no_memory;
	memcpy(copy, p, len);
	*ret = copy;
	*ret_len = len;
	return NULL;
}

/* ---- ranges ---- */

static void put_ranges(struct buf *dst, const struct range *ranges, size_t n)
{
	buf_put_u32(dst, (uint32_t)n);
	for (size_t i = 0; i < n; i++) {
		buf_put_u64(dst, ranges[i].start);
		buf_put_u64(dst, ranges[i].len);
	}
}

/* Ascending, disjoint, none empty, all within what an off_t can say. */
static bool ranges_good(const struct range *ranges, size_t n)
{
	uint64_t end = 0;

	for (size_t i = 0; i < n; i++) {
		if (ranges[i].start < end || ranges[i].start > INT64_MAX || ranges[i].len == 0 ||
			ranges[i].len > INT64_MAX - ranges[i].start)
			return false;
		end = ranges[i].start + ranges[i].len;
	}
	return true;
}

static const char *get_ranges(struct reader *r, size_t max, struct range **ret, size_t *ret_n)
{
	size_t n = reader_u32(r);
	struct range *ranges;

	if (r->failed || n > reader_left(r) / 16)
		return "ranges cut short";
	if (n > max)
		return "too many ranges";
	if (n == 0)
		return NULL;
	ranges = calloc(n, sizeof(*ranges));
	if (!ranges)
		return no_memory;
	for (size_t i = 0; i < n; i++) {
		ranges[i].start = reader_u64(r);
		ranges[i].len = reader_u64(r);
	}
	*ret = ranges;
	*ret_n = n;
	return ranges_good(ranges, n) ? NULL : "ranges not ascending";
}

/* ---- content ---- */

static void put_content(const struct op *op, enum op_encoding encoding, struct buf *dst)
{
	const struct content *c = op->content;

	buf_put_u8(dst, c != NULL);
	if (!c)
		return;
	buf_put_u64(dst, c->size);
	put_ranges(dst, c->extents, c->n_extents);
	buf_put_u32(dst, (uint32_t)c->n_xattrs);
	for (size_t i = 0; i < c->n_xattrs; i++) {
		buf_put_string(dst, c->xattrs[i].name);
		buf_put_blob(dst, c->xattrs[i].value, c->xattrs[i].len);
	}
	buf_put_u64(dst, c->data_len);
	buf_put_string(dst, c->stage);
	buf_put_string(dst, c->digest_name);
	buf_put_blob(dst, c->digest, c->digest_len);
	if (encoding == OP_ENCODE_WIRE && !c->stage[0])
		buf_put(dst, c->data, c->data_len);
}

static const char *get_xattrs(struct reader *r, struct content *c)
{
	const char *why = NULL;
	size_t n = reader_u32(r);

	if (r->failed || n > reader_left(r) / 8)
		return "xattrs cut short";
	if (n == 0)
		return NULL;
	c->xattrs = calloc(n, sizeof(*c->xattrs));
	if (!c->xattrs)
		return no_memory;
	while (!why && c->n_xattrs < n) {
		struct xattr *x = &c->xattrs[c->n_xattrs++];

		why = get_string(r, TANDEMFS_NAME_MAX, false, &x->name);
		if (!why)
			why = get_blob(r, OP_XATTR_VALUE_MAX, &x->value, &x->len);
	}
	return why;
}

static const char *check_stage(const char *name)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				   "0123456789._-";

	return name[0] != '.' && name[strspn(name, good)] == 0 ? NULL : "bad stage name";
}

static const char *get_digest(struct reader *r, struct content *c)
{
	const char *why = get_chars(r, c->digest_name, sizeof(c->digest_name));
	size_t len;
	const uint8_t *p;

	if (why)
		return why;
	p = reader_blob(r, &len);
	/* A digest of no bytes would compare equal to anything. */
	if (!p || len > OP_DIGEST_MAX || (len == 0) != (c->digest_name[0] == 0))
		return "bad digest";
	memcpy(c->digest, p, len);
	c->digest_len = (uint8_t)len;
	return NULL;
}

static const char *check_extents(const struct content *c)
{
	uint64_t sum = 0;

	if (c->size > INT64_MAX)
		return "size too large";
	/* They are disjoint, so only the last can pass the end, and the sum cannot overflow. */
	for (size_t i = 0; i < c->n_extents; i++)
		sum += c->extents[i].len;
	if (c->n_extents &&
		c->extents[c->n_extents - 1].start + c->extents[c->n_extents - 1].len > c->size)
		return "extent past the end of the file";
	return sum == c->data_len ? NULL : "extents do not make up the data";
}

static const char *get_data(struct reader *r, struct content *c)
{
	if (c->data_len != reader_left(r))
		return "data of another length than said";
	c->data = malloc(c->data_len ? c->data_len : 1);
	if (!c->data)
		return no_memory;
	memcpy(c->data, reader_bytes(r, c->data_len), c->data_len);
	return NULL;
}

static const char *get_content_parts(struct reader *r, enum op_encoding encoding, struct content *c)
{
	const char *why;

	c->size = reader_u64(r);
	why = get_ranges(r, OP_EXTENTS_MAX, &c->extents, &c->n_extents);
	if (!why)
		why = get_xattrs(r, c);
	if (why)
		return why;
	c->data_len = reader_u64(r);
	why = get_chars(r, c->stage, sizeof(c->stage));
	if (!why)
		why = check_stage(c->stage);
	if (!why)
		why = get_digest(r, c);
	if (!why)
		why = check_extents(c);
	if (!why && encoding == OP_ENCODE_WIRE && !c->stage[0])
		why = get_data(r, c);
	return why;
}

static const char *get_content(struct reader *r, enum op_encoding encoding, struct op *op)
{
	unsigned present = reader_u8(r);
	const char *why;

	if (r->failed || present > 1)
		return "content cut short";
	if (!present)
		return op->flags & (OP_GONE | OP_DEFERRED) ? NULL : "content missing";
	op->content = calloc(1, sizeof(*op->content));
	if (!op->content)
		return no_memory;
	why = get_content_parts(r, encoding, op->content);
	if (!why && op->content->n_xattrs && !(op->flags & OP_WHOLE))
		why = "xattrs with a content that is not whole";
	return why;
}

/* ---- the other fields ---- */

static void put_name2(const struct op *op, struct buf *dst)
{
	buf_put_string(dst, op->path2);
}

static const char *get_name2(struct reader *r, struct op *op)
{
	return get_path(r, false, &op->path2);
}

static const char *get_target(struct reader *r, struct op *op)
{
	return get_string(r, TANDEMFS_PATH_MAX, false, &op->path2);
}

static void put_attrs(const struct op *op, struct buf *dst)
{
	buf_put_u32(dst, op->mask);
	buf_put_u32(dst, stored_mode(op));
	buf_put_u32(dst, op->uid);
	buf_put_u32(dst, op->gid);
	buf_put_u64(dst, (uint64_t)op->atime);
	buf_put_u64(dst, (uint64_t)op->mtime);
}

static bool mknod_mode(uint32_t mode)
{
	return S_ISFIFO(mode) || S_ISSOCK(mode) || S_ISCHR(mode) || S_ISBLK(mode);
}

static const char *get_attrs(struct reader *r, struct op *op)
{
	op->mask = reader_u32(r);
	op->mode = reader_u32(r);
	op->uid = reader_u32(r);
	op->gid = reader_u32(r);
	op->atime = (int64_t)reader_u64(r);
	op->mtime = (int64_t)reader_u64(r);
	if (r->failed)
		return "attributes cut short";
	if (op->mask & ~(uint32_t)(OP_MODE | OP_UID | OP_GID | OP_ATIME | OP_MTIME))
		return "unknown attribute";
	if (op->mode != stored_mode(op) || (op->type == OP_MKNOD && !mknod_mode(op->mode)))
		return "mode of another kind of file";
	return NULL;
}

static void put_rdev(const struct op *op, struct buf *dst)
{
	buf_put_u64(dst, op->rdev);
}

static const char *get_rdev(struct reader *r, struct op *op)
{
	op->rdev = reader_u64(r);
	return r->failed ? "device cut short" : NULL;
}

static void put_xname(const struct op *op, struct buf *dst)
{
	buf_put_string(dst, op->xname);
}

static const char *get_xname(struct reader *r, struct op *op)
{
	return get_string(r, TANDEMFS_NAME_MAX, false, &op->xname);
}

static void put_value(const struct op *op, struct buf *dst)
{
	buf_put_blob(dst, op->value, op->value_len);
}

static const char *get_value(struct reader *r, struct op *op)
{
	return get_blob(r, OP_XATTR_VALUE_MAX, &op->value, &op->value_len);
}

static void put_about(const struct op *op, struct buf *dst)
{
	buf_put_u64(dst, op->about);
}

static const char *get_about(struct reader *r, struct op *op)
{
	op->about = reader_u64(r);
	return r->failed ? "number cut short" : NULL;
}

static void put_op_ranges(const struct op *op, struct buf *dst)
{
	put_ranges(dst, op->ranges, op->flags & OP_WHOLE ? 0 : op->n_ranges);
}

static const char *get_op_ranges(struct reader *r, struct op *op)
{
	const char *why = get_ranges(r, OP_RANGES_MAX, &op->ranges, &op->n_ranges);

	return !why && op->n_ranges && (op->flags & OP_WHOLE) ? "ranges of a whole file" : why;
}

/* All but content, which is last and the only one that the encoding changes. */
static const struct {
	enum op_field field;
	void (*put)(const struct op *op, struct buf *dst);
	const char *(*get)(struct reader *r, struct op *op);
} codecs[] = {
	{OP_FIELD_NAME2, put_name2, get_name2},
	{OP_FIELD_TARGET, put_name2, get_target},
	{OP_FIELD_ATTRS, put_attrs, get_attrs},
	{OP_FIELD_RDEV, put_rdev, get_rdev},
	{OP_FIELD_XNAME, put_xname, get_xname},
	{OP_FIELD_VALUE, put_value, get_value},
	{OP_FIELD_RANGES, put_op_ranges, get_op_ranges},
	{OP_FIELD_ABOUT, put_about, get_about},
};

#define N_CODECS (sizeof(codecs) / sizeof(codecs[0]))

/* ---- whole ops ---- */

static void put_fid(const struct fid *fid, struct buf *dst)
{
	buf_put_u64(dst, fid->ino);
	buf_put_u32(dst, (uint32_t)fid->type);
	buf_put_u8(dst, fid->len);
	buf_put(dst, fid->bytes, fid->len);
}

static const char *get_fid(struct reader *r, struct fid *ret)
{
	const uint8_t *p;

	ret->ino = reader_u64(r);
	ret->type = (int32_t)reader_u32(r);
	ret->len = reader_u8(r);
	p = ret->len <= FID_MAX ? reader_bytes(r, ret->len) : NULL;
	if (!p)
		return "bad file handle";
	memcpy(ret->bytes, p, ret->len);
	return NULL;
}

void op_encode(const struct op *op, enum op_encoding encoding, struct buf *dst)
{
	const struct op_spec *spec = op_spec_of(op->type);

	if (!spec) {
		dst->failed = true;
		return;
	}
	buf_put_u8(dst, (uint8_t)op->type);
	buf_put_u32(dst, op->flags);
	buf_put_u64(dst, op->time);
	if (encoding != OP_ENCODE_WIRE)
		put_fid(&op->fid, dst);
	buf_put_string(dst, op->path);
	for (size_t i = 0; i < N_CODECS; i++)
		if (spec->fields & codecs[i].field)
			codecs[i].put(op, dst);
	if ((spec->fields & OP_FIELD_CONTENT) && encoding != OP_ENCODE_LOCAL)
		put_content(op, encoding, dst);
}

static const char *get_op(struct reader *r, enum op_encoding encoding, struct op *op)
{
	unsigned type = reader_u8(r);
	const struct op_spec *spec = op_spec_of(type);
	const char *why = NULL;

	if (!spec)
		return "unknown type";
	if (encoding == OP_ENCODE_WIRE && !spec->sent)
		return "type that is not sent";
	op->type = type;
	op->flags = reader_u32(r);
	op->time = reader_u64(r);
	if (op->flags & ~spec->flags)
		return "flag that the type does not have";
	if (encoding != OP_ENCODE_WIRE)
		why = get_fid(r, &op->fid);
	if (!why)
		why = get_path(r, spec->root, &op->path);
	for (size_t i = 0; !why && i < N_CODECS; i++)
		if (spec->fields & codecs[i].field)
			why = codecs[i].get(r, op);
	if (!why && (spec->fields & OP_FIELD_CONTENT) && encoding != OP_ENCODE_LOCAL)
		why = get_content(r, encoding, op);
	if (!why && (r->failed || reader_left(r)))
		why = "more bytes than the type has";
	return why;
}

int op_decode(struct reader *src, enum op_encoding encoding, struct op *ret, const char **ret_why)
{
	const char *why;

	*ret = (struct op){0};
	why = get_op(src, encoding, ret);
	if (!why)
		return 0;
	op_clear(ret);
	*ret_why = why;
	return why == no_memory ? -ENOMEM : -EBADMSG;
}
