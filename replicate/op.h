/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_OP_H
#define TANDEMFS_OP_H

/*
 * The vocabulary of the program: one change to a tree, as the file system reports it, the
 * journal keeps it, the wire carries it and the applier carries it out.
 *
 * An op is of one of two sorts. Most carry values (create, rename, setattr, ...): they are sent
 * as they were made. OP_CONTENT names what changed; the bytes and the attributes are read from
 * the backing file when it is sent, into `content`.
 */

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum op_type {
	OP_CREATE = 1, /* a regular file was made and is open; its OP_CONTENT follows. Not sent. */
	OP_MKNOD,      /* FIFO, socket, device: mode, uid, gid, rdev */
	OP_MKDIR,      /* mode, uid, gid */
	OP_SYMLINK,    /* path2 is the target's text; uid, gid */
	OP_LINK,       /* path2 is a new name for path */
	OP_UNLINK,
	OP_RMDIR,
	OP_RENAME,      /* path to path2; OP_EXCHANGE */
	OP_SETATTR,     /* the attributes in mask */
	OP_SETXATTR,    /* xname, value; ACLs are xattrs */
	OP_REMOVEXATTR, /* xname */
	OP_CONTENT,     /* OP_WHOLE, or the ranges; the size is always set */
	OP_DIRTY,       /* an open file began to differ from its last OP_CONTENT. Not sent. */
	OP_FSYNC,       /* path is to be on the receiver's disk */
	OP_ASK,    /* the sender cannot know what stands at path: the receiver is to restate it;
		    * OP_DEEP,    OP_KEEP (see restate.h) */
	OP_ANSWER, /* all that OP_ASK `about` wanted has been sent before this; path is "" */
	OP_VAULT,  /* a version that lost a conflict at path, for the vault: path2 is the entry's
		    * name, value its description (vault.h), content its bytes */
	OP_TYPE_END,
};

enum op_flags {
	OP_WHOLE = 1 << 0,    /* content: the file is new or was truncated; appears by rename */
	OP_EXCHANGE = 1 << 1, /* rename: RENAME_EXCHANGE */
	OP_GONE = 1 << 2,     /* wire: the inode no longer exists at the sender, see op_apply() */
	OP_DEFERRED = 1 << 3, /* wire: the op itself follows later, marked OP_LATE */
	OP_LATE = 1 << 4,     /* wire: an op that was deferred */
	OP_IS_DIR = 1 << 5,   /* rename, setattr, xattrs: the path is a directory */
	OP_REPLACED = 1 << 6, /* rename: something stood at path2 and is gone */
	OP_FORCE = 1 << 7,    /* a restatement: whatever stands at path (path2 of a link) gives way;
			       * for unlink: nothing stands there, of whatever type */
	OP_DEEP = 1 << 8,     /* ask: with all that is below */
	OP_KEEP = 1 << 9,     /* ask: the receiver's version `about` lost a conflict, it puts what
			       * stands at path into the vault; nothing is to be restated */
	OP_NEW = 1 << 10,     /* content: the first one of a file that was made */
	OP_UNSURE =
		1 << 11, /* made while questions were open: its sender had seen more than it says */
	OP_COMPARE = 1 << 12, /* ask: only if the digest of what stands there (see review.c) is not
			       * `about` */
};

/* Bits of op.mask. */
enum op_attr {
	OP_MODE = 1 << 0,
	OP_UID = 1 << 1,
	OP_GID = 1 << 2,
	OP_ATIME = 1 << 3,
	OP_MTIME = 1 << 4,
};

#define FID_MAX 128 /* MAX_HANDLE_SZ of name_to_handle_at(2) */

/* An inode of the local backing file system: its file handle, where there are such, and its
 * number. Means nothing on another node. */
struct fid {
	uint64_t ino;
	int32_t type; /* handle_type */
	uint8_t len;  /* 0: no handle */
	uint8_t bytes[FID_MAX];
};

bool fid_equal(const struct fid *a, const struct fid *b);

struct range {
	uint64_t start; /* bytes */
	uint64_t len;
};

/* Most ranges that one op may carry, and most data extents that one content may. */
#define OP_RANGES_MAX 1024
#define OP_EXTENTS_MAX 65536
#define OP_XATTR_VALUE_MAX 65536
#define OP_DIGEST_MAX 64 /* EVP_MAX_MD_SIZE */
#define OP_STAGE_NAME_MAX 64

struct xattr {
	char *name;     /* owned */
	uint8_t *value; /* owned */
	size_t len;
};

