/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The server's side of each command: asks the replica, answers in the lines that control.h
 * describes. A command is a row of the table at the end.
 */

#include "control_peer.h"
#include "replicate/base/say.h"

#include "options.h"
#include "replicate/base/cleanup.h"

#include <string.h>
#include <time.h>

/* The text with each byte from 0x80 on as \xHH: JSON holds UTF-8 only, names hold any bytes. */
static json_t *escaped_text(const char *s)
{
	_cleanup_free_ char *out = malloc(strlen(s) * 4 + 1);
	char *p = out;

	if (!out)
		return NULL;
	for (; *s; s++)
		if (*s & 0x80)
			p += sprintf(p, "\\x%02x", (unsigned char)*s);
		else
			*p++ = *s;
	*p = '\0';
	return json_string(out);
}

json_t *control_text(const char *s)
{
	json_t *text;

	if (!s)
		return json_null();
	text = json_string(s);
	return text ? text : escaped_text(s);
}

/* ---- status ---- */

/* Of an active peer null. */
static json_t *describe_plain(const struct peer_status *p)
{
	const struct plain_status *s = &p->plain;
	json_t *counts;

	if (p->active)
		return json_null();
	counts = json_object();
	for (unsigned i = 0; i < PLAIN_COUNTS; i++)
		(void)json_object_set_new(
			counts, plain_count_name(i), json_integer((json_int_t)s->counts[i]));
	return json_pack("{s:o,s:b,s:I,s:b,s:b,s:b,s:b,s:s}", "counts", counts, "comparing",
		(int)s->comparing, "compared", (json_int_t)s->compared, "posix_rename",
		(int)s->replaces, "hardlink", (int)s->hard_links, "lsetstat", (int)s->link_attrs,
		"fsync", (int)s->fsync, "check", s->check ? s->check : "size");
}

static json_t *describe_peer(const struct peer_status *p)
{
	return json_pack(
		"{s:o,s:o,s:o,s:s,s:b,s:o,s:I,s:I,s:f,s:I,s:I,s:b,s:I,s:o,s:I,s:o,s:o,s:o}", "url",
		control_text(p->url), "node", control_text(p->node), "node_id",
		control_text(p->node_id), "state", peer_state_name(p->state), "active",
		(int)p->active, "error", control_text(p->error), "lag_ops", (json_int_t)p->lag_ops,
		"lag_bytes", (json_int_t)p->lag_bytes, "lag_seconds", p->lag_seconds, "sent_ops",
		(json_int_t)p->sent_ops, "sent_bytes", (json_int_t)p->sent_bytes, "inbound",
		(int)p->inbound, "applied_ops", (json_int_t)p->applied_ops, "waiting",
		control_text(p->waiting), "refusals", (json_int_t)p->refusals, "refused",
		control_text(p->refused), "plain", describe_plain(p), "resync",
		control_text(p->resync));
}

json_t *control_describe(const struct control_config *config, const struct replica_status *s)
{
	json_t *peers = json_array();

	for (size_t i = 0; i < s->n_peers; i++)
		if (json_array_append_new(peers, describe_peer(&s->peers[i])) < 0) {
			json_decref(peers);
			return NULL;
		}
	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:s,s:s,s:s,s:i,s:I,s:I,s:I,s:o}", "mountpoint",
		control_text(config->mountpoint), "backing", control_text(s->backing),
		"state_directory", control_text(config->state), "node", control_text(s->node),
		"node_id", control_text(s->node_id), "mode", replica_mode_name(s->mode),
		"on_peer_down", config->on_peer_down, "version", TANDEMFS_VERSION, "pid",
		(int)getpid(), "journal_head", (json_int_t)s->journal_head, "journal_bytes",
		(json_int_t)s->journal_bytes, "conflicts", (json_int_t)s->conflicts, "peers",
		peers);
}

static int answer_status(struct control_client *client, json_t *request, char **ret_error)
{
	const struct control_config *config = control_client_config(client);
	struct replica_status status;
	json_t *line;
	int r = replica_status(config->replica, &status);

	(void)request;
	if (r < 0)
		return say(ret_error, EXIT_CANNOT, "no status: %s", strerror(-r));
	line = json_pack("{s:o}", "status", control_describe(config, &status));
	replica_status_clear(&status);
	r = control_client_send(client, line);
	return r < 0 ? EXIT_CANNOT : EXIT_DONE;
}

