/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "privs.h"
#include "caller.h"
#include "creds.h"
#include "ops.h"
#include "replicate/base/cleanup.h"

#include <fcntl.h>
#include <linux/capability.h>

/*
 * DESIGN: without FUSE_HANDLE_KILLPRIV_V2 the kernel asks for security.capability before each
 * write, a request more than the write itself. With it the kernel remembers that there is nothing,
 * and we do what it would: setuid goes, and setgid where the group may execute or the caller is
 * not in it, unless the caller may keep them (CAP_FSETID). libfuse does not hand the write's flag
 * on that says so; only for a file that has such bits /proc is asked.
 *
 * The kernel goes on with the mode that it knows, so it is told before the call is answered. That
 * takes no lock there: no page is invalidated.
 */

static mode_t privs_of(fuse_req_t req, const struct stat *st)
{
	mode_t drop = st->st_mode & S_ISUID;

	if ((st->st_mode & S_ISGID) &&
		((st->st_mode & S_IXGRP) || !creds_in_group(req, st->st_gid)))
		drop |= S_ISGID;
	return drop;
}

static bool may_keep(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return ctx->uid == 0 && caller_has_capability(ctx->pid, CAP_FSETID);
}

int privs_drop(struct mount *m, struct inode *i, int fd, fuse_req_t req)
{
	struct stat st;
	mode_t drop;
	int r;

	if (!m->killpriv)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	drop = S_ISREG(st.st_mode) ? privs_of(req, &st) : 0;
	if (!drop || may_keep(req))
		return 0;
	r = inode_set_mode(m, i, st.st_mode & 07777 & ~drop, req);
	if (r < 0)
		return r;
	r = fuse_lowlevel_notify_inval_inode(m->session, i->id, -1, 0);
	return r == -ENOENT ? 0 : r;
}

int privs_drop_along(struct mount *m, struct inode *i, struct op *op, fuse_req_t req)
{
	_cleanup_close_ int fd = inode_open(m->inodes, i, O_PATH);
	struct stat st;
	mode_t drop;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	drop = S_ISREG(st.st_mode) ? privs_of(req, &st) : 0;
	if (!drop || (op->mask & OP_MODE))
		return 0;
	op->mask |= OP_MODE;
	op->mode = st.st_mode & 07777 & ~drop;
	return 0;
}
