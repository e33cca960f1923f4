/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * tandemfs stop: the daemon takes its mount away and ends. It holds the lock of its state
 * directory as long as it lives; so the end is when the lock can be had.
 */

#include "client.h"

#include "replicate/base/cleanup.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#define END_SECONDS 60

static enum exit_code wait_for_end(const char *mountpoint, const char *state)
{
	const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
	_cleanup_free_ char *lock = NULL;
	_cleanup_close_ int fd = -1;

	if (asprintf(&lock, "%s/lock", state) < 0)
		return EXIT_CANNOT;
	fd = open(lock, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		client_complain("%s: cannot tell when the daemon ends: %s: %s", mountpoint, lock,
			strerror(errno));
		return EXIT_CANNOT;
	}
	for (int i = 0; i < END_SECONDS * 50; i++) {
		if (flock(fd, LOCK_SH | LOCK_NB) == 0)
			return EXIT_DONE;
		(void)nanosleep(&pause, NULL);
	}
	client_complain(
		"%s is unmounted, but its daemon has not ended after %d s; its log may say why",
		mountpoint, END_SECONDS);
	return EXIT_CANNOT;
}

enum exit_code cmd_stop(const struct command_line *line)
{
	_cleanup_free_ char *mountpoint = NULL, *state = NULL;
	enum exit_code code = client_find(line->mountpoint, true, &mountpoint, &state);

	if (code == EXIT_DONE)
		code = client_request(mountpoint, state, json_pack("{s:s}", "command", "stop"),
			END_SECONDS, NULL, NULL);
	return code == EXIT_DONE ? wait_for_end(mountpoint, state) : code;
}
