/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_VAULT_H
#define TANDEMFS_VAULT_H

/*
 * The conflict vault: versions that lost a conflict, in .tandemfs/conflicts. The directory is
 * 0700 and root's, and no mount shows it: what lies there is never served nor run.
 *
 * An entry is two files, NAME with the bytes (of a symbolic link: its target) and NAME.json with
 * the description. NAME is the id of the node that made the version, '-', and the number of that
 * node's operation in 16 hex digits: what is kept twice is one entry, and both nodes call it alike.
 */

#include "apply.h"
#include "op.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct vault;

#define VAULT_DIR "conflicts"
#define VAULT_NAME_SIZE (32 + 1 + 16 + 1)
#define VAULT_MAX_DEFAULT (1ull << 30)

/* A version. Strings are owned by an entry that was read, by the caller in what is handed in. */
struct vault_entry {
	char name[VAULT_NAME_SIZE];
	char *path;         /* where it stood */
	char *node;         /* name of the node that made it */
	char *winner;       /* name of the node whose version stands there instead */
	uint64_t seq;       /* of the operation that made it, the maker's number */
	uint64_t other_seq; /* of the operation that it conflicted with, the other node's number; 0:
			     * not known */
	uint64_t kept;      /* when it was put here, ns since the epoch */
	mode_t mode;        /* with the type's bits */
	uid_t uid;
	gid_t gid;
	int64_t mtime; /* ns since the epoch */
	uint64_t size; /* bytes; of an entry that was read */
};

/* Opens or makes the vault below @control (the .tandemfs directory). @max: bytes that all entries
 * together may have, 0: VAULT_MAX_DEFAULT. 0 or -errno. */
int vault_open(int control, uint64_t max, struct vault **ret);
void vault_close(struct vault *v);

/* The directory; owned by the vault. */
int vault_dir(const struct vault *v);

void vault_name(char dst[VAULT_NAME_SIZE], const char *node_id, uint64_t seq);
/* Whether @name could be one. */
bool vault_name_good(const char *name);

/* Puts what stands at @path below @root into the vault as @e->name and leaves it where it is. When
 * the caller takes it away right after (@leaves), as a link to its inode unless that has other
 * names, so that what is still written to it is kept as well; else as a copy. Type, mode, owner,
 * size and mtime of @e are filled in. What is neither a file nor a symbolic link is only described.
 * 0 (also when it is there already) or -errno. */
int vault_keep(struct vault *v, int root, const char *path, bool leaves, struct vault_entry *e);

/* Puts a copy of the open file @fd there, unless the entry is a link to it already. As
 * vault_keep().
 */
int vault_keep_fd(struct vault *v, int fd, struct vault_entry *e);

/* The entry NAME has bytes of its own from now on, if it was a link. 0 or -errno. */
int vault_part(struct vault *v, const char *name);

/* The name of the entry that is a link to the inode @ino. False: there is none. */
bool vault_link_of(struct vault *v, ino_t ino, char ret[VAULT_NAME_SIZE]);

/* If the file of the entry was changed after it was described, by a process that had it open, the
 * description is made anew. 1: so it was; 0, or -errno. */
int vault_refresh(struct vault *v, const char *name);

/* Puts a content that arrived (OP_WHOLE) there. Its staged data are consumed as by op_apply(). */
int vault_keep_content(
	struct vault *v, const struct apply_target *t, const struct op *op, struct vault_entry *e);

/* Puts @text there: a symbolic link's target. */
int vault_keep_text(struct vault *v, const char *text, struct vault_entry *e);

/* An entry of the peer's (OP_VAULT): stored, or with OP_GONE dropped. */
int vault_take(struct vault *v, const struct apply_target *t, const struct op *op);

/* The OP_VAULT that tells the peer of the entry; the caller clears it. -ENOENT: no such entry. */
int vault_op(struct vault *v, const char *name, struct op *ret);

/* All entries, oldest first. The caller frees with vault_list_free(). 0 or -errno. */
int vault_list(struct vault *v, struct vault_entry **ret, size_t *ret_n);
void vault_list_free(struct vault_entry *list, size_t n);

/* The entry that @text means: its name, the beginning of it, or its short form, the node's id as
 * far as it is given, '-', and the number without the zeros before it. 0, -ENOENT, or -ENOTUNIQ. */
int vault_find(struct vault *v, const char *text, char ret[VAULT_NAME_SIZE]);
/* The short form of the entry @e of @list, with as much of the node's id, at least four digits, as
 * tells the nodes of the list apart. */
void vault_short(char dst[VAULT_NAME_SIZE], const struct vault_entry *list, size_t n,
	const struct vault_entry *e);

/* Opens the bytes of an entry for reading and describes it (NULL: does not). A descriptor; -ENOENT,
 * -EINVAL for what is no name of an entry. *ret is cleared with vault_entry_clear(). */
int vault_read(struct vault *v, const char *name, struct vault_entry *ret);
void vault_entry_clear(struct vault_entry *e);

bool vault_has(struct vault *v, const char *name);

/* Removes an entry. 0, -ENOENT, -EINVAL or -errno. */
int vault_drop(struct vault *v, const char *name);

/* Number of entries. */
uint64_t vault_count(struct vault *v);

#endif
