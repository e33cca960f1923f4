/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "confine.h"
#include "cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

/*
 * DESIGN: two nets. confine_check() looks at the text of a path, before anything is touched: what
 * a peer sent is refused there. confine_open() lets the kernel refuse what the text cannot show, a
 * symbolic link planted in the way; openat2(2) has no window between the look and the use.
 * glibc of Debian 12 has no wrapper for it.
 */

static int component_check(const char *name, size_t len)
{
	if (len == 0 || (len == 1 && name[0] == '.') ||
		(len == 2 && name[0] == '.' && name[1] == '.'))
		return -EINVAL;
	return len > TANDEMFS_NAME_MAX ? -ENAMETOOLONG : 0;
}

int confine_check(const char *path, bool allow_root)
{
	size_t len = strnlen(path, TANDEMFS_PATH_MAX + 1);
	size_t own = strlen(TANDEMFS_DIR);
	int r;

	if (len == 0)
		return allow_root ? 0 : -EINVAL;
	if (len > TANDEMFS_PATH_MAX)
		return -ENAMETOOLONG;
	if (strncmp(path, TANDEMFS_DIR, own) == 0 && (path[own] == 0 || path[own] == '/'))
		return -EPERM;
	for (;;) {
		size_t n = strcspn(path, "/");

		r = component_check(path, n);
		if (r < 0 || path[n] == 0)
			return r;
		path += n + 1;
	}
}

int confine_open(int root, const char *path, int flags, mode_t mode)
{
	bool creates = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
	struct open_how how = {
		.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC | O_NOFOLLOW),
		.mode = creates ? mode & 07777 : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	do {
		fd = syscall(SYS_openat2, root, path[0] ? path : ".", &how, sizeof(how));
	} while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : (int)fd;
}

/* To whoever looks for a name, what lies behind a link is not there. */
static int not_there(int error)
{
	return error == -ELOOP ? -ENOTDIR : error;
}

int confine_parent(int root, const char *path, int *ret_fd, const char **ret_name)
{
	char parent[TANDEMFS_PATH_MAX + 1];
	size_t len = confine_parent_len(path);
	int fd;

	if (path[0] == 0)
		return -EINVAL;
	if (len >= sizeof(parent))
		return -ENAMETOOLONG;
	memcpy(parent, path, len);
	parent[len] = 0;
	fd = confine_open(root, parent, O_PATH | O_DIRECTORY, 0);
	if (fd < 0)
		return not_there(fd);
	*ret_fd = fd;
	*ret_name = len ? path + len + 1 : path;
	return 0;
}

int confine_opendir(int root, const char *path, DIR **ret)
{
	int fd = confine_open(root, path, O_RDONLY | O_DIRECTORY, 0);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	int e = d ? 0 : -errno;

	if (fd < 0)
		return not_there(fd);
	if (!d) {
		(void)close(fd);
		return e;
	}
	*ret = d;
	return 0;
}

int confine_each(int root, const char *dir, int (*fn)(void *ctx, const char *path), void *ctx)
{
	_cleanup_closedir_ DIR *d = NULL;
	const struct dirent *entry;
	int r = confine_opendir(root, dir, &d);

	if (r < 0)
		return r;
	while (r == 0 && (errno = 0, entry = readdir(d))) {
		_cleanup_free_ char *path = NULL;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (asprintf(&path, "%s%s%s", dir, *dir ? "/" : "", entry->d_name) < 0)
			return path = NULL, -ENOMEM;
		r = fn(ctx, path);
	}
	return r ?: -errno;
}

int confine_stat(int root, const char *path, struct stat *ret)
{
	_cleanup_close_ int fd = confine_open(root, path, O_PATH, 0);

	if (fd < 0)
		return not_there(fd);
	return fstat(fd, ret) < 0 ? -errno : 0;
}

size_t confine_parent_len(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? (size_t)(slash - path) : 0;
}

bool confine_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	if (len == 0)
		return true;
	return strncmp(path, dir, len) == 0 && (path[len] == 0 || path[len] == '/');
}

char *confine_moved(const char *path, const char *from, const char *to)
{
	char *ret;

	return asprintf(&ret, "%s%s", to, path + strlen(from)) < 0 ? NULL : ret;
}
