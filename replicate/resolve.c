/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What becomes of an op that does not go together with changes of ours. Only the deciding node
 * comes here (restate.c says who that is, and how the other one learns the outcome).
 *
 * The op is not taken past our changes one by one: what counts is what stands at its names now,
 * and whether that is of our making (unseen_version()). Rules, in the order of DESIGN's table:
 *
 *     content       over our version of a file: the newer (conflict.c), the other to the vault
 *                   over a directory of ours: to the vault
 *                   where we removed the file: it is there again
 *     unlink, rmdir what we have changed or filled stays
 *     mkdir         a directory there: one directory; anything else: to the vault
 *     symlink, ...  as content
 *     rename        what we renamed too: the newer name; into itself: ours; a directory onto one
 *                   that is not empty: both contents; onto our version: as content
 *     link          onto our version: as content
 *     attributes    the newer
 *
 * A version that loses is in the vault, here and on its way to the peer, before anything replaces
 * it. Of a content that came as ranges only the peer has the whole: if it wins it is asked for, if
 * it loses the peer is told to put it into the vault (OP_KEEP). Directories that are missing above
 * a name are made and asked for.
 *
 * A crash in the middle leaves some of this done; the op comes again and finds that.
 */

#include "receiver.h"

#include "apply_steps.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/log.h"
#include "conflict.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

struct meeting {
	struct receiver *v;
	struct replica *r;
	struct op *op;      /* its paths are those of here */
	const char *theirs; /* op->path as the peer calls it */
	const struct position *seen;
	const struct unseen_relation *rel;
	bool restated, apply;
};

static int look(struct replica *r, const char *path, struct stat *ret)
{
	int e = confine_stat(r->root, path, ret);

	if (e == 0)
		return 0;
	*ret = (struct stat){0};
	return e == -ENOENT || e == -ENOTDIR ? 0 : e;
}

/* ---- the vault ---- */

static int keep_ours(struct meeting *m, const char *path)
{
	struct keep k = {
		.path = path, .winner = m->v->sender.name, .other = m->op->seq, .leaves = true};

	return keep_version(m->r, &k);
}

/* What the peer's op has brought to @path. */
static int keep_moved(struct meeting *m, const char *path)
{
	struct keep k = {.path = path,
		.maker = m->v->sender.name,
		.maker_id = m->v->origin->id,
		.winner = m->r->node.name,
		.seq = m->op->seq,
		.leaves = true};

	return keep_version(m->r, &k);
}

static struct vault_entry entry_of_theirs(struct meeting *m)
{
	struct vault_entry e = {.path = m->op->path,
		.node = m->v->sender.name,
		.winner = m->r->node.name,
		.seq = m->op->seq,
		.uid = m->op->uid,
		.gid = m->op->gid,
		.mtime = (int64_t)m->op->time};

	vault_name(e.name, m->v->origin->id, e.seq);
	return e;
}

/* The version at @path there loses, which is not known here: the peer keeps it. */
static int keep_there(struct meeting *m, const char *path)
{
	struct op ask = {
		.type = OP_ASK, .flags = OP_KEEP, .path = (char *)path, .about = m->op->seq};

	return replica_say(m->r, &ask);
}

/* The version that arrives loses. */
static int keep_theirs(struct meeting *m)
{
	struct vault_entry e = entry_of_theirs(m);
	struct apply_target target = receiver_target(m->v);
	struct op *op = m->op;
	int err;

	if (op->type == OP_CONTENT && !(op->flags & OP_WHOLE))
		return keep_there(m, m->theirs);
	if (op->type == OP_CONTENT) {
		err = vault_keep_content(m->r->vault, &target, op, &e);
	} else {
		e.mode = op->type == OP_SYMLINK ? S_IFLNK | 0777 : op->mode;
		err = vault_keep_text(m->r->vault, op->type == OP_SYMLINK ? op->path2 : "", &e);
	}
	return err < 0 ? err : keep_tell(m->r, e.name);
}

/* ---- who wins ---- */

/* Whether what stands at @path is a version of ours that the sender had not seen. */
static bool is_ours(struct meeting *m, const char *path)
{
	struct replica *r = m->r;
	struct fid fid = {0};
	bool ours;

	(void)fid_of_path(r->root, path, &fid);
	(void)pthread_mutex_lock(&r->lock);
	ours = unseen_version(r->unseen, path, fid.ino ? &fid : NULL, m->seen) != NULL;
	(void)pthread_mutex_unlock(&r->lock);
	return ours || replica_dirty_mark(r, path, fid.ino ? &fid : NULL);
}

