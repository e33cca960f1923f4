/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_PEER_URL_H
#define TANDEMFS_PEER_URL_H

#include "replicate/replicate.h"

/* Reads sftp://[user@]host[:port]/path. The strings of *ret are new: peer_url_clear() frees them.
 * 0; -EINVAL with a reason for people in *ret_error (freed by the caller); -ENOMEM. */
int peer_url_parse(const char *url, struct replica_peer_config *ret, char **ret_error);
void peer_url_clear(struct replica_peer_config *p);

/* Whether both name the same directory by the same words. */
bool peer_url_equal(const struct replica_peer_config *a, const struct replica_peer_config *b);

#endif
