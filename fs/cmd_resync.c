/* SPDX-License-Identifier: GPL-2.0-or-later */

/* tandemfs resync: makes both trees equal again; a table of what was done, or an array for
 * programs.
 */

#include "client.h"

#include "replicate/base/cleanup.h"

struct resync_context {
	json_t *all; /* with --json */
	bool dry_run;
	uint64_t repairs;
};

static void take_line(void *ctx, json_t *line)
{
	struct resync_context *c = ctx;
	json_t *repair = json_object_get(line, "repair");
	json_t *progress = json_object_get(line, "progress");
	const char *peer = "?", *path = "?", *action = "?";

	if (progress)
		client_progress(json_string_value(json_object_get(progress, "phase")) ?: "waiting",
			(uint64_t)json_integer_value(json_object_get(progress, "done")),
			(uint64_t)json_integer_value(json_object_get(progress, "total")));
	if (!repair)
		return;
	if (c->all) {
		(void)json_array_append(c->all, repair);
		return;
	}
	(void)json_unpack(repair, "{s:s,s:s,s:s}", "peer", &peer, "path", &path, "action", &action);
	client_progress_end();
	if (c->repairs++ == 0)
		printf("%-24s %-36s %s\n", "PEER", c->dry_run ? "WOULD BE" : "WAS", "PATH");
	printf("%-24s %-36s %s\n", peer, action, *path ? path : ".");
}

enum exit_code cmd_resync(const struct command_line *line)
{
	_cleanup_free_ char *mountpoint = NULL, *state = NULL;
	enum exit_code code = client_find(line->mountpoint, true, &mountpoint, &state);
	struct resync_context c = {.dry_run = line->dry_run};

	if (code != EXIT_DONE)
		return code;
	if (line->json)
		c.all = json_array();
	code = client_request(mountpoint, state,
		json_pack("{s:s,s:b}", "command", "resync", "dry_run", (int)line->dry_run), 0,
		take_line, &c);
	client_progress_end();
	if (c.all && code <= EXIT_NO)
		client_print_json(c.all);
	else if (!c.all && code == EXIT_DONE && c.repairs == 0)
		printf("%s: identical\n", mountpoint);
	else if (!c.all && code <= EXIT_NO)
		printf("%llu difference%s\n", (unsigned long long)c.repairs,
			c.repairs == 1 ? "" : "s");
	json_decref(c.all);
	return code;
}
