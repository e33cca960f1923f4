/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * tandemfs log: prints STATE/changes.log.1 and STATE/changes.log. The daemon is not asked; it only
 * appends, and when a file is full it renames it to changes.log.1 and starts a new one.
 *
 * With -f the directory is watched: growth shows as IN_MODIFY, the rotation as a changes.log with
 * another inode. Before the new one is begun the rest of the old one, which is still open here, is
 * printed; so no line is missed as long as two rotations do not happen between two looks.
 */

#include "client.h"

#include "replicate/base/cleanup.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#define ROTATED REPLICA_CHANGES_LOG ".1"

static int open_log(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* Prints the file @name, and leaves it open in *ret_fd. One that does not exist is none. */
static int print_file(int dir, const char *name, int *ret_fd)
{
	int fd = open_log(dir, name), r;

	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return fd;
	r = client_copy(fd, STDOUT_FILENO);
	cleanup_close(ret_fd);
	*ret_fd = fd;
	return r;
}

/* Whether @name no longer is the file that @fd is. */
static bool rotated(int dir, const char *name, int fd)
{
	struct stat there, ours;

	if (fd < 0)
		return true;
	return fstatat(dir, name, &there, 0) == 0 && fstat(fd, &ours) == 0 &&
	       there.st_ino != ours.st_ino;
}

/* Whatever came since the last call, over a rotation too. */
static int print_news(int dir, int *fd)
{
	int r = *fd >= 0 ? client_copy(*fd, STDOUT_FILENO) : 0;

	if (r == 0 && rotated(dir, REPLICA_CHANGES_LOG, *fd)) {
		/* It may have grown between the reading and the rotation. */
		r = *fd >= 0 ? client_copy(*fd, STDOUT_FILENO) : 0;
		if (r == 0)
			r = print_file(dir, REPLICA_CHANGES_LOG, fd);
	}
	return r;
}

/* Until the reader of the output is gone, or an error. */
static int follow(const char *state, int dir, int *fd)
{
	_cleanup_close_ int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	char events[4096];
	int r;

	if (watch < 0 || inotify_add_watch(watch, state, IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0)
		return -errno;
	for (;;) {
		struct pollfd p[] = {
			{.fd = watch, .events = POLLIN}, {.fd = STDOUT_FILENO, .events = 0}};

		r = print_news(dir, fd);
		if (r < 0)
			return r;
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return -errno;
		if (p[1].revents & (POLLERR | POLLHUP))
			return 0;
		while (read(watch, events, sizeof(events)) > 0)
			continue;
	}
}

enum exit_code cmd_log(const struct command_line *line)
{
	_cleanup_free_ char *mountpoint = NULL, *state = NULL;
	_cleanup_close_ int dir = -1, fd = -1;
	enum exit_code code = client_find(line->mountpoint, false, &mountpoint, &state);
	int r;

	if (code != EXIT_DONE)
		return code;
	dir = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		client_complain("%s: no log in %s: %s", mountpoint, state, strerror(errno));
		return EXIT_CANNOT;
	}
	r = print_file(dir, ROTATED, &fd);
	cleanup_close(&fd);
	fd = -1;
	if (r == 0)
		r = print_file(dir, REPLICA_CHANGES_LOG, &fd);
	if (r == 0 && line->follow)
		r = follow(state, dir, &fd);
	if (r == 0 || r == -EPIPE)
		return EXIT_DONE;
	client_complain("%s: the log in %s cannot be printed: %s", mountpoint, state, strerror(-r));
	return EXIT_CANNOT;
}
