/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Dirty marks: what says in the journal that a file is being written, from its OP_CREATE or
 * OP_DIRTY until the OP_CONTENT that names what was written. A mark that a crash leaves makes the
 * file's content be sent again.
 */

#include "content.h"
#include "growing.h"

#include "base/confine.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>

static int copy_op(const struct op *op, struct op *ret)
{
	_cleanup_buf_ struct buf b = {0};
	struct reader reader;
	const char *why;
	int r;

	op_encode(op, OP_ENCODE_LOCAL, &b);
	r = buf_error(&b);
	if (r < 0)
		return r;
	reader = reader_of(b.data, b.len);
	r = op_decode(&reader, OP_ENCODE_LOCAL, ret, &why);
	if (r == 0)
		ret->seq = op->seq;
	return r;
}

int replica_mark_dirty(struct replica *r, const struct op *op)
{
	struct dirty *d = calloc(1, sizeof(*d));
	int e;

	if (!d)
		return -ENOMEM;
	d->seq = op->seq;
	e = copy_op(op, &d->op);
	if (e < 0) {
		free(d);
		return e;
	}
	(void)pthread_mutex_lock(&r->lock);
	HASH_ADD(hh, r->dirty, seq, sizeof(d->seq), d);
	(void)pthread_mutex_unlock(&r->lock);
	return 0;
}

void replica_clean(struct replica *r, uint64_t seq)
{
	struct dirty *d;

	growing_settled(r, seq);
	(void)pthread_mutex_lock(&r->lock);
	HASH_FIND(hh, r->dirty, &seq, sizeof(seq), d);
	if (d)
		HASH_DEL(r->dirty, d);
	(void)pthread_mutex_unlock(&r->lock);
	if (!d)
		return;
	/* a sender may have waited for this writer */
	for (size_t i = 0; i < r->n_peers && (d->op.flags & OP_WHOLE); i++)
		sender_wake(r->peers[i].sender);
	op_clear(&d->op);
	free(d);
}

bool replica_whole_dirty(struct replica *r, const struct fid *fid)
{
	struct dirty *d, *next;
	bool found = false;

	(void)pthread_mutex_lock(&r->lock);
	HASH_ITER (hh, r->dirty, d, next) {
		found = (d->op.flags & OP_WHOLE) && fid_equal(&d->op.fid, fid);
		if (found)
			break;
	}
	(void)pthread_mutex_unlock(&r->lock);
	return found;
}

static bool is_mark_of(const struct dirty *d, const char *path, const struct fid *fid)
{
	if (d->orphan)
		return false;
	return fid && d->op.fid.ino ? fid_equal(&d->op.fid, fid) : strcmp(d->op.path, path) == 0;
}

void replica_dirty_synced(struct replica *r, const struct op *op)
{
	struct dirty *d, *next;

	(void)pthread_mutex_lock(&r->lock);
	HASH_ITER (hh, r->dirty, d, next)
		d->synced = d->synced || is_mark_of(d, op->path, &op->fid);
	(void)pthread_mutex_unlock(&r->lock);
}

bool replica_torn(struct peer *p, const struct fid *fid, const struct stat *before, int fd)
{
	struct replica *r = p->replica;
	bool rewritten;

	if (replica_whole_dirty(r, fid))
		return true;
	(void)pthread_mutex_lock(&r->lock);
	rewritten = pending_rewritten(p->pending, fid);
	(void)pthread_mutex_unlock(&r->lock);
	return rewritten && !content_unchanged(before, fd);
}

uint64_t replica_dirty_mark(struct replica *r, const char *path, const struct fid *fid)
{
	struct dirty *d, *next;
	uint64_t seq = 0;

	(void)pthread_mutex_lock(&r->lock);
	HASH_ITER (hh, r->dirty, d, next)
		if (is_mark_of(d, path, fid))
			seq = d->seq;
	(void)pthread_mutex_unlock(&r->lock);
	return seq;
}

bool replica_any_dirty(struct replica *r)
{
	bool any;

	(void)pthread_mutex_lock(&r->lock);
	any = r->dirty != NULL;
	(void)pthread_mutex_unlock(&r->lock);
	return any;
}

bool replica_dirty_below(struct replica *r, const char *dir)
{
	struct dirty *d, *next;
	bool found = false;

	(void)pthread_mutex_lock(&r->lock);
	HASH_ITER (hh, r->dirty, d, next)
		found = found || (!d->orphan && confine_below(d->op.path, dir) &&
					 strcmp(d->op.path, dir) != 0);
	(void)pthread_mutex_unlock(&r->lock);
	return found;
}

bool replica_dirty_new(struct replica *r, uint64_t seq)
{
	struct dirty *d;
	bool is_new;

	(void)pthread_mutex_lock(&r->lock);
	HASH_FIND(hh, r->dirty, &seq, sizeof(seq), d);
	is_new = d && d->op.type == OP_CREATE;
	(void)pthread_mutex_unlock(&r->lock);
	return is_new;
}

void marks_follow_locked(struct replica *r, const char *from, const char *to, bool exchange)
{
	struct dirty *d, *next;

	HASH_ITER (hh, r->dirty, d, next) {
		char *path;

		if (d->orphan)
			continue;
		if (confine_below(d->op.path, from))
			path = confine_moved(d->op.path, from, to);
		else if (exchange && confine_below(d->op.path, to))
			path = confine_moved(d->op.path, to, from);
		else
			continue;
		if (!path) {
			log_warning("no memory to follow a rename");
			continue;
		}
		free(d->op.path);
		d->op.path = path;
	}
}
