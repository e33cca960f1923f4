/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "creds.h"
#include "replicate/base/cleanup.h"

#include <linux/capability.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/*
 * DESIGN: only the file system ids of the thread change: setfsuid(2) and setfsgid(2) are raw
 * per-thread calls in glibc. Leaving uid 0 takes the file capabilities from the effective set;
 * they are put back, since the kernel has checked the caller's permissions already (it knows the
 * caller's groups and capabilities, we do not). What the caller may not give itself, the setgid
 * bit, the kernel has taken off the mode before it sent it.
 *
 * The umask belongs to the process unless a thread has unshared its fs_struct; each does so once.
 */

static int caps_restore(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[2];

	if (syscall(SYS_capget, &head, caps) < 0)
		return -errno;
	for (int k = 0; k < 2; k++)
		caps[k].effective = caps[k].permitted;
	return syscall(SYS_capset, &head, caps) < 0 ? -errno : 0;
}

/* 0 or -errno. */
static int umask_set(mode_t mask)
{
	static __thread bool own;

	if (!own && unshare(CLONE_FS) < 0)
		return -errno;
	own = true;
	(void)umask(mask);
	return 0;
}

int creds_enter(const struct fuse_ctx *ctx)
{
	int r = umask_set(ctx->umask);

	if (r < 0)
		return r;
	if (ctx->gid)
		(void)setfsgid(ctx->gid);
	if (!ctx->uid)
		return 0;
	(void)setfsuid(ctx->uid);
	r = caps_restore();
	if (r < 0)
		creds_leave(ctx);
	return r;
}

void creds_leave(const struct fuse_ctx *ctx)
{
	if (ctx->uid)
		(void)setfsuid(0); /* raises the file capabilities again */
	if (ctx->gid)
		(void)setfsgid(0);
}

bool creds_in_group(fuse_req_t req, gid_t gid)
{
	_cleanup_free_ gid_t *list = NULL;
	int n, got;

	if (fuse_req_ctx(req)->gid == gid)
		return true;
	n = fuse_req_getgroups(req, 0, NULL);
	if (n <= 0)
		return false;
	list = calloc((size_t)n, sizeof(*list));
	if (!list)
		return false;
	got = fuse_req_getgroups(req, n, list);
	for (int k = 0; k < n && k < got; k++)
		if (list[k] == gid)
			return true;
	return false;
}
