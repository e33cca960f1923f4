/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "content.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

/*
 * DESIGN: reads the extended attributes that are replicated. Most inodes have none, so the common
 * case is one flistxattr(2) into a buffer on the stack. Descriptors that were opened with O_PATH
 * (symbolic links, FIFOs, devices) refuse with EBADF and are read through /proc/self/fd. What
 * vanishes or grows between the calls is tried again.
 */

#define LIST_ROOM 1024

static bool starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool xattr_is_replicated(const char *name)
{
	if (starts(name, "trusted."))
		return !starts(name, "trusted.overlay.");
	return starts(name, "user.") || strcmp(name, "security.capability") == 0 ||
	       strcmp(name, "system.posix_acl_access") == 0 ||
	       strcmp(name, "system.posix_acl_default") == 0;
}

static ssize_t list(int fd, char *dst, size_t size)
{
	char proc[32];
	ssize_t n = flistxattr(fd, dst, size);

	if (n >= 0 || errno != EBADF)
		return n;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return listxattr(proc, dst, size);
}

static ssize_t get(int fd, const char *name, void *dst, size_t size)
{
	char proc[32];
	ssize_t n = fgetxattr(fd, name, dst, size);

	if (n >= 0 || errno != EBADF)
		return n;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return getxattr(proc, name, dst, size);
}

/* The list of names that did not fit on the stack. */
static int list_long(int fd, char **ret, ssize_t *ret_len)
{
	ssize_t n;
	char *names;

	for (;;) {
		n = list(fd, NULL, 0);
		if (n < 0)
			return -errno;
		names = malloc((size_t)n + 1);
		if (!names)
			return -ENOMEM;
		n = list(fd, names, (size_t)n + 1);
		if (n >= 0)
			break;
		free(names);
		if (errno != ERANGE)
			return -errno;
	}
	*ret = names;
	*ret_len = n;
	return 0;
}

/* 1, 0 when there is no such attribute (any more), or -errno. */
static int read_one(int fd, const char *name, struct xattr *ret)
{
	_cleanup_free_ uint8_t *value = NULL;
	uint8_t *grown;
	ssize_t n;

	do {
		n = get(fd, name, NULL, 0);
		if (n < 0)
			return errno == ENODATA ? 0 : -errno;
		grown = realloc(value, (size_t)n + 1);
		if (!grown)
			return -ENOMEM;
		value = grown;
		n = get(fd, name, value, (size_t)n + 1);
	} while (n < 0 && errno == ERANGE);
	if (n < 0)
		return errno == ENODATA ? 0 : -errno;
	ret->name = strdup(name);
	if (!ret->name)
		return -ENOMEM;
	ret->value = steal_pointer(&value);
	ret->len = (size_t)n;
	return 1;
}

static int read_names(int fd, const char *names, size_t len, struct xattr **ret, size_t *ret_n)
{
	struct xattr *x = NULL, *grown;
	const char *name;
	size_t n = 0;
	int r = 0;

	for (name = names; name < names + len && r >= 0; name += strlen(name) + 1) {
		if (!xattr_is_replicated(name))
			continue;
		grown = reallocarray(x, n + 1, sizeof(*x));
		if (!grown) {
			r = -ENOMEM;
			break;
		}
		x = grown;
		r = read_one(fd, name, &x[n]);
		if (r > 0)
			n++;
	}
	if (r < 0) {
		xattrs_free(x, n);
		return r;
	}
	*ret = x;
	*ret_n = n;
	return 0;
}

int xattrs_read(int fd, struct xattr **ret, size_t *ret_n)
{
	_cleanup_free_ char *more = NULL;
	char room[LIST_ROOM];
	const char *names = room;
	ssize_t len = list(fd, room, sizeof(room));
	int r;

	if (len < 0 && errno == ERANGE) {
		r = list_long(fd, &more, &len);
		if (r < 0)
			return r;
		names = more;
	} else if (len < 0 && errno != EOPNOTSUPP) {
		return -errno;
	}
	if (len <= 0) {
		*ret = NULL;
		*ret_n = 0;
		return 0;
	}
	return read_names(fd, names, (size_t)len, ret, ret_n);
}

void xattrs_free(struct xattr *x, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		free(x[i].name);
		free(x[i].value);
	}
	free(x);
}
