/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The path of a state directory may be longer than sun_path; so the socket is bound and connected
 * as /proc/self/fd/DIRECTORY/control. */

#include "control_socket.h"

#include "replicate/base/cleanup.h"

#include <fcntl.h>
#include <sys/socket.h>

struct sockaddr_un control_address(int dir)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	(void)snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/" CONTROL_SOCKET, dir);
	return a;
}

int control_connect(const char *state)
{
	_cleanup_close_ int dir = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int fd = -1;
	struct sockaddr_un a;

	if (dir < 0)
		return -errno;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	a = control_address(dir);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return -errno;
	return steal_fd(&fd);
}
