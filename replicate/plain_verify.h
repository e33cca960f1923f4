/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_PLAIN_VERIFY_H
#define TANDEMFS_PLAIN_VERIFY_H

/* Comparing the tree here with a plain peer's, by what SFTP lists. */

#include "impl.h"

struct plain_verify {
	int root;              /* the backing directory */
	struct remote *remote; /* connected */
	const char *there;     /* the peer's directory, absolute */
	void (*found)(void *ctx, const char *path, const char *what);
	/* Asked after each entry: 0, or -errno to stop. */
	int (*go_on)(void *ctx, uint64_t done);
	void *ctx;
	uint64_t done; /* entries */
};

/* Calls found for each difference. 0 or -errno. */
int plain_verify_tree(struct plain_verify *v);

/* One path; *ret_what is NULL when it is the same, else static text. 0 or -errno. */
int plain_verify_path(const struct plain_verify *v, const char *path, const char **ret_what);

#endif
