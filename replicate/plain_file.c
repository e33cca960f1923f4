/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Contents, attributes and names at a plain peer.
 *
 * A content is put together under a temporary name, with its owner, mode and times, is checked, and
 * is renamed into place: nobody there sees a part of it. Temporaries are in .tandemfs/tmp: one
 * listing finds what a broken session left, and a temporary does not depend on directories that
 * are yet to be made or renamed. Only a file with several names here, and small changes of a large
 * one, are written in place.
 *
 * Owners come first and apart, since chown(2) strips setuid, and since a refused one must not keep
 * the mode from being set; setuid and setgid are not given to a file that another owns.
 */

#include "plain.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/fault.h"
#include "base/log.h"
#include "content.h"
#include "digest.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define BLOCK (512u << 10)
#define SECOND 1000000000

/* ---- names ---- */

char *plain_there(const struct plain *p, const char *path)
{
	char *there;

	return asprintf(&there, "%s%s%s", p->root, path[0] ? "/" : "", path) < 0 ? NULL : there;
}

char *plain_tmp(struct plain *p)
{
	char *there;

	if (asprintf(&there, "%s/t%llx", p->tmp, (unsigned long long)++p->serial) < 0)
		return NULL;
	return there;
}

int plain_lstat(struct plain *p, const char *path, struct stat *ret)
{
	_cleanup_free_ char *there = plain_there(p, path);

	return there ? p->remote->ops->stat(p->remote, there, ret) : -ENOMEM;
}

bool plain_refused(const struct plain *p, int error)
{
	return error < 0 && error != -ENOMEM && error != -ECANCELED &&
	       p->remote->ops->connected(p->remote);
}

/* ---- attributes ---- */

static bool owner_refused(struct plain *p, uint32_t uid, uint32_t gid)
{
	bool refused = false;

	(void)pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < p->n_refused; i++)
		refused |= p->refused[i].uid == uid && p->refused[i].gid == gid;
	(void)pthread_mutex_unlock(&p->lock);
	return refused;
}

static void note_refused(struct plain *p, uint32_t uid, uint32_t gid)
{
	if (owner_refused(p, uid, gid))
		return;
	(void)pthread_mutex_lock(&p->lock);
	if (p->n_refused < PLAIN_REFUSED_MAX)
		p->refused[p->n_refused++] = (struct plain_owner){uid, gid};
	(void)pthread_mutex_unlock(&p->lock);
}

static bool is_refusal(const struct remote *remote, int error)
{
	return (error == -EACCES || error == -EOPNOTSUPP) && remote->ops->connected(remote);
}

/* 0, 1 when the server refuses, or -errno. FX_FAILURE is a refusal too (an owner that a container
 * there does not know); whether it is a full or broken disk, the mode tells, which is set next. */
static int set_owner(struct plain *p, struct remote *remote, const char *there, const struct op *op,
	unsigned link)
{
	uint32_t uid = op->uid, gid = op->gid;
	struct remote_attr a = {.mask = REMOTE_OWNER | link, .uid = uid, .gid = gid};
	int r;

	if (owner_refused(p, uid, gid))
		return 1;
	r = remote->ops->setattr(remote, there, &a);
	return is_refusal(remote, r) || (r == -EIO && remote->ops->connected(remote)) ? 1 : r;
}

/* SFTP sets owner and group, and both times, together: what the op does not name stays as it is
 * there. */
static int complete(struct remote *remote, const char *there, struct op *op)
{
	uint32_t owner = op->mask & (OP_UID | OP_GID), times = op->mask & (OP_ATIME | OP_MTIME);
	bool half = (owner && owner != (OP_UID | OP_GID)) || times == OP_ATIME;
	struct stat st;
	int r;

	if (times == OP_MTIME)
		op->atime = op->mtime;
	if (!half)
		return 0;
	r = remote->ops->stat(remote, there, &st);
	if (r < 0)
		return r;
	if (!(op->mask & OP_UID))
		op->uid = st.st_uid;
	if (!(op->mask & OP_GID))
		op->gid = st.st_gid;
	if (times == OP_ATIME)
		op->mtime = (int64_t)st.st_mtim.tv_sec * SECOND;
	return 0;
}

