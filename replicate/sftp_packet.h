/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SFTP_PACKET_H
#define TANDEMFS_SFTP_PACKET_H

/*
 * The numbers of SFTP version 3 (draft-ietf-secsh-filexfer-02) and its encoding: big-endian
 * integers, strings with a length before them. For sftp.c, sftp_calls.c and their tests.
 */

#include "base/buf.h"

#include <endian.h>
#include <string.h>

enum sftp_type {
	SFTP_INIT = 1,
	SFTP_VERSION = 2,
	SFTP_OPEN = 3,
	SFTP_CLOSE = 4,
	SFTP_READ = 5,
	SFTP_WRITE = 6,
	SFTP_LSTAT = 7,
	SFTP_SETSTAT = 9,
	SFTP_FSETSTAT = 10,
	SFTP_OPENDIR = 11,
	SFTP_READDIR = 12,
	SFTP_REMOVE = 13,
	SFTP_MKDIR = 14,
	SFTP_RMDIR = 15,
	SFTP_STAT = 17,
	SFTP_RENAME = 18,
	SFTP_READLINK = 19,
	SFTP_SYMLINK = 20,
	SFTP_STATUS = 101,
	SFTP_HANDLE = 102,
	SFTP_DATA = 103,
	SFTP_NAME = 104,
	SFTP_ATTRS = 105,
	SFTP_EXTENDED = 200,
	SFTP_EXTENDED_REPLY = 201,
};

enum sftp_status {
	SFTP_OK = 0,
	SFTP_EOF = 1,
	SFTP_NO_SUCH_FILE = 2,
	SFTP_PERMISSION_DENIED = 3,
	SFTP_FAILURE = 4,
	SFTP_OP_UNSUPPORTED = 8,
};

static inline void put_be32(struct buf *b, uint32_t v)
{
	v = htobe32(v);
	buf_put(b, &v, sizeof(v));
}

static inline void put_be64(struct buf *b, uint64_t v)
{
	v = htobe64(v);
	buf_put(b, &v, sizeof(v));
}

static inline void put_be_blob(struct buf *b, const void *data, size_t len)
{
	put_be32(b, (uint32_t)len);
	buf_put(b, data, len);
}

static inline void put_be_string(struct buf *b, const char *s)
{
	put_be_blob(b, s, strlen(s));
}

static inline void set_be32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static inline uint32_t load_be32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline uint32_t get_be32(struct reader *r)
{
	const uint8_t *p = reader_bytes(r, 4);

	return p ? load_be32(p) : 0;
}

static inline uint64_t get_be64(struct reader *r)
{
	uint64_t high = get_be32(r);

	return high << 32 | get_be32(r);
}

/* In place; *ret_len is 0 when the reader failed. */
static inline const uint8_t *get_be_blob(struct reader *r, size_t *ret_len)
{
	size_t len = get_be32(r);
	const uint8_t *p = reader_bytes(r, len);

	*ret_len = p ? len : 0;
	return p;
}

#endif
