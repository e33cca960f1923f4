/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CALLER_H
#define TANDEMFS_CALLER_H

#include <stdbool.h>
#include <sys/types.h>

/* Whether process @pid has a file open whose path ends in "/" and @path. False when that cannot be
 * seen (another pid namespace). */
bool caller_has_open(pid_t pid, const char *path);

/* Whether the thread @pid has the capability in its effective set. False when that cannot be seen.
 */
bool caller_has_capability(pid_t pid, unsigned capability);

#endif
