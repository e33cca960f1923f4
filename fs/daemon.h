/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_DAEMON_H
#define TANDEMFS_DAEMON_H

/* The process around a mount: going to the background, its limits, and its sole right to a state
 * directory. */

#include "options.h"

/* How a start ended, as told to whoever started it. */
struct daemon_report {
	enum exit_code code;
	char *text; /* owned; NULL: nothing to say */
};
void daemon_report_clear(struct daemon_report *report);

/* Forks. The parent waits for the child's report: 1, and *ret is filled in. The child gets 0 and
 * in *ret_pipe the descriptor for daemon_tell(); it is in a session of its own. -errno when there
 * is no child. No thread may run before. */
int daemon_fork(struct daemon_report *ret, int *ret_pipe);

/* Sends the report to the parent and closes the pipe. 0, or -errno when the parent is gone. */
int daemon_tell(int *pipe_fd, enum exit_code code, const char *text);

/* Lets go of the terminal: standard streams to /dev/null. 0 or -errno. */
int daemon_detach(void);

/* As many descriptors as the hard limit allows, and out of the out-of-memory killer's sight. What
 * is refused is logged at info: both are better, neither is needed. */
void daemon_raise_limits(void);

/* Makes @state (0700) when absent and takes the lock that holds off a second daemon; it goes with
 * the descriptor. A daemon that is just ending is waited for. 0; -errno with a sentence in
 * *ret_error (freed by the caller). */
int daemon_lock(const char *state, int *ret_fd, char **ret_error);

/* Holds off a second daemon on the same backing directory, which is open as @root, as long as
 * @root is open. Otherwise as daemon_lock(). */
int daemon_lock_backing(int root, const char *backing, char **ret_error);

#define _cleanup_report_ __attribute__((cleanup(daemon_report_clear)))

#endif
