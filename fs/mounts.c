/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The kernel's table of mounts is the truth about what is mounted. It does not know the state
 * directory of a mount, so the daemon leaves a symbolic link for the commands to find it:
 *
 *     /run/tandemfs/var-www-html -> /var/lib/tandemfs/var-www-html
 *
 * A link may outlive a daemon that was killed; it is then replaced by the next one.
 */

#include "mounts.h"

#include "replicate/base/cleanup.h"

#include <ctype.h>
#include <limits.h>
#include <mntent.h>
#include <string.h>
#include <sys/stat.h>

#define TABLE "/proc/self/mounts"

static void cleanup_endmntent(FILE **f)
{
	if (*f)
		(void)endmntent(*f);
}

int mounts_each(
	int (*fn)(void *ctx, const char *source, const char *dir, const char *type), void *ctx)
{
	_cleanup_(cleanup_endmntent) FILE *f = setmntent(TABLE, "re");
	/* Source, target and options of one line: paths may be quadrupled by their escapes. */
	enum { LINE_MAX_BYTES = 64 * 1024 };
	_cleanup_free_ char *line = malloc(LINE_MAX_BYTES);
	struct mntent entry;
	int r = 0;

	if (!f)
		return -errno;
	if (!line)
		return -ENOMEM;
	while (r == 0 && getmntent_r(f, &entry, line, LINE_MAX_BYTES))
		r = fn(ctx, entry.mnt_fsname, entry.mnt_dir, entry.mnt_type);
	return r;
}

struct top_search {
	const char *dir;
	char *source, *type;
};

static int take_if_there(void *ctx, const char *source, const char *dir, const char *type)
{
	struct top_search *s = ctx;

	if (strcmp(dir, s->dir) != 0)
		return 0;
	free(s->source);
	free(s->type);
	s->source = strdup(source);
	s->type = strdup(type);
	return s->source && s->type ? 0 : -ENOMEM;
}

int mounts_at(const char *dir, char **ret_source, char **ret_type)
{
	struct top_search s = {.dir = dir};
	int r = mounts_each(take_if_there, &s);

	if (r < 0 || !s.source) {
		free(s.source);
		free(s.type);
		return r;
	}
	*ret_source = s.source;
	*ret_type = s.type;
	return 1;
}

static int real_path(const char *path, char **ret)
{
	*ret = realpath(path, NULL);
	return *ret ? 0 : -errno;
}

/* The resolved parent and the last component as it is. */
static int resolve_parent(const char *path, char **ret)
{
	_cleanup_free_ char *copy = strdup(path), *parent = NULL;
	char *slash;
	int r;

	if (!copy)
		return -ENOMEM;
	for (size_t len = strlen(copy); len > 1 && copy[len - 1] == '/'; len--)
		copy[len - 1] = '\0';
	slash = strrchr(copy, '/');
	if (slash && (!slash[1] || strcmp(slash + 1, ".") == 0 || strcmp(slash + 1, "..") == 0))
		return real_path(path, ret);
	if (!slash && (strcmp(copy, ".") == 0 || strcmp(copy, "..") == 0))
		return real_path(path, ret);
	if (slash == copy)
		r = real_path("/", &parent);
	else if (slash) {
		*slash = '\0';
		r = real_path(copy, &parent);
	} else
		r = real_path(".", &parent);
	if (r < 0)
		return r;
	r = asprintf(
		ret, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, slash ? slash + 1 : copy);
	return r < 0 ? -ENOMEM : 0;
}

int mounts_resolve(const char *path, char **ret)
{
	_cleanup_free_ char *candidate = NULL, *source = NULL, *type = NULL;
	int r;

	if (!*path)
		return -ENOENT;
	r = resolve_parent(path, &candidate);
	if (r < 0)
		return r;
	r = mounts_at(candidate, &source, &type);
	if (r < 0)
		return r;
	if (r == 0)
		return real_path(path, ret);
	*ret = steal_pointer(&candidate);
	return 0;
}

int mounts_escape(const char *path, char **ret)
{
	char *out = malloc(strlen(path) * 4 + 2), *p = out;

	if (!out)
		return -ENOMEM;
	for (path += strspn(path, "/"); *path; path++) {
		if (*path == '/') {
			if (path[1] && path[1] != '/')
				*p++ = '-';
		} else if (isalnum((unsigned char)*path) || strchr(":_", *path) ||
			   (*path == '.' && p != out))
			*p++ = *path;
		else
			p += sprintf(p, "\\x%02x", (unsigned char)*path);
	}
	if (p == out)
		*p++ = '-';
	*p = '\0';
	*ret = out;
	return 0;
}

/* @base, a slash and the escaped mount point. */
static int escaped_below(const char *base, const char *mountpoint, char **ret)
{
	_cleanup_free_ char *name = NULL;
	int r = mounts_escape(mountpoint, &name);

	if (r == 0 && asprintf(ret, "%s/%s", base, name) < 0)
		r = -ENOMEM;
	return r;
}

int mounts_default_state(const char *mountpoint, char **ret)
{
	return escaped_below(MOUNTS_STATE_BASE, mountpoint, ret);
}

int mounts_register(const char *mountpoint, const char *state)
{
	_cleanup_free_ char *link = NULL, *fresh = NULL;
	int r;

	if (mkdir(MOUNTS_REGISTRY, 0755) < 0 && errno != EEXIST)
		return -errno;
	r = escaped_below(MOUNTS_REGISTRY, mountpoint, &link);
	if (r < 0)
		return r;
	if (asprintf(&fresh, "%s.new", link) < 0)
		return -ENOMEM;
	if (unlink(fresh) < 0 && errno != ENOENT)
		return -errno;
	if (symlink(state, fresh) < 0)
		return -errno;
	return rename(fresh, link) < 0 ? -errno : 0;
}

static int read_registered(const char *link, char **ret)
{
	char target[PATH_MAX];
	ssize_t n = readlink(link, target, sizeof(target) - 1);

	if (n < 0)
		return -errno;
	target[n] = '\0';
	*ret = strdup(target);
	return *ret ? 0 : -ENOMEM;
}

int mounts_unregister(const char *mountpoint, const char *state)
{
	_cleanup_free_ char *link = NULL, *target = NULL;
	int r = escaped_below(MOUNTS_REGISTRY, mountpoint, &link);

	if (r < 0)
		return r;
	r = read_registered(link, &target);
	if (r < 0 || strcmp(target, state) != 0)
		return r == -ENOENT ? 0 : r;
	return unlink(link) < 0 && errno != ENOENT ? -errno : 0;
}

int mounts_state_of(const char *mountpoint, char **ret)
{
	_cleanup_free_ char *link = NULL;
	int r = escaped_below(MOUNTS_REGISTRY, mountpoint, &link);

	if (r < 0)
		return r;
	r = read_registered(link, ret);
	return r == -ENOENT ? mounts_default_state(mountpoint, ret) : r;
}
