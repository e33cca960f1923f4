/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SFTP_H
#define TANDEMFS_SFTP_H

/*
 * A pipelined client of SFTP version 3 over any channel of bytes. Many requests may be under way;
 * each has a function that takes its answer. An object belongs to one thread at a time.
 *
 * An error of the channel or an answer that breaks the protocol ends the connection: every request
 * under way is answered with it, and every later one fails with it. The server's own refusals
 * (a status) never do.
 */

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

/* The channel below. read and write never block: bytes moved, -EAGAIN, 0 from read at the end, or
 * -errno. wait moves bytes (it calls sftp_pump() itself) until something was answered: 0 or the
 * error that ended the connection. */
struct sftp_io {
	ssize_t (*read)(void *ctx, void *dst, size_t len);
	ssize_t (*write)(void *ctx, const void *data, size_t len);
	int (*wait)(void *ctx);
};

struct sftp;

int sftp_new(const struct sftp_io *io, void *ctx, struct sftp **ret);
void sftp_free(struct sftp *s); /* NULL is allowed; aborts what is under way */

/* INIT, VERSION and the server's limits. */
int sftp_start(struct sftp *s);

/* Signs of life from the other end. */
enum sftp_life {
	SFTP_CAME = 1 << 0, /* bytes came */
	SFTP_WENT = 1 << 1, /* bytes went that the channel had refused before */
};

/* Sends what is queued and takes what came, without blocking: enum sftp_life, or the error that
 * ended the connection. */
int sftp_pump(struct sftp *s);

/* Only the first half of sftp_pump(). */
int sftp_flush(struct sftp *s);

/* Ends the connection with @error for everything under way and to come. */
void sftp_abort(struct sftp *s, int error);

int sftp_error(const struct sftp *s);            /* 0 or what ended the connection */
size_t sftp_pending(const struct sftp *s);       /* requests not answered */
size_t sftp_pending_bytes(const struct sftp *s); /* and the bytes of these */
size_t sftp_unsent(const struct sftp *s);        /* bytes queued that the channel has not taken */
uint64_t sftp_answered(const struct sftp *s);    /* answers since the start */
/* Since when (clock_mono_ms) answers are due; false when none is. */
bool sftp_due_since(const struct sftp *s, uint64_t *ret_ms);

uint32_t sftp_max_read(const struct sftp *s);
uint32_t sftp_max_write(const struct sftp *s);

enum sftp_extension {
	SFTP_POSIX_RENAME = 1 << 0,
	SFTP_HARDLINK = 1 << 1,
	SFTP_FSYNC = 1 << 2,
	SFTP_LIMITS = 1 << 3,
	SFTP_LSETSTAT = 1 << 4,
	SFTP_STATVFS = 1 << 5,
	SFTP_CHECK_FILE = 1 << 6, /* draft-ietf-secsh-filexfer-extensions-00 */
};

unsigned sftp_extensions(const struct sftp *s);

/* ---- requests in general ---- */

struct sftp_reply {
	int error;          /* a status or the connection's end: 0 or -errno, -ENODATA for EOF */
	uint8_t type;       /* of the packet; 0 at the connection's end */
	struct reader body; /* past the id, valid during the call only */
};

/* Takes an answer. Must not make requests. An error from it ends the connection. */
typedef int sftp_reply_fn(void *ctx, struct sftp_reply *reply);

/* A request is sftp_begin(), its fields put into the buffer, and then sftp_submit() or
 * sftp_await() at once. @bytes is what it counts for in sftp_pending_bytes(), over its header. */
struct buf *sftp_begin(struct sftp *s, uint8_t type);
int sftp_submit(struct sftp *s, size_t bytes, sftp_reply_fn *fn, void *ctx);
/* Waits for an answer of type @want; its body is appended to *body unless that is NULL. */
int sftp_await(struct sftp *s, uint8_t want, struct buf *body);

/* ---- requests ---- */

struct sftp_handle {
	uint32_t len;
	uint8_t data[256];
};

enum sftp_attr_flags {
	SFTP_ATTR_SIZE = 1 << 0,
	SFTP_ATTR_OWNER = 1 << 1,
	SFTP_ATTR_MODE = 1 << 2,
	SFTP_ATTR_TIMES = 1 << 3,
};

