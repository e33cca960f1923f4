/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The requests one by one: each puts its fields and waits for its answer. A server says FAILURE
 * for most of errno; where a caller needs to know EEXIST, lstat tells it apart.
 */

#include "sftp.h"

#include "base/cleanup.h"
#include "sftp_packet.h"

#include <errno.h>

#define ATTR_EXTENDED 0x80000000u

/* ---- fields ---- */

static void put_handle(struct buf *b, const struct sftp_handle *h)
{
	put_be_blob(b, h->data, h->len);
}

static void put_attr(struct buf *b, const struct sftp_attr *a)
{
	put_be32(b, a->flags);
	if (a->flags & SFTP_ATTR_SIZE)
		put_be64(b, a->size);
	if (a->flags & SFTP_ATTR_OWNER) {
		put_be32(b, a->uid);
		put_be32(b, a->gid);
	}
	if (a->flags & SFTP_ATTR_MODE)
		put_be32(b, a->mode);
	if (a->flags & SFTP_ATTR_TIMES) {
		put_be32(b, a->atime);
		put_be32(b, a->mtime);
	}
}

static void skip_extended_attrs(struct reader *r)
{
	uint32_t n = get_be32(r);
	size_t len;

	for (uint32_t i = 0; i < n && !r->failed; i++) {
		(void)get_be_blob(r, &len);
		(void)get_be_blob(r, &len);
	}
}

static void get_attr(struct reader *r, struct sftp_attr *ret)
{
	struct sftp_attr a = {.flags = get_be32(r)};

	if (a.flags & SFTP_ATTR_SIZE)
		a.size = get_be64(r);
	if (a.flags & SFTP_ATTR_OWNER) {
		a.uid = get_be32(r);
		a.gid = get_be32(r);
	}
	if (a.flags & SFTP_ATTR_MODE)
		a.mode = get_be32(r);
	if (a.flags & SFTP_ATTR_TIMES) {
		a.atime = get_be32(r);
		a.mtime = get_be32(r);
	}
	if (a.flags & ATTR_EXTENDED)
		skip_extended_attrs(r);
	*ret = a;
}

/* After the fields of an answer were read: a short one ends the connection. */
static int check(struct sftp *s, const struct reader *r)
{
	if (!r->failed)
		return 0;
	sftp_abort(s, -EPROTO);
	return -EPROTO;
}

static int await_status(struct sftp *s)
{
	int r = sftp_await(s, SFTP_STATUS, NULL);

	return r == -ENODATA ? -EIO : r;
}

static int path_request(struct sftp *s, uint8_t type, const char *path)
{
	put_be_string(sftp_begin(s, type), path);
	return await_status(s);
}

static int exists_or(struct sftp *s, const char *path, int error)
{
	struct sftp_attr attr;
	int r;

	if (error != -EIO || sftp_error(s) < 0)
		return error;
	r = sftp_lstat(s, path, &attr);
	if (sftp_error(s) < 0)
		return r;
	return r == 0 ? -EEXIST : error;
}

/* ---- files ---- */

static int await_handle(struct sftp *s, struct sftp_handle *ret)
{
	_cleanup_buf_ struct buf body = {0};
	struct reader reader;
	const uint8_t *data;
	size_t len;
	int r = sftp_await(s, SFTP_HANDLE, &body);

	if (r < 0)
		return r == -ENODATA ? -EIO : r;
	reader = reader_of(body.data, body.len);
	data = get_be_blob(&reader, &len);
	if (len > sizeof(ret->data))
		reader_fail(&reader);
	r = check(s, &reader);
	if (r < 0)
		return r;
	ret->len = (uint32_t)len;
	memcpy(ret->data, data, len);
	return 0;
}

int sftp_open(
	struct sftp *s, const char *path, uint32_t flags, mode_t mode, struct sftp_handle *ret)
{
	struct sftp_attr attr = {.flags = SFTP_ATTR_MODE, .mode = mode};
	struct buf *b = sftp_begin(s, SFTP_OPEN);
	int r;

	if (!(flags & SFTP_OPEN_CREATE))
		attr.flags = 0;
	put_be_string(b, path);
	put_be32(b, flags);
	put_attr(b, &attr);
	r = await_handle(s, ret);
	return flags & SFTP_OPEN_EXCL ? exists_or(s, path, r) : r;
}

