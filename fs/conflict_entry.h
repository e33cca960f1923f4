/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CONFLICT_ENTRY_H
#define TANDEMFS_CONFLICT_ENTRY_H

/* One entry of the conflict vault, as the daemon hands it to a command. */

#include "client.h"

#include <stdint.h>
#include <sys/types.h>

struct conflict_entry {
	json_t *json;      /* as it was sent: holds the strings */
	const char *brief; /* what people call it */
	const char *name, *path, *type, *node, *winner;
	uint64_t kept, size;
	int64_t mtime; /* ns since the epoch, as kept */
	mode_t mode;
	uid_t uid;
	gid_t gid;
	int fd; /* its bytes; -1: not asked for */
};

/* Reads the "conflict" of a line. False: it has none. */
bool conflict_entry_parse(json_t *line, struct conflict_entry *ret);

/* Asks the daemon of @line's mount point for @line's entry, with its bytes. *ret_mountpoint and
 * *ret_state are freed by the caller. Prints what is wrong. */
enum exit_code conflict_entry_fetch(const struct command_line *line, char **ret_mountpoint,
	char **ret_state, struct conflict_entry *ret);
void conflict_entry_clear(struct conflict_entry *e);

#define _cleanup_entry_ __attribute__((cleanup(conflict_entry_clear)))

#endif
