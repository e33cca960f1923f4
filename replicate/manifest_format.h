/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_MANIFEST_FORMAT_H
#define TANDEMFS_MANIFEST_FORMAT_H

/* Shared by manifest_write.c and manifest_read.c. Not for others. */

#define MANIFEST_MAGIC "tandemM1"
#define MANIFEST_MAGIC_LEN 8

/* Flags in the head. */
#define MANIFEST_ONE_LEVEL 1u
#define MANIFEST_WITHOUT_CONTENT 2u
#define MANIFEST_FLAGS 3u

/* Most bytes of a head or an entry: three paths, two digests and numbers. */
#define MANIFEST_RECORD_MAX 16384u

#endif
