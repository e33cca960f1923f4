/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * libFuzzer: the list after -o. Whatever it is, it is accepted with values in their ranges, or
 * refused with one line.
 */

#include "fs/options.h"
#include "replicate/base/cleanup.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
	if (!condition)
		abort();
}

static void check_accepted(const struct options *o)
{
	require(o->streams >= 1 && o->streams <= OPTIONS_STREAMS_MAX);
	require(o->n_peers <= OPTIONS_PEERS_MAX);
	require(o->verify != NULL);
	require(!o->node || (strlen(o->node) <= OPTIONS_NODE_MAX && !strchr(o->node, '/')));
	require(!o->state || *o->state == '/');
	for (size_t i = 0; i < o->n_peers; i++) {
		const struct replica_peer_config *p = &o->peers[i];

		require(p->host && *p->host && p->port > 0 && *p->path == '/');
		require(!strstr(p->path, "/../") && !strstr(p->path, "//"));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *list = strndup((const char *)data, size), *error = NULL;
	_cleanup_options_ struct options o;
	char *const argv[] = {"tandemfs", "/b", "/m", "-o", list, NULL};
	int r;

	require(list != NULL);
	r = options_parse(5, argv, &o, &error);
	if (r == 0)
		check_accepted(&o);
	else
		require(r == -EINVAL && error && *error && !o.backing);
	return 0;
}
