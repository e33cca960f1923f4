/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Versions of this node that lose a conflict: into the vault here, and journaled for the peer's.
 *
 * Of a file that a local process has open for writing the vault holds a link: what is still written
 * to it ends there too, and the peer is sent the bytes once more at the close. Until then it is an
 * orphan, known by its inode.
 */

#include "impl.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

int keep_tell(struct replica *r, const char *name)
{
	struct op op;
	int e = vault_op(r->vault, name, &op);

	if (e == 0) {
		e = replica_say(r, &op);
		op_clear(&op);
	}
	return e;
}

/* A writer here still has the file open: what it writes goes into the vault's link. */
static int note_orphan(struct replica *r, uint64_t mark, const struct fid *fid, const char *name)
{
	struct orphan *o = calloc(1, sizeof(*o));
	struct dirty *d;

	if (!o)
		return -ENOMEM;
	o->fid = *fid;
	(void)snprintf(o->name, sizeof(o->name), "%s", name);
	(void)pthread_mutex_lock(&r->lock);
	LL_PREPEND(r->orphans, o);
	HASH_FIND(hh, r->dirty, &mark, sizeof(mark), d);
	if (d)
		d->orphan = true;
	(void)pthread_mutex_unlock(&r->lock);
	return 0;
}

static uint64_t version_at(struct replica *r, const char *path, const struct fid *fid)
{
	static const struct position nothing;
	const struct unseen_op *own;
	uint64_t seq;

	(void)pthread_mutex_lock(&r->lock);
	own = unseen_version(r->unseen, path, fid, &nothing);
	seq = own ? own->seq : 0;
	(void)pthread_mutex_unlock(&r->lock);
	return seq ?: journal_head(r->journal);
}

/* A file with other names goes on under these. */
static bool is_linked(struct replica *r, const char *name, const struct fid *fid)
{
	struct stat st;

	return fstatat(vault_dir(r->vault), name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       st.st_ino == fid->ino;
}

static int make_safe(struct replica *r, const char *path, const struct fid *fid)
{
	(void)pthread_mutex_lock(&r->lock);
	unseen_make_safe(r->unseen, path, fid);
	(void)pthread_mutex_unlock(&r->lock);
	return 0;
}

int keep_version(struct replica *r, const struct keep *k)
{
	struct vault_entry e = {.path = (char *)k->path,
		.node = (char *)(k->maker ?: r->node.name),
		.winner = (char *)k->winner,
		.other_seq = k->other};
	struct fid fid = {0};
	uint64_t dirty;
	int err;

	(void)fid_of_path(r->root, k->path, &fid); /* by path alone, then */
	dirty = replica_dirty_mark(r, k->path, &fid);
	e.seq = k->seq ?: dirty ?: version_at(r, k->path, &fid);
	vault_name(e.name, k->maker ? k->maker_id : r->node.id, e.seq);
	if (!k->maker && !dirty && vault_has(r->vault, e.name))
		return make_safe(
			r, k->path, &fid); /* done before a crash; what is there is another */
	err = vault_keep(r->vault, r->root, k->path, k->leaves, &e);
	if (err == 0)
		err = keep_tell(r, e.name);
	if (err == 0 && dirty && k->leaves && is_linked(r, e.name, &fid))
		err = note_orphan(r, dirty, &fid, e.name);
	return err < 0 ? err : make_safe(r, k->path, &fid);
}

int keep_number(struct replica *r, const char *winner, uint64_t seq, const char *path)
{
	struct keep k = {.path = path, .winner = winner, .seq = seq};
	struct vault_entry e = {
		.path = (char *)path, .node = r->node.name, .winner = (char *)winner, .seq = seq};
	const struct unseen_op *own;
	_cleanup_close_ int fd = -1;
	struct fid fid = {0};
	struct stat st;
	int err;

	(void)pthread_mutex_lock(&r->lock);
	own = unseen_find(r->unseen, seq);
	if (own)
		fid = own->fid;
	(void)pthread_mutex_unlock(&r->lock);
	vault_name(e.name, r->node.id, seq);
	if (vault_has(r->vault, e.name))
		return 0;
	if (fid.len && (fd = fid_open(r->root, &fid, NULL, O_RDONLY | O_NONBLOCK)) >= 0) {
		err = vault_keep_fd(r->vault, fd, &e);
		return err < 0 ? err : keep_tell(r, e.name);
	}
	err = confine_stat(r->root, path, &st);
	if (fid.len || err == -ENOENT || err == -ENOTDIR || (err == 0 && S_ISDIR(st.st_mode)))
		return 0; /* it was overwritten or removed since */
	return err < 0 ? err : keep_version(r, &k);
}

static bool take_orphan(struct replica *r, const struct fid *fid, char name[VAULT_NAME_SIZE])
{
	struct orphan *o;

	(void)pthread_mutex_lock(&r->lock);
	LL_FOREACH (r->orphans, o)
		if (fid_equal(&o->fid, fid))
			break;
	if (o) {
		LL_DELETE(r->orphans, o);
		memcpy(name, o->name, VAULT_NAME_SIZE);
	}
	(void)pthread_mutex_unlock(&r->lock);
	free(o);
	return o != NULL;
}

int replica_orphan_closed(struct replica *r, const struct fid *fid)
{
	char name[VAULT_NAME_SIZE];

	return take_orphan(r, fid, name) ? keep_tell(r, name) : -ENOENT;
}