static uint32_t seconds(int64_t ns)
{
	int64_t s = ns / SECOND;

	return s < 0 ? 0 : s > UINT32_MAX ? UINT32_MAX : (uint32_t)s;
}

static int set_rest(struct plain *p, struct remote *remote, const char *there, const struct op *op,
	uint32_t mask, unsigned link)
{
	struct remote_attr a = {
		.mode = op->mode & 07777, .atime = seconds(op->atime), .mtime = seconds(op->mtime)};
	int r;

	a.mask = (mask & OP_MODE ? REMOTE_MODE : 0u) |
		 (mask & (OP_ATIME | OP_MTIME) ? REMOTE_TIMES : 0u);
	if (a.mask == 0)
		return 0;
	a.mask |= link;
	if (mask & OP_MTIME && op->mtime % SECOND)
		plain_count(p, PLAIN_NANOSECONDS);
	r = p->no_attrs ? -EOPNOTSUPP : remote->ops->setattr(remote, there, &a);
	if (is_refusal(remote, r)) {
		plain_count(p, PLAIN_REFUSED);
		return 0;
	}
	return r;
}

int plain_probe(struct plain *p)
{
	struct remote_attr a = {.mask = REMOTE_MODE | REMOTE_TIMES,
		.mode = 0700,
		.atime = seconds((int64_t)clock_real_ns())};
	int r;

	a.mtime = a.atime;
	r = p->remote->ops->setattr(p->remote, p->tmp, &a);
	p->no_attrs = r < 0 && plain_refused(p, r);
	if (p->no_attrs)
		log_notice("%s: its server sets no modes or times: contents will be sent again "
			   "whenever the trees are compared",
			peer_label(p->peer));
	return r < 0 && !p->no_attrs ? r : 0;
}

int plain_set_attrs(
	struct plain *p, struct remote *remote, const char *there, const struct op *op, mode_t type)
{
	struct op a = {.mask = op->mask,
		.mode = op->mode,
		.uid = op->uid,
		.gid = op->gid,
		.atime = op->atime,
		.mtime = op->mtime};
	unsigned link = S_ISLNK(type) ? REMOTE_LINK : 0;
	int r, refused = 0;

	if (link && !(p->features & REMOTE_LSETATTR)) {
		plain_count(p, PLAIN_LINK_ATTRS);
		return 0;
	}
	r = complete(remote, there, &a);
	if (r < 0)
		return r;
	if (link)
		a.mask &= ~(uint32_t)OP_MODE;
	if (a.mask & (OP_UID | OP_GID)) {
		refused = set_owner(p, remote, there, &a, link);
		if (refused < 0)
			return refused;
		if (refused > 0)
			a.mode &= S_ISDIR(type) ? 07777 : 01777;
	}
	r = set_rest(p, remote, there, &a, a.mask, link);
	if (r == 0 && refused) {
		plain_count(p, PLAIN_OWNERS);
		note_refused(p, a.uid, a.gid);
	}
	return r;
}

static int64_t ns_of(const struct timespec *ts)
{
	return (int64_t)ts->tv_sec * SECOND + ts->tv_nsec;
}

void plain_attrs_of(const struct stat *st, struct op *ret)
{
	ret->mask = OP_MODE | OP_UID | OP_GID | OP_MTIME;
	ret->mode = st->st_mode & 07777;
	ret->uid = st->st_uid;
	ret->gid = st->st_gid;
	ret->mtime = ns_of(&st->st_mtim);
}

