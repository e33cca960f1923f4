/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * In memory only: entries in the order of their numbers, the renames among them once more, and an
 * index from each path to the entries that name it, in order, and to the number of entries below
 * it. After a long cut with both nodes at work there are tens of thousands, and each op that
 * arrives is taken past all that concern it: the next one after a number is found by bisection.
 *
 * An op that arrives was made on a tree without our entries. It is taken past those that concern
 * its names one by one, from the oldest: each lets it pass, gives it another name (our rename of it
 * or of a directory above it), or clashes with it. A path that our entry names is kept as it is
 * called here now: it follows the peer's renames that were carried out since. So the peer, which
 * takes our ops past its own in the same way, finds the same pairs in conflict.
 *
 * What goes together with what:
 *   - a rename, and a change of what is renamed or of something below it;
 *   - a change of attributes, and anything but a removal or a whole content;
 *   - two removals, two mkdirs of one name; two changes of attributes (the newer counts);
 *   - another name for an inode (link), and a change of it or its rename.
 * All else that touches one name, or removes or replaces a directory above the other's, clashes.
 *
 * A directory of any size that was renamed is one entry. The entries of each inode are indexed too.
 */

#include "unseen.h"

#include "base/cleanup.h"
#include "base/confine.h"

#include <errno.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

struct entry;

/* Entries in the order of their numbers. */
struct row {
	struct entry **at; /* owned, the entries are not; NULL: room for none */
	size_t first, end, room;
};

struct name {
	UT_hash_handle hh;
	struct row refs; /* of entries that name it: twice one that does so twice */
	size_t n_below;
	char path[];
};

struct inode {
	UT_hash_handle hh;
	uint64_t ino;
	struct row refs;
};

struct entry {
	struct unseen_op op;
	struct entry *prev, *next;
	struct name *names[2];
	struct inode *inode; /* NULL: not known */
};

struct unseen {
	struct entry *entries; /* ascending */
	struct row renames;
	struct name *names;
	struct inode *inodes;
	size_t n;
};

struct unseen *unseen_new(void)
{
	return calloc(1, sizeof(struct unseen));
}

/* ---- rows ---- */

