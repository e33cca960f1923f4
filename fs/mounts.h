/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_MOUNTS_H
#define TANDEMFS_MOUNTS_H

/* What is mounted where, and the paths that follow from a mount point. */

#include <stdbool.h>

/* As FSTYPE in findmnt(8), and what comes after "fuse." in it. */
#define MOUNTS_TYPE "fuse.tandemfs"
#define MOUNTS_SUBTYPE "tandemfs"

/* Below it lies the default of state=. */
#define MOUNTS_STATE_BASE "/var/lib/tandemfs"

/* One symbolic link per mount: the escaped mount point, to the state directory. */
#define MOUNTS_REGISTRY "/run/tandemfs"

/* Calls @fn for each mount that this process sees, lowest first; stops when it returns other than
 * 0, and returns that. -errno when the table cannot be read. */
int mounts_each(
	int (*fn)(void *ctx, const char *source, const char *dir, const char *type), void *ctx);

/* The topmost mount at @dir (absolute, resolved). 1 and its source and type (freed by the
 * caller); 0 when nothing is mounted there; -errno. */
int mounts_at(const char *dir, char **ret_source, char **ret_type);

/* The absolute path without symbolic links. What is mounted at @path itself is not asked, so that
 * a dead or hanging mount point can be named too. 0 or -errno. */
int mounts_resolve(const char *path, char **ret);

/* The name of an absolute path as `systemd-escape --path` gives it. 0 or -ENOMEM. */
int mounts_escape(const char *path, char **ret);

/* The default state directory of a mount point. 0 or -ENOMEM. */
int mounts_default_state(const char *mountpoint, char **ret);

/* Notes in MOUNTS_REGISTRY that @mountpoint's state directory is @state, or takes the note back
 * (if it still says so). 0 or -errno. */
int mounts_register(const char *mountpoint, const char *state);
int mounts_unregister(const char *mountpoint, const char *state);

/* The state directory of @mountpoint: the registered one, else the default. 0 or -errno. */
int mounts_state_of(const char *mountpoint, char **ret);

#endif