enum plain_difference plain_compare(
	struct plain *p, const struct stat *here, const struct stat *there)
{
	bool owned = here->st_uid == there->st_uid && here->st_gid == there->st_gid;
	bool refused = !owned && owner_refused(p, here->st_uid, here->st_gid);
	mode_t bits = refused && !S_ISDIR(here->st_mode) ? 01777 : 07777;

	if ((here->st_mode & S_IFMT) != (there->st_mode & S_IFMT))
		return PLAIN_DIFFERENT;
	if (S_ISREG(here->st_mode) &&
		(here->st_size != there->st_size ||
			seconds(ns_of(&here->st_mtim)) != (uint32_t)there->st_mtim.tv_sec))
		return PLAIN_DIFFERENT;
	if (!owned && !refused)
		return PLAIN_ATTRS;
	if (S_ISLNK(here->st_mode))
		return PLAIN_SAME;
	return (here->st_mode ^ there->st_mode) & bits ? PLAIN_ATTRS : PLAIN_SAME;
}

/* ---- contents ---- */

/* Copies the data stream of @c from @fd to its places in the file. */
static int copy_extents(struct remote *remote, struct remote_file *file, int fd,
	const struct content *c, struct digest *digest, bool (*unwanted)(const void *ctx),
	const void *ctx)
{
	_cleanup_free_ uint8_t *block = malloc(BLOCK);
	uint64_t stream = 0;
	int r = block ? 0 : -ENOMEM;

	for (size_t i = 0; i < c->n_extents; i++) {
		const struct range *e = &c->extents[i];

		for (uint64_t at = 0; at < e->len && r == 0;) {
			size_t len = e->len - at < BLOCK ? (size_t)(e->len - at) : BLOCK;

			r = unwanted(ctx) ? -ECANCELED : content_read(fd, c, stream, block, len);
			if (r == 0 && digest)
				r = digest_update(digest, block, len);
			if (r == 0)
				r = remote->ops->write(file, e->start + at, block, len);
			at += len;
			stream += len;
		}
	}
	return r;
}

/* The name in the server's language of the digest that verify= names; false when there is none. */
static bool digest_in_force(const struct plain *p, char dst[16])
{
	const char *name = p->replica->config.verify;
	size_t n = 0;

	if (!(p->features & REMOTE_DIGEST) || atomic_load(&p->no_digest))
		return false;
	for (; *name && n < 15; name++)
		if (*name != '-')
			dst[n++] = (char)tolower((unsigned char)*name);
	dst[n] = '\0';
	return strcmp(dst, "none") != 0;
}

const char *plain_check_name(const struct plain *p)
{
	char name[16];

	return digest_in_force(p, name) ? p->replica->config.verify : "size";
}

static int check_digest(struct plain *p, struct remote *remote, const char *there, const char *name,
	struct digest *digest)
{
	uint8_t here[OP_DIGEST_MAX], theirs[OP_DIGEST_MAX], here_len, their_len;
	struct remote_file *file;
	int closed, r = digest_final(digest, here, &here_len);

	if (r == 0)
		r = remote->ops->open(remote, there, REMOTE_READ, 0, &file);
	if (r < 0)
		return r;
	r = remote->ops->digest(file, name, theirs, &their_len);
	closed = remote->ops->close(file);
	if (r < 0 && remote->ops->connected(remote)) {
		atomic_store(&p->no_digest, true);
		log_notice("%s: its server does not compute %s: contents are checked by size",
			peer_label(p->peer), name);
		return closed;
	}
	if (r == 0 && (here_len != their_len || memcmp(here, theirs, here_len) != 0))
		r = -EBADMSG;
	return r < 0 ? r : closed;
}

static int check_size(struct remote *remote, const char *there, uint64_t size)
{
	struct stat st;
	int r = remote->ops->stat(remote, there, &st);

	if (r < 0)
		return r;
	if ((uint64_t)st.st_size < size) { /* ends in a hole */
		struct remote_attr a = {.mask = REMOTE_SIZE, .size = size};

		r = remote->ops->setattr(remote, there, &a);
		if (r == 0)
			r = remote->ops->stat(remote, there, &st);
	}
	if (r < 0)
		return r;
	return (uint64_t)st.st_size == size ? 0 : -EBADMSG;
}

