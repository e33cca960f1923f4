/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CONTROL_H
#define TANDEMFS_CONTROL_H

/*
 * The control socket of a daemon: STATE/control, mode 0600. The commands talk to it.
 *
 * One connection carries one request, a line of JSON, and its answer, lines of JSON:
 *
 *     {"command": "status"}            {"status": {...}}
 *     {"command": "wait",              {"progress": {"lag_ops": N, "lag_bytes": N}}, now and then
 *      "timeout": SECONDS or absent}
 *     {"command": "verify"}            {"difference": {"peer", "path", "what"}}, each;
 *                                      {"progress": {"done": N, "total": N}}, now and then
 *     {"command": "resync",            {"repair": {"peer", "path", "action"}}, each;
 *      "dry_run": BOOL}                {"progress": {"phase", "done": N, "total": N}}, now and then
 *     {"command": "conflicts"}         {"conflict": {...}}, each, oldest first
 *     {"command": "conflicts",         {"conflict": {...}}, and with it a descriptor (SCM_RIGHTS)
 *      "open": ENTRY}                  from which its bytes can be read
 *     {"command": "conflicts",         puts what stands at PATH into the vault
 *      "keep": PATH}
 *     {"command": "conflicts",         here and at the peers; null: all of them
 *      "drop": ENTRY or null}
 *     {"command": "stop"}
 *
 * The last line of every answer is {"exit": CODE} or {"exit": CODE, "error": TEXT}, with the exit
 * codes of options.h.
 */

#include "replicate/replicate.h"

#include <jansson.h>

struct control;

/* All is kept by the caller and must stay until control_stop(). */
struct control_config {
	const char *state;      /* directory */
	const char *mountpoint; /* absolute */
	const char *on_peer_down;
	struct replica *replica;
	/* Takes the mount away, which ends the daemon. 0 or -errno (-EBUSY: in use). */
	int (*unmount)(void *ctx);
	void *ctx;
};

/* Makes the socket and starts the thread. 0 or -errno. */
int control_start(const struct control_config *config, struct control **ret);

/* Ends what is under way, the threads and the socket. Before replica_close(). */
void control_stop(struct control *c);

/* The answer to {"command": "status"}, without the outer object: a new reference; NULL without
 * memory. */
json_t *control_describe(const struct control_config *config, const struct replica_status *s);

#endif