/* What stands at @path is not what the peer means, but what we have put there. */
static bool is_another(struct meeting *m, const char *path)
{
	struct replica *r = m->r;
	uint64_t mark;
	bool put;

	(void)pthread_mutex_lock(&r->lock);
	put = unseen_put(r->unseen, path, m->seen);
	(void)pthread_mutex_unlock(&r->lock);
	mark = put ? 0 : replica_dirty_mark(r, path, NULL);
	return put || (mark && replica_dirty_new(r, mark));
}

static struct conflict_side our_side(struct meeting *m, enum conflict_kind kind, int64_t when)
{
	return (struct conflict_side){kind, when, m->r->node.name, m->r->node.id};
}

static struct conflict_side their_side(struct meeting *m, enum conflict_kind kind, int64_t when)
{
	return (struct conflict_side){kind, when, m->v->sender.name, m->v->origin->id};
}

static bool theirs_wins(struct meeting *m, enum conflict_kind kind, int64_t ours, int64_t theirs)
{
	struct conflict_side a = our_side(m, kind, ours), b = their_side(m, kind, theirs);

	return conflict_decide(&a, &b, false).winner != CONFLICT_A;
}

/* ---- parts ---- */

/* Whether the file at @path has other names, and we did something to it of which the peer may learn
 * by this name alone. */
static bool has_news(struct meeting *m, const char *path, const struct stat *st)
{
	struct replica *r = m->r;
	struct fid fid = {0};
	bool news;

	if (st->st_nlink < 2 || S_ISDIR(st->st_mode) || fid_of_path(r->root, path, &fid) < 0)
		return false;
	(void)pthread_mutex_lock(&r->lock);
	news = unseen_elsewhere(r->unseen, "", &fid, m->seen);
	(void)pthread_mutex_unlock(&r->lock);
	return news;
}

/* What stands at @path goes: the peer is told of the other names of a file. */
static int give_way(struct meeting *m, const char *path, const struct stat *st)
{
	bool lost = has_news(m, path, st);
	int e = incoming_remove(m->v, path, m->op->time);

	return e == 0 && lost ? restate_others(m->r, path, st) : e;
}

/* Of what answers a question and meets newer changes of ours again nothing more is asked: both
 * nodes would go on asking for ever. */
static int ask_for(struct meeting *m, const char *path, bool deep)
{
	if (m->restated)
		return keep_there(m, path);
	return replica_ask(m->r, path, deep, NULL);
}

static int make_dir(struct meeting *m, const char *dir)
{
	struct op op = {.type = OP_MKDIR,
		.path = (char *)dir,
		.mode = 0755,
		.time = m->op->time,
		.mask = OP_MODE | OP_UID | OP_GID};
	int e = incoming_step(m->v, &op);

	return e < 0 ? e : ask_for(m, dir, false);
}

/* There are directories above @path: a file in the way goes into the vault. */
static int make_above(struct meeting *m, const char *path)
{
	struct stat st;
	int e = 0;

	for (const char *p = strchr(path, '/'); p && e == 0; p = strchr(p + 1, '/')) {
		_cleanup_free_ char *dir = strndup(path, (size_t)(p - path));

		e = dir ? look(m->r, dir, &st) : -ENOMEM;
		if (e < 0 || S_ISDIR(st.st_mode))
			continue;
		if (st.st_ino) {
			e = keep_ours(m, dir);
			if (e == 0)
				e = incoming_remove(m->v, dir, m->op->time);
		}
		if (e == 0)
			e = make_dir(m, dir);
	}
	return e;
}

/* What stands at @path, in directories that are there. */
static int reach(struct meeting *m, const char *path, struct stat *ret)
{
	int e = make_above(m, path);

	return e < 0 ? e : look(m->r, path, ret);
}

/* ---- contents, and what else is put at a name ---- */

static int same_content(struct meeting *m, const char *path)
{
	struct apply_target target = receiver_target(m->v);
	_cleanup_close_ int fd = -1;

	if (!(m->op->flags & OP_WHOLE) || m->op->content->stage[0] ||
		!m->op->content->digest_name[0])
		return 0;
	fd = confine_open(m->r->root, path, O_RDONLY | O_NONBLOCK, 0);
	return fd < 0 ? 0 : content_is_there(&target, m->op->content, fd);
}