/* A hole in the file would not be in the digest of the data. */
static bool is_dense(const struct content *c)
{
	return c->data_len == c->size && c->size > 0;
}

static int write_new(struct remote *remote, int fd, const struct content *c, const char *there,
	struct digest *digest, bool (*unwanted)(const void *ctx), const void *ctx)
{
	struct remote_file *file;
	int closed, r = remote->ops->open(remote, there,
			    REMOTE_WRITE | REMOTE_CREATE | REMOTE_TRUNC, 0600, &file);

	if (r < 0)
		return r;
	r = copy_extents(remote, file, fd, c, digest, unwanted, ctx);
	closed = remote->ops->close(file);
	return r < 0 ? r : closed;
}

/* Size and attributes in one round trip, for a file that is what most are. 0; 1 when it must be
 * done step by step; or -errno. */
static int finish_at_once(
	struct plain *p, struct remote *remote, const char *there, const struct op *op)
{
	struct remote_call calls[3] = {
		{.what = REMOTE_SETATTR, .path = there},
		{.what = REMOTE_SETATTR, .path = there},
		{.what = REMOTE_STAT, .path = there},
	};
	bool refused = owner_refused(p, op->uid, op->gid);
	size_t first = refused ? 1 : 0;
	int r;

	if (p->no_attrs || op->mode & 06000)
		return 1;
	calls[0].attr = (struct remote_attr){.mask = REMOTE_OWNER, .uid = op->uid, .gid = op->gid};
	calls[1].attr = (struct remote_attr){.mask = REMOTE_MODE | REMOTE_TIMES,
		.mode = op->mode & 07777,
		.atime = seconds(op->mtime),
		.mtime = seconds(op->mtime)};
	r = remote->ops->batch(remote, calls + first, 3 - first);
	if (r < 0)
		return r;
	if (calls[1].result < 0 || calls[2].result < 0 ||
		(uint64_t)calls[2].st.st_size != op->content->size)
		return 1;
	if (refused || calls[0].result < 0) {
		note_refused(p, op->uid, op->gid);
		plain_count(p, PLAIN_OWNERS);
	}
	if (op->mtime % SECOND)
		plain_count(p, PLAIN_NANOSECONDS);
	return 0;
}

static int finish(struct plain *p, struct remote *remote, const char *there, const struct op *op)
{
	int r = finish_at_once(p, remote, there, op);

	if (r != 1)
		return r;
	r = check_size(remote, there, op->content->size);
	return r < 0 ? r : plain_set_attrs(p, remote, there, op, S_IFREG);
}

int plain_upload(struct plain *p, struct remote *remote, int fd, const struct op *op,
	const char *there, bool (*unwanted)(const void *ctx), const void *ctx)
{
	const struct content *c = op->content;
	_cleanup_digest_ struct digest *digest = NULL;
	char name[16];
	int r = 0;

	if (is_dense(c) && digest_in_force(p, name))
		r = digest_new(p->replica->config.verify, &digest);
	if (r == 0)
		r = write_new(remote, fd, c, there, digest, unwanted, ctx);
	if (r == 0 && digest)
		r = check_digest(p, remote, there, name, digest);
	if (r == 0)
		r = finish(p, remote, there, op);
	for (size_t i = 0; i < c->n_xattrs && r == 0; i++)
		plain_count(p, PLAIN_XATTRS);
	return r;
}

static int write_zeros(struct remote *remote, struct remote_file *file, uint64_t from, uint64_t to)
{
	static const uint8_t zeros[64 << 10];
	int r = 0;

	while (from < to && r == 0) {
		size_t len = to - from < sizeof(zeros) ? (size_t)(to - from) : sizeof(zeros);

		r = remote->ops->write(file, from, zeros, len);
		from += len;
	}
	return r;
}