/* ---- wait ---- */

static void send_lag(struct control_client *client, struct replica *replica)
{
	struct replica_status s;
	uint64_t ops = 0, bytes = 0;

	if (replica_status(replica, &s) < 0)
		return;
	for (size_t i = 0; i < s.n_peers; i++) {
		ops = s.peers[i].lag_ops > ops ? s.peers[i].lag_ops : ops;
		bytes = s.peers[i].lag_bytes > bytes ? s.peers[i].lag_bytes : bytes;
	}
	replica_status_clear(&s);
	/* A client that is gone is noticed by who waits. */
	(void)control_client_send(client, json_pack("{s:{s:I,s:I}}", "progress", "lag_ops",
						  (json_int_t)ops, "lag_bytes", (json_int_t)bytes));
}

static int64_t monotonic_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* In slices of half a second, to report between them. @timeout_ms -1: for ever. */
static int wait_with_progress(
	struct control_client *client, struct replica *replica, int64_t timeout_ms)
{
	int64_t deadline = monotonic_ms() + timeout_ms;
	uint64_t seq = replica_head(replica);

	for (;;) {
		int64_t left = timeout_ms < 0 ? 500 : deadline - monotonic_ms();
		int slice = left < 0 ? 0 : left < 500 ? (int)left : 500;
		int r = replica_wait_all(replica, seq, slice, control_client_gone, client);

		if (r != -ETIMEDOUT || (timeout_ms >= 0 && left <= slice))
			return r;
		send_lag(client, replica);
	}
}

/* The sentence of why not, from each peer that is behind. */
static int explain_lag(struct replica *replica, char **ret_error)
{
	struct replica_status s;
	int r = replica_status(replica, &s), code = EXIT_NO;

	if (r < 0)
		return say(ret_error, EXIT_NO, "not in sync in time");
	for (size_t i = 0; i < s.n_peers && !*ret_error; i++) {
		const struct peer_status *p = &s.peers[i];

		if (p->lag_ops > 0 || p->error)
			code = say(ret_error, EXIT_NO,
				"not in sync in time: %s is %llu operations (%llu bytes) behind, "
				"%s%s%s",
				p->url, (unsigned long long)p->lag_ops,
				(unsigned long long)p->lag_bytes, peer_state_name(p->state),
				p->error ? ": " : "", p->error ? p->error : "");
	}
	replica_status_clear(&s);
	return *ret_error ? code : say(ret_error, EXIT_NO, "not in sync in time");
}

static int answer_wait(struct control_client *client, json_t *request, char **ret_error)
{
	struct replica *replica = control_client_config(client)->replica;
	json_t *timeout = json_object_get(request, "timeout");
	double seconds = timeout ? json_number_value(timeout) : -1;
	int r;

	if (timeout && (!json_is_number(timeout) || !(seconds >= 0 && seconds <= 1e6)))
		return say(ret_error, EXIT_USAGE, "the timeout is from 0 to 1000000 seconds");
	r = wait_with_progress(client, replica, timeout ? (int64_t)(seconds * 1000) : -1);
	switch (r) {
	case 0:
		return EXIT_DONE;
	case -ETIMEDOUT:
		return explain_lag(replica, ret_error);
	case -EINTR:
	case -ECANCELED:
		return say(ret_error, EXIT_CANNOT,
			"the daemon ends; what the peers do not have yet stays in the journal");
	}
	return say(ret_error, EXIT_CANNOT, "cannot wait: %s", strerror(-r));
}

/* ---- verify ---- */

struct verify_run {
	struct control_client *client;
	int64_t last_ms; /* of the last progress line */
	uint64_t done, total;
};

static json_t *progress_line(uint64_t done, uint64_t total)
{
	return json_pack(
		"{s:{s:I,s:I}}", "progress", "done", (json_int_t)done, "total", (json_int_t)total);
}