/* Attributes that we have changed since stay as they are. */
static void spare_attributes(struct meeting *m)
{
	if (m->rel->attr_time > m->op->time)
		m->op->mask &= ~(m->rel->attr_mask & (OP_MODE | OP_UID | OP_GID));
}

static int ask_other(struct replica *r, const char *path)
{
	return replica_ask(r, path, false, NULL);
}

/* The peer may have taken this name from the file since. */
static int ask_others(struct meeting *m)
{
	const char *path = m->op->path;
	struct stat st;
	int e = m->restated ? 0 : look(m->r, path, &st);

	return e < 0 || m->restated ? e : restate_each_other(m->r, path, &st, ask_other);
}

/* Under the names that it had there and that it may have by now, also where our renames take what
 * is called so there. */
static int ask_both(struct meeting *m)
{
	_cleanup_free_ char *moved = NULL;
	int e = ask_for(m, m->theirs, false);

	(void)pthread_mutex_lock(&m->r->lock);
	moved = unseen_follow(m->r->unseen, m->theirs, m->seen);
	(void)pthread_mutex_unlock(&m->r->lock);
	if (!moved)
		return -ENOMEM;
	if (e == 0 && strcmp(m->theirs, m->op->path) != 0)
		e = ask_for(m, m->op->path, false);
	if (e == 0 && strcmp(moved, m->theirs) != 0 && strcmp(moved, m->op->path) != 0)
		e = ask_for(m, moved, false);
	return e < 0 ? e : ask_others(m);
}

/* Ranges belong into a file as the peer had it; that is not what stands here. */
static int take_content(struct meeting *m)
{
	if (!(m->op->flags & OP_WHOLE))
		return ask_both(m);
	m->apply = true;
	return 0;
}

/* Whether other names of the file are news to the peer, who means this one alone. */
static bool linked_here(struct meeting *m)
{
	struct replica *r = m->r;
	struct fid fid = {0};
	bool linked;

	if (fid_of_path(r->root, m->op->path, &fid) < 0)
		return false;
	(void)pthread_mutex_lock(&r->lock);
	linked = unseen_link(r->unseen, &fid, m->seen);
	(void)pthread_mutex_unlock(&r->lock);
	return linked;
}

static int content_meets_ours(struct meeting *m, const struct stat *st)
{
	struct op *op = m->op;
	int64_t when = op->mask & OP_MTIME ? op->mtime : (int64_t)op->time;
	bool theirs = theirs_wins(m, CONFLICT_FILE, clock_ns_of(&st->st_mtim), when);
	struct keep k = {.path = op->path,
		.winner = m->v->sender.name,
		.other = op->seq,
		.leaves = op->flags & OP_WHOLE};
	int e = S_ISREG(st->st_mode) ? same_content(m, op->path) : 0;

	if (e < 0)
		return e;
	if (e > 0) { /* the same bytes: the newer attributes */
		m->apply = theirs;
		return 0;
	}
	if (!theirs)
		return keep_theirs(m);
	e = keep_version(m->r, &k);
	if (e == 0 && !S_ISREG(st->st_mode))
		e = incoming_remove(m->v, op->path, op->time);
	if (st->st_nlink == 1 || k.linked || linked_here(m)) {
		op->flags |= OP_FORCE; /* not into the vault's link, nor into ours */
		e = e < 0 ? e : restate_others(m->r, op->path, st); /* are they one file there? */
	}
	return e < 0 ? e : take_content(m);
}

/* What stands at a name there has the names that are told next; that the file here has others says
 * nothing of them. And what the vault holds by a link, since an attempt to put this content there
 * failed, is not written to. */
static int part_names(struct meeting *m, const struct stat *st)
{
	char entry[VAULT_NAME_SIZE];
	bool kept = vault_link_of(m->r->vault, st->st_ino, entry);

	if (!m->restated && !kept)
		return 0;
	m->op->flags |= OP_FORCE;
	return kept || linked_here(m) ? restate_others(m->r, m->op->path, st) : 0;
}

