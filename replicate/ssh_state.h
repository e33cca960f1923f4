/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SSH_STATE_H
#define TANDEMFS_SSH_STATE_H

/* What ssh.c, ssh_hostkey.c and ssh_auth.c share; they are the transport, and the only files that
 * include libssh2. */

#include "base/say.h"
#include "ssh.h"

#include <libssh2.h>
#include <stdbool.h>
#include <stdint.h>

/* libssh2 takes no more than this from one write. */
#define SSH_PACKET_MAX 32700

struct ssh_channel {
	struct ssh_channel *next;
	struct ssh *ssh;
	LIBSSH2_CHANNEL *channel;
	ssize_t sent_early;     /* bytes offered to a write that were sent after it, to be told */
	unsigned long widening; /* bytes of the window adjustment under way, or 0 */
};

struct ssh {
	const struct remote_config *config;
	LIBSSH2_SESSION *session;
	struct ssh_channel *channels;
	struct ssh_channel *writing; /* has a packet that is half sent: nothing else may be sent */
	bool stalled;                /* no more can be read until that packet is out */
	char packet[SSH_PACKET_MAX]; /* what the half sent write was offered */
	size_t packet_len;
	int socket;
	uint64_t deadline_ms; /* of the step under way */
	const char *password; /* while keyboard-interactive asks for it */
	char user[256];
	char home[4096]; /* of the local user; "" when unknown */
};

/* The last error of the session as -errno; its text goes to the debug log. */
int ssh_error(struct ssh *s, int code, const char *doing);

/* Waits until the session can go on. 0, -ETIMEDOUT at the deadline, or -errno. */
int ssh_wait(struct ssh *s);

/* Repeats a call of libssh2 until it no longer says EAGAIN. */
#define SSH_RETRY(s, rc, call)                                                                     \
	do {                                                                                       \
		(rc) = (call);                                                                     \
	} while ((rc) == LIBSSH2_ERROR_EAGAIN && ssh_wait(s) == 0)

/* Before the handshake: asks for the kinds of host key that known_hosts has for the host. */
void ssh_hostkey_prefer(struct ssh *s);
/* After it: the key must be known. 0 or -EKEYREJECTED, or -errno. */
int ssh_hostkey_check(struct ssh *s, char **ret_error);

/* 0, -EACCES, or -errno. */
int ssh_login(struct ssh *s, char **ret_error);

#endif
