/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The checks before a mount, in the order in which their answers help most: what is mounted
 * already, the two directories, the state directory, the files and the account that options name.
 *
 * The mount point may be the backing directory itself: it is opened before it is covered. But
 * neither may lie within the other, where the mount would contain itself or hide the backing
 * directory from the peers' SFTP servers.
 */

#include "start.h"
#include "replicate/base/say.h"

#include "mounts.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/confine.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

static int resolve_directories(const struct options *o, struct start *s, char **ret_error)
{
	int r;

	s->backing = realpath(o->backing, NULL);
	if (!s->backing)
		return say(
			ret_error, -errno, "backing directory %s: %s", o->backing, strerror(errno));
	r = mounts_resolve(o->mountpoint, &s->mountpoint);
	if (r < 0)
		return say(ret_error, r, "mount point %s: %s", o->mountpoint, strerror(-r));
	return 0;
}

/* Everybody who still uses it gets ENOTCONN; there is nothing in it to be lost. MNT_FORCE ends what
 * still waits for an answer: a killed daemon's thread that was invalidating a name may wait for the
 * very call that waits for the daemon. */
static int detach_dead(const struct start *s, char **ret_error)
{
	if (umount2(s->mountpoint, MNT_FORCE | UMOUNT_NOFOLLOW) < 0 && errno != EBUSY)
		log_debug("%s: umount2: %s", s->mountpoint, strerror(errno));
	if (umount2(s->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL)
		return say(ret_error, -errno,
			"%s is mounted at %s, its daemon is dead, and it cannot be unmounted: %s",
			s->backing, s->mountpoint, strerror(errno));
	log_notice("%s: the daemon of the mount before is dead: mounting anew", s->mountpoint);
	return 0;
}

/* Sets s->mounted when there is nothing to do. */
static int check_mounted(struct start *s, char **ret_error)
{
	_cleanup_free_ char *source = NULL, *type = NULL;
	int r = mounts_at(s->mountpoint, &source, &type);
	struct stat st;

	if (r < 0)
		return say(ret_error, r, "cannot read the table of mounts: %s", strerror(-r));
	if (r == 0 || (strcmp(s->mountpoint, s->backing) == 0 && strcmp(type, MOUNTS_TYPE) != 0))
		return 0;
	if (strcmp(type, MOUNTS_TYPE) != 0 || strcmp(source, s->backing) != 0)
		return say(ret_error, -EBUSY,
			"mount point %s is busy: %s (%s) is mounted there; `umount %s` first",
			s->mountpoint, source, type, s->mountpoint);
	if (stat(s->mountpoint, &st) < 0)
		return errno == ENOTCONN ? detach_dead(s, ret_error)
					 : say(ret_error, -errno, "%s, mounted already: %s",
						   s->mountpoint, strerror(errno));
	s->mounted = true;
	return 0;
}

static int check_mountpoint(const struct start *s, char **ret_error)
{
	struct stat st;

	if (stat(s->mountpoint, &st) < 0)
		return say(ret_error, -errno, "mount point %s: %s", s->mountpoint, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return say(ret_error, -ENOTDIR, "mount point %s is not a directory", s->mountpoint);
	if (strcmp(s->mountpoint, s->backing) == 0)
		return 0;
	if (confine_below(s->mountpoint + 1, s->backing + 1))
		return say(ret_error, -ELOOP,
			"mount point %s lies within the backing directory %s and would contain itself",
			s->mountpoint, s->backing);
	if (confine_below(s->backing + 1, s->mountpoint + 1))
		return say(ret_error, -ELOOP,
			"backing directory %s lies within the mount point %s and would be hidden by it",
			s->backing, s->mountpoint);
	return 0;
}

struct holder_search {
	const char *path;
	size_t len; /* of the mount point that holds the path */
	bool ours;
};

static int take_if_longer(void *ctx, const char *source, const char *dir, const char *type)
{
	struct holder_search *s = ctx;
	size_t len = strlen(dir);

	(void)source;
	if (!confine_below(s->path + 1, dir + 1) || len < s->len)
		return 0;
	s->len = len;
	s->ours = strcmp(type, MOUNTS_TYPE) == 0;
	return 0;
}

/* One tandemfs over another would replicate each change twice. */
static int check_holder(const struct start *s, char **ret_error)
{
	struct holder_search search = {.path = s->backing};
	int r = mounts_each(take_if_longer, &search);

	if (r < 0)
		return say(ret_error, r, "cannot read the table of mounts: %s", strerror(-r));
	if (search.ours)
		return say(ret_error, -EINVAL,
			"backing directory %s is itself in a tandemfs mount, %.*s", s->backing,
			(int)search.len, s->backing);
	return 0;
}

static int open_backing(struct start *s, char **ret_error)
{
	s->root = open(s->backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->root >= 0 && faccessat(s->root, ".", R_OK | X_OK, AT_EACCESS) == 0)
		return 0;
	if (errno == ENOTDIR)
		return say(
			ret_error, -ENOTDIR, "backing directory %s is not a directory", s->backing);
	return say(ret_error, -errno, "backing directory %s cannot be read: %s", s->backing,
		strerror(errno));
}

/* The state must not be replicated, nor be reached through the mount. Its last components need not
 * exist yet. */
static int check_state(const struct options *o, struct start *s, char **ret_error)
{
	_cleanup_free_ char *existing = NULL, *resolved = NULL;
	int r;

	if (o->state)
		s->state = strdup(o->state);
	r = o->state ? 0 : mounts_default_state(s->mountpoint, &s->state);
	if (r < 0 || !s->state)
		return -ENOMEM;
	existing = strdup(s->state);
	if (!existing)
		return -ENOMEM;
	while (!(resolved = realpath(existing, NULL)) && errno == ENOENT && existing[1]) {
		char *slash = strrchr(existing, '/');

		slash[slash == existing] = '\0';
	}
	if (!resolved)
		return say(ret_error, -errno, "state directory %s: %s", s->state, strerror(errno));
	if (confine_below(resolved + 1, s->backing + 1))
		return say(ret_error, -EINVAL,
			"state directory %s lies within the backing directory: choose another with "
			"state=",
			s->state);
	if (confine_below(resolved + 1, s->mountpoint + 1))
		return say(ret_error, -EINVAL,
			"state directory %s lies below the mount point: choose another with state=",
			s->state);
	return 0;
}

static int check_file(const char *option, const char *path, bool secret, char **ret_error)
{
	struct stat st;

	if (!path)
		return 0;
	if (stat(path, &st) < 0)
		return say(ret_error, -errno, "option %s: %s: %s", option, path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return say(ret_error, -EINVAL, "option %s: %s is no file", option, path);
	if (access(path, R_OK) < 0)
		return say(ret_error, -errno, "option %s: %s cannot be read: %s", option, path,
			strerror(errno));
	if (secret && (st.st_mode & 077))
		return say(ret_error, -EPERM,
			"option %s: others than its owner may use %s; `chmod 600 %s`", option, path,
			path);
	return 0;
}

static int check_files(const struct options *o, char **ret_error)
{
	int r = check_file("identity", o->identity, true, ret_error);

	if (r == 0)
		r = check_file("password_file", o->password_file, true, ret_error);
	if (r == 0)
		r = check_file("known_hosts", o->known_hosts, false, ret_error);
	if (r < 0 || !o->account)
		return r;
	errno = 0;
	if (!getpwnam(o->account))
		return say(ret_error, errno ? -errno : -ENOENT,
			"option account: there is no user \"%s\" on this machine", o->account);
	return 0;
}

/* The host name, with what no node name may have replaced by dashes. */
static int choose_node(const struct options *o, struct start *s, char **ret_error)
{
	char name[HOST_NAME_MAX + 1] = "";

	if (!o->node && gethostname(name, sizeof(name) - 1) < 0)
		return say(ret_error, -errno, "no host name (%s): give node=NAME", strerror(errno));
	for (char *p = name; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
			*p = '-';
	if (!o->node && (!*name || *name == '.' || *name == '-'))
		return say(ret_error, -EINVAL, "the host name is unfit: give node=NAME");
	s->node = strdup(o->node ? o->node : name);
	return s->node ? 0 : -ENOMEM;
}

static int prepare(const struct options *o, struct start *s, char **ret_error)
{
	int r = resolve_directories(o, s, ret_error);

	if (r == 0)
		r = check_mounted(s, ret_error);
	if (r < 0 || s->mounted)
		return r;
	r = check_mountpoint(s, ret_error);
	if (r == 0)
		r = check_holder(s, ret_error);
	if (r == 0)
		r = open_backing(s, ret_error);
	if (r == 0)
		r = check_state(o, s, ret_error);
	if (r == 0)
		r = check_files(o, ret_error);
	if (r == 0)
		r = choose_node(o, s, ret_error);
	return r;
}

int start_prepare(const struct options *o, struct start *ret, char **ret_error)
{
	struct start s = {.root = -1};
	int r = prepare(o, &s, ret_error);

	if (r < 0) {
		start_clear(&s);
		s.root = -1;
	}
	*ret = s;
	return r;
}

void start_clear(struct start *s)
{
	cleanup_close(&s->root);
	free(s->backing);
	free(s->mountpoint);
	free(s->state);
	free(s->node);
	*s = (struct start){.root = -1};
}
