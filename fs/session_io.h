/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SESSION_IO_H
#define TANDEMFS_SESSION_IO_H

#include "fs.h"

/* What op_create() is asked to make instead of a name. */
#define TMPFILE_NAME "/"

/*
 * Where libfuse has no names for them (before 3.17): asks the kernel for FUSE_HANDLE_KILLPRIV_V2,
 * so that not every write is preceded by a question for security.capability, and finds out whether
 * it is one of those (6.6) that drop cached pages when a file is written past them. Call it between
 * fuse_session_mount() and the first request; mount.killpriv and mount.direct are set by the time
 * the second one comes. Does nothing where libfuse knows the flags (op_init() sets them).
 *
 * 0; -ENOMEM.
 */
int session_io_install(struct mount *m);

#endif
