/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The server's side of `tandemfs conflicts`. */

#include "control_peer.h"
#include "replicate/base/say.h"

#include "options.h"
#include "replicate/base/cleanup.h"

#include <string.h>
#include <sys/stat.h>

static const char *type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "file";
	case S_IFLNK:
		return "symlink";
	case S_IFIFO:
		return "fifo";
	case S_IFSOCK:
		return "socket";
	case S_IFCHR:
	case S_IFBLK:
		return "device";
	}
	return "other";
}

static json_t *describe(const struct vault_entry *e, const char *brief)
{
	return json_pack("{s:s,s:s,s:o,s:s,s:o,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "entry",
		brief, "name", e->name, "path", control_text(e->path), "type", type_name(e->mode),
		"node", control_text(e->node), "winner", control_text(e->winner), "kept",
		(json_int_t)e->kept, "size", (json_int_t)e->size, "mode",
		(json_int_t)(e->mode & 07777), "uid", (json_int_t)e->uid, "gid", (json_int_t)e->gid,
		"mtime", (json_int_t)e->mtime, "seq", (json_int_t)e->seq, "other_seq",
		(json_int_t)e->other_seq);
}

/* All entries, or only the one called @name, with its bytes in @fd. */
static int send_entries(struct control_client *client, const char *name, int fd)
{
	struct replica *replica = control_client_config(client)->replica;
	struct vault_entry *list;
	size_t n;
	int r = replica_conflicts(replica, &list, &n);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n && r == 0; i++) {
		char brief[VAULT_NAME_SIZE];

		if (name && strcmp(name, list[i].name) != 0)
			continue;
		vault_short(brief, list, n, &list[i]);
		r = control_client_send_fd(
			client, json_pack("{s:o}", "conflict", describe(&list[i], brief)), fd);
	}
	vault_list_free(list, n);
	return r;
}

static int say_entry(char **ret_error, const char *text, int error)
{
	if (error == -ENOENT)
		return say(ret_error, EXIT_CANNOT,
			"there is no conflict \"%s\"; `tandemfs conflicts list` shows those there "
			"are",
			text);
	if (error == -ENOTUNIQ)
		return say(ret_error, EXIT_CANNOT,
			"\"%s\" may mean several conflicts: give more of the name", text);
	return say(ret_error, EXIT_CANNOT, "conflict %s: %s", text, strerror(-error));
}

static int send_list(struct control_client *client, char **ret_error)
{
	int r = send_entries(client, NULL, -1);

	if (r < 0)
		return say(ret_error, EXIT_CANNOT, "the conflict vault cannot be read: %s",
			strerror(-r));
	return EXIT_DONE;
}

static int send_one(struct control_client *client, const char *text, char **ret_error)
{
	struct replica *replica = control_client_config(client)->replica;
	_cleanup_close_ int fd = -1;
	char name[VAULT_NAME_SIZE];
	int r = replica_conflict_find(replica, text, name);

	if (r == 0) {
		fd = replica_conflict_open(replica, name);
		r = fd < 0 ? fd : send_entries(client, name, fd);
	}
	return r < 0 ? say_entry(ret_error, text, r) : EXIT_DONE;
}

static int keep(struct control_client *client, const char *path, char **ret_error)
{
	int r = replica_conflict_keep(control_client_config(client)->replica, path);

	if (r < 0)
		return say(ret_error, EXIT_CANNOT,
			"what stands at %s cannot be put into the vault: %s", path, strerror(-r));
	return EXIT_DONE;
}

static int drop_one(struct replica *replica, const char *text, char **ret_error)
{
	char name[VAULT_NAME_SIZE];
	int r = replica_conflict_find(replica, text, name);

	if (r == 0)
		r = replica_conflict_drop(replica, name);
	return r < 0 ? say_entry(ret_error, text, r) : EXIT_DONE;
}

static int drop_all(struct replica *replica, char **ret_error)
{
	struct vault_entry *list;
	size_t n;
	int r = replica_conflicts(replica, &list, &n);

	if (r < 0)
		return say_entry(ret_error, "vault", r);
	for (size_t i = 0; i < n && r == 0; i++) {
		r = replica_conflict_drop(replica, list[i].name);
		if (r == -ENOENT) /* the peer was faster */
			r = 0;
		if (r < 0)
			(void)say_entry(ret_error, list[i].name, r);
	}
	vault_list_free(list, n);
	return r < 0 ? EXIT_CANNOT : EXIT_DONE;
}

int control_answer_conflicts(struct control_client *client, json_t *request, char **ret_error)
{
	struct replica *replica = control_client_config(client)->replica;
	const char *open_it = json_string_value(json_object_get(request, "open"));
	const char *path = json_string_value(json_object_get(request, "keep"));
	const json_t *drop = json_object_get(request, "drop");

	if (open_it)
		return send_one(client, open_it, ret_error);
	if (path)
		return keep(client, path, ret_error);
	if (json_is_null(drop))
		return drop_all(replica, ret_error);
	if (json_is_string(drop))
		return drop_one(replica, json_string_value(drop), ret_error);
	if (json_object_size(request) > 1)
		return say(ret_error, EXIT_USAGE, "it is open, keep or drop, with a text");
	return send_list(client, ret_error);
}
