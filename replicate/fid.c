/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "content.h"

#include "base/cleanup.h"
#include "base/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/*
 * DESIGN: an inode's identity is its file handle, which holds a generation number and so is not
 * reused, and beside it the inode number for file systems without handles (where a reused number
 * cannot be told from the old one). Opening goes by the handle, so that renames do not matter.
 */

union handle {
	struct file_handle h;
	char room[sizeof(struct file_handle) + FID_MAX];
};

int fid_of_fd(int fd, struct fid *ret)
{
	union handle u = {.h.handle_bytes = FID_MAX};
	struct fid fid = {0};
	struct stat st;
	int mount_id;

	if (fstat(fd, &st) < 0)
		return -errno;
	fid.ino = st.st_ino;
	if (name_to_handle_at(fd, "", &u.h, &mount_id, AT_EMPTY_PATH) == 0) {
		fid.type = u.h.handle_type;
		fid.len = (uint8_t)u.h.handle_bytes;
		memcpy(fid.bytes, u.h.f_handle, fid.len);
	} else if (errno != EOPNOTSUPP && errno != EOVERFLOW && errno != ENOSYS && errno != EPERM) {
		return -errno;
	}
	*ret = fid;
	return 0;
}

int fid_of_path(int root, const char *path, struct fid *ret)
{
	_cleanup_close_ int fd = confine_open(root, path, O_PATH, 0);

	return fd < 0 ? fd : fid_of_fd(fd, ret);
}

/* A handle whose inode number is just being given to a new file: the kernel says ENOMEM
 * (iget_locked() finds an inode that is not ready), and ESTALE as soon as it is. */
#define BUSY_TRIES 1000
#define BUSY_PAUSE_NS 20000

int fid_open_handle(int root, int32_t type, const uint8_t *bytes, uint8_t len, int flags)
{
	union {
		struct file_handle h;
		uint8_t room[sizeof(struct file_handle) + FID_MAX];
	} u = {.h = {.handle_bytes = len, .handle_type = type}};
	int fd = -1;

	if (len > FID_MAX)
		return -EINVAL;
	memcpy(u.h.f_handle, bytes, len);
	for (int i = 0; i < BUSY_TRIES; i++) {
		fd = open_by_handle_at(root, &u.h, flags | O_CLOEXEC);
		if (fd >= 0 || errno != ENOMEM)
			break;
		(void)nanosleep(&(struct timespec){.tv_nsec = BUSY_PAUSE_NS}, NULL);
	}
	return fd < 0 ? -errno : fd;
}

/* Whether it is the inode and still has a name. */
static int check_inode(int fd, const struct fid *fid)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	return st.st_ino == fid->ino && st.st_nlink > 0 ? 0 : -ESTALE;
}

int fid_open(int root, const struct fid *fid, const char *path, int flags)
{
	_cleanup_close_ int fd = -EOPNOTSUPP;
	int r;

	if (fid->len > 0 && fid->len <= FID_MAX)
		fd = fid_open_handle(root, fid->type, fid->bytes, fid->len, flags);
	if ((fd == -EPERM || fd == -EOPNOTSUPP || fd == -ENOSYS) && path) {
		fd = confine_open(root, path, flags, 0);
		if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
			fd = -ESTALE;
	}
	if (fd < 0)
		return fd;
	r = check_inode(fd, fid);
	return r < 0 ? r : steal_fd(&fd);
}
