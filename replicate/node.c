/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "node.h"

#include "base/cleanup.h"
#include "base/durable.h"
#include "base/say.h"
#include "digest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NODE_FILE "node"
#define PAIRINGS_FILE "peers"
#define NODE_FILE_MAX 4096
#define PAIRINGS_FILE_MAX (1u << 20)

static bool id_is_valid(const char *id)
{
	return strlen(id) == WIRE_ID_LEN && strspn(id, "0123456789abcdef") == WIRE_ID_LEN;
}

int node_parse(const char *text, struct node_identity *ret)
{
	struct node_identity n = {0};
	unsigned version;

	if (sscanf(text, "tandemfs %u", &version) != 1)
		return -EBADMSG;
	if (version != WIRE_VERSION)
		return -EPROTONOSUPPORT;
	if (sscanf(text, "tandemfs %*u id %32s name %64[^\n]", n.id, n.name) != 2 ||
		!id_is_valid(n.id))
		return -EBADMSG;
	*ret = n;
	return 0;
}

static int read_identity(int dir, struct node_identity *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = durable_read(dir, NODE_FILE, NODE_FILE_MAX, &text, &len);

	return r < 0 ? r : node_parse(text, ret);
}

static int write_identity(int dir, const struct node_identity *n)
{
	char text[256];
	int len = snprintf(
		text, sizeof(text), "tandemfs %d\nid %s\nname %s\n", WIRE_VERSION, n->id, n->name);

	return durable_replace(dir, NODE_FILE, text, (size_t)len, 0644, 1);
}

static int new_identity(const char *name, struct node_identity *ret)
{
	uint8_t raw[WIRE_ID_LEN / 2];
	int r = digest_random(raw, sizeof(raw));

	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(raw); i++)
		(void)snprintf(ret->id + 2 * i, 3, "%02x", raw[i]);
	(void)snprintf(ret->name, sizeof(ret->name), "%s", name);
	return 0;
}

static int check_readable(int here_error, int state_error, char **ret_error)
{
	if (here_error < 0 && here_error != -ENOENT)
		return say(ret_error, here_error,
			"the backing directory's .tandemfs/node cannot be read: %s",
			strerror(-here_error));
	if (state_error < 0 && state_error != -ENOENT)
		return say(ret_error, state_error,
			"the state directory's file node cannot be read: %s",
			strerror(-state_error));
	return 0;
}

#define SEED "To fill it from the peer mount once with -o seed"

static int check_identities(const struct node_identity *here, int here_error,
	const struct node_identity *state, int state_error, char **ret_error)
{
	if (here_error == 0 && state_error == 0 && strcmp(here->id, state->id) != 0)
		return say(ret_error, -ESTALE,
			"the backing directory belongs to node %s (%s), the state directory to %s "
			"(%s): give the state= that goes with it. " SEED,
			here->name, here->id, state->name, state->id);
	if (here_error < 0 && state_error == 0)
		return say(ret_error, -ESTALE,
			"the backing directory has no .tandemfs/node but the state directory is "
			"that of node %s: is its disk mounted? " SEED
			"; to start anew with what is there, remove the state directory",
			state->name);
	if (here_error == 0 && state_error < 0)
		return say(ret_error, -ESTALE,
			"the backing directory belongs to node %s, of which the state directory "
			"knows nothing: give the state= that goes with it. If that is lost mount "
			"once with -o seed; to start anew remove .tandemfs/node there",
			here->name);
	return 0;
}

static int write_identities(int dir, int state, const struct node_identity *n, char **ret_error)
{
	int r = write_identity(dir, n);

	if (r == 0)
		r = write_identity(state, n);
	return r < 0 ? say(ret_error, r, "cannot write the node file: %s", strerror(-r)) : 0;
}

