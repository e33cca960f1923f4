/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_MOUNT_H
#define TANDEMFS_MOUNT_H

/*
 * One mounted file system: the FUSE session and everything behind it.
 *
 *     mount_new()        mounted; the kernel's requests queue up
 *     fork, if any
 *     mount_hooks(), replica_start()
 *     mount_run()        serves until it is unmounted or a signal comes
 *     replica_close(), mount_free()
 */

#include "replicate/replicate.h"

#include <stdbool.h>

struct mount;

struct mount_config {
	const char *mountpoint;
	const char *source;  /* what findmnt shows: the backing directory as given */
	int root;            /* the backing directory, open for reading; kept by the caller */
	const char *options; /* more mount options for libfuse, comma separated ("ro,nosuid"); may
				be NULL. allow_other, default_permissions, fsname= and subtype= are
				set here. */
	bool debug;          /* libfuse logs every request */
};

/* Makes the session and mounts it; starts no thread. Blocks SIGTERM, SIGINT and SIGHUP for the
 * calling thread and those that it will start: mount_run() takes them. On error nothing is mounted
 * and *ret_error (freed by the caller) is a sentence. 0 or -errno (-EBUSY: something of ours is
 * mounted there already). */
int mount_new(const struct mount_config *config, struct replica *replica, struct mount **ret,
	char **ret_error);

/* Fills in the hooks for replica_start(). They work until mount_free(). */
void mount_hooks(struct mount *m, struct replica_hooks *ret);

/* Serves in as many threads as there are calls. On a signal unmounts first, still serving (lazily
 * when busy). Before it returns every file that is dirty has its OP_CONTENT. 0 or -errno. */
int mount_run(struct mount *m);

/* Ends mount_run() as SIGTERM does; from any thread. For the control socket. */
void mount_stop(struct mount *m);

/* Unmounts if that was not done, frees. The replica must be closed (its threads use the hooks). */
void mount_free(struct mount *m);

#endif
