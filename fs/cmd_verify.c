/* SPDX-License-Identifier: GPL-2.0-or-later */

/* tandemfs verify: compares both trees; a table of the differences, or an array for programs. */

#include "client.h"

#include "replicate/base/cleanup.h"

struct verify_context {
	json_t *all; /* with --json */
	uint64_t differences, entries;
};

static void take_line(void *ctx, json_t *line)
{
	struct verify_context *c = ctx;
	json_t *difference = json_object_get(line, "difference");
	json_t *progress = json_object_get(line, "progress");
	const char *peer = "?", *path = "?", *what = "?";

	if (progress) {
		c->entries = (uint64_t)json_integer_value(json_object_get(progress, "done"));
		client_progress("comparing", c->entries,
			(uint64_t)json_integer_value(json_object_get(progress, "total")));
	}
	if (!difference)
		return;
	if (c->all) {
		(void)json_array_append(c->all, difference);
		return;
	}
	(void)json_unpack(difference, "{s:s,s:s,s:s}", "peer", &peer, "path", &path, "what", &what);
	client_progress_end();
	if (c->differences++ == 0)
		printf("%-12s %-24s %s\n", "DIFFERENCE", "PEER", "PATH");
	printf("%-12s %-24s %s\n", what, peer, path);
}

enum exit_code cmd_verify(const struct command_line *line)
{
	_cleanup_free_ char *mountpoint = NULL, *state = NULL;
	enum exit_code code = client_find(line->mountpoint, true, &mountpoint, &state);
	struct verify_context c = {0};

	if (code != EXIT_DONE)
		return code;
	if (line->json)
		c.all = json_array();
	code = client_request(
		mountpoint, state, json_pack("{s:s}", "command", "verify"), 0, take_line, &c);
	if (c.all && code <= EXIT_NO) {
		client_print_json(c.all);
	} else if (!c.all && code == EXIT_DONE) {
		printf("%s: identical, %llu entries compared\n", mountpoint,
			(unsigned long long)c.entries);
	} else if (!c.all && code == EXIT_NO) {
		printf("%llu difference%s\n", (unsigned long long)c.differences,
			c.differences == 1 ? "" : "s");
	}
	json_decref(c.all);
	return code;
}