static void send_difference(void *ctx, const struct replica_difference *d)
{
	struct verify_run *run = ctx;

	/* A client that is gone is remembered by control_client_send(). */
	(void)control_client_send(run->client,
		json_pack("{s:{s:o,s:o,s:s}}", "difference", "peer", control_text(d->peer), "path",
			control_text(d->path), "what", d->what));
}

/* A line at most each tenth of a second: the rest would only be overwritten. */
static bool send_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct verify_run *run = ctx;
	int64_t now = monotonic_ms();

	if (now - run->last_ms >= 100) {
		run->last_ms = now;
		(void)control_client_send(run->client, progress_line(done, total));
	}
	run->done = done;
	run->total = total;
	return !control_client_gone(run->client);
}

static int answer_verify(struct control_client *client, json_t *request, char **ret_error)
{
	struct replica *replica = control_client_config(client)->replica;
	struct verify_run run = {.client = client};
	int r = replica_verify(replica, send_difference, send_progress, &run, ret_error);

	(void)request;
	/* So that the last line says how many were compared. */
	(void)control_client_send(client, progress_line(run.done, run.total));
	if (r >= 0)
		return r == 0 ? EXIT_DONE : EXIT_NO;
	if (*ret_error)
		return EXIT_CANNOT;
	if (r == -ECANCELED)
		return say(ret_error, EXIT_CANNOT, "the daemon ends: not compared to the end");
	return say(ret_error, EXIT_CANNOT, "cannot compare: %s", strerror(-r));
}

/* ---- resync ---- */

static json_t *phase_line(const char *phase, uint64_t done, uint64_t total)
{
	return json_pack("{s:{s:s,s:I,s:I}}", "progress", "phase", phase, "done", (json_int_t)done,
		"total", (json_int_t)total);
}

static void send_repair(void *ctx, const struct replica_repair *d)
{
	struct verify_run *run = ctx;

	(void)control_client_send(
		run->client, json_pack("{s:{s:o,s:o,s:s}}", "repair", "peer", control_text(d->peer),
				     "path", control_text(d->path), "action", d->action));
}

static bool send_phase(void *ctx, const char *phase, uint64_t done, uint64_t total)
{
	struct verify_run *run = ctx;
	int64_t now = monotonic_ms();

	if (now - run->last_ms >= 100) {
		run->last_ms = now;
		(void)control_client_send(run->client, phase_line(phase, done, total));
	}
	return !control_client_gone(run->client);
}

static int answer_resync(struct control_client *client, json_t *request, char **ret_error)
{
	struct replica *replica = control_client_config(client)->replica;
	bool dry_run = json_is_true(json_object_get(request, "dry_run"));
	struct verify_run run = {.client = client};
	int r = replica_resync(replica, dry_run, send_repair, send_phase, &run, ret_error);

	if (r >= 0)
		return r > 0 && dry_run ? EXIT_NO : EXIT_DONE;
	if (*ret_error)
		return EXIT_CANNOT;
	return say(ret_error, EXIT_CANNOT, "cannot reconcile: %s", strerror(-r));
}

/* ---- stop ---- */

static int answer_stop(struct control_client *client, json_t *request, char **ret_error)
{
	const struct control_config *config = control_client_config(client);
	int r = config->unmount(config->ctx);

	(void)request;
	if (r == -EBUSY)
		return say(ret_error, EXIT_CANNOT, "%s is in use; `fuser -vm %s` shows by whom",
			config->mountpoint, config->mountpoint);
	if (r < 0)
		return say(ret_error, EXIT_CANNOT, "cannot unmount: %s", strerror(-r));
	return EXIT_DONE;
}

static const struct command {
	const char *name;
	int (*answer)(struct control_client *client, json_t *request, char **ret_error);
} commands[] = {
	{"status", answer_status},
	{"wait", answer_wait},
	{"verify", answer_verify},
	{"conflicts", control_answer_conflicts},
	{"resync", answer_resync},
	{"stop", answer_stop},
};

int control_answer(struct control_client *client, json_t *request, char **ret_error)
{
	const char *name = json_string_value(json_object_get(request, "command"));

	if (!name)
		return say(ret_error, EXIT_USAGE, "the request has no \"command\"");
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return commands[i].answer(client, request, ret_error);
	return say(ret_error, EXIT_USAGE, "the daemon knows no command \"%s\"", name);
}
