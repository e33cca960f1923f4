/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_DURABLE_H
#define TANDEMFS_DURABLE_H

/* Small files that are read and replaced as a whole. */

#include <stddef.h>
#include <sys/types.h>

/* Writes @data to NAME.tmp beside @name below @dir and renames it over @name. With @sync the file
 * and the directory reach the disk first (fsync). 0 or -errno; on error @name is as it was. */
int durable_replace(int dir, const char *name, const void *data, size_t len, mode_t mode, int sync);

/* Reads the whole of @name below @dir: at most @max bytes, else -EFBIG. *ret is NUL-terminated
 * past its end, the caller frees it. 0 or -errno. */
int durable_read(int dir, const char *name, size_t max, char **ret, size_t *ret_len);

/* write(2) and pread(2) until all is done. 0 or -errno; a short file is -EIO for the read. */
int write_all(int fd, const void *data, size_t len);
int pwrite_all(int fd, const void *data, size_t len, off_t offset);
int pread_all(int fd, void *data, size_t len, off_t offset);

/* mkdir -p of an absolute path. 0 or -errno. */
int mkdir_parents(const char *path, mode_t mode);

#endif