/* Where in @row the first entry stands whose number is above @seq. */
static size_t row_after(const struct row *row, uint64_t seq)
{
	size_t low = row->first, high = row->end;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (row->at[middle]->op.seq > seq)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Room for one more: at the front there is what others have left. */
static int row_make_room(struct row *row)
{
	size_t n = row->end - row->first;
	struct entry **at;

	if (row->end < row->room)
		return 0;
	if (row->first > n) {
		memmove(row->at, row->at + row->first, n * sizeof(*row->at));
		row->first = 0;
		row->end = n;
		return 0;
	}
	at = reallocarray(row->at, row->room ? 2 * row->room : 4, sizeof(*at));
	if (!at)
		return -ENOMEM;
	row->at = at;
	row->room = row->room ? 2 * row->room : 4;
	return 0;
}

static int row_add(struct row *row, struct entry *e)
{
	size_t i;

	if (row_make_room(row) < 0)
		return -ENOMEM;
	i = row_after(row, e->op.seq);
	memmove(row->at + i + 1, row->at + i, (row->end - i) * sizeof(*row->at));
	row->at[i] = e;
	row->end++;
	return 0;
}

/* Takes @e out, once. */
static void row_remove(struct row *row, const struct entry *e)
{
	size_t i = row_after(row, e->op.seq - 1);

	while (i < row->end && row->at[i] != e)
		i++;
	if (i == row->end)
		return;
	if (i == row->first) {
		row->first++;
	} else {
		row->end--;
		memmove(row->at + i, row->at + i + 1, (row->end - i) * sizeof(*row->at));
	}
}

#define ROW_FOREACH(row, i, e)                                                                     \
	for ((i) = (row)->first; (i) < (row)->end && ((e) = (row)->at[i], true); (i)++)

/* ---- the index ---- */

static struct name *name_find(const struct unseen *u, const char *path, size_t len)
{
	struct name *n;

	HASH_FIND(hh, u->names, path, len, n);
	return n;
}

static struct name *name_get(struct unseen *u, const char *path, size_t len)
{
	struct name *n = name_find(u, path, len);

	if (n)
		return n;
	n = calloc(1, sizeof(*n) + len + 1);
	if (!n)
		return NULL;
	memcpy(n->path, path, len);
	HASH_ADD_KEYPTR(hh, u->names, n->path, len, n);
	return n;
}

static void name_put(struct unseen *u, struct name *n)
{
	if (!n || n->refs.first < n->refs.end || n->n_below)
		return;
	HASH_DEL(u->names, n);
	free(n->refs.at);
	free(n);
}

/* The length of the path one level up; false at the root. */
static bool go_up(const char *path, size_t *len)
{
	if (*len == 0)
		return false;
	do
		--*len;
	while (*len && path[*len] != '/');
	return true;
}

/* Counts one entry more or less below each directory of @path. Without memory some counts stay too
 * high, which costs time and nothing else. */
static int count_below(struct unseen *u, const char *path, int by)
{
	size_t len = strlen(path);

	while (go_up(path, &len)) {
		struct name *n = by > 0 ? name_get(u, path, len) : name_find(u, path, len);

		if (!n)
			return -ENOMEM;
		n->n_below += (size_t)by;
		name_put(u, n);
	}
	return 0;
}

static const char *entry_path(const struct entry *e, int i)
{
	return i ? e->op.path2 : e->op.path;
}

static void unindex(struct unseen *u, struct entry *e)
{
	for (int i = 0; i < 2; i++) {
		struct name *n = e->names[i];

		if (!n)
			continue;
		e->names[i] = NULL;
		row_remove(&n->refs, e);
		(void)count_below(u, n->path, -1);
		name_put(u, n);
	}
}

static int index_entry(struct unseen *u, struct entry *e)
{
	for (int i = 0; i < 2; i++) {
		const char *path = entry_path(e, i);
		struct name *n = path ? name_get(u, path, strlen(path)) : NULL;

		if (!path)
			continue;
		if (!n || row_add(&n->refs, e) < 0) {
			name_put(u, n);
			unindex(u, e);
			return -ENOMEM;
		}
		e->names[i] = n;
		if (count_below(u, path, 1) < 0) {
			unindex(u, e);
			return -ENOMEM;
		}
	}
	return 0;
}

static struct inode *inode_find(const struct unseen *u, uint64_t ino)
{
	struct inode *i;

	HASH_FIND(hh, u->inodes, &ino, sizeof(ino), i);
	return i;
}

static void inode_put(struct unseen *u, struct inode *i)
{
	if (!i || i->refs.first < i->refs.end)
		return;
	HASH_DEL(u->inodes, i);
	free(i->refs.at);
	free(i);
}

static void inode_unindex(struct unseen *u, struct entry *e)
{
	struct inode *i = e->inode;

	if (!i)
		return;
	e->inode = NULL;
	row_remove(&i->refs, e);
	inode_put(u, i);
}

static int inode_index(struct unseen *u, struct entry *e)
{
	uint64_t ino = e->op.fid.ino;
	struct inode *i = ino ? inode_find(u, ino) : NULL;

	if (!ino)
		return 0;
	if (!i) {
		i = calloc(1, sizeof(*i));
		if (!i)
			return -ENOMEM;
		i->ino = ino;
		HASH_ADD(hh, u->inodes, ino, sizeof(i->ino), i);
	}
	if (row_add(&i->refs, e) < 0) {
		inode_put(u, i);
		return -ENOMEM;
	}
	e->inode = i;
	return 0;
}

/* ---- entries ---- */

static void entry_free(struct entry *e)
{
	free(e->op.path);
	free(e->op.path2);
	free(e->op.xname);
	free(e);
}

static struct entry *entry_new(const struct op *op)
{
	bool two = op->type == OP_RENAME || op->type == OP_LINK;
	struct entry *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->op.seq = op->seq;
	e->op.time = op->time;
	e->op.type = op->type;
	e->op.flags = op->flags;
	e->op.mask = op->mask;
	e->op.fid = op->fid;
	e->op.path = strdup(op->path);
	e->op.path2 = two ? strdup(op->path2) : NULL;
	e->op.xname = op->xname ? strdup(op->xname) : NULL;
	if (e->op.path && (!two || e->op.path2) && (!op->xname || e->op.xname))
		return e;
	entry_free(e);
	return NULL;
}

static bool is_change(const struct op *op)
{
	return !(op->flags & OP_FORCE) && op->type != OP_FSYNC && op->type != OP_ASK &&
	       op->type != OP_ANSWER && op->type != OP_VAULT;
}

/* Numbers come nearly in order: two callers may have overtaken each other. */
static void insert(struct unseen *u, struct entry *e)
{
	struct entry *last = u->entries ? u->entries->prev : NULL;

	while (last && last->op.seq > e->op.seq)
		last = last == u->entries ? NULL : last->prev;
	if (last)
		DL_APPEND_ELEM(u->entries, last, e);
	else
		DL_PREPEND(u->entries, e);
	u->n++;
}

int unseen_add(struct unseen *u, const struct op *op)
{
	struct entry *e;

	if (!is_change(op))
		return 0;
	e = entry_new(op);
	if (!e)
		return -ENOMEM;
	if (inode_index(u, e) < 0 || index_entry(u, e) < 0) {
		inode_unindex(u, e);
		entry_free(e);
		return -ENOMEM;
	}
	if (op->type == OP_RENAME && row_add(&u->renames, e) < 0) {
		unindex(u, e);
		inode_unindex(u, e);
		entry_free(e);
		return -ENOMEM;
	}
	insert(u, e);
	return 0;
}

static void remove_entry(struct unseen *u, struct entry *e)
{
	unindex(u, e);
	if (e->op.type == OP_RENAME)
		row_remove(&u->renames, e);
	inode_unindex(u, e);
	DL_DELETE(u->entries, e);
	u->n--;
	entry_free(e);
}

void unseen_remove(struct unseen *u, uint64_t seq)
{
	struct entry *e = u->entries ? u->entries->prev : NULL;

	/* what failed was entered a moment ago */
	while (e && e->op.seq > seq)
		e = e == u->entries ? NULL : e->prev;
	if (e && e->op.seq == seq)
		remove_entry(u, e);
}

const struct unseen_op *unseen_find(const struct unseen *u, uint64_t seq)
{
	const struct entry *e;

	DL_FOREACH (u->entries, e)
		if (e->op.seq == seq)
			return &e->op;
	return NULL;
}

void unseen_drop(struct unseen *u, uint64_t seq)
{
	while (u->entries && u->entries->op.seq <= seq)
		remove_entry(u, u->entries);
}

void unseen_free(struct unseen *u)
{
	struct name *n, *next;

	if (!u)
		return;
	unseen_drop(u, UINT64_MAX);
	HASH_ITER (hh, u->names, n, next) {
		HASH_DEL(u->names, n);
		free(n->refs.at);
		free(n);
	}
	free(u->renames.at);
	free(u);
}

size_t unseen_count(const struct unseen *u)
{
	return u->n;
}

uint64_t unseen_oldest(const struct unseen *u)
{
	return u->entries ? u->entries->op.seq : UINT64_MAX;
}

/* ---- names that move ---- */

static bool follows(const char *path, const char *from, const char *to, bool exchange)
{
	return path && (confine_below(path, from) || (exchange && confine_below(path, to)));
}

static int follow(char **path, const char *from, const char *to, bool exchange)
{
	char *now;

	if (!follows(*path, from, to, exchange))
		return 0;
	now = confine_below(*path, from) ? confine_moved(*path, from, to)
					 : confine_moved(*path, to, from);
	if (!now)
		return -ENOMEM;
	free(*path);
	*path = now;
	return 0;
}

static bool concerns(const struct unseen *u, const char *path)
{
	const struct name *n = name_find(u, path, strlen(path));

	return n != NULL;
}

int unseen_moved(struct unseen *u, const char *from, const char *to, bool exchange)
{
	struct entry *e;
	int r = 0;

	if (!concerns(u, from) && !(exchange && concerns(u, to)))
		return 0;
	DL_FOREACH (u->entries, e) {
		if (!follows(e->op.path, from, to, exchange) &&
			!follows(e->op.path2, from, to, exchange))
			continue;
		unindex(u, e);
		r = follow(&e->op.path, from, to, exchange) < 0 ? -ENOMEM : r;
		r = follow(&e->op.path2, from, to, exchange) < 0 ? -ENOMEM : r;
		r = index_entry(u, e) < 0 ? -ENOMEM : r;
	}
	return r;
}

/* ---- relations ---- */

/* What an op does to one of its names. */
enum role {
	ROLE_CONTENT,  /* changes the content of what is there */
	ROLE_ATTR,     /* its attributes */
	ROLE_XATTR,    /* one of its xattrs */
	ROLE_SOURCE,   /* gives it another name */
	ROLE_UNLINK,   /* takes it away */
	ROLE_RMDIR,    /* the same, a directory */
	ROLE_FROM,     /* moves it elsewhere */
	ROLE_MKDIR,    /* makes it a directory */
	ROLE_MAKE,     /* puts something else there */
	ROLE_EXCHANGE, /* exchanges it with something else */
};

static enum role role_of(enum op_type type, uint32_t flags, int i)
{
	switch (type) {
	case OP_CONTENT:
		return flags & OP_NEW ? ROLE_MAKE : ROLE_CONTENT;
	case OP_DIRTY:
		return ROLE_CONTENT;
	case OP_SETATTR:
		return ROLE_ATTR;
	case OP_SETXATTR:
	case OP_REMOVEXATTR:
		return ROLE_XATTR;
	case OP_LINK:
		return i ? ROLE_MAKE : ROLE_SOURCE;
	case OP_ASK:
		return ROLE_SOURCE;
	case OP_UNLINK:
		return ROLE_UNLINK;
	case OP_RMDIR:
		return ROLE_RMDIR;
	case OP_RENAME:
		if (flags & OP_EXCHANGE)
			return ROLE_EXCHANGE;
		return i ? ROLE_MAKE : ROLE_FROM;
	case OP_MKDIR:
		return ROLE_MKDIR;
	default:
		return ROLE_MAKE;
	}
}

enum outcome { GOES, MOVES, CLASHES };

/* Both name one path: @a is what arrives, @b our own. */
static enum outcome same_name(enum role a, enum role b)
{
	bool soft = a == ROLE_CONTENT || a == ROLE_ATTR || a == ROLE_XATTR || a == ROLE_SOURCE;

	if (a == ROLE_EXCHANGE || b == ROLE_EXCHANGE)
		return CLASHES;
	if (soft && b == ROLE_FROM)
		return MOVES;
	if (a == ROLE_FROM || soft) {
		if (b == ROLE_SOURCE || a == ROLE_SOURCE || a == ROLE_FROM)
			return b == ROLE_CONTENT || b == ROLE_ATTR || b == ROLE_XATTR ||
					       b == ROLE_SOURCE
				       ? GOES
				       : CLASHES;
		return a == b && a != ROLE_CONTENT ? GOES : CLASHES;
	}
	return a == b && (a == ROLE_UNLINK || a == ROLE_RMDIR || a == ROLE_MKDIR) ? GOES : CLASHES;
}

/* One names a directory above the other's name. A rename of the upper one moves the lower: only
 * who holds a name below a rename of ours has to follow (@renamed). */
static enum outcome at_distance(enum role upper, enum outcome renamed)
{
	switch (upper) {
	case ROLE_FROM:
		return renamed;
	case ROLE_ATTR:
	case ROLE_XATTR:
	case ROLE_MKDIR:
		return GOES;
	default:
		return CLASHES;
	}
}

static bool is_newer(const struct entry *e, uint64_t after, const struct position *seen)
{
	return e->op.seq > after && !position_has(seen, e->op.seq);
}

/* The oldest one in @row that is newer; NULL: none. */
static struct entry *oldest_in(const struct row *row, uint64_t after, const struct position *seen)
{
	for (size_t i = row_after(row, after); i < row->end; i++)
		if (is_newer(row->at[i], after, seen))
			return row->at[i];
	return NULL;
}

/* The oldest entry after @after that names @path or a directory above it. */
static struct entry *oldest_upward(const struct unseen *u, const char *path, uint64_t after,
	const struct position *seen, struct entry *best)
{
	size_t len = strlen(path);

	do {
		const struct name *n = name_find(u, path, len);
		struct entry *e = n ? oldest_in(&n->refs, after, seen) : NULL;

		if (e && (!best || e->op.seq < best->op.seq))
			best = e;
	} while (go_up(path, &len));
	return best;
}

static bool is_hidden(const struct entry *e)
{
	return e->op.type == OP_CREATE || e->op.type == OP_DIRTY;
}

static bool puts_there(enum role r)
{
	return r == ROLE_MAKE || r == ROLE_MKDIR || r == ROLE_EXCHANGE;
}

/* One name of what arrives, on its way past our entries. */
struct passing {
	char **path;
	enum role role;
	/* What we have there by now is another thing: we put it there, or it clashes. What we did
	 * to that afterwards is no news of this one. */
	bool apart;
};

/* Takes it past one name of one of them. */
static enum outcome pass_name(const struct entry *e, int i, struct passing *p)
{
	const char *ours = entry_path(e, i);
	enum role b = role_of(e->op.type, e->op.flags, i);
	enum outcome o;

	if (!ours || !confine_below(*p->path, ours))
		return GOES;
	if (strcmp(*p->path, ours) != 0)
		return at_distance(b, MOVES);
	o = same_name(p->role, b);
	if (o == MOVES && (p->apart || e->op.safe)) /* or what we moved has lost its name since */
		o = CLASHES;
	p->apart = p->apart || puts_there(b) || o == CLASHES;
	return o;
}

/* Takes it past one of them. */
static int pass(const struct entry *e, struct passing *p, struct unseen_relation *ret)
{
	for (int i = 0; i < 2; i++) {
		enum outcome o = pass_name(e, i, p);

		if (o == CLASHES) {
			ret->clash = true;
			ret->hidden = ret->hidden || is_hidden(e);
		}
		if (o == MOVES)
			return follow(p->path, e->op.path, e->op.path2, false);
	}
	return 0;
}

static bool same_attributes(const struct op *op, const struct entry *e)
{
	if (op->type == OP_SETATTR)
		return e->op.type == OP_SETATTR;
	if (op->type == OP_MKDIR)
		return e->op.type == OP_MKDIR || e->op.type == OP_SETATTR;
	return (op->type == OP_SETXATTR || op->type == OP_REMOVEXATTR) && e->op.xname &&
	       strcmp(op->xname, e->op.xname) == 0;
}

static void note_attributes(const struct op *op, const struct entry *e, struct unseen_relation *ret)
{
	if (strcmp(e->op.path, ret->path) != 0 || !same_attributes(op, e))
		return;
	ret->attr_mask |= e->op.mask;
	if (e->op.time > ret->attr_time)
		ret->attr_time = e->op.time;
}

/* Notes a clash with what of ours lies below @path. */
static void clash_below(const struct unseen *u, const char *path, const struct position *seen,
	struct unseen_relation *ret)
{
	const struct name *n = name_find(u, path, strlen(path));
	const struct entry *e;

	if (!n || n->n_below == 0)
		return;
	DL_FOREACH (u->entries, e)
		for (int i = 0; i < 2; i++) {
			const char *ours = entry_path(e, i);

			if (!ours || !is_newer(e, 0, seen) || !confine_below(ours, path) ||
				strcmp(ours, path) == 0)
				continue;
			ret->clash = true;
			ret->hidden = ret->hidden || is_hidden(e);
		}
}

static int relate(const struct unseen *u, const struct op *op, const struct position *seen,
	struct unseen_relation *ret)
{
	enum role role = role_of(op->type, op->flags, 0), role2 = role_of(op->type, op->flags, 1);
	struct passing first = {.path = &ret->path, .role = role};
	struct passing second = {.path = &ret->path2, .role = role2};
	uint64_t after = position_contiguous(seen);
	int r = 0;

	while (r == 0) {
		struct entry *e = oldest_upward(u, ret->path, after, seen, NULL);

		if (ret->path2)
			e = oldest_upward(u, ret->path2, after, seen, e);
		if (!e)
			break;
		after = e->op.seq;
		if (op->flags & OP_FORCE && is_hidden(e))
			continue;
		note_attributes(op, e, ret);
		r = pass(e, &first, ret);
		if (r == 0 && ret->path2)
			r = pass(e, &second, ret);
	}
	if (at_distance(role, GOES) == CLASHES)
		clash_below(u, ret->path, seen, ret);
	if (ret->path2 && at_distance(role2, GOES) == CLASHES)
		clash_below(u, ret->path2, seen, ret);
	if (op->type == OP_RENAME && confine_below(ret->path2, ret->path))
		ret->clash = true;
	return r;
}

int unseen_relate(const struct unseen *u, const struct op *op, const struct position *seen,
	struct unseen_relation *ret)
{
	bool two = op->type == OP_RENAME || op->type == OP_LINK;
	int r = -ENOMEM;

	*ret = (struct unseen_relation){.path = strdup(op->path)};
	if (two)
		ret->path2 = strdup(op->path2);
	if (ret->path && (!two || ret->path2))
		r = u->entries ? relate(u, op, seen, ret) : 0;
	if (r == 0 && (strlen(ret->path) > TANDEMFS_PATH_MAX ||
			      (two && strlen(ret->path2) > TANDEMFS_PATH_MAX)))
		ret->clash = true;
	if (r < 0)
		unseen_relation_clear(ret);
	return r;
}

void unseen_relation_clear(struct unseen_relation *r)
{
	free(r->path);
	free(r->path2);
	*r = (struct unseen_relation){0};
}

char *unseen_follow(const struct unseen *u, const char *path, const struct position *seen)
{
	char *at = strdup(path);
	const struct entry *e;
	size_t i;

	ROW_FOREACH (&u->renames, i, e) {
		if (!at || !is_newer(e, 0, seen))
			continue;
		if (follow(&at, e->op.path, e->op.path2, e->op.flags & OP_EXCHANGE) < 0) {
			free(at);
			at = NULL;
		}
	}
	return at;
}

/* ---- versions ---- */

/* Where the entries stand that name @path or concern the inode of @fid (NULL: none). */
static void rows_of(
	const struct unseen *u, const char *path, const struct fid *fid, struct row ret[2])
{
	const struct name *n = name_find(u, path, strlen(path));
	const struct inode *i = fid && fid->ino ? inode_find(u, fid->ino) : NULL;

	ret[0] = n ? n->refs : (struct row){0};
	ret[1] = i ? i->refs : (struct row){0};
}

static bool makes_version(const struct entry *e, const char *path, const struct fid *fid)
{
	switch (e->op.type) {
	case OP_CONTENT:
	case OP_DIRTY:
		if (e->op.safe)
			return false;
		return strcmp(e->op.path, path) == 0 || (fid && fid_equal(fid, &e->op.fid));
	case OP_CREATE:
	case OP_MKNOD:
	case OP_SYMLINK:
	case OP_MKDIR:
		return !e->op.safe && strcmp(e->op.path, path) == 0;
	case OP_RENAME:
		if (e->op.flags & OP_EXCHANGE && strcmp(e->op.path, path) == 0)
			return !e->op.safe;
		/* fallthrough */
	case OP_LINK:
		return !e->op.safe && strcmp(e->op.path2, path) == 0;
	default:
		return false;
	}
}

bool unseen_put(const struct unseen *u, const char *path, const struct position *seen)
{
	const struct name *n = name_find(u, path, strlen(path));
	const struct entry *e;
	size_t i;

	if (!n)
		return false;
	ROW_FOREACH (&n->refs, i, e)
		if (is_newer(e, 0, seen) && makes_version(e, path, NULL) &&
			e->op.type != OP_DIRTY &&
			(e->op.type != OP_CONTENT || e->op.flags & OP_NEW))
			return true;
	return false;
}

static bool changes_name(const struct entry *e)
{
	if (e->op.type == OP_CONTENT)
		return e->op.flags & OP_NEW;
	return e->op.type != OP_DIRTY && e->op.type != OP_SETATTR && !e->op.xname;
}

bool unseen_link(const struct unseen *u, const struct fid *fid, const struct position *seen)
{
	const struct inode *n = inode_find(u, fid->ino);
	const struct entry *e;
	size_t i;

	if (!n)
		return false;
	ROW_FOREACH (&n->refs, i, e)
		if (e->op.type == OP_LINK && is_newer(e, 0, seen) && fid_equal(&e->op.fid, fid))
			return true;
	return false;
}

/* Whether the name that the entry has, after our renames since, is @path. Without memory it is not.
 */
static bool is_called(const struct unseen *u, const struct entry *e, const char *path)
{
	_cleanup_free_ char *at = strdup(e->op.path);
	size_t i;

	for (i = row_after(&u->renames, e->op.seq); at && i < u->renames.end; i++) {
		const struct unseen_op *r = &u->renames.at[i]->op;

		if (follow(&at, r->path, r->path2, r->flags & OP_EXCHANGE) < 0)
			return false;
	}
	return at && strcmp(at, path) == 0;
}

bool unseen_elsewhere(const struct unseen *u, const char *path, const struct fid *fid,
	const struct position *seen)
{
	const struct inode *n = inode_find(u, fid->ino);
	const struct entry *e;
	size_t i;

	if (!n)
		return false;
	ROW_FOREACH (&n->refs, i, e)
		if ((e->op.type == OP_CONTENT || !changes_name(e)) && is_newer(e, 0, seen) &&
			fid_equal(&e->op.fid, fid) && !is_called(u, e, path))
			return true;
	return false;
}

const struct unseen_op *unseen_version(const struct unseen *u, const char *path,
	const struct fid *fid, const struct position *seen)
{
	struct row rows[2];
	const struct entry *e, *best = NULL;
	size_t i;

	rows_of(u, path, fid, rows);
	for (int k = 0; k < 2; k++)
		ROW_FOREACH (&rows[k], i, e)
			if (is_newer(e, 0, seen) && makes_version(e, path, fid) &&
				(!best || best->op.seq < e->op.seq))
				best = e;
	return best ? &best->op : NULL;
}

bool unseen_in_dir(const struct unseen *u, const char *dir, const struct position *seen)
{
	size_t len = strlen(dir);
	const struct entry *e;

	if (!name_find(u, dir, len))
		return false;
	DL_FOREACH (u->entries, e)
		for (int i = 0; i < 2; i++) {
			const char *ours = entry_path(e, i);

			if (ours && changes_name(e) && is_newer(e, 0, seen) &&
				confine_below(ours, dir) && confine_parent_len(ours) == len)
				return true;
		}
	return false;
}

const struct unseen_op *unseen_rename_from(
	const struct unseen *u, const char *path, const struct position *seen)
{
	const struct name *n = name_find(u, path, strlen(path));
	const struct entry *e, *best = NULL;
	size_t i;

	if (!n)
		return NULL;
	ROW_FOREACH (&n->refs, i, e)
		if (is_newer(e, 0, seen) && e->op.type == OP_RENAME &&
			strcmp(e->op.path, path) == 0)
			best = e;
	return best ? &best->op : NULL;
}

const struct unseen_op *unseen_rename_above(
	const struct unseen *u, const char *path, const struct position *seen, uint64_t after)
{
	for (size_t i = row_after(&u->renames, after); i < u->renames.end; i++) {
		const struct entry *e = u->renames.at[i];

		if (is_newer(e, after, seen) &&
			(confine_below(path, e->op.path) || confine_below(path, e->op.path2)))
			return &e->op;
	}
	return NULL;
}

/* Up to number @last. */
static void make_safe(struct unseen *u, uint64_t last, const char *path, const struct fid *fid)
{
	struct row rows[2];
	struct entry *e;
	size_t i;

	rows_of(u, path, fid, rows);
	for (int k = 0; k < 2; k++)
		ROW_FOREACH (&rows[k], i, e)
			if (e->op.seq <= last && makes_version(e, path, fid))
				e->op.safe = true;
}

void unseen_make_safe(struct unseen *u, const char *path, const struct fid *fid)
{
	make_safe(u, UINT64_MAX, path, fid);
}

static int compare_seqs(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

void unseen_make_safe_seqs(struct unseen *u, uint64_t *seqs, size_t n)
{
	struct entry *e;

	if (n == 0)
		return;
	qsort(seqs, n, sizeof(*seqs), compare_seqs);
	DL_FOREACH (u->entries, e)
		if (bsearch(&e->op.seq, seqs, n, sizeof(*seqs), compare_seqs))
			make_safe(u, e->op.seq, e->op.path2 ?: e->op.path, &e->op.fid);
}
