/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_REMOTE_SFTP_H
#define TANDEMFS_REMOTE_SFTP_H

/* Shared by remote_sftp.c (the connection, calls by path) and remote_sftp_file.c (open files) and
 * remote_sftp_tree.c (what only a plain peer needs). */

#include "remote.h"
#include "sftp.h"
#include "ssh.h"

enum { MAIN, SIDE, N_CHANNELS };

struct channel {
	struct remote_sftp *remote;
	struct ssh_channel *ssh;
	struct sftp *sftp; /* NULL: not opened */
};

struct remote_sftp {
	struct remote remote;
	struct remote_config config;
	struct ssh *ssh; /* NULL: not connected */
	struct channel channels[N_CHANNELS];
	unsigned generation; /* counts connections */
	uint64_t life_ms;    /* when the link last showed life */
	bool polled;         /* the socket has been ready since the last pump() */
	size_t read_answers; /* not fetched by read_result */
};

static inline struct remote_sftp *remote_sftp_of(struct remote *r)
{
	return (struct remote_sftp *)((char *)r - offsetof(struct remote_sftp, remote));
}

/* Moves bytes until something was answered, without a limit but the link's silence. 0 or the error
 * that broke the connection. */
int remote_wait(struct remote_sftp *r);

/* What a call on @channel returns for @error: the connection is closed if that has ended it. */
int remote_result(struct remote_sftp *r, struct channel *channel, int error);

/* The channel of a file, opened when it is not; -ENOTCONN. */
int remote_channel(struct remote_sftp *r, bool side, struct channel **ret);

/* What is known of a file by the attributes that SFTP has. */
void remote_stat_of(const struct sftp_attr *attr, struct stat *ret);

bool remote_sftp_connected(const struct remote *remote);
unsigned remote_sftp_features(const struct remote *remote);
int remote_sftp_rename(struct remote *remote, const char *from, const char *to);
int remote_sftp_rmdir(struct remote *remote, const char *path);
int remote_sftp_symlink(struct remote *remote, const char *target, const char *path);
int remote_sftp_readlink(struct remote *remote, const char *path, char **ret);
int remote_sftp_link(struct remote *remote, const char *from, const char *to);
int remote_sftp_setattr(struct remote *remote, const char *path, const struct remote_attr *a);
int remote_sftp_scan(struct remote *remote, const char *path,
	void (*fn)(void *ctx, const char *name, const struct stat *st), void *ctx);
int remote_sftp_batch(struct remote *remote, struct remote_call *calls, size_t n);
int remote_sftp_statvfs(struct remote *remote, const char *path, struct statvfs *ret);

int remote_sftp_open(struct remote *remote, const char *path, unsigned flags, mode_t mode,
	struct remote_file **ret);
int remote_sftp_write(struct remote_file *f, uint64_t offset, const void *data, size_t len);
int remote_sftp_drain(struct remote_file *f);
int remote_sftp_read_start(struct remote_file *f, uint64_t offset, size_t len);
int remote_sftp_read_result(struct remote_file *f, void *dst, size_t *len);
int remote_sftp_close(struct remote_file *f);
int remote_sftp_fsync(struct remote_file *f);
int remote_sftp_digest(struct remote_file *f, const char *name, uint8_t *dst, uint8_t *ret_len);

#endif