static int meet_content(struct meeting *m)
{
	struct op *op = m->op;
	struct stat st;
	int e = reach(m, op->path, &st);

	if (e < 0)
		return e;
	if (S_ISDIR(st.st_mode))
		return keep_theirs(m);
	if (!st.st_ino && !(op->flags & OP_NEW) && !m->restated)
		return ask_both(m); /* it may have other names there */
	if (!st.st_ino)
		return take_content(m);
	if (is_ours(m, op->path))
		return content_meets_ours(m, &st);
	spare_attributes(m);
	if (!S_ISREG(st.st_mode))
		e = incoming_remove(m->v, op->path, op->time);
	else if (st.st_nlink > 1)
		e = part_names(m, &st);
	return e < 0 ? e : take_content(m);
}

/* A symbolic link, FIFO, socket or device. */
static int meet_make(struct meeting *m)
{
	struct op *op = m->op;
	struct stat st;
	int e = reach(m, op->path, &st);

	if (e < 0)
		return e;
	if (S_ISDIR(st.st_mode))
		return keep_theirs(m);
	if (st.st_ino && is_ours(m, op->path)) {
		if (!theirs_wins(m, CONFLICT_OTHER, clock_ns_of(&st.st_mtim), (int64_t)op->time))
			return keep_theirs(m);
		e = keep_ours(m, op->path);
	}
	if (e == 0 && st.st_ino)
		e = give_way(m, op->path, &st);
	m->apply = e == 0;
	return e;
}

static int meet_mkdir(struct meeting *m)
{
	struct op *op = m->op;
	struct stat st;
	int e = reach(m, op->path, &st);

	if (e < 0)
		return e;
	if (st.st_ino && !S_ISDIR(st.st_mode)) {
		if (is_ours(m, op->path))
			e = keep_ours(m, op->path);
		if (e == 0)
			e = give_way(m, op->path, &st);
	}
	m->apply = e == 0 && (!S_ISDIR(st.st_mode) || m->rel->attr_time <= op->time);
	return e;
}

/* ---- removals ---- */

static int is_empty_dir(struct replica *r, const char *path)
{
	_cleanup_closedir_ DIR *d = NULL;
	int n = 0, e = confine_opendir(r->root, path, &d);

	if (e < 0)
		return e;
	while (n < 3 && readdir(d))
		n++;
	return n < 3;
}

/* The file is about to lose the name of the op: attributes that we gave it by that the peer is told
 * by the others. */
static int tell_attributes(struct meeting *m, const struct stat *st)
{
	const char *path = m->op->path;

	return has_news(m, path, st) ? restate_each_other(m->r, path, st, restate_attributes) : 0;
}

static int meet_removal(struct meeting *m)
{
	struct op *op = m->op;
	struct stat st;
	int e = look(m->r, op->path, &st);
	bool dir = S_ISDIR(st.st_mode);

	if (e < 0 || !st.st_ino)
		return e;
	if (op->flags & OP_FORCE)
		op->type = dir ? OP_RMDIR : OP_UNLINK;
	if (dir != (op->type == OP_RMDIR) || is_ours(m, op->path))
		return 0;
	e = dir ? is_empty_dir(m->r, op->path) : tell_attributes(m, &st) ?: 1;
	m->apply = e > 0;
	return e < 0 ? e : 0;
}

/* ---- renames ---- */

static int step_rename(struct meeting *m, const char *from, const char *to, bool dir)
{
	struct op op = {.type = OP_RENAME,
		.path = (char *)from,
		.path2 = (char *)to,
		.time = m->op->time,
		.flags = OP_REPLACED | (dir ? OP_IS_DIR : 0)};

	return incoming_step(m->v, &op);
}

/* What the peer has moved may be our version by now. */
static int keep_from(struct meeting *m, const char *from)
{
	return is_ours(m, from) ? keep_ours(m, from) : keep_moved(m, from);
}

static int merge(struct meeting *m, const char *from, const char *to);

/* Moves @from, which comes from the peer, to @to; what stands there of ours stays or goes by the
 * same rules as for a content. */