/* What the op's ranges (or the whole file) hold of holes is zeros there. */
static int zero_holes(struct remote *remote, struct remote_file *file, const struct op *op)
{
	const struct content *c = op->content;
	struct range whole = {.len = c->size};
	const struct range *ranges = op->flags & OP_WHOLE ? &whole : op->ranges;
	size_t n = op->flags & OP_WHOLE ? 1 : op->n_ranges, e = 0;
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		uint64_t at = ranges[i].start, end = at + ranges[i].len;

		if (end > c->size)
			end = c->size;
		for (; e < c->n_extents && c->extents[e].start < end && r == 0; e++) {
			if (c->extents[e].start > at)
				r = write_zeros(remote, file, at, c->extents[e].start);
			at = c->extents[e].start + c->extents[e].len;
		}
		if (r == 0)
			r = write_zeros(remote, file, at, end);
	}
	return r;
}

static bool is_closing(const void *ctx)
{
	return plain_closing(ctx);
}

static int patch_open(struct plain *p, struct remote_file *file, int fd, const struct op *op)
{
	int closed, r = zero_holes(p->remote, file, op);

	if (r == 0)
		r = copy_extents(p->remote, file, fd, op->content, NULL, is_closing, p);
	closed = p->remote->ops->close(file);
	return r < 0 ? r : closed;
}

int plain_patch(struct plain *p, int fd, const struct op *op, const char *there)
{
	struct remote *remote = p->remote;
	struct remote_attr cut = {.mask = REMOTE_SIZE, .size = op->content->size};
	struct remote_file *file;
	struct stat st;
	int r = remote->ops->stat(remote, there, &st);

	if (r == 0 && !S_ISREG(st.st_mode))
		r = -ENOENT;
	if (r == 0)
		r = remote->ops->open(remote, there, REMOTE_WRITE, 0, &file);
	if (r < 0)
		return r;
	r = patch_open(p, file, fd, op);
	fault_point("plain.patch.before_attrs");
	if (r == 0 && (uint64_t)st.st_size > op->content->size)
		r = remote->ops->setattr(remote, there, &cut);
	if (r == 0)
		r = check_size(remote, there, op->content->size);
	return r < 0 ? r : plain_set_attrs(p, remote, there, op, S_IFREG);
}

/* ---- into place ---- */

int plain_replace(struct plain *p, const char *from, const char *to)
{
	struct remote *remote = p->remote;
	struct stat st;
	int r = remote->ops->rename(remote, from, to);

	if (r != -EEXIST || p->features & REMOTE_REPLACES)
		return r;
	r = remote->ops->stat(remote, to, &st);
	if (r == 0)
		r = S_ISDIR(st.st_mode) ? remote->ops->rmdir(remote, to)
					: remote->ops->remove(remote, to);
	fault_point("plain.replace.between");
	if (r < 0 && r != -ENOENT)
		return r;
	plain_count(p, PLAIN_TWO_STEPS);
	return remote->ops->rename(remote, from, to);
}

static int make_parent(struct plain *p, const char *path)
{
	_cleanup_free_ char *dir = strndup(path, confine_parent_len(path));

	return dir ? plain_ensure_dir(p, dir) : -ENOMEM;
}

/* An empty directory gives way. */
static int clear_way(struct plain *p, const char *there)
{
	struct stat st;
	int r = p->remote->ops->stat(p->remote, there, &st);

	if (r < 0 || !S_ISDIR(st.st_mode))
		return r < 0 ? r : -EIO;
	r = p->remote->ops->rmdir(p->remote, there);
	return r < 0 && plain_refused(p, r) ? -ENOTEMPTY : r;
}

