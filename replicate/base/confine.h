/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CONFINE_H
#define TANDEMFS_CONFINE_H

/*
 * Paths below one directory that cannot leave it. Every path is relative to the root
 * descriptor, "" is the root itself, and no component may be a symbolic link: the last one is
 * never followed, an earlier one is refused (openat2(2), RESOLVE_BENEATH |
 * RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS). Refusals are -ELOOP or -EXDEV, and
 * -ENOTDIR for a link in the way of confine_parent(), confine_opendir() and confine_stat().
 */

#include <dirent.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

/* The directory at the backing root that holds everything of tandemfs itself. */
#define TANDEMFS_DIR ".tandemfs"

/* Longest path and longest component that the journal and the wire carry, in bytes. */
#define TANDEMFS_PATH_MAX 4095
#define TANDEMFS_NAME_MAX 255

/* Checks the text of a path: relative, no empty, "." or ".." component, no component too long,
 * not TANDEMFS_DIR or anything below it. "" is allowed when @allow_root.
 * 0, -EINVAL, -ENAMETOOLONG or -EPERM (TANDEMFS_DIR). */
int confine_check(const char *path, bool allow_root);

/* openat2 of @path below @root; O_CLOEXEC and O_NOFOLLOW are added. A descriptor or -errno. */
int confine_open(int root, const char *path, int flags, mode_t mode);

/* Opens the parent directory of @path (O_PATH) and points *ret_name at the last component,
 * inside @path. @path must not be "". 0 or -errno. */
int confine_parent(int root, const char *path, int *ret_fd, const char **ret_name);

/* Opens the directory @path ("": @root itself, by a descriptor of its own) for readdir(3). The
 * caller closes it with closedir(3). 0 or -errno. */
int confine_opendir(int root, const char *path, DIR **ret);

/* Calls @fn with the path of each entry of the directory @dir (but "." and ".."), in no order.
 * Stops at the first that is not 0: that, or -errno. @fn may remove the entry. */
int confine_each(int root, const char *dir, int (*fn)(void *ctx, const char *path), void *ctx);

/* fstatat of @path, never following a link. 0 or -errno. */
int confine_stat(int root, const char *path, struct stat *ret);

/* The length of @path's parent: 0 when the parent is the root. */
size_t confine_parent_len(const char *path);

/* Whether @path is @dir or below it ("" holds everything). */
bool confine_below(const char *path, const char *dir);

/* What @path, which is @from or below it, is called once @from was renamed to @to. The caller frees
 * it; NULL without memory. */
char *confine_moved(const char *path, const char *from, const char *to);

#endif