int node_identify(int dir, int state, const char *name, bool *seed, struct node_identity *ret,
	char **ret_error)
{
	struct node_identity here = {0}, known = {0}, n;
	int here_error = read_identity(dir, &here), state_error = read_identity(state, &known);
	int r = check_readable(here_error, state_error, ret_error);
	bool agree;

	if (r < 0)
		return r;
	agree = check_identities(&here, here_error, &known, state_error, ret_error) == 0;
	if (!agree && !*seed)
		return -ESTALE;
	if (!agree)
		free(steal_pointer(ret_error));
	*seed = !agree;
	n = state_error == 0 ? known : here;
	if (here_error < 0 && state_error < 0)
		r = new_identity(name, &n);
	(void)snprintf(n.name, sizeof(n.name), "%s", name);
	if (r == 0 && (!agree || here_error < 0 || strcmp(here.name, name) != 0 ||
			      strcmp(known.name, name) != 0))
		r = write_identities(dir, state, &n, ret_error);
	if (r < 0)
		return *ret_error ? r : say(ret_error, r, "no identity: %s", strerror(-r));
	*ret = n;
	return 0;
}

/* ---- pairings ---- */

void pairings_clear(struct pairings *p)
{
	for (size_t i = 0; i < p->n; i++)
		free(p->list[i].url);
	free(p->list);
	*p = (struct pairings){0};
}

static int append_pairing(struct pairings *p, const char *url, const struct node_identity *peer)
{
	struct pairing *list = realloc(p->list, (p->n + 1) * sizeof(*list));
	struct pairing *new;

	if (!list)
		return -ENOMEM;
	p->list = list;
	new = &list[p->n];
	*new = (struct pairing){.inbound = !url, .peer = *peer};
	if (url && !(new->url = strdup(url)))
		return -ENOMEM;
	p->n++;
	return 0;
}

static int parse_line(struct pairings *p, const char *line)
{
	struct node_identity peer = {0};
	_cleanup_free_ char *url = NULL;
	int n = 0;

	if (sscanf(line, "out %ms %32s %64[^\n]", &url, peer.id, peer.name) == 3)
		n = 3;
	else if (sscanf(line, "in %32s %64[^\n]", peer.id, peer.name) == 2)
		n = 2;
	if (n == 0 || !id_is_valid(peer.id))
		return -EBADMSG;
	return append_pairing(p, n == 3 ? url : NULL, &peer);
}

int pairings_load(int state, struct pairings *ret)
{
	_cleanup_free_ char *text = NULL;
	struct pairings p = {0};
	char *save = NULL;
	size_t len;
	int r = durable_read(state, PAIRINGS_FILE, PAIRINGS_FILE_MAX, &text, &len);

	*ret = p;
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	for (char *line = strtok_r(text, "\n", &save); line && r == 0;
		line = strtok_r(NULL, "\n", &save))
		r = parse_line(&p, line);
	if (r < 0) {
		pairings_clear(&p);
		return r;
	}
	*ret = p;
	return 0;
}

const struct node_identity *pairings_out(const struct pairings *p, const char *url)
{
	for (size_t i = 0; i < p->n; i++)
		if (!p->list[i].inbound && strcmp(p->list[i].url, url) == 0)
			return &p->list[i].peer;
	return NULL;
}

bool pairings_has(const struct pairings *p, bool inbound, const char *id)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].inbound == inbound && strcmp(p->list[i].peer.id, id) == 0)
			return true;
	return false;
}

size_t pairings_count(const struct pairings *p, bool inbound)
{
	size_t n = 0;

	for (size_t i = 0; i < p->n; i++)
		n += p->list[i].inbound == inbound;
	return n;
}

static int write_pairings(const struct pairings *p, int state)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	bool failed;

	if (!f)
		return -ENOMEM;
	for (size_t i = 0; i < p->n; i++) {
		const struct pairing *l = &p->list[i];

		if (l->inbound)
			(void)fprintf(f, "in %s %s\n", l->peer.id, l->peer.name);
		else
			(void)fprintf(f, "out %s %s %s\n", l->url, l->peer.id, l->peer.name);
	}
	failed = ferror(f);
	if (fclose(f) != 0 || failed)
		return -ENOMEM;
	return durable_replace(state, PAIRINGS_FILE, text, len, 0600, 1);
}

int pairings_add(struct pairings *p, int state, const char *url, const struct node_identity *peer)
{
	int r = append_pairing(p, url, peer);

	if (r < 0)
		return r;
	r = write_pairings(p, state);
	if (r < 0)
		free(p->list[--p->n].url);
	return r;
}