int plain_place(struct plain *p, const char *tmp, const char *path)
{
	_cleanup_free_ char *there = plain_there(p, path);
	int r = there ? plain_replace(p, tmp, there) : -ENOMEM;

	if (r == -ENOENT) {
		r = make_parent(p, path);
		if (r == 0)
			r = plain_replace(p, tmp, there);
	} else if (r == -EIO && plain_refused(p, r) && clear_way(p, there) == 0) {
		r = plain_replace(p, tmp, there);
	}
	if (r == 0)
		plain_touched(p, path);
	return r;
}

int plain_make_link(struct plain *p, const char *target, const char *path, const struct op *attrs)
{
	_cleanup_free_ char *tmp = plain_tmp(p);
	int r = tmp ? p->remote->ops->symlink(p->remote, target, tmp) : -ENOMEM;

	if (r == 0)
		r = plain_set_attrs(p, p->remote, tmp, attrs, S_IFLNK);
	if (r == 0)
		r = plain_place(p, tmp, path);
	if (r < 0 && tmp && plain_refused(p, r))
		(void)p->remote->ops->remove(p->remote, tmp); /* else at the next connect */
	return r;
}

/* ---- removing what is ours ---- */

struct names {
	struct buf list; /* strings with their end */
};

static void take_name(void *ctx, const char *name, const struct stat *st)
{
	struct names *n = ctx;

	(void)st;
	buf_put(&n->list, name, strlen(name) + 1);
}

static int remove_below(struct plain *p, const char *there)
{
	struct names n = {0};
	int r = p->remote->ops->scan(p->remote, there, take_name, &n);

	if (r == 0)
		r = buf_error(&n.list);
	for (size_t at = 0; r == 0 && at < n.list.len;) {
		const char *name = (const char *)n.list.data + at;
		_cleanup_free_ char *path = NULL;

		if (asprintf(&path, "%s/%s", there, name) < 0) {
			path = NULL;
			r = -ENOMEM;
		} else {
			r = plain_remove_tree(p, path);
		}
		at += strlen(name) + 1;
	}
	buf_clear(&n.list);
	return r;
}

int plain_remove_tree(struct plain *p, const char *there)
{
	struct stat st;
	int r = p->remote->ops->stat(p->remote, there, &st);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	if (!S_ISDIR(st.st_mode))
		return p->remote->ops->remove(p->remote, there);
	r = remove_below(p, there);
	return r < 0 ? r : p->remote->ops->rmdir(p->remote, there);
}

/* ---- what is not ours to remove ---- */

int plain_move_aside(struct plain *p, const char *path, const char *why)
{
	_cleanup_free_ char *from = plain_there(p, path), *dir = NULL, *to = NULL;
	const char *name = strrchr(path, '/');
	int r;

	if (!from || asprintf(&dir, "%s/" TANDEMFS_DIR "/" PLAIN_ASIDE_DIR, p->root) < 0) {
		dir = NULL;
		return -ENOMEM;
	}
	if (asprintf(&to, "%s/%llu-%llu-%.200s", dir, (unsigned long long)(clock_real_ns() / 1000),
		    (unsigned long long)++p->serial, name ? name + 1 : path) < 0) {
		to = NULL;
		return -ENOMEM;
	}
	r = p->remote->ops->mkdir(p->remote, dir, 0700);
	if (r == 0 || r == -EEXIST)
		r = p->remote->ops->rename(p->remote, from, to);
	if (r < 0)
		return r;
	plain_count(p, PLAIN_ASIDE);
	log_warning("%s: %s %s; it is %s now", peer_label(p->peer), path, why, to);
	return 0;
}

/* ---- explaining ---- */

int plain_cause(struct plain *p, int error)
{
	return remote_cause(p->remote, p->root, 64 << 10, error);
}

void plain_explain(struct plain *p, const struct op *op, int error, char **ret_text)
{
	char what[512];

	error = plain_cause(p, error);
	(void)say(ret_text, error, "cannot do there: %s: %s (%s); tried again each second",
		op_describe(op, what, sizeof(what)), strerror(-error), remote_remedy(error));
}
