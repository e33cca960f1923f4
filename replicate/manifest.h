/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_MANIFEST_H
#define TANDEMFS_MANIFEST_H

/*
 * A manifest is the sorted list of a subtree with all that two nodes must agree on. It is written
 * as a stream on one node, read as a stream on another, and two of them are merged to find what
 * differs. manifest_write.c has the format.
 *
 * The order is that of the paths' components, each compared by its bytes: a directory comes right
 * before what is in it, and a subtree is contiguous ("a", "a/x", "a-b"). The first entry is
 * the subtree's own directory. TANDEMFS_DIR is left out.
 */

#include "manifest_index.h"
#include "op.h"

#include <stdbool.h>
#include <stdint.h>

/* A path's place in the order: below 0, 0 or above 0 as for strcmp(3). */
int manifest_path_compare(const char *a, const char *b);

/* Where the bytes go. @put takes all of them, or returns -errno, which ends the writing. */
struct manifest_sink {
	int (*put)(void *ctx, const void *data, size_t len);
	void *ctx;
};

/* Sinks for a descriptor (ctx: int *) and for a buffer (ctx: struct buf *). */
int manifest_put_fd(void *ctx, const void *data, size_t len);
int manifest_put_buf(void *ctx, const void *data, size_t len);
struct manifest_options {
	const char *digest;           /* OpenSSL's name, for contents and xattrs */
	bool one_level;               /* the directory and what is right in it, not what is below */
	bool without_content;         /* files' bytes are not read */
	struct manifest_index *index; /* is told of the directories; may be NULL */
	/* Called for each entry and every few MiB; below 0 it ends the writing with that error.
	 * May be NULL. */
	int (*progress)(void *ctx, uint64_t entries, uint64_t bytes);
	void *ctx;
};

/*
 * Writes the manifest of what is at @path ("" is all) below @root. Needs memory for the names in
 * the directories from the root to the present one, and for each inode with several names. What
 * vanishes while it is looked at is left out; so the tree may be in use, and then differences must
 * be looked at again. 0, -ENOENT or -ENOTDIR when there is no such directory, -ENAMETOOLONG when
 * there is a path that cannot be replicated, -errno.
 */
int manifest_write(int root, const char *path, const struct manifest_options *options,
	const struct manifest_sink *sink);

/* Into the descriptor @fd, with the digest over all bytes. Otherwise the same. */
int manifest_write_fd(int root, const char *path, const struct manifest_options *options, int fd,
	uint8_t dst[OP_DIGEST_MAX], uint8_t *ret_len);

/* The digest over the bytes of a manifest: equal on two nodes exactly when the subtrees are. */
int manifest_digest(int root, const char *path, const struct manifest_options *options,
	uint8_t dst[OP_DIGEST_MAX], uint8_t *ret_len);

struct manifest_entry {
	char *path;    /* relative to the root; "" is the root */
	uint32_t mode; /* with the type */
	uint32_t uid, gid;
	uint32_t nlink; /* not of directories */
	uint64_t size;  /* of regular files */
	int64_t mtime;  /* ns since the epoch */
	uint64_t rdev;
	char *target;        /* of symbolic links, else "" */
	char *link;          /* the first name, in order, of the same inode; "" when this is it */
	uint8_t content_len; /* 0: not a regular file, or written without contents */
	uint8_t content[OP_DIGEST_MAX];
	uint8_t xattrs_len; /* 0: none */
	uint8_t xattrs[OP_DIGEST_MAX];
};

/* Where the bytes come from. Fills in up to @size bytes; *ret_len 0 is the end. 0 or -errno. */
struct manifest_source {
	int (*get)(void *ctx, void *dst, size_t size, size_t *ret_len);
	void *ctx;
};

/* Source for a descriptor (ctx: int *). */
int manifest_get_fd(void *ctx, void *dst, size_t size, size_t *ret_len);

struct manifest_reader;

/* Reads the head. 0, -EBADMSG when it is none, -ENOMEM, or the source's error. */
int manifest_reader_new(const struct manifest_source *source, struct manifest_reader **ret);
void manifest_reader_free(struct manifest_reader *m);

/* What the head says; kept by the reader. */
const char *manifest_root(const struct manifest_reader *m);
const char *manifest_digest_name(const struct manifest_reader *m);

/* @entries of what the writer counted do not come: they are left out by the source. */
void manifest_reader_skip(struct manifest_reader *m, uint64_t entries);

/* The next entry, valid until the next call: 1, 0 at the end, -EBADMSG (cut short, out of order,
 * outside the subtree, not well formed), -ENOMEM or the source's error. */
int manifest_next(struct manifest_reader *m, const struct manifest_entry **ret);

static inline void manifest_reader_cleanup(struct manifest_reader **m)
{
	manifest_reader_free(*m);
}
#define _cleanup_manifest_ __attribute__((cleanup(manifest_reader_cleanup)))

/* What two entries of one path differ in; bits. After the type nothing else is looked at, after the
 * size not the content. */
enum manifest_difference {
	MANIFEST_TYPE = 1 << 0,
	MANIFEST_SIZE = 1 << 1,
	MANIFEST_CONTENT = 1 << 2,
	MANIFEST_TARGET = 1 << 3,
	MANIFEST_DEVICE = 1 << 4,
	MANIFEST_MODE = 1 << 5,
	MANIFEST_OWNER = 1 << 6,
	MANIFEST_MTIME = 1 << 7,
	MANIFEST_XATTRS = 1 << 8,
	MANIFEST_LINKS = 1 << 9,
};
unsigned manifest_differences(const struct manifest_entry *a, const struct manifest_entry *b);
/* "type", "size", "content", "target", "device", "mode", "owner", "mtime", "xattrs", "hard links".
 */
const char *manifest_difference_name(unsigned bit);

/* Calls @visit for each path of two manifests, in order: with both entries, or NULL for the one
 * that does not have it. Below 0 it ends the merging. 0; -EINVAL when the two are not of the same
 * subtree, digest and options; or the error of a reader or of @visit. */
typedef int (*manifest_visitor)(
	void *ctx, const struct manifest_entry *here, const struct manifest_entry *there);
int manifest_merge(struct manifest_reader *here, struct manifest_reader *there,
	manifest_visitor visit, void *ctx);

/*
 * Merges two manifests and calls @report with each path and word of what differs: "only here" (in
 * @here), "only there", or manifest_difference_name(). *ret_count is the number of reports. As
 * manifest_merge().
 */
int manifest_compare(struct manifest_reader *here, struct manifest_reader *there,
	void (*report)(void *ctx, const char *path, const char *what), void *ctx,
	uint64_t *ret_count);

#endif
