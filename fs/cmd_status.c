/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * tandemfs status: for people a line per mount and a table of its peers, for programs the
 * daemon's object as it is. Without a mount point all mounts are shown, in an array for programs;
 * one that does not answer is said so and makes the exit code 3, and the others are still shown.
 */

#include "client.h"

#include "replicate/base/cleanup.h"
#include "replicate/replicate.h"

#include <string.h>

#define STATUS_SECONDS 10

static const char *text_of(json_t *object, const char *key, const char *otherwise)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s ? s : otherwise;
}

static uint64_t number_of(json_t *object, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(object, key));

	return n < 0 ? 0 : (uint64_t)n;
}

/* "nothing to send", "12 changes, 3.4 MiB, 5.1 s behind" */
static void print_lag(json_t *peer)
{
	uint64_t ops = number_of(peer, "lag_ops");

	if (ops == 0) {
		printf("nothing to send");
		return;
	}
	printf("%llu change%s, %s, %.1f s behind", (unsigned long long)ops, ops == 1 ? "" : "s",
		client_size_text(number_of(peer, "lag_bytes")).text,
		json_number_value(json_object_get(peer, "lag_seconds")));
}

/* What a plain peer cannot be given. */
static void print_plain(json_t *plain)
{
	json_t *counts = json_object_get(plain, "counts");

	if (json_is_true(json_object_get(plain, "comparing")))
		printf("  %-12s comparing both trees: %llu names so far\n", "",
			(unsigned long long)number_of(plain, "compared"));
	for (unsigned i = 0; i < PLAIN_COUNTS; i++) {
		uint64_t n = number_of(counts, plain_count_name(i));

		if (n > 0)
			printf("  %-12s %llu %s\n", "", (unsigned long long)n, plain_count_text(i));
	}
	printf("  %-12s contents are checked by %s%s\n", "", text_of(plain, "check", "size"),
		json_is_true(json_object_get(plain, "posix_rename"))
			? ""
			: "; no posix-rename: a file that is replaced is missing for a moment");
}

static void print_peer(json_t *peer)
{
	json_t *plain = json_object_get(peer, "plain");
	const char *error = text_of(peer, "error", NULL), *waiting = text_of(peer, "waiting", NULL),
		   *resync = text_of(peer, "resync", NULL),
		   *refused = text_of(peer, "refused", NULL);

	printf("  %-12s %-12s ", text_of(peer, "node", json_is_object(plain) ? "plain" : "?"),
		text_of(peer, "state", "?"));
	print_lag(peer);
	printf("; sent %llu, received %llu\n", (unsigned long long)number_of(peer, "sent_ops"),
		(unsigned long long)number_of(peer, "applied_ops"));
	printf("  %-12s %s%s\n", "", text_of(peer, "url", "?"),
		json_is_true(json_object_get(peer, "active")) ? "" : " (plain: one way)");
	if (json_is_object(plain) && strcmp(text_of(peer, "state", ""), "connecting") != 0)
		print_plain(plain);
	if (error)
		printf("  %-12s error: %s\n", "", error);
	if (resync)
		printf("  %-12s reconciler: %s\n", "", resync);
	if (waiting)
		printf("  %-12s cannot be applied here, is tried again: %s\n", "", waiting);
	if (refused)
		printf("  %-12s refused here since the start: %llu, the last one: %s\n", "",
			(unsigned long long)number_of(peer, "refusals"), refused);
}

/* All that an administrator would have to look into. */
static bool all_is_well(json_t *status)
{
	json_t *peer;
	size_t i;

	json_array_foreach (json_object_get(status, "peers"), i, peer)
		if (number_of(peer, "lag_ops") > 0 || text_of(peer, "error", NULL) ||
			text_of(peer, "waiting", NULL) || text_of(peer, "resync", NULL) ||
			strcmp(text_of(peer, "state", ""), "in-sync") != 0)
			return false;
	return number_of(status, "conflicts") == 0;
}

static void print_status(json_t *status)
{
	json_t *peers = json_object_get(status, "peers"), *peer;
	uint64_t conflicts = number_of(status, "conflicts");
	size_t i;

	printf("%s: node %s, mode %s, backing %s\n", text_of(status, "mountpoint", "?"),
		text_of(status, "node", "?"), text_of(status, "mode", "?"),
		text_of(status, "backing", "?"));
	json_array_foreach (peers, i, peer)
		print_peer(peer);
	if (conflicts > 0)
		printf("  %llu conflict%s: `tandemfs conflicts list %s` shows what lost\n",
			(unsigned long long)conflicts, conflicts == 1 ? "" : "s",
			text_of(status, "mountpoint", "MOUNTPOINT"));
	if (json_array_size(peers) == 0)
		printf("  no peer: local only\n");
	else if (all_is_well(status))
		printf("  all is well: every peer has every change\n");
}

struct status_context {
	bool json;
	json_t *all; /* array, with json and without a mount point */
	enum exit_code code;
	size_t n;
};

static void take_status(void *ctx, json_t *line)
{
	struct status_context *c = ctx;
	json_t *status = json_object_get(line, "status");

	if (!status)
		return;
	if (c->all)
		(void)json_array_append(c->all, status);
	else if (c->json) {
		client_print_json(status);
	} else {
		print_status(status);
	}
}

static int status_of(void *ctx, const char *given)
{
	struct status_context *c = ctx;
	_cleanup_free_ char *mountpoint = NULL, *state = NULL;
	enum exit_code code = client_find(given, true, &mountpoint, &state);

	if (code == EXIT_DONE)
		code = client_request(mountpoint, state, json_pack("{s:s}", "command", "status"),
			STATUS_SECONDS, take_status, c);
	if (code != EXIT_DONE)
		c->code = code;
	c->n++;
	return 0;
}

enum exit_code cmd_status(const struct command_line *line)
{
	struct status_context c = {.json = line->json};
	int r;

	if (line->mountpoint) {
		(void)status_of(&c, line->mountpoint);
		return c.code;
	}
	if (line->json)
		c.all = json_array();
	r = client_each_mount(status_of, &c);
	if (r < 0) {
		client_complain("cannot read the table of mounts: %s", strerror(-r));
		c.code = EXIT_CANNOT;
	}
	if (c.all) {
		client_print_json(c.all);
		json_decref(c.all);
	} else if (r == 0 && c.n == 0) {
		printf("no tandemfs is mounted\n");
	}
	return c.code;
}
