/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Sets of paths that follow renames. They hold what is between two quiet moments, so going over
 * all of them for a rename is cheap enough. */

#include "plain.h"

#include "base/cleanup.h"
#include "base/confine.h"

#include <string.h>

struct path_entry {
	UT_hash_handle hh;
	uint64_t value;
	char *path; /* owned */
};

static void drop_entry(struct path_set *s, struct path_entry *e)
{
	HASH_DEL(s->table, e);
	free(e->path);
	free(e);
}

void paths_clear(struct path_set *s)
{
	struct path_entry *e, *next;

	HASH_ITER (hh, s->table, e, next)
		drop_entry(s, e);
}

size_t paths_count(const struct path_set *s)
{
	return HASH_COUNT(s->table);
}

void paths_put(struct path_set *s, const char *path, uint64_t value)
{
	struct path_entry *e;

	HASH_FIND_STR(s->table, path, e);
	if (!e) {
		e = calloc(1, sizeof(*e));
		if (!e || !(e->path = strdup(path))) {
			free(e);
			return;
		}
		HASH_ADD_KEYPTR(hh, s->table, e->path, strlen(e->path), e);
	}
	if (value > e->value)
		e->value = value;
}

uint64_t paths_get(const struct path_set *s, const char *path)
{
	struct path_entry *e;

	HASH_FIND_STR(s->table, path, e);
	return e ? e->value : 0;
}

bool paths_covers(const struct path_set *s, const char *path)
{
	const struct path_entry *e;

	for (e = s->table; e; e = e->hh.next)
		if (confine_below(path, e->path))
			return true;
	return false;
}

void paths_drop(struct path_set *s, const char *path)
{
	struct path_entry *e, *next;

	HASH_ITER (hh, s->table, e, next)
		if (confine_below(e->path, path))
			drop_entry(s, e);
}

void paths_rename(struct path_set *s, const char *from, const char *to)
{
	struct path_set moved = {0};
	struct path_entry *e, *next;

	paths_drop(s, to);
	HASH_ITER (hh, s->table, e, next) {
		_cleanup_free_ char *path = NULL;

		if (!confine_below(e->path, from))
			continue;
		path = confine_moved(e->path, from, to);
		if (path)
			paths_put(&moved, path, e->value);
		drop_entry(s, e);
	}
	HASH_ITER (hh, moved.table, e, next)
		paths_put(s, e->path, e->value);
	paths_clear(&moved);
}

char *paths_pop(struct path_set *s)
{
	struct path_entry *e = s->table;
	char *path;

	if (!e)
		return NULL;
	path = e->path;
	HASH_DEL(s->table, e);
	free(e);
	return path;
}
