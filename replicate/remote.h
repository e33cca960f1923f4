/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_REMOTE_H
#define TANDEMFS_REMOTE_H

/*
 * A peer's file tree as the sender sees it: the seam between replication and transport.
 * remote_sftp.c stands behind it in the daemon, a simulated one in the tests.
 *
 * A remote belongs to one thread at a time. Paths are absolute at the peer. Every call may return a
 * connection error (-EPIPE, -ECONNRESET, -ETIMEDOUT, -ECONNREFUSED, -EHOSTUNREACH, -EACCES for a
 * refused login, -EKEYREJECTED for a host key that does not fit); after one the remote is
 * disconnected and everything but connect and free fails with -ENOTCONN. No other error breaks the
 * connection.
 *
 * A link that is silent while answers are due for @timeout_ms of the config is dead: -ETIMEDOUT.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

struct remote;
struct remote_file;

enum remote_open {
	REMOTE_READ = 1 << 0,
	REMOTE_WRITE = 1 << 1,
	REMOTE_CREATE = 1 << 2,
	REMOTE_EXCL = 1 << 3,
	REMOTE_TRUNC = 1 << 4,
	REMOTE_SIDE = 1 << 5, /* on the side channel: its requests do not queue behind the main
			       * one's. There is no order between the two. */
};

/* What the server can, found out on connecting. */
enum remote_feature {
	REMOTE_REPLACES = 1 << 0, /* rename replaces what stands there, at once */
	REMOTE_HARDLINK = 1 << 1,
	REMOTE_LSETATTR = 1 << 2, /* attributes of a symbolic link itself */
	REMOTE_FSYNC = 1 << 3,
	REMOTE_STATVFS = 1 << 4,
	REMOTE_DIGEST = 1 << 5, /* tells the digest of a file */
};

enum remote_attr_mask {
	REMOTE_SIZE = 1 << 0,
	REMOTE_OWNER = 1 << 1,
	REMOTE_MODE = 1 << 2,
	REMOTE_TIMES = 1 << 3,
	REMOTE_LINK = 1 << 4, /* of a symbolic link itself: REMOTE_LSETATTR */
};

struct remote_attr {
	unsigned mask; /* enum remote_attr_mask */
	uint64_t size;
	uint32_t uid, gid, mode;
	uint32_t atime, mtime; /* seconds */
};

/* One of several calls that go out together, see batch. */
struct remote_call {
	enum { REMOTE_RENAME, REMOTE_SETATTR, REMOTE_STAT } what;
	const char *path, *to;
	struct remote_attr attr;
	struct stat st; /* what stat found */
	int result;     /* 0 or -errno; for a rename over something that exists, unless
			 * REMOTE_REPLACES, any */
};

struct remote_ops {
	void (*free)(struct remote *r);

	/* Connects and logs in. On error *ret_error is a sentence for people that names the host
	 * and the remedy; the caller frees it. */
	int (*connect)(struct remote *r, char **ret_error);
	void (*disconnect)(struct remote *r);

	/* Small files at once. get: the caller frees *ret (NUL-terminated past its end). put: by a
	 * temporary name and a rename that replaces. */
	int (*get)(struct remote *r, const char *path, size_t max, char **ret, size_t *ret_len);
	int (*put)(struct remote *r, const char *path, const void *data, size_t len);
	int (*mkdir)(struct remote *r, const char *path, mode_t mode);
	int (*remove)(struct remote *r, const char *path);
	/* lstat; times are whole seconds over SFTP. */
	int (*stat)(struct remote *r, const char *path, struct stat *ret);
	/* Calls @fn for each name but "." and "..". */
	int (*list)(struct remote *r, const char *path, void (*fn)(void *ctx, const char *name),
		void *ctx);

	int (*open)(struct remote *r, const char *path, unsigned flags, mode_t mode,
		struct remote_file **ret);
	/* Queues a write; returns when it is queued and waits only while too much is under way. An
	 * earlier write's error that is known by now is returned instead, also for no bytes; drain
	 * returns it always. */
	int (*write)(struct remote_file *f, uint64_t offset, const void *data, size_t len);
	/* Waits until every queued write was answered; the first error of any. */
	int (*drain)(struct remote_file *f);
	/* Starts to read @len bytes at @offset; one at a time per file. */
	int (*read_start)(struct remote_file *f, uint64_t offset, size_t len);
	/* Its answer: 0 and *len bytes (0 at the end of the file), -EAGAIN while none has come. */
	int (*read_result)(struct remote_file *f, void *dst, size_t *len);
	/* Drains, closes and frees, also on error. */
	int (*close)(struct remote_file *f);

	/* Moves bytes until something was answered, @timeout_ms is over (0: only what can be done
	 * at once; -1: none) or @wake_fd (-1: none) is readable. 0 or a connection error. */
	int (*turn)(struct remote *r, int timeout_ms, int wake_fd);

	bool (*connected)(const struct remote *r);
	unsigned (*features)(const struct remote *r);

	/* ---- for a plain peer, whose tree is written directly ---- */

	/* -EEXIST for a target that exists, unless REMOTE_REPLACES. */
	int (*rename)(struct remote *r, const char *from, const char *to);
	int (*rmdir)(struct remote *r, const char *path);
	int (*symlink)(struct remote *r, const char *target, const char *path);
	int (*readlink)(struct remote *r, const char *path, char **ret);
	int (*link)(struct remote *r, const char *from, const char *to);
	/* Follows a symbolic link unless REMOTE_LINK says not to. */
	int (*setattr)(struct remote *r, const char *path, const struct remote_attr *a);
	/* As list, with what stat says of each. */
	int (*scan)(struct remote *r, const char *path,
		void (*fn)(void *ctx, const char *name, const struct stat *st), void *ctx);
	/* Sends all calls before it waits for an answer; the server carries them out in order, also
	 * those after one that failed. 0, or the error that broke the connection: then no result
	 * says anything. */
	int (*batch)(struct remote *r, struct remote_call *calls, size_t n);
	/* Only with REMOTE_STATVFS. */
	int (*statvfs)(struct remote *r, const char *path, struct statvfs *ret);
	/* Drains, and the file is on the server's disk. */
	int (*fsync)(struct remote_file *f);
	/* The digest @name of the file's bytes as the server computes it; -EOPNOTSUPP where it
	 * knows no such. @dst has room for 64 bytes. */
	int (*digest)(struct remote_file *f, const char *name, uint8_t *dst, uint8_t *ret_len);
};

struct remote {
	const struct remote_ops *ops;
};

/* Where and how to log in; all strings are kept by the caller while the remote lives. */
struct remote_config {
	const char *host;
	uint16_t port;
	const char *user;          /* NULL: the local user's name */
	const char *identity;      /* private key file; NULL: agent, then ~/.ssh/id_* */
	const char *password_file; /* NULL: none */
	const char *known_hosts;   /* NULL: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts */
	int connect_timeout_ms;
	int timeout_ms; /* silence while an answer is due */
};

/* @error, of a call that the server refused at @path, or what is behind it as far as statvfs tells:
 * FX_FAILURE stands for nearly all of errno. @need: bytes for which there should have been room. */
int remote_cause(struct remote *r, const char *path, uint64_t need, int error);
/* What to do about such an error, for people; static text. */
const char *remote_remedy(int error);

/* A remote over SFTP, not yet connected. 0 or -ENOMEM. */
int remote_sftp_new(const struct remote_config *config, struct remote **ret);

#endif