static int merge_one(struct meeting *m, const char *from, const char *to)
{
	struct stat a, b;
	int e = look(m->r, from, &a);
	bool lost;

	if (e == 0)
		e = look(m->r, to, &b);
	if (e < 0 || !a.st_ino || (a.st_ino == b.st_ino && !S_ISREG(a.st_mode)))
		return e;
	if (S_ISDIR(a.st_mode) && S_ISDIR(b.st_mode))
		return merge(m, from, to);
	if (S_ISDIR(b.st_mode)) { /* the directory keeps the name */
		e = keep_from(m, from);
		return e < 0 ? e : incoming_remove(m->v, from, m->op->time);
	}
	if (b.st_ino && a.st_ino != b.st_ino && is_ours(m, to)) {
		bool theirs =
			S_ISDIR(a.st_mode) || theirs_wins(m, CONFLICT_FILE, clock_ns_of(&b.st_mtim),
						      clock_ns_of(&a.st_mtim));

		e = theirs ? keep_ours(m, to) : keep_from(m, from);
		if (e == 0 && !theirs)
			return incoming_remove(m->v, from, m->op->time);
	}
	lost = b.st_ino && a.st_ino != b.st_ino && has_news(m, to, &b);
	if (e == 0 && b.st_ino && S_ISDIR(a.st_mode))
		e = incoming_remove(m->v, to, m->op->time);
	if (e == 0)
		e = step_rename(m, from, to, S_ISDIR(a.st_mode));
	return e == 0 && lost ? restate_others(m->r, to, &b) : e;
}

/* All that is in @from goes to @to; then @from goes. */
static int merge(struct meeting *m, const char *from, const char *to)
{
	_cleanup_closedir_ DIR *d = NULL;
	int e = confine_opendir(m->r->root, from, &d);
	const struct dirent *entry;

	if (e < 0)
		return e;
	while (e == 0 && (errno = 0, entry = readdir(d))) {
		_cleanup_free_ char *a = NULL, *b = NULL;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (asprintf(&a, "%s/%s", from, entry->d_name) < 0)
			a = NULL;
		if (asprintf(&b, "%s/%s", to, entry->d_name) < 0)
			b = NULL;
		e = a && b ? merge_one(m, a, b) : -ENOMEM;
	}
	return e < 0 ? e : incoming_remove(m->v, from, m->op->time);
}

/* The peer has renamed a file of which we do not know yet what it contains there. */
static int move_unknown(struct meeting *m, const char *from)
{
	int e = is_ours(m, from) ? keep_ours(m, from) : 0;

	if (e == 0)
		e = incoming_remove(m->v, from, m->op->time);
	return e < 0 ? e : ask_for(m, m->op->path2, true);
}

/* What the peer renamed we have renamed as well, to @from at @when. */
static int meet_two_renames(struct meeting *m, const char *from, uint64_t when)
{
	struct op *op = m->op;
	struct stat st;
	int e = look(m->r, from, &st);

	if (e < 0)
		return e;
	if (S_ISREG(st.st_mode) && replica_is_asked(m->r, from))
		return move_unknown(m, from);
	if (!st.st_ino) /* gone since: what the peer has under its name stays */
		return op->flags & OP_GONE ? 0 : ask_for(m, op->path2, true);
	if (confine_below(op->path2, from) || confine_below(from, op->path2) ||
		!theirs_wins(m, CONFLICT_MOVE, (int64_t)when, (int64_t)op->time))
		return 0;
	e = make_above(m, op->path2);
	if (e == 0)
		e = merge_one(m, from, op->path2);
	return e < 0 ? e : restate(m->r, from, false); /* the peer may have that name by now */
}

/* Where we have renamed what stood at the op's path, and when. 1; 0: we have not; or -ENOMEM. */
static int our_rename(struct meeting *m, char **ret_to, uint64_t *ret_when)
{
	const struct unseen_op *own;
	int found = 0;

	(void)pthread_mutex_lock(&m->r->lock);
	own = unseen_rename_from(m->r->unseen, m->op->path, m->seen);
	if (own) {
		*ret_to = strdup(own->path2);
		*ret_when = own->time;
		found = *ret_to ? 1 : -ENOMEM;
	}
	(void)pthread_mutex_unlock(&m->r->lock);
	return found;
}

static int meet_exchange(struct meeting *m)
{
	int e = ask_for(m, m->op->path, true);

	return e < 0 ? e : ask_for(m, m->op->path2, true);
}

