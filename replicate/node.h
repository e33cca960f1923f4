/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_NODE_H
#define TANDEMFS_NODE_H

/*
 * Who a node is, and with whom it is paired.
 *
 * BACKING/.tandemfs/node and STATE/node both hold the identity, as text: "tandemfs 1", "id HEX",
 * "name NAME", a line each. They must agree: a backing directory without the file, or with
 * another's, is not the one that the journal speaks of (an unmounted disk, a restored or a cloned
 * machine).
 *
 * STATE/peers holds a line for each pairing: "out URL ID NAME" for a peer that we write to and "in
 * ID NAME" for one that writes to us. A pairing is made at the first contact and never changes by
 * itself.
 */

#include "wire.h"

#include <stdbool.h>
#include <stddef.h>

struct node_identity {
	char id[WIRE_ID_LEN + 1];
	char name[65];
};

/* Reads the text of a node file. 0, -EBADMSG, or -EPROTONOSUPPORT for another format version. */
int node_parse(const char *text, struct node_identity *ret);

/* Compares the identity in state directory @state and backing directory @dir (its .tandemfs), and
 * makes both at the first start. @name is this start's name= and replaces an older one. When they
 * do not agree that is an error, but with *seed the state's counts for both, or else the backing
 * directory's; *seed then says whether it came to that. 0 or -errno; *ret_error as for
 * replica_open. */
int node_identify(int dir, int state, const char *name, bool *seed, struct node_identity *ret,
	char **ret_error);

/* The pairings. */
struct pairing {
	bool inbound;
	char *url; /* NULL when inbound; owned */
	struct node_identity peer;
};
struct pairings {
	struct pairing *list; /* owned */
	size_t n;
};
int pairings_load(int state, struct pairings *ret);
void pairings_clear(struct pairings *p);
/* The node paired with at @url, or NULL. */
const struct node_identity *pairings_out(const struct pairings *p, const char *url);
bool pairings_has(const struct pairings *p, bool inbound, const char *id);
size_t pairings_count(const struct pairings *p, bool inbound);
/* Adds one and writes the file durably. @url NULL: inbound. 0 or -errno: then nothing was added. */
int pairings_add(struct pairings *p, int state, const char *url, const struct node_identity *peer);

#endif
