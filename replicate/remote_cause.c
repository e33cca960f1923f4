/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Why a server refuses: SFTP v3 has hardly any errors, but OpenSSH's tells about the file system.
 */

#include "remote.h"

#include <errno.h>

#define RDONLY 1 /* SSH_FXE_STATVFS_ST_RDONLY */

int remote_cause(struct remote *r, const char *path, uint64_t need, int error)
{
	struct statvfs v;

	if (error != -EIO && error != -EACCES)
		return error;
	if (!(r->ops->features(r) & REMOTE_STATVFS) || r->ops->statvfs(r, path, &v) < 0)
		return error;
	if (v.f_flag & RDONLY)
		return -EROFS;
	if (v.f_blocks > 0 && v.f_bavail * v.f_frsize < need)
		return -ENOSPC;
	return v.f_files > 0 && v.f_favail == 0 ? -ENOSPC : error;
}

const char *remote_remedy(int error)
{
	switch (error) {
	case -ENOSPC:
		return "make room there";
	case -EROFS:
		return "the file system there is read-only";
	case -EACCES:
		return "the account must be allowed to write there";
	case -EIO:
		return "the server does not say why: quota, a full or damaged disk, a name that is "
		       "too long there?";
	case -ENOTEMPTY:
		return "a directory stands there in its place and holds what is not here: move it "
		       "away";
	case -EBADMSG:
		return "what arrived is not what was sent";
	default:
		return "see the server's log";
	}
}
