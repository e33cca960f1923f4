/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CLIENT_H
#define TANDEMFS_CLIENT_H

/* The commands' side of the control socket. */

#include "options.h"

#include <jansson.h>

/* The arguments of a command; strings as given, NULL: not given. */
struct command_line {
	bool json;                   /* --json */
	bool follow;                 /* -f */
	bool all;                    /* --all */
	bool dry_run;                /* --dry-run */
	double timeout;              /* --timeout, seconds; -1: not given */
	const char *output;          /* -o */
	const char *mountpoint;      /* the first operand */
	const char *entry, *newpath; /* the second and the third, of `conflicts` */
};

/* Calls @fn for each mounted tandemfs with its mount point; stops when it returns other than 0
 * and returns that. */
int client_each_mount(int (*fn)(void *ctx, const char *mountpoint), void *ctx);

/* The resolved mount point and its state directory (freed by the caller). With @mounted it must
 * be mounted. Prints what is wrong: EXIT_DONE or EXIT_CANNOT. */
enum exit_code client_find(
	const char *given, bool mounted, char **ret_mountpoint, char **ret_state);

/* Sends @request (stolen) to the daemon of @state and hands every line of the answer but the last
 * to @fn (may be NULL); a descriptor that came with a line is its "fd", to be duplicated by who
 * needs it for longer. A daemon that is silent for @seconds is given up; 0: never. The exit code of
 * the last line; its error, and why there is none, are printed with @mountpoint. */
enum exit_code client_request(const char *mountpoint, const char *state, json_t *request,
	unsigned seconds, void (*fn)(void *ctx, json_t *line), void *ctx);

/* One line on stderr. */
__attribute__((format(printf, 1, 2))) void client_complain(const char *format, ...);

/* "1.5 GiB", "12 B". */
struct client_size {
	char text[24];
};
struct client_size client_size_text(uint64_t bytes);

/* Prints @value on stdout. That all output could be written is checked at the end, by ferror(3). */
void client_print_json(const json_t *value);

/* Copies what @from has from its offset on. 0 or -errno. */
int client_copy(int from, int to);

/* A progress line on stderr when that is a terminal: "label [####    ] 40% 4000 of 10000". @total
 * 0: not known. client_progress_end() wipes it. */
void client_progress(const char *label, uint64_t done, uint64_t total);
void client_progress_end(void);

enum exit_code cmd_status(const struct command_line *line);
enum exit_code cmd_wait(const struct command_line *line);
enum exit_code cmd_verify(const struct command_line *line);
enum exit_code cmd_resync(const struct command_line *line);
enum exit_code cmd_log(const struct command_line *line);
enum exit_code cmd_stop(const struct command_line *line);
enum exit_code cmd_conflicts_list(const struct command_line *line);
enum exit_code cmd_conflicts_show(const struct command_line *line);
enum exit_code cmd_conflicts_restore(const struct command_line *line);
enum exit_code cmd_conflicts_drop(const struct command_line *line);

#endif