/* What an OP_CONTENT carries on the wire. The data is the extents' bytes one after another:
 * inline, or in a staged file. Parts of a range that no extent covers are holes. */
struct content {
	uint64_t size;         /* of the file, bytes */
	struct range *extents; /* owned; ascending, disjoint */
	size_t n_extents;
	struct xattr *xattrs; /* owned; all of the file's (OP_WHOLE only) */
	size_t n_xattrs;
	uint8_t *data; /* owned; NULL when staged */
	uint64_t data_len;
	char stage[OP_STAGE_NAME_MAX + 1]; /* "" when inline */
	bool verified;                     /* op_prepare() has taken the staged file; not encoded */
	char digest_name[32];              /* OpenSSL's name; "" with verify=none */
	uint8_t digest[OP_DIGEST_MAX];     /* of the data */
	uint8_t digest_len;
};

struct op {
	enum op_type type;
	uint32_t flags; /* enum op_flags */
	uint64_t seq;   /* of the node where the change was made; 0 before it is journaled */
	uint64_t time;  /* ns since the epoch: becomes the mtime of the directories it changes,
			 * and of what it makes */
	struct fid fid; /* the inode at path (for create-like ops: unset) */
	char *path;     /* owned; relative to the root, "" is the root */
	char *path2;    /* owned; NULL unless the type has one */
	uint32_t mask;  /* enum op_attr: which of the following are set */
	uint32_t mode;  /* permission bits; with the type's bits for OP_MKNOD */
	uint32_t uid, gid;
	uint64_t rdev;
	int64_t atime, mtime; /* ns since the epoch */
	char *xname;          /* owned */
	uint8_t *value;       /* owned */
	size_t value_len;
	uint64_t about; /* OP_ANSWER, OP_ASK with OP_KEEP: a sequence number of the receiver; with
			 * OP_COMPARE: a digest */
	struct range *ranges; /* owned; ascending, disjoint; OP_CONTENT without OP_WHOLE */
	size_t n_ranges;
	struct content *content; /* owned; only on the wire */
};

/* Frees what the op owns and zeroes it. */
void op_clear(struct op *op);
void content_free(struct content *c);
static inline void op_content_cleanup(struct content **c)
{
	content_free(*c);
}
#define _cleanup_op_ __attribute__((cleanup(op_clear)))
#define _cleanup_content_ __attribute__((cleanup(op_content_cleanup)))

/* The name of a type for people: "rename". Never NULL; "unknown" for what is none. */
const char *op_name(enum op_type type);

/* "rename a/b to a/c" for log lines; always terminated. Returns @dst. */
const char *op_describe(const struct op *op, char *dst, size_t size);

/* Whether the receiver is sent ops of this type at all. */
bool op_is_sent(enum op_type type);

/* The paths of the tree that @op names, its own; returns how many. */
size_t op_paths(const struct op *op, const char *dst[2]);

/* Whether the two could not change places: they name a common path or one names a path below
 * the other's, or both name one inode (fid). Parents are not common paths: two creations in one
 * directory are unrelated. */
bool op_related(const struct op *a, const struct op *b);

/* Appends the encoding of @op, without seq, to @dst. OP_ENCODE_LOCAL is the journal's: with fid and
 * without content. OP_ENCODE_WIRE is the peer's: without fid, with content.
 * OP_ENCODE_BRIEF is the wire's without the inline data, for the journal of the receiver (with fid:
 * the receiver's own). Attributes are carried whatever the mask says; bits of mode that the type
 * does not have are dropped. Errors (no such type, no memory) show in buf_error(). */
enum op_encoding { OP_ENCODE_LOCAL, OP_ENCODE_WIRE, OP_ENCODE_BRIEF };
void op_encode(const struct op *op, enum op_encoding encoding, struct buf *dst);

/* Decodes one op that fills the rest of @src, and checks everything that can be checked without the
 * tree: known type and flags, paths (confine_check), counts, ascending ranges, lengths that fit.
 * No range is empty, none ends past INT64_MAX. An OP_CONTENT of the wire has content unless it is
 * OP_GONE or OP_DEFERRED; data is not NULL when inline, even of no bytes (but NULL in BRIEF).
 * *ret_why names what is wrong, static text. 0, -EBADMSG or -ENOMEM; *ret is zeroed on error. */
int op_decode(struct reader *src, enum op_encoding encoding, struct op *ret, const char **ret_why);

#endif
