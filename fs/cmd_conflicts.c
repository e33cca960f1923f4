/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * tandemfs conflicts list, show and drop: what lost a conflict. The vault is hidden by the mount
 * when that covers the backing directory, so the daemon opens an entry and hands the descriptor
 * over.
 */

#include "conflict_entry.h"

#include "replicate/base/cleanup.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#define ANSWER_SECONDS 60
#define NS_PER_S 1000000000

bool conflict_entry_parse(json_t *line, struct conflict_entry *ret)
{
	json_t *c = json_object_get(line, "conflict");
	json_int_t kept, size, mtime, mode, uid, gid;

	*ret = (struct conflict_entry){.fd = -1};
	if (!c || json_unpack(c, "{s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I}", "entry",
			  &ret->brief, "name", &ret->name, "path", &ret->path, "type", &ret->type,
			  "node", &ret->node, "winner", &ret->winner, "kept", &kept, "size", &size,
			  "mtime", &mtime, "mode", &mode, "uid", &uid, "gid", &gid) < 0)
		return false;
	ret->json = json_incref(c);
	ret->kept = (uint64_t)kept;
	ret->size = (uint64_t)size;
	ret->mtime = mtime;
	ret->mode = (mode_t)mode;
	ret->uid = (uid_t)uid;
	ret->gid = (gid_t)gid;
	return true;
}

void conflict_entry_clear(struct conflict_entry *e)
{
	json_decref(e->json);
	cleanup_close(&e->fd);
	*e = (struct conflict_entry){.fd = -1};
}

static void take_entry(void *ctx, json_t *line)
{
	struct conflict_entry *e = ctx;
	json_t *fd = json_object_get(line, "fd");

	if (!e->json && conflict_entry_parse(line, e) && fd)
		e->fd = fcntl((int)json_integer_value(fd), F_DUPFD_CLOEXEC, 3);
}

enum exit_code conflict_entry_fetch(const struct command_line *line, char **ret_mountpoint,
	char **ret_state, struct conflict_entry *ret)
{
	enum exit_code code = client_find(line->mountpoint, true, ret_mountpoint, ret_state);

	*ret = (struct conflict_entry){.fd = -1};
	if (code == EXIT_DONE)
		code = client_request(*ret_mountpoint, *ret_state,
			json_pack("{s:s,s:s}", "command", "conflicts", "open", line->entry),
			ANSWER_SECONDS, take_entry, ret);
	if (code == EXIT_DONE && ret->fd < 0) {
		client_complain(
			"%s: the daemon did not hand over %s", *ret_mountpoint, line->entry);
		code = EXIT_CANNOT;
	}
	return code;
}

/* ---- list ---- */

static struct time_text {
	char text[40];
} local_time(int64_t ns)
{
	time_t seconds = (time_t)(ns / NS_PER_S);
	struct time_text t;
	struct tm tm;

	if (!localtime_r(&seconds, &tm) ||
		strftime(t.text, sizeof(t.text), "%Y-%m-%d %H:%M:%S", &tm) == 0)
		(void)snprintf(t.text, sizeof(t.text), "%" PRId64, ns);
	return t;
}

struct list_context {
	json_t *all; /* with --json */
	uint64_t n;
};

static void take_line(void *ctx, json_t *line)
{
	_cleanup_entry_ struct conflict_entry e;
	struct list_context *c = ctx;

	if (!conflict_entry_parse(line, &e))
		return;
	if (c->all) {
		(void)json_array_append(c->all, e.json);
		return;
	}
	if (c->n++ == 0)
		printf("%-12s %-19s  %-12s %-12s %10s  %s\n", "ENTRY", "KEPT", "VERSION OF",
			"WINNER", "SIZE", "PATH");
	printf("%-12s %-19s  %-12s %-12s %10s  %s\n", e.brief, local_time((int64_t)e.kept).text,
		e.node, e.winner, client_size_text(e.size).text, e.path);
}

enum exit_code cmd_conflicts_list(const struct command_line *line)
{
	_cleanup_free_ char *mountpoint = NULL, *state = NULL;
	enum exit_code code = client_find(line->mountpoint, true, &mountpoint, &state);
	struct list_context c = {0};

	if (code != EXIT_DONE)
		return code;
	if (line->json)
		c.all = json_array();
	code = client_request(mountpoint, state, json_pack("{s:s}", "command", "conflicts"),
		ANSWER_SECONDS, take_line, &c);
	if (c.all && code == EXIT_DONE)
		client_print_json(c.all);
	else if (!c.all && code == EXIT_DONE && c.n == 0)
		printf("%s: no version has lost a conflict\n", mountpoint);
	json_decref(c.all);
	return code;
}

/* ---- show ---- */

static void print_entry(const struct conflict_entry *e)
{
	printf("entry     %s (%s)\n", e->brief, e->name);
	printf("path      %s\n", e->path);
	printf("version   of %s, changed last on %s\n", e->node, local_time(e->mtime).text);
	printf("winner    %s\n", e->winner);
	printf("kept      %s\n", local_time((int64_t)e->kept).text);
	printf("what      %s, mode %04o, owner %u, group %u, %s\n", e->type, (unsigned)e->mode,
		(unsigned)e->uid, (unsigned)e->gid, client_size_text(e->size).text);
}

static enum exit_code complain_bytes(const char *to, int error)
{
	client_complain("the bytes could not be written to %s: %s", to, strerror(-error));
	return EXIT_CANNOT;
}

static enum exit_code write_file(int from, const char *path)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : client_copy(from, fd);

	if (r == 0 && close(steal_fd(&fd)) < 0)
		r = -errno;
	return r < 0 ? complain_bytes(path, r) : EXIT_DONE;
}

enum exit_code cmd_conflicts_show(const struct command_line *line)
{
	_cleanup_free_ char *mountpoint = NULL, *state = NULL;
	_cleanup_entry_ struct conflict_entry e;
	enum exit_code code = conflict_entry_fetch(line, &mountpoint, &state, &e);
	bool bytes = !line->output && !line->json && !isatty(STDOUT_FILENO);
	int r;

	if (code == EXIT_DONE && line->output)
		code = write_file(e.fd, line->output);
	if (code != EXIT_DONE)
		return code;
	if (bytes) {
		r = client_copy(e.fd, STDOUT_FILENO);
		return r < 0 && r != -EPIPE ? complain_bytes("the output", r) : EXIT_DONE;
	}
	if (line->json)
		client_print_json(e.json);
	else
		print_entry(&e);
	return EXIT_DONE;
}

/* ---- drop ---- */

enum exit_code cmd_conflicts_drop(const struct command_line *line)
{
	_cleanup_free_ char *mountpoint = NULL, *state = NULL;
	enum exit_code code = client_find(line->mountpoint, true, &mountpoint, &state);

	if (code != EXIT_DONE)
		return code;
	return client_request(mountpoint, state,
		json_pack("{s:s,s:s?}", "command", "conflicts", "drop", line->entry), 0, NULL,
		NULL);
}
