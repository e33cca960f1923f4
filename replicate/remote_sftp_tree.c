/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What only a plain peer needs of a remote: changes of its tree, one request each.
 */

#include "remote_sftp.h"

#include "base/cleanup.h"

#include <errno.h>

void remote_stat_of(const struct sftp_attr *attr, struct stat *ret)
{
	*ret = (struct stat){
		.st_mode = attr->mode,
		.st_uid = attr->uid,
		.st_gid = attr->gid,
		.st_size = (off_t)attr->size,
		.st_nlink = 1,
		.st_atim.tv_sec = attr->atime,
		.st_mtim.tv_sec = attr->mtime,
	};
}

bool remote_sftp_connected(const struct remote *remote)
{
	return remote_sftp_of((struct remote *)remote)->ssh != NULL;
}

unsigned remote_sftp_features(const struct remote *remote)
{
	static const struct {
		enum sftp_extension sftp;
		enum remote_feature remote;
	} map[] = {
		{SFTP_POSIX_RENAME, REMOTE_REPLACES},
		{SFTP_HARDLINK, REMOTE_HARDLINK},
		{SFTP_LSETSTAT, REMOTE_LSETATTR},
		{SFTP_FSYNC, REMOTE_FSYNC},
		{SFTP_STATVFS, REMOTE_STATVFS},
		{SFTP_CHECK_FILE, REMOTE_DIGEST},
	};
	const struct remote_sftp *r = remote_sftp_of((struct remote *)remote);
	unsigned features = 0;

	if (!r->ssh || !r->channels[MAIN].sftp)
		return 0;
	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (sftp_extensions(r->channels[MAIN].sftp) & map[i].sftp)
			features |= map[i].remote;
	return features;
}

/* A server without posix-rename says FAILURE for a target that exists. */
static int why_not_renamed(struct sftp *s, const char *to, int error)
{
	struct sftp_attr attr;

	if (error != -EIO || sftp_error(s) < 0 || sftp_extensions(s) & SFTP_POSIX_RENAME)
		return error;
	return sftp_lstat(s, to, &attr) == 0 ? -EEXIST : error;
}

int remote_sftp_rename(struct remote *remote, const char *from, const char *to)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct channel *c;
	int n = remote_channel(r, false, &c);

	if (n < 0)
		return n;
	n = sftp_rename(c->sftp, from, to);
	return remote_result(r, c, why_not_renamed(c->sftp, to, n));
}

int remote_sftp_rmdir(struct remote *remote, const char *path)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct channel *c;
	int n = remote_channel(r, false, &c);

	return n < 0 ? n : remote_result(r, c, sftp_rmdir(c->sftp, path));
}

int remote_sftp_symlink(struct remote *remote, const char *target, const char *path)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct channel *c;
	int n = remote_channel(r, false, &c);

	return n < 0 ? n : remote_result(r, c, sftp_symlink(c->sftp, target, path));
}

int remote_sftp_readlink(struct remote *remote, const char *path, char **ret)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct channel *c;
	int n = remote_channel(r, false, &c);

	return n < 0 ? n : remote_result(r, c, sftp_readlink(c->sftp, path, ret));
}

int remote_sftp_link(struct remote *remote, const char *from, const char *to)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct channel *c;
	int n = remote_channel(r, false, &c);

	return n < 0 ? n : remote_result(r, c, sftp_hardlink(c->sftp, from, to));
}

int remote_sftp_setattr(struct remote *remote, const char *path, const struct remote_attr *a)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct sftp_attr attr = {.size = a->size,
		.uid = a->uid,
		.gid = a->gid,
		.mode = a->mode,
		.atime = a->atime,
		.mtime = a->mtime};
	struct channel *c;
	int n = remote_channel(r, false, &c);

	if (n < 0)
		return n;
	attr.flags = (a->mask & REMOTE_SIZE ? SFTP_ATTR_SIZE : 0) |
		     (a->mask & REMOTE_OWNER ? SFTP_ATTR_OWNER : 0) |
		     (a->mask & REMOTE_MODE ? SFTP_ATTR_MODE : 0) |
		     (a->mask & REMOTE_TIMES ? SFTP_ATTR_TIMES : 0);
	/* not for files: its chmod needs a /proc where the kernel is old, and a chroot has none */
	if (a->mask & REMOTE_LINK)
		n = sftp_lsetstat(c->sftp, path, &attr);
	else
		n = sftp_setstat(c->sftp, path, &attr);
	return remote_result(r, c, n);
}

struct scanner {
	void (*fn)(void *ctx, const char *name, const struct stat *st);
	void *ctx;
};

static void scan_name(void *ctx, const char *name, const struct sftp_attr *attr)
{
	struct scanner *s = ctx;
	struct stat st;

	remote_stat_of(attr, &st);
	s->fn(s->ctx, name, &st);
}

int remote_sftp_scan(struct remote *remote, const char *path,
	void (*fn)(void *ctx, const char *name, const struct stat *st), void *ctx)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct scanner s = {.fn = fn, .ctx = ctx};
	struct channel *c;
	int n = remote_channel(r, false, &c);

	return n < 0 ? n : remote_result(r, c, sftp_list(c->sftp, path, scan_name, &s));
}

int remote_sftp_statvfs(struct remote *remote, const char *path, struct statvfs *ret)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct channel *c;
	int n = remote_channel(r, false, &c);

	return n < 0 ? n : remote_result(r, c, sftp_statvfs(c->sftp, path, ret));
}