struct sftp_attr {
	uint32_t flags; /* which of these are there */
	uint64_t size;
	uint32_t uid, gid;
	uint32_t mode;
	uint32_t atime, mtime; /* seconds */
};

enum sftp_open_flags {
	SFTP_OPEN_READ = 0x01,
	SFTP_OPEN_WRITE = 0x02,
	SFTP_OPEN_APPEND = 0x04,
	SFTP_OPEN_CREATE = 0x08,
	SFTP_OPEN_TRUNC = 0x10,
	SFTP_OPEN_EXCL = 0x20,
};

/* Queue only; for these @fn gets a status, and a status or SFTP_DATA. */
int sftp_write_start(struct sftp *s, const struct sftp_handle *h, uint64_t offset, const void *data,
	uint32_t len, sftp_reply_fn *fn, void *ctx);
int sftp_close_start(struct sftp *s, const struct sftp_handle *h, sftp_reply_fn *fn, void *ctx);
int sftp_read_start(struct sftp *s, const struct sftp_handle *h, uint64_t offset, uint32_t len,
	sftp_reply_fn *fn, void *ctx);

/* Likewise; @fn gets a status, for lstat a status or SFTP_ATTRS. */
int sftp_rename_start(
	struct sftp *s, const char *from, const char *to, sftp_reply_fn *fn, void *ctx);
int sftp_lstat_start(struct sftp *s, const char *path, sftp_reply_fn *fn, void *ctx);
int sftp_setstat_start(
	struct sftp *s, const char *path, const struct sftp_attr *a, sftp_reply_fn *fn, void *ctx);
/* The attributes in an SFTP_ATTRS. 0 or -EPROTO. */
int sftp_reply_attr(struct sftp_reply *reply, struct sftp_attr *ret);

/* These wait. Statuses become -ENOENT, -EACCES, -EOPNOTSUPP, and -EIO for every other refusal,
 * except that open with EXCL and mkdir say -EEXIST. Without its extension a call is -EOPNOTSUPP. */
int sftp_open(
	struct sftp *s, const char *path, uint32_t flags, mode_t mode, struct sftp_handle *ret);
int sftp_close(struct sftp *s, const struct sftp_handle *h);
int sftp_read(struct sftp *s, const struct sftp_handle *h, uint64_t offset, uint32_t len,
	struct buf *out); /* appends; nothing at the end of the file */
int sftp_lstat(struct sftp *s, const char *path, struct sftp_attr *ret);
int sftp_stat(struct sftp *s, const char *path, struct sftp_attr *ret);
int sftp_setstat(struct sftp *s, const char *path, const struct sftp_attr *a);
int sftp_lsetstat(struct sftp *s, const char *path, const struct sftp_attr *a);
int sftp_fsetstat(struct sftp *s, const struct sftp_handle *h, const struct sftp_attr *a);
int sftp_mkdir(struct sftp *s, const char *path, mode_t mode);
int sftp_rmdir(struct sftp *s, const char *path);
int sftp_remove(struct sftp *s, const char *path);
/* Replaces @to where the server can (SFTP_POSIX_RENAME), else refuses an existing one. */
int sftp_rename(struct sftp *s, const char *from, const char *to);
int sftp_symlink(struct sftp *s, const char *target, const char *path);
int sftp_readlink(struct sftp *s, const char *path, char **ret); /* the caller frees it */
int sftp_hardlink(struct sftp *s, const char *from, const char *to);
int sftp_fsync(struct sftp *s, const struct sftp_handle *h);
/* The digest of all bytes of a file, which must not be empty. @name is the extension's: "md5",
 * "sha256". At most 64 bytes are written to @dst. */
int sftp_check_file(struct sftp *s, const struct sftp_handle *h, const char *name, uint8_t *dst,
	uint8_t *ret_len);
int sftp_statvfs(struct sftp *s, const char *path, struct statvfs *ret);
/* Calls @fn for each name but "." and ".."; @attr is of the entry itself. */
int sftp_list(struct sftp *s, const char *path,
	void (*fn)(void *ctx, const char *name, const struct sftp_attr *attr), void *ctx);

#endif