int sftp_close_start(struct sftp *s, const struct sftp_handle *h, sftp_reply_fn *fn, void *ctx)
{
	put_handle(sftp_begin(s, SFTP_CLOSE), h);
	return sftp_submit(s, 0, fn, ctx);
}

int sftp_close(struct sftp *s, const struct sftp_handle *h)
{
	put_handle(sftp_begin(s, SFTP_CLOSE), h);
	return await_status(s);
}

int sftp_write_start(struct sftp *s, const struct sftp_handle *h, uint64_t offset, const void *data,
	uint32_t len, sftp_reply_fn *fn, void *ctx)
{
	struct buf *b = sftp_begin(s, SFTP_WRITE);

	put_handle(b, h);
	put_be64(b, offset);
	put_be_blob(b, data, len);
	return sftp_submit(s, len, fn, ctx);
}

static void put_read(struct sftp *s, const struct sftp_handle *h, uint64_t offset, uint32_t len)
{
	struct buf *b = sftp_begin(s, SFTP_READ);

	put_handle(b, h);
	put_be64(b, offset);
	put_be32(b, len);
}

int sftp_read_start(struct sftp *s, const struct sftp_handle *h, uint64_t offset, uint32_t len,
	sftp_reply_fn *fn, void *ctx)
{
	put_read(s, h, offset, len);
	return sftp_submit(s, 0, fn, ctx);
}

int sftp_read(
	struct sftp *s, const struct sftp_handle *h, uint64_t offset, uint32_t len, struct buf *out)
{
	_cleanup_buf_ struct buf body = {0};
	struct reader reader;
	const uint8_t *data;
	size_t got;
	int r;

	put_read(s, h, offset, len);
	r = sftp_await(s, SFTP_DATA, &body);
	if (r < 0)
		return r == -ENODATA ? 0 : r;
	reader = reader_of(body.data, body.len);
	data = get_be_blob(&reader, &got);
	if (got > len)
		reader_fail(&reader);
	r = check(s, &reader);
	if (r < 0)
		return r;
	buf_put(out, data, got);
	return buf_error(out);
}

int sftp_fsync(struct sftp *s, const struct sftp_handle *h)
{
	struct buf *b;

	if (!(sftp_extensions(s) & SFTP_FSYNC))
		return -EOPNOTSUPP;
	b = sftp_begin(s, SFTP_EXTENDED);
	put_be_string(b, "fsync@openssh.com");
	put_handle(b, h);
	return await_status(s);
}

int sftp_check_file(struct sftp *s, const struct sftp_handle *h, const char *name, uint8_t *dst,
	uint8_t *ret_len)
{
	_cleanup_buf_ struct buf body = {0};
	struct reader reader;
	const uint8_t *used;
	struct buf *b;
	size_t len, left;
	int r;

	if (!(sftp_extensions(s) & SFTP_CHECK_FILE))
		return -EOPNOTSUPP;
	b = sftp_begin(s, SFTP_EXTENDED);
	put_be_string(b, "check-file-handle");
	put_handle(b, h);
	put_be_string(b, name);
	put_be64(b, 0); /* from the start */
	put_be64(b, 0); /* to the end */
	put_be32(b, 0); /* as one block */
	r = sftp_await(s, SFTP_EXTENDED_REPLY, &body);
	if (r < 0)
		return r == -ENODATA ? -EIO : r;
	reader = reader_of(body.data, body.len);
	used = get_be_blob(&reader, &len);
	if (used && len == strlen("check-file") && memcmp(used, "check-file", len) == 0)
		used = get_be_blob(&reader, &len); /* some servers repeat the extension's name */
	left = reader_left(&reader);
	if (!used || left == 0 || left > 64)
		reader_fail(&reader);
	r = check(s, &reader);
	if (r < 0)
		return r;
	if (len != strlen(name) || memcmp(used, name, len) != 0)
		return -EOPNOTSUPP;
	memcpy(dst, reader_bytes(&reader, left), left);
	*ret_len = (uint8_t)left;
	return 0;
}

/* ---- attributes ---- */

static int await_attr(struct sftp *s, struct sftp_attr *ret)
{
	_cleanup_buf_ struct buf body = {0};
	struct sftp_attr attr;
	struct reader reader;
	int r = sftp_await(s, SFTP_ATTRS, &body);

	if (r < 0)
		return r == -ENODATA ? -EIO : r;
	reader = reader_of(body.data, body.len);
	get_attr(&reader, &attr);
	r = check(s, &reader);
	if (r == 0)
		*ret = attr;
	return r;
}

