/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CONTROL_SOCKET_H
#define TANDEMFS_CONTROL_SOCKET_H

/* Where the control socket is. */

#include <sys/un.h>

#define CONTROL_SOCKET "control"

/* The address of the socket in the directory that is open as @dir. */
struct sockaddr_un control_address(int dir);

/* Connects to the socket below @state. A descriptor; -ENOENT or -ECONNREFUSED when no daemon
 * listens there, another -errno. */
int control_connect(const char *state);

#endif
