/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_APPLY_STEPS_H
#define TANDEMFS_APPLY_STEPS_H

/* What the files of the applier (apply*.c) share. Not for others. */

#include "apply.h"

#include <stdint.h>
#include <unistd.h>

/* A name in its directory, and the state in which both were found. */
struct place {
	int dir;          /* O_PATH */
	const char *name; /* inside the op's path */
	struct timespec dir_mtime;
	struct stat st; /* of what stands there; st_ino 0: nothing */
};

/* 0, or -errno of the parent (-ENOENT, -ENOTDIR, -ELOOP); nothing at the name is success. */
int place_open(int root, const char *path, struct place *ret);
/* Looks again at what stands there. */
int place_stat(const struct place *p, struct stat *ret);
/* Unlinks what stands there, an empty directory too. */
int place_remove(const struct place *p);
/* Sets the directory's mtime to max(what it was at place_open, @time). */
int place_touch(const struct place *p, uint64_t time);
/* The same with the mtime that it had. */
int place_untouch(const struct place *p);

static inline void place_close(struct place *p)
{
	if (p->dir >= 0)
		(void)close(p->dir);
	p->dir = -1;
}
#define _cleanup_place_ __attribute__((cleanup(place_close)))
#define PLACE_NONE                                                                                 \
	{                                                                                          \
		.dir = -1                                                                          \
	}

/* A name that nothing in scratch has yet, by pid and counter. */
#define SCRATCH_NAME_SIZE 96
void scratch_name(char dst[SCRATCH_NAME_SIZE]);
/* Renames what lies in scratch to a place where nothing may stand. */
int scratch_place(const struct apply_target *t, const char *name, const struct place *p);

/* Attributes of an open inode, also of one opened with O_PATH. */
struct timespec timespec_of(int64_t ns);
int inode_chown(int fd, uint32_t mask, uint32_t uid, uint32_t gid);
int inode_chmod(int fd, uint32_t mode);
int inode_times(int fd, const struct timespec ts[2]);
int inode_setxattr(int fd, const char *name, const void *value, size_t len);
int inode_removexattr(int fd, const char *name);
/* Makes the replicated xattrs exactly these. */
int inode_set_xattrs(int fd, const struct xattr *x, size_t n);
/* Sets owner and mode in @mask where they differ from @now, in the order in which neither undoes
 * the other. */
int inode_own(int fd, const struct stat *now, uint32_t mask, const struct op *op);
/* Sets the times in @op->mask. */
int inode_set_times(int fd, const struct op *op);

/* The data of a content: in memory, or a file in scratch that was taken from the stage. */
struct source {
	const struct content *content;
	int fd; /* -1: in memory */
	char name[SCRATCH_NAME_SIZE];
};
/* Takes a staged file out of the peer's reach and verifies length and digest. -ENOENT: the staged
 * file is not there. On error the staged file was handled as by source_close(). */
int source_open(const struct apply_target *t, const struct content *c, struct source *ret);
/* Removes a staged file after success (@r 0) or when it does not fit (-EBADMSG); puts it back for
 * another attempt after any other error. */
void source_close(const struct apply_target *t, struct source *s, int r);
/* Whether the file in scratch is the whole file as it is to be. */
bool source_is_whole(const struct source *s);
/* Writes the extents into @fd. */
int source_copy(const struct apply_target *t, const struct source *s, int fd);
/* Whether the file's bytes are what the content says: 1, 0 or -errno. */
int content_is_there(const struct apply_target *t, const struct content *c, int fd);

static inline void apply_alive(const struct apply_target *t)
{
	if (t->alive)
		t->alive(t->ctx);
}
#define APPLY_CHUNK (8u << 20) /* bytes of work between signs of life */

/* One function per type of op; *ret is zeroed before. */
typedef int apply_fn(const struct apply_target *t, const struct op *op, struct apply_result *ret);
apply_fn apply_mknod, apply_mkdir, apply_symlink, apply_link, apply_unlink, apply_rmdir;
apply_fn apply_rename, apply_setattr, apply_setxattr, apply_removexattr;
apply_fn apply_content, apply_fsync;

/* Of a change that came to nothing, or of the root: the same state before and after. */
static inline void result_same(struct apply_result *ret, const struct stat *st)
{
	ret->before = *st;
	ret->after = *st;
}

#endif
