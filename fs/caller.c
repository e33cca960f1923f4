/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "caller.h"

#include "replicate/base/cleanup.h"
#include "replicate/base/confine.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

/*
 * DESIGN: only the texts of the links in /proc/PID/fd are read. To follow one would ask this very
 * file system, from within one of its calls.
 */

/* Descriptors that are looked at. */
#define DESCRIPTORS_MAX 4096

static bool ends_in(const char *text, size_t len, const char *path)
{
	size_t n = strlen(path);

	return len > n && text[len - n - 1] == '/' && memcmp(text + len - n, path, n) == 0;
}

bool caller_has_open(pid_t pid, const char *path)
{
	_cleanup_closedir_ DIR *d = NULL;
	char name[64], target[2 * TANDEMFS_PATH_MAX];
	struct dirent *e;
	int left = DESCRIPTORS_MAX;

	if (pid <= 0)
		return false;
	(void)snprintf(name, sizeof(name), "/proc/%d/fd", (int)pid);
	d = opendir(name);
	while (d && left-- > 0 && (e = readdir(d))) {
		ssize_t len = readlinkat(dirfd(d), e->d_name, target, sizeof(target));

		if (len > 0 && ends_in(target, (size_t)len, path))
			return true;
	}
	return false;
}

bool caller_has_capability(pid_t pid, unsigned capability)
{
	unsigned long long effective = 0;
	_cleanup_fclose_ FILE *f = NULL;
	char name[64], line[256];

	if (pid <= 0)
		return false;
	(void)snprintf(name, sizeof(name), "/proc/%d/status", (int)pid);
	f = fopen(name, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "CapEff: %llx", &effective) == 1)
			break;
	return effective >> capability & 1;
}
