/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SSH_H
#define TANDEMFS_SSH_H

/*
 * SSH connections. ssh.c is the only file that includes libssh2; its errors become -errno here.
 * A connection and its channels belong to one thread at a time.
 */

#include "remote.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct ssh;
struct ssh_channel;

/* Connects, checks the host key against known_hosts, logs in; waits at most
 * config->connect_timeout_ms. 0 or -errno: -ECONNREFUSED, -ETIMEDOUT, -EHOSTUNREACH, -EKEYREJECTED
 * (host key unknown or changed), -EACCES (login refused), -EPROTO, ... *ret_error: a sentence that
 * names the host and the remedy, freed by the caller. */
int ssh_connect(const struct remote_config *config, struct ssh **ret, char **ret_error);

/* Closes the socket at once, without a farewell that could block, and frees the connection and all
 * of its channels. NULL is allowed. */
void ssh_free(struct ssh *s);

/* For poll(2): the socket, and the events that the connection waits for (POLLIN, and POLLOUT while
 * output is held back). */
int ssh_fd(const struct ssh *s);
short ssh_events(struct ssh *s);

/* A channel with the subsystem sftp; waits at most @timeout_ms. Freed by ssh_free(). */
int ssh_open_sftp(struct ssh *s, int timeout_ms, struct ssh_channel **ret);

/* Never block. Bytes moved; -EAGAIN; 0 from read and -EPIPE from write when the other end is
 * closed; -errno (-ECONNRESET, -EPIPE, -EPROTO, ...) when the connection is lost. read must be
 * called until -EAGAIN before polling: libssh2 may hold bytes that the socket no longer shows.
 * After -EAGAIN from write the same bytes must be offered again (more may follow them). */
ssize_t ssh_channel_read(struct ssh_channel *c, void *dst, size_t len);
ssize_t ssh_channel_write(struct ssh_channel *c, const void *data, size_t len);

/* Whether a read would give something (bytes or the end) without the socket: reading one channel
 * takes the others' packets off it too. */
bool ssh_channel_holds(struct ssh_channel *c);

#endif