int sftp_lstat(struct sftp *s, const char *path, struct sftp_attr *ret)
{
	put_be_string(sftp_begin(s, SFTP_LSTAT), path);
	return await_attr(s, ret);
}

int sftp_lstat_start(struct sftp *s, const char *path, sftp_reply_fn *fn, void *ctx)
{
	put_be_string(sftp_begin(s, SFTP_LSTAT), path);
	return sftp_submit(s, 0, fn, ctx);
}

int sftp_reply_attr(struct sftp_reply *reply, struct sftp_attr *ret)
{
	if (reply->type != SFTP_ATTRS)
		return -EPROTO;
	get_attr(&reply->body, ret);
	return reply->body.failed ? -EPROTO : 0;
}

int sftp_stat(struct sftp *s, const char *path, struct sftp_attr *ret)
{
	put_be_string(sftp_begin(s, SFTP_STAT), path);
	return await_attr(s, ret);
}

static void put_setstat(struct sftp *s, const char *path, const struct sftp_attr *a)
{
	struct buf *b = sftp_begin(s, SFTP_SETSTAT);

	put_be_string(b, path);
	put_attr(b, a);
}

int sftp_setstat_start(
	struct sftp *s, const char *path, const struct sftp_attr *a, sftp_reply_fn *fn, void *ctx)
{
	put_setstat(s, path, a);
	return sftp_submit(s, 0, fn, ctx);
}

int sftp_setstat(struct sftp *s, const char *path, const struct sftp_attr *a)
{
	put_setstat(s, path, a);
	return await_status(s);
}

int sftp_lsetstat(struct sftp *s, const char *path, const struct sftp_attr *a)
{
	struct buf *b;

	if (!(sftp_extensions(s) & SFTP_LSETSTAT))
		return -EOPNOTSUPP;
	b = sftp_begin(s, SFTP_EXTENDED);
	put_be_string(b, "lsetstat@openssh.com");
	put_be_string(b, path);
	put_attr(b, a);
	return await_status(s);
}

int sftp_fsetstat(struct sftp *s, const struct sftp_handle *h, const struct sftp_attr *a)
{
	struct buf *b = sftp_begin(s, SFTP_FSETSTAT);

	put_handle(b, h);
	put_attr(b, a);
	return await_status(s);
}

int sftp_statvfs(struct sftp *s, const char *path, struct statvfs *ret)
{
	_cleanup_buf_ struct buf body = {0};
	struct statvfs v = {0};
	struct reader reader;
	struct buf *b;
	int r;

	if (!(sftp_extensions(s) & SFTP_STATVFS))
		return -EOPNOTSUPP;
	b = sftp_begin(s, SFTP_EXTENDED);
	put_be_string(b, "statvfs@openssh.com");
	put_be_string(b, path);
	r = sftp_await(s, SFTP_EXTENDED_REPLY, &body);
	if (r < 0)
		return r == -ENODATA ? -EIO : r;
	reader = reader_of(body.data, body.len);
	v.f_bsize = get_be64(&reader);
	v.f_frsize = get_be64(&reader);
	v.f_blocks = get_be64(&reader);
	v.f_bfree = get_be64(&reader);
	v.f_bavail = get_be64(&reader);
	v.f_files = get_be64(&reader);
	v.f_ffree = get_be64(&reader);
	v.f_favail = get_be64(&reader);
	v.f_fsid = get_be64(&reader);
	v.f_flag = get_be64(&reader);
	v.f_namemax = get_be64(&reader);
	r = check(s, &reader);
	if (r == 0)
		*ret = v;
	return r;
}

/* ---- names ---- */

int sftp_mkdir(struct sftp *s, const char *path, mode_t mode)
{
	struct sftp_attr attr = {.flags = SFTP_ATTR_MODE, .mode = mode};
	struct buf *b = sftp_begin(s, SFTP_MKDIR);

	put_be_string(b, path);
	put_attr(b, &attr);
	return exists_or(s, path, await_status(s));
}

int sftp_rmdir(struct sftp *s, const char *path)
{
	return path_request(s, SFTP_RMDIR, path);
}

int sftp_remove(struct sftp *s, const char *path)
{
	return path_request(s, SFTP_REMOVE, path);
}

