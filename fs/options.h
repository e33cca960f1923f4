/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_OPTIONS_H
#define TANDEMFS_OPTIONS_H

/* The command line of a mount: `tandemfs BACKING MOUNTPOINT -o OPTIONS`. */

#include "replicate/base/log.h"
#include "replicate/replicate.h"

#include <stdbool.h>
#include <stdio.h>

#define TANDEMFS_VERSION "0.1.0"

/* Exit codes of every command. */
enum exit_code {
	EXIT_DONE = 0,
	EXIT_NO = 1,     /* the answer is no: not identical, not in sync in time */
	EXIT_USAGE = 2,  /* the command line is wrong */
	EXIT_CANNOT = 3, /* it could not be done */
};

#define OPTIONS_PEERS_MAX 16
#define OPTIONS_STREAMS_MAX 16
#define OPTIONS_NODE_MAX 64
#define OPTIONS_JOURNAL_MIN (1u << 20)

enum options_action { ACTION_MOUNT, ACTION_HELP, ACTION_MAN, ACTION_VERSION };

/* All strings are owned; options_clear() frees them. NULL: not given. */
struct options {
	enum options_action action;
	char *backing, *mountpoint; /* as given */
	bool foreground;            /* -f */
	bool debug;                 /* -d: foreground, and the level debug */
	bool sloppy;                /* -s: unknown options are ignored, as mount -s asks */

	struct replica_peer_config *peers;
	size_t n_peers;
	enum replica_mode mode;
	enum replica_peer_down on_peer_down;
	enum replica_order order;
	char *node, *identity, *password_file, *known_hosts, *account, *state, *verify;
	unsigned streams;
	uint64_t vault_max, journal_max; /* bytes */
	bool seed;
	enum log_level loglevel;
	char *kernel; /* mount options for libfuse and the kernel, joined by commas; may be NULL */
};

/* Reads the command line. 0; -EINVAL with a line for people in *ret_error (freed by the caller);
 * -ENOMEM. Looks at no file. On error *ret is empty. */
int options_parse(int argc, char *const *argv, struct options *ret, char **ret_error);
void options_clear(struct options *o);

/* The option sections of --help and of the manual page (mdoc). */
void options_help(FILE *f);
void options_man(FILE *f);

#define _cleanup_options_ __attribute__((cleanup(options_clear)))

#endif
