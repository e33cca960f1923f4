/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_OP_SPEC_H
#define TANDEMFS_OP_SPEC_H

/* What op.c and op_codec.c share: the table of the types. */

#include "op.h"

/* The parts of an op that not every type has, in the order in which they are encoded. */
enum op_field {
	OP_FIELD_NAME2 = 1 << 0,  /* path2 is a path of the tree */
	OP_FIELD_TARGET = 1 << 1, /* path2 is free text */
	OP_FIELD_ATTRS = 1 << 2,  /* mask, mode, uid, gid, atime, mtime */
	OP_FIELD_RDEV = 1 << 3,
	OP_FIELD_XNAME = 1 << 4,
	OP_FIELD_VALUE = 1 << 5,
	OP_FIELD_RANGES = 1 << 6,
	OP_FIELD_ABOUT = 1 << 7,
	OP_FIELD_CONTENT = 1 << 8,
};

struct op_spec {
	const char *name;
	uint32_t fields; /* enum op_field */
	uint32_t flags;  /* enum op_flags that the type may have */
	bool sent;
	bool root; /* path may be "" */
};

/* NULL for what is no type. */
const struct op_spec *op_spec_of(unsigned type);

#endif