static int meet_rename(struct meeting *m)
{
	struct op *op = m->op;
	_cleanup_free_ char *ours = NULL;
	uint64_t when = 0;
	struct stat st;
	int e = look(m->r, op->path, &st);

	if (e < 0)
		return e;
	if (op->flags & OP_EXCHANGE)
		return meet_exchange(m);
	e = st.st_ino ? 0 : our_rename(m, &ours, &when);
	if (e != 0)
		return e < 0 ? e : meet_two_renames(m, ours, when);
	if (!st.st_ino) /* removed here: what the peer has under the new name stays */
		return op->flags & OP_GONE ? 0 : ask_for(m, op->path2, true);
	if (S_ISREG(st.st_mode) && is_another(m, op->path))
		return op->flags & OP_GONE ? 0 : ask_for(m, op->path2, true);
	if (S_ISREG(st.st_mode) && replica_is_asked(m->r, op->path))
		return move_unknown(m, op->path);
	if (confine_below(op->path2, op->path) || confine_below(op->path, op->path2))
		return 0;
	e = make_above(m, op->path2);
	return e < 0 ? e : merge_one(m, op->path, op->path2);
}

/* The new name is taken here. */
static int link_meets(struct meeting *m, const struct stat *from, const struct stat *to)
{
	struct op *op = m->op;
	struct keep k = {.path = op->path,
		.maker = m->v->sender.name,
		.maker_id = m->v->origin->id,
		.winner = m->r->node.name,
		.seq = op->seq};
	bool ours = is_ours(m, op->path2);
	int e;

	if (S_ISDIR(to->st_mode) ||
		(ours && !theirs_wins(m, CONFLICT_FILE, clock_ns_of(&to->st_mtim),
				 clock_ns_of(&from->st_mtim))))
		return keep_version(m->r, &k);
	e = ours ? keep_ours(m, op->path2) : 0;
	if (e == 0)
		e = give_way(m, op->path2, to);
	m->apply = e == 0;
	return e;
}

static int meet_link(struct meeting *m)
{
	struct op *op = m->op;
	struct stat from, to;
	int e = look(m->r, op->path, &from);

	if (e == 0)
		e = reach(m, op->path2, &to);
	if (e < 0 || (op->flags & OP_GONE && !from.st_ino))
		return e;
	if (!from.st_ino || S_ISDIR(from.st_mode) || replica_is_asked(m->r, op->path) ||
		is_another(m, op->path))
		return ask_for(m, op->path2, false);
	if (to.st_ino && to.st_ino != from.st_ino)
		return link_meets(m, &from, &to);
	m->apply = true;
	return 0;
}

static int meet_attributes(struct meeting *m)
{
	struct stat st;
	int e = look(m->r, m->op->path, &st);

	if (e < 0 || !st.st_ino)
		return e;
	m->apply = true;
	if (m->op->type == OP_SETATTR)
		spare_attributes(m);
	else if (m->rel->attr_time > m->op->time)
		m->apply = false;
	if ((m->op->flags & OP_IS_DIR) && !S_ISDIR(st.st_mode))
		m->apply = false;
	return 0;
}

/* ---- the whole ---- */

static int meet(struct meeting *m)
{
	switch (m->op->type) {
	case OP_CONTENT:
		return meet_content(m);
	case OP_MKDIR:
		return meet_mkdir(m);
	case OP_SYMLINK:
	case OP_MKNOD:
		return meet_make(m);
	case OP_UNLINK:
	case OP_RMDIR:
		return meet_removal(m);
	case OP_RENAME:
		return meet_rename(m);
	case OP_LINK:
		return meet_link(m);
	case OP_SETATTR:
	case OP_SETXATTR:
	case OP_REMOVEXATTR:
		return meet_attributes(m);
	default:
		return 0;
	}
}

int resolve(struct receiver *v, struct op *op, const struct position *seen, bool restated,
	bool *ret_apply)
{
	struct replica *r = v->replica;
	struct unseen_relation rel;
	_cleanup_free_ char *theirs = NULL;
	struct meeting m = {
		.v = v, .r = r, .op = op, .seen = seen, .rel = &rel, .restated = restated};
	char text[400];
	int e;

	(void)pthread_mutex_lock(&r->lock);
	e = unseen_relate(r->unseen, op, seen, &rel);
	(void)pthread_mutex_unlock(&r->lock);
	if (e < 0)
		return e;
	log_info("conflict: %s from %s meets changes of this node",
		op_describe(op, text, sizeof(text)), v->sender.name);
	m.theirs = theirs = steal_pointer(&op->path);
	op->path = steal_pointer(&rel.path);
	if (rel.path2) {
		free(op->path2);
		op->path2 = steal_pointer(&rel.path2);
	}
	e = op->flags & OP_GONE && op->type == OP_CONTENT ? 0 : meet(&m);
	unseen_relation_clear(&rel);
	*ret_apply = m.apply;
	return e;
}
