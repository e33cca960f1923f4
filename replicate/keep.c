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

/* How long before the journal's end an entry was made that it may not know. */
#define UNTOLD_NS 1000000000ull

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

/* An answer to nothing is journaled, for its number. */
int keep_new_number(struct replica *r, uint64_t *ret)
{
	struct op op = {.type = OP_ANSWER, .path = (char[]){""}};
	int e = replica_say(r, &op);

	if (e == 0)
		*ret = op.seq;
	return e;
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

int keep_version(struct replica *r, struct keep *k)
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
	k->linked = is_linked(r, e.name, &fid);
	/* there already: done before a crash, perhaps one that came before the peer was told; what
	 * stands at the name is another */
	if (!k->maker && !dirty && vault_has(r->vault, e.name)) {
		err = keep_tell(r, e.name);
		return err < 0 ? err : make_safe(r, k->path, &fid);
	}
	err = vault_keep(r->vault, r->root, k->path, k->leaves, &e);
	if (err == 0)
		err = keep_tell(r, e.name);
	k->linked = is_linked(r, e.name, &fid);
	if (err == 0 && dirty && k->leaves && k->linked)
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

/* The name of its entry, when it has one; *ret_known: it is noted as an orphan. */
static bool find_orphan(
	struct replica *r, const struct fid *fid, char name[VAULT_NAME_SIZE], bool *ret_known)
{
	struct orphan *o;

	(void)pthread_mutex_lock(&r->lock);
	LL_FOREACH (r->orphans, o)
		if (fid_equal(&o->fid, fid))
			break;
	if (o)
		memcpy(name, o->name, VAULT_NAME_SIZE);
	(void)pthread_mutex_unlock(&r->lock);
	*ret_known = o != NULL;
	return o || vault_link_of(r->vault, (ino_t)fid->ino, name);
}

/* Whose version took the name: of two nodes it is the other. */
static const char *other_node(struct replica *r)
{
	for (size_t i = 0; i < r->n_peers; i++)
		if (!r->peers[i].is_plain)
			return peer_label(&r->peers[i]);
	return r->node.name;
}

static int keep_open(struct replica *r, const char *name, uint64_t seq, const char *path, int fd)
{
	struct vault_entry e = {0}, fresh = {.path = (char *)path,
					    .node = r->node.name,
					    .winner = (char *)other_node(r),
					    .seq = seq};
	int there = vault_read(r->vault, name, &e), err;

	cleanup_close(&there);
	(void)snprintf(fresh.name, sizeof(fresh.name), "%s", name);
	err = vault_keep_fd(r->vault, fd, there < 0 ? &fresh : &e);
	vault_entry_clear(&e);
	return err;
}

bool replica_orphan_kept(struct replica *r, const struct fid *fid)
{
	char name[VAULT_NAME_SIZE];
	bool known;

	return find_orphan(r, fid, name, &known);
}

int replica_orphan_changed(struct replica *r, const struct fid *fid, const char *path, int fd)
{
	char name[VAULT_NAME_SIZE];
	uint64_t seq = 0;
	bool known;
	int e = 0;

	if (!find_orphan(r, fid, name, &known)) {
		e = keep_new_number(r, &seq);
		vault_name(name, r->node.id, seq);
	}
	if (e == 0)
		e = keep_open(r, name, seq, path, fd);
	if (e == 0 && !known)
		e = note_orphan(r, 0, fid, name);
	return e < 0 ? e : keep_tell(r, name);
}

void replica_orphan_forget(struct replica *r, const struct fid *fid)
{
	char name[VAULT_NAME_SIZE];

	(void)take_orphan(r, fid, name);
}

static int tell_if_changed(struct replica *r, const char *name)
{
	int e = vault_refresh(r->vault, name);

	return e > 0 ? keep_tell(r, name) : e;
}

/* The entry may have been made right before the crash, and its record not. */
static bool is_fresh(struct replica *r, const struct vault_entry *e)
{
	return e->kept + UNTOLD_NS >= atomic_load(&r->last_time);
}

/* A crash came between the vault's link and the op that was to take the file away: what is written
 * to it from now on is no part of that version. */
static int part_if_there(struct replica *r, const struct vault_entry *e)
{
	struct stat kept, st;

	if (!S_ISREG(e->mode) ||
		fstatat(vault_dir(r->vault), e->name, &kept, AT_SYMLINK_NOFOLLOW) < 0 ||
		kept.st_nlink < 2 || confine_stat(r->root, e->path, &st) < 0 ||
		st.st_ino != kept.st_ino)
		return 0;
	return vault_part(r->vault, e->name);
}

static bool is_own(struct replica *r, const struct vault_entry *e)
{
	return strncmp(e->name, r->node.id, strlen(r->node.id)) == 0;
}

/* That they are kept was known before the start. */
static int remember_kept(struct replica *r, const struct vault_entry *list, size_t n)
{
	_cleanup_free_ uint64_t *seqs = calloc(n + 1, sizeof(*seqs));
	size_t n_own = 0;

	if (!seqs)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (is_own(r, &list[i]))
			seqs[n_own++] = list[i].seq;
	(void)pthread_mutex_lock(&r->lock);
	unseen_make_safe_seqs(r->unseen, seqs, n_own);
	(void)pthread_mutex_unlock(&r->lock);
	return 0;
}

int keep_recover(struct replica *r)
{
	struct vault_entry *list;
	size_t n;
	int e = vault_list(r->vault, &list, &n);

	if (e < 0)
		return e;
	for (size_t i = 0; i < n && e == 0; i++)
		e = part_if_there(r, &list[i]);
	if (e == 0)
		e = remember_kept(r, list, n);
	for (size_t i = 0; i < n && e == 0; i++)
		if (is_fresh(r, &list[i]))
			e = keep_tell(r, list[i].name);
		else if (is_own(r, &list[i]))
			e = tell_if_changed(r, list[i].name);
	vault_list_free(list, n);
	return e;
}

int replica_orphan_closed(struct replica *r, const struct fid *fid)
{
	char name[VAULT_NAME_SIZE];

	return take_orphan(r, fid, name) ? keep_tell(r, name) : -ENOENT;
}
