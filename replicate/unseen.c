/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * In memory only: entries in the order of their numbers, an index from each path to the entries
 * that name it, and the renames once more by themselves.
 *
 * A directory of any size that was renamed is one entry. A path is taken through the renames in
 * the order in which they were made: each moves it when it names the path or a directory above it.
 */

#include "unseen.h"

#include "base/cleanup.h"
#include "base/confine.h"

#include <errno.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

struct entry;

struct ref {
	struct ref *prev, *next;
	struct entry *entry;
};

struct name {
	UT_hash_handle hh;
	struct ref *refs; /* ascending */
	char path[];
};

struct entry {
	struct unseen_op op;
	struct entry *prev, *next;
	struct entry *rename_prev, *rename_next;
	struct name *names[2];
	struct ref refs[2];
};

struct unseen {
	struct entry *entries; /* ascending */
	struct entry *renames;
	struct name *names;
	size_t n;
};

struct unseen *unseen_new(void)
{
	return calloc(1, sizeof(struct unseen));
}

static struct name *name_get(struct unseen *u, const char *path)
{
	size_t len = strlen(path);
	struct name *n;

	HASH_FIND(hh, u->names, path, len, n);
	if (n)
		return n;
	n = calloc(1, sizeof(*n) + len + 1);
	if (!n)
		return NULL;
	memcpy(n->path, path, len + 1);
	HASH_ADD_KEYPTR(hh, u->names, n->path, len, n);
	return n;
}

static void name_put(struct unseen *u, struct name *n)
{
	if (!n || n->refs)
		return;
	HASH_DEL(u->names, n);
	free(n);
}

static void entry_free(struct entry *e)
{
	free(e->op.path);
	free(e->op.path2);
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
	e->op.path = strdup(op->path);
	e->op.path2 = two ? strdup(op->path2) : NULL;
	if (e->op.path && (!two || e->op.path2))
		return e;
	entry_free(e);
	return NULL;
}

int unseen_add(struct unseen *u, const struct op *op)
{
	struct entry *e;

	if (u->entries && op->seq <= u->entries->prev->op.seq)
		return -EINVAL;
	e = entry_new(op);
	if (!e)
		return -ENOMEM;
	e->names[0] = name_get(u, e->op.path);
	if (e->op.path2 && strcmp(e->op.path, e->op.path2) != 0)
		e->names[1] = name_get(u, e->op.path2);
	if (!e->names[0] || (e->op.path2 && strcmp(e->op.path, e->op.path2) != 0 && !e->names[1])) {
		name_put(u, e->names[0]);
		name_put(u, e->names[1]);
		entry_free(e);
		return -ENOMEM;
	}
	for (int i = 0; i < 2; i++) {
		e->refs[i].entry = e;
		if (e->names[i])
			DL_APPEND(e->names[i]->refs, &e->refs[i]);
	}
	DL_APPEND(u->entries, e);
	if (e->op.type == OP_RENAME)
		DL_APPEND2(u->renames, e, rename_prev, rename_next);
	u->n++;
	return 0;
}

static void remove_entry(struct unseen *u, struct entry *e)
{
	for (int i = 0; i < 2; i++) {
		if (e->names[i])
			DL_DELETE(e->names[i]->refs, &e->refs[i]);
		name_put(u, e->names[i]);
	}
	if (e->op.type == OP_RENAME)
		DL_DELETE2(u->renames, e, rename_prev, rename_next);
	DL_DELETE(u->entries, e);
	u->n--;
	entry_free(e);
}

void unseen_drop(struct unseen *u, uint64_t seq)
{
	struct entry *e, *next;

	DL_FOREACH_SAFE (u->entries, e, next) {
		if (e->op.seq > seq)
			return;
		remove_entry(u, e);
	}
}

void unseen_free(struct unseen *u)
{
	if (!u)
		return;
	unseen_drop(u, UINT64_MAX);
	free(u);
}

size_t unseen_count(const struct unseen *u)
{
	return u->n;
}

const struct unseen_op *unseen_next(
	const struct unseen *u, const char *path, const struct position *seen, uint64_t after)
{
	struct name *n;
	struct ref *ref;

	HASH_FIND(hh, u->names, path, strlen(path), n);
	if (!n)
		return NULL;
	DL_FOREACH (n->refs, ref) {
		uint64_t seq = ref->entry->op.seq;

		if (seq > after && !position_has(seen, seq))
			return &ref->entry->op;
	}
	return NULL;
}

/* @path, which is @from or below it, with @to in the place of @from. */
static char *moved(const char *path, const char *from, const char *to)
{
	char *ret;

	return asprintf(&ret, "%s%s", to, path + strlen(from)) < 0 ? NULL : ret;
}

int unseen_map(
	const struct unseen *u, const char *path, const struct position *seen, char **ret_path)
{
	_cleanup_free_ char *at = strdup(path);
	struct entry *e;

	if (!at)
		return -ENOMEM;
	DL_FOREACH2(u->renames, e, rename_next)
	{
		const struct unseen_op *r = &e->op;
		char *to;

		if (position_has(seen, r->seq))
			continue;
		if (confine_below(at, r->path))
			to = moved(at, r->path, r->path2);
		else if ((r->flags & OP_EXCHANGE) && confine_below(at, r->path2))
			to = moved(at, r->path2, r->path);
		else
			continue;
		if (!to)
			return -ENOMEM;
		free(at);
		at = to;
	}
	if (strlen(at) > TANDEMFS_PATH_MAX)
		return -ENAMETOOLONG;
	*ret_path = steal_pointer(&at);
	return 0;
}