static void put_rename(struct sftp *s, const char *from, const char *to)
{
	bool posix = sftp_extensions(s) & SFTP_POSIX_RENAME;
	struct buf *b = sftp_begin(s, posix ? SFTP_EXTENDED : SFTP_RENAME);

	if (posix)
		put_be_string(b, "posix-rename@openssh.com");
	put_be_string(b, from);
	put_be_string(b, to);
}

int sftp_rename_start(
	struct sftp *s, const char *from, const char *to, sftp_reply_fn *fn, void *ctx)
{
	put_rename(s, from, to);
	return sftp_submit(s, 0, fn, ctx);
}

int sftp_rename(struct sftp *s, const char *from, const char *to)
{
	put_rename(s, from, to);
	return await_status(s);
}

int sftp_symlink(struct sftp *s, const char *target, const char *path)
{
	struct buf *b = sftp_begin(s, SFTP_SYMLINK);

	/* OpenSSH takes these in this order, against the draft, and all others follow it. */
	put_be_string(b, target);
	put_be_string(b, path);
	return await_status(s);
}

int sftp_hardlink(struct sftp *s, const char *from, const char *to)
{
	struct buf *b;

	if (!(sftp_extensions(s) & SFTP_HARDLINK))
		return -EOPNOTSUPP;
	b = sftp_begin(s, SFTP_EXTENDED);
	put_be_string(b, "hardlink@openssh.com");
	put_be_string(b, from);
	put_be_string(b, to);
	return await_status(s);
}

/* A name of an SFTP_NAME answer as a new string; NULL without memory or with *r failed. */
static char *get_name(struct reader *r, struct sftp_attr *attr)
{
	size_t len, long_len;
	const uint8_t *name = get_be_blob(r, &len);

	(void)get_be_blob(r, &long_len); /* a line as of ls -l */
	get_attr(r, attr);
	if (!r->failed && memchr(name, '\0', len))
		reader_fail(r);
	return r->failed ? NULL : strndup((const char *)name, len);
}

int sftp_readlink(struct sftp *s, const char *path, char **ret)
{
	_cleanup_buf_ struct buf body = {0};
	struct sftp_attr attr;
	struct reader reader;
	char *name;
	int r;

	put_be_string(sftp_begin(s, SFTP_READLINK), path);
	r = sftp_await(s, SFTP_NAME, &body);
	if (r < 0)
		return r == -ENODATA ? -EIO : r;
	reader = reader_of(body.data, body.len);
	if (get_be32(&reader) != 1)
		reader_fail(&reader);
	name = get_name(&reader, &attr);
	r = check(s, &reader);
	if (r == 0 && !name)
		r = -ENOMEM;
	if (r == 0)
		*ret = name;
	return r;
}

struct lister {
	void (*fn)(void *ctx, const char *name, const struct sftp_attr *attr);
	void *ctx;
};

static int list_names(struct sftp *s, struct reader *reader, const struct lister *l)
{
	uint32_t n = get_be32(reader);
	int r = check(s, reader);

	if (r == 0 && n == 0)
		return -ENODATA;
	for (uint32_t i = 0; i < n && r == 0; i++) {
		struct sftp_attr attr;
		_cleanup_free_ char *name = get_name(reader, &attr);

		if (!name)
			r = reader->failed ? check(s, reader) : -ENOMEM;
		else if (strchr(name, '/'))
			sftp_abort(s, r = -EPROTO);
		else if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
			l->fn(l->ctx, name, &attr);
	}
	return r;
}

static int list_some(struct sftp *s, const struct sftp_handle *h, const struct lister *l)
{
	_cleanup_buf_ struct buf body = {0};
	struct reader reader;
	int r;

	put_handle(sftp_begin(s, SFTP_READDIR), h);
	r = sftp_await(s, SFTP_NAME, &body);
	if (r < 0)
		return r;
	reader = reader_of(body.data, body.len);
	return list_names(s, &reader, l);
}

int sftp_list(struct sftp *s, const char *path,
	void (*fn)(void *ctx, const char *name, const struct sftp_attr *attr), void *ctx)
{
	struct lister l = {.fn = fn, .ctx = ctx};
	struct sftp_handle h;
	int r, closed;

	put_be_string(sftp_begin(s, SFTP_OPENDIR), path);
	r = await_handle(s, &h);
	if (r < 0)
		return r;
	while (r == 0)
		r = list_some(s, &h, &l);
	closed = sftp_error(s) < 0 ? 0 : sftp_close(s, &h);
	if (r == -ENODATA)
		r = closed;
	return r;
}
