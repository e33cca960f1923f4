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

static struct sftp_attr attr_of(const struct remote_attr *a)
{
	return (struct sftp_attr){
		.flags = (a->mask & REMOTE_SIZE ? SFTP_ATTR_SIZE : 0u) |
			 (a->mask & REMOTE_OWNER ? SFTP_ATTR_OWNER : 0u) |
			 (a->mask & REMOTE_MODE ? SFTP_ATTR_MODE : 0u) |
			 (a->mask & REMOTE_TIMES ? SFTP_ATTR_TIMES : 0u),
		.size = a->size,
		.uid = a->uid,
		.gid = a->gid,
		.mode = a->mode,
		.atime = a->atime,
		.mtime = a->mtime,
	};
}

int remote_sftp_setattr(struct remote *remote, const char *path, const struct remote_attr *a)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct sftp_attr attr = attr_of(a);
	struct channel *c;
	int n = remote_channel(r, false, &c);

	if (n < 0)
		return n;
	/* not for files: its chmod needs a /proc where the kernel is old, and a chroot has none */
	if (a->mask & REMOTE_LINK)
		n = sftp_lsetstat(c->sftp, path, &attr);
	else
		n = sftp_setstat(c->sftp, path, &attr);
	return remote_result(r, c, n);
}

/* ---- many at once ---- */

struct batch {
	size_t left; /* not answered */
};

struct batch_call {
	struct batch *batch;
	struct remote_call *call;
};

static int take_call(void *ctx, struct sftp_reply *reply)
{
	struct batch_call *b = ctx;
	struct sftp_attr attr;
	int r = 0;

	b->batch->left--;
	b->call->result = reply->error == -ENODATA ? -EIO : reply->error;
	if (reply->error == 0 && b->call->what == REMOTE_STAT) {
		r = sftp_reply_attr(reply, &attr);
		if (r == 0)
			remote_stat_of(&attr, &b->call->st);
	}
	return r;
}

static int start_call(struct sftp *s, struct batch_call *b)
{
	struct remote_call *call = b->call;
	struct sftp_attr attr;

	switch (call->what) {
	case REMOTE_RENAME:
		return sftp_rename_start(s, call->path, call->to, take_call, b);
	case REMOTE_SETATTR:
		attr = attr_of(&call->attr);
		return sftp_setstat_start(s, call->path, &attr, take_call, b);
	default:
		return sftp_lstat_start(s, call->path, take_call, b);
	}
}

int remote_sftp_batch(struct remote *remote, struct remote_call *calls, size_t n)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct batch batch = {0};
	_cleanup_free_ struct batch_call *list = calloc(n + 1, sizeof(*list));
	struct channel *c;
	int e = list ? remote_channel(r, false, &c) : -ENOMEM;

	for (size_t i = 0; i < n && e == 0; i++) {
		list[i] = (struct batch_call){.batch = &batch, .call = &calls[i]};
		e = start_call(c->sftp, &list[i]);
		batch.left += e == 0;
	}
	/* also after an error: the answers point to the list */
	while (batch.left > 0 && r->ssh)
		if (remote_wait(r) < 0 && e == 0)
			e = -ENOTCONN;
	return e == 0 && !r->ssh ? -ENOTCONN : e;
}

/* ---- listings ---- */

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
