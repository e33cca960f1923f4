/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * DESIGN: two operations are related when a path of one is that of the other, or above or below it.
 * So a table has, of each path, the path itself and every directory above it up to the root: a path
 * is related to the set when it stands there (as one, or as a directory above one), or when a
 * directory above it is there as one. That is a look-up for each component. Inodes have a table by
 * their numbers.
 */

#include "related.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

struct related_name {
	UT_hash_handle hh;
	bool whole; /* of an operation, not only above one */
	char path[];
};

struct related_inode {
	UT_hash_handle hh;
	uint64_t ino;
};

/* The length of the next longer prefix of @path that is a directory above it, or of @path itself;
 * after that @len again. */
static size_t longer(const char *path, size_t len)
{
	if (path[len] == '/')
		len++;
	return len + strcspn(path + len, "/");
}

static struct related_name *find(const struct related *r, const char *path, size_t len)
{
	struct related_name *n;

	HASH_FIND(hh, r->names, path, len, n);
	return n;
}

static int add_name(struct related *r, const char *path, size_t len, bool whole)
{
	struct related_name *n = find(r, path, len);

	if (n) {
		n->whole |= whole;
		return 0;
	}
	n = calloc(1, sizeof(*n) + len + 1);
	if (!n)
		return -ENOMEM;
	memcpy(n->path, path, len);
	n->whole = whole;
	HASH_ADD(hh, r->names, path, len, n);
	return 0;
}

static int add_path(struct related *r, const char *path)
{
	size_t len = 0, all = strlen(path);
	int e = add_name(r, path, 0, all == 0);

	while (e == 0 && len < all) {
		len = longer(path, len);
		e = add_name(r, path, len, len == all);
	}
	return e;
}

static int add_inode(struct related *r, uint64_t ino)
{
	struct related_inode *n;

	HASH_FIND(hh, r->inodes, &ino, sizeof(ino), n);
	if (n)
		return 0;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->ino = ino;
	HASH_ADD(hh, r->inodes, ino, sizeof(n->ino), n);
	return 0;
}

int related_add(struct related *r, const struct op *op)
{
	const char *paths[2];
	size_t n = op_paths(op, paths);
	int e = op->fid.ino ? add_inode(r, op->fid.ino) : 0;

	for (size_t i = 0; e == 0 && i < n; i++)
		e = add_path(r, paths[i]);
	return e;
}

static bool has_path(const struct related *r, const char *path)
{
	size_t len = 0, all = strlen(path);
	const struct related_name *n = find(r, path, 0);

	while (n && !n->whole && len < all) {
		len = longer(path, len);
		n = find(r, path, len);
	}
	return n != NULL; /* every directory above it is there as one above others, and it too */
}

bool related_has(const struct related *r, const struct op *op)
{
	const char *paths[2];
	size_t n = op_paths(op, paths);
	struct related_inode *inode = NULL;

	if (op->fid.ino)
		HASH_FIND(hh, r->inodes, &op->fid.ino, sizeof(op->fid.ino), inode);
	for (size_t i = 0; !inode && i < n; i++)
		if (has_path(r, paths[i]))
			return true;
	return inode != NULL;
}

void related_clear(struct related *r)
{
	struct related_name *name, *next_name;
	struct related_inode *inode, *next_inode;

	HASH_ITER (hh, r->names, name, next_name) {
		HASH_DEL(r->names, name);
		free(name);
	}
	HASH_ITER (hh, r->inodes, inode, next_inode) {
		HASH_DEL(r->inodes, inode);
		free(inode);
	}
}
