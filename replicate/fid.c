/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "content.h"

#include "base/cleanup.h"
#include "base/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
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

static int open_handle(int root, const struct fid *fid, int flags)
{
	union handle u = {.h.handle_bytes = fid->len};
	int fd;

	u.h.handle_type = fid->type;
	memcpy(u.h.f_handle, fid->bytes, fid->len);
	fd = open_by_handle_at(root, &u.h, flags | O_CLOEXEC);
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
		fd = open_handle(root, fid, flags);
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
