/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "durable.h"
#include "cleanup.h"

#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

/*
 * DESIGN: rename(2) decides. What is new lies complete beside the old under NAME.tmp before it
 * takes its name, so a reader and a restart see the old bytes or the new ones. With sync the file
 * is on the disk before the rename and the directory after it: without the first a power failure
 * can leave the new name with no bytes, without the second the old ones may come back. One writer
 * per name.
 */

int write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int pwrite_all(int fd, const void *data, size_t len, off_t offset)
{
	const char *p = data;

	while (len) {
		ssize_t n = pwrite(fd, p, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		offset += n;
		len -= (size_t)n;
	}
	return 0;
}

int pread_all(int fd, void *data, size_t len, off_t offset)
{
	char *p = data;

	while (len) {
		ssize_t n = pread(fd, p, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		p += n;
		offset += n;
		len -= (size_t)n;
	}
	return 0;
}

static int write_new(int dir, const char *name, const void *data, size_t len, mode_t mode, int sync)
{
	_cleanup_close_ int fd = -1;
	int r;

	/* A left-over of a crash may have another mode or owner: start with a new inode. */
	if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
		return -errno;
	fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode & 07777);
	if (fd < 0)
		return -errno;
	r = write_all(fd, data, len);
	if (r < 0)
		return r;
	if (fchmod(fd, mode & 07777) < 0) /* the umask took its part */
		return -errno;
	if (sync && fsync(fd) < 0)
		return -errno;
	/* NFS and quotas may report a failed write only now. */
	return close(steal_fd(&fd)) < 0 ? -errno : 0;
}

/* A directory descriptor may be O_PATH, which fsync refuses: open it anew. */
static int sync_dir(int dir)
{
	_cleanup_close_ int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int durable_replace(int dir, const char *name, const void *data, size_t len, mode_t mode, int sync)
{
	char temp[NAME_MAX + 1];
	int r;

	if (snprintf(temp, sizeof(temp), "%s.tmp", name) >= (int)sizeof(temp))
		return -ENAMETOOLONG;
	r = write_new(dir, temp, data, len, mode, sync);
	if (r == 0 && renameat(dir, temp, dir, name) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlinkat(dir, temp, 0);
		return r;
	}
	return sync ? sync_dir(dir) : 0;
}

int durable_read(int dir, const char *name, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	_cleanup_free_ char *data = NULL;
	struct stat st;
	size_t len = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if ((uint64_t)st.st_size > max)
		return -EFBIG;
	data = malloc((size_t)st.st_size + 1);
	if (!data)
		return -ENOMEM;
	while (len < (size_t)st.st_size) {
		ssize_t n = read(fd, data + len, (size_t)st.st_size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0) /* became shorter meanwhile */
			break;
		len += (size_t)n;
	}
	data[len] = 0;
	*ret = steal_pointer(&data);
	*ret_len = len;
	return 0;
}

/* mkdir, where a directory that is there already is success. */
static int mkdir_one(const char *path, mode_t mode)
{
	struct stat st;

	if (mkdir(path, mode) == 0)
		return 0;
	if (errno != EEXIST)
		return -errno;
	if (stat(path, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int mkdir_parents(const char *path, mode_t mode)
{
	char part[PATH_MAX];
	size_t len = strlen(path);

	if (path[0] != '/')
		return -EINVAL;
	if (len >= sizeof(part))
		return -ENAMETOOLONG;
	for (size_t i = 1; i <= len; i++) {
		int r;

		if ((path[i] != '/' && path[i] != 0) || path[i - 1] == '/')
			continue;
		memcpy(part, path, i);
		part[i] = 0;
		r = mkdir_one(part, mode);
		/* On the way EROFS or EACCES may hide a directory that is there. */
		if (r < 0 && (path[i] == 0 || access(part, X_OK) < 0))
			return r;
	}
	return 0;
}
