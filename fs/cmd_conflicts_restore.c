/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * tandemfs conflicts restore: an ordinary change through the mount, so it replicates.
 *
 * The version is put together under a name that nobody can guess, readable to root alone, and
 * renamed into place: no web server ever serves half of it. What stands there goes into the vault
 * before (a copy: a process that has it open goes on writing to its own inode), and the entry
 * leaves the vault after. So the two change places, and restoring what was put away undoes it.
 * Killed in between it leaves the file with that name, and nothing is lost.
 */

#include "conflict_entry.h"

#include "replicate/base/cleanup.h"
#include "replicate/base/confine.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#define NS_PER_S 1000000000

struct restoring {
	const struct conflict_entry *entry;
	const char *mountpoint, *state;
	const char *path; /* below the mount point */
	int dir;          /* the directory that it goes to */
	const char *leaf;
	char temporary[40]; /* beside it */
};

/* The path below the mount point that is meant. */
static enum exit_code choose_path(struct restoring *r, const char *given)
{
	const char *path = given ? given : r->entry->path;
	size_t len = strlen(r->mountpoint);
	int e;

	if (*path == '/' && strncmp(path, r->mountpoint, len) == 0 && path[len] == '/')
		path += len + 1;
	e = confine_check(path, false);
	if (e == 0) {
		r->path = path;
		return EXIT_DONE;
	}
	if (given)
		client_complain("%s is no path below %s", given, r->mountpoint);
	else
		client_complain("where %s stood is not known: give a NEWPATH", r->entry->brief);
	return EXIT_USAGE;
}

static int name_temporary(struct restoring *r)
{
	uint64_t random;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	(void)snprintf(r->temporary, sizeof(r->temporary), ".tandemfs-restore.%016" PRIx64, random);
	return 0;
}

static int make_file(const struct restoring *r)
{
	_cleanup_close_ int fd = openat(
		r->dir, r->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int e = fd < 0 ? -errno : client_copy(r->entry->fd, fd);

	if (e == 0 && close(steal_fd(&fd)) < 0)
		e = -errno;
	return e;
}

static int make_symlink(const struct restoring *r)
{
	char text[TANDEMFS_PATH_MAX + 1];
	ssize_t n = read(r->entry->fd, text, sizeof(text) - 1);

	if (n < 0)
		return -errno;
	text[n] = '\0';
	return symlinkat(text, r->dir, r->temporary) < 0 ? -errno : 0;
}

static int make(const struct restoring *r)
{
	if (strcmp(r->entry->type, "file") == 0)
		return make_file(r);
	if (strcmp(r->entry->type, "symlink") == 0)
		return make_symlink(r);
	if (strcmp(r->entry->type, "fifo") == 0)
		return mkfifoat(r->dir, r->temporary, 0600) < 0 ? -errno : 0;
	return -EOPNOTSUPP;
}

/* The owner first: a change of it takes setuid away. */
static int dress(const struct restoring *r)
{
	const struct conflict_entry *e = r->entry;
	int64_t seconds = e->mtime / NS_PER_S;
	struct timespec times[2] = {
		{.tv_nsec = UTIME_NOW},
		{.tv_sec = seconds, .tv_nsec = (long)(e->mtime - seconds * NS_PER_S)},
	};

	if (fchownat(r->dir, r->temporary, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (strcmp(e->type, "symlink") != 0 && fchmodat(r->dir, r->temporary, e->mode, 0) < 0)
		return -errno;
	return utimensat(r->dir, r->temporary, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* What stands at the path, if anything, goes into the vault. */
static enum exit_code put_away(const struct restoring *r, bool *ret_was_there)
{
	struct stat st;

	*ret_was_there = fstatat(r->dir, r->leaf, &st, AT_SYMLINK_NOFOLLOW) == 0;
	if (!*ret_was_there)
		return EXIT_DONE;
	return client_request(r->mountpoint, r->state,
		json_pack("{s:s,s:s}", "command", "conflicts", "keep", r->path), 0, NULL, NULL);
}

static enum exit_code complain(const struct restoring *r, int error)
{
	client_complain("%s/%s: cannot restore %s: %s", r->mountpoint, r->path, r->entry->brief,
		strerror(-error));
	return EXIT_CANNOT;
}

static enum exit_code put_in_place(const struct restoring *r)
{
	bool was_there;
	int e = make(r);
	enum exit_code code;

	if (e == 0)
		e = dress(r);
	code = e < 0 ? complain(r, e) : put_away(r, &was_there);
	if (code == EXIT_DONE && renameat(r->dir, r->temporary, r->dir, r->leaf) < 0)
		code = complain(r, -errno);
	if (code != EXIT_DONE)
		(void)unlinkat(r->dir, r->temporary, 0); /* may not have been made */
	else
		printf("%s/%s is the version of %s%s\n", r->mountpoint, r->path, r->entry->node,
			was_there ? "; what stood there is in the vault" : "");
	return code;
}

static enum exit_code drop_entry(const struct restoring *r)
{
	return client_request(r->mountpoint, r->state,
		json_pack("{s:s,s:s}", "command", "conflicts", "drop", r->entry->name), 0, NULL,
		NULL);
}

static enum exit_code open_place(struct restoring *r)
{
	_cleanup_close_ int root = open(r->mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int e = root < 0 ? -errno : confine_parent(root, r->path, &r->dir, &r->leaf);

	if (e == 0)
		e = name_temporary(r);
	if (e == -ENOENT) {
		client_complain("%s/%s: its directory does not exist: make it, or give a NEWPATH",
			r->mountpoint, r->path);
		return EXIT_CANNOT;
	}
	return e < 0 ? complain(r, e) : EXIT_DONE;
}

enum exit_code cmd_conflicts_restore(const struct command_line *line)
{
	_cleanup_free_ char *mountpoint = NULL, *state = NULL;
	_cleanup_entry_ struct conflict_entry entry;
	enum exit_code code = conflict_entry_fetch(line, &mountpoint, &state, &entry);
	struct restoring r = {.entry = &entry, .mountpoint = mountpoint, .state = state, .dir = -1};

	if (code == EXIT_DONE)
		code = choose_path(&r, line->newpath);
	if (code == EXIT_DONE)
		code = open_place(&r);
	if (code == EXIT_DONE)
		code = put_in_place(&r);
	if (code == EXIT_DONE)
		code = drop_entry(&r);
	cleanup_close(&r.dir);
	return code;
}
