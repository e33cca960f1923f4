/* SPDX-License-Identifier: GPL-2.0-or-later */

/* tandemfs wait: until every peer has applied what was done before the call. */

#include "client.h"

#include "replicate/base/cleanup.h"

/* What the daemon may be late. */
#define GRACE_SECONDS 5

static void show_lag(void *ctx, json_t *line)
{
	json_t *progress = json_object_get(line, "progress");

	(void)ctx;
	client_progress("changes still to be applied by a peer:",
		(uint64_t)json_integer_value(json_object_get(progress, "lag_ops")), 0);
}

enum exit_code cmd_wait(const struct command_line *line)
{
	_cleanup_free_ char *mountpoint = NULL, *state = NULL;
	enum exit_code code = client_find(line->mountpoint, true, &mountpoint, &state);
	unsigned seconds = 0;
	json_t *request;

	if (code != EXIT_DONE)
		return code;
	request = json_pack("{s:s}", "command", "wait");
	if (request && line->timeout >= 0) {
		(void)json_object_set_new(request, "timeout", json_real(line->timeout));
		seconds = (unsigned)line->timeout + GRACE_SECONDS;
	}
	return client_request(mountpoint, state, request, seconds, show_lag, NULL);
}
