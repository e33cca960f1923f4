/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_MANIFEST_INDEX_H
#define TANDEMFS_MANIFEST_INDEX_H

/*
 * The directories of a manifest: where in it each one and all below stands, and a digest of that.
 * Of two manifests only those parts are read whose digests differ. manifest_index.c has the format.
 */

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

struct manifest_index;

/* Beyond so many bytes a peer's is not read, and the whole manifest is. */
#define MANIFEST_INDEX_MAX (64u << 20)

/* @digest: OpenSSL's name. 0, -EINVAL or -ENOMEM. */
int manifest_index_new(const char *digest, struct manifest_index **ret);
void manifest_index_free(struct manifest_index *x);

/*
 * For the writer, in the manifest's order. A directory begins at @start, the offset of its entry,
 * and everything that is fed belongs to it until another one begins or it ends, at @end. 0 or
 * -ENOMEM.
 */
int manifest_index_enter(struct manifest_index *x, const char *path, uint64_t start);
int manifest_index_feed(struct manifest_index *x, const void *entry, size_t len);
int manifest_index_leave(struct manifest_index *x, uint64_t end);

/* Of a complete one. @id is what decoding asks for: it says that both belong together. */
void manifest_index_encode(const struct manifest_index *x, uint64_t id, struct buf *b);
/* 0, -EBADMSG (not well formed, out of order, another id) or -ENOMEM. */
int manifest_index_decode(const void *data, size_t len, uint64_t id, struct manifest_index **ret);

/* Parts of a manifest, ascending, that need not be read, and how many entries they have. */
struct manifest_skips {
	struct manifest_skip {
		uint64_t start, end;
	} * list; /* owned */
	size_t n;
	uint64_t entries;
};
void manifest_skips_clear(struct manifest_skips *s);

/* What is the same in both, in the topmost directories that are; never the first one, the
 * manifest's own. 0 or -ENOMEM. */
int manifest_index_compare(const struct manifest_index *here, const struct manifest_index *there,
	struct manifest_skips *ret_here, struct manifest_skips *ret_there);

static inline void manifest_index_cleanup(struct manifest_index **x)
{
	manifest_index_free(*x);
}
#define _cleanup_manifest_index_ __attribute__((cleanup(manifest_index_cleanup)))
#define _cleanup_manifest_skips_ __attribute__((cleanup(manifest_skips_clear)))

#endif
