/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "op.h"
#include "op_spec.h"
#include "base/confine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * DESIGN: one table says for each type what it has; names, encoding (op_codec.c), description and
 * relation all follow it. A new type is a line here, and its case in the applier.
 */

/* Flags that any op which is sent may have. */
#define WIRE_FLAGS (OP_DEFERRED | OP_LATE | OP_UNSURE)

static const struct op_spec specs[] = {
	[OP_CREATE] = {.name = "create", .fields = OP_FIELD_ATTRS},
	[OP_MKNOD] = {.name = "mknod",
		.fields = OP_FIELD_ATTRS | OP_FIELD_RDEV,
		.flags = WIRE_FLAGS | OP_FORCE,
		.sent = true},
	[OP_MKDIR] = {.name = "mkdir",
		.fields = OP_FIELD_ATTRS,
		.flags = WIRE_FLAGS | OP_FORCE | OP_IS_DIR,
		.sent = true},
	[OP_SYMLINK] = {.name = "symlink",
		.fields = OP_FIELD_TARGET | OP_FIELD_ATTRS,
		.flags = WIRE_FLAGS | OP_FORCE,
		.sent = true},
	[OP_LINK] = {.name = "link",
		.fields = OP_FIELD_NAME2,
		.flags = WIRE_FLAGS | OP_FORCE | OP_GONE,
		.sent = true},
	[OP_UNLINK] = {.name = "unlink", .flags = WIRE_FLAGS | OP_FORCE | OP_GONE, .sent = true},
	[OP_RMDIR] = {.name = "rmdir", .flags = WIRE_FLAGS | OP_GONE | OP_IS_DIR, .sent = true},
	[OP_RENAME] = {.name = "rename",
		.fields = OP_FIELD_NAME2,
		.flags = WIRE_FLAGS | OP_GONE | OP_EXCHANGE | OP_IS_DIR | OP_REPLACED,
		.sent = true},
	[OP_SETATTR] = {.name = "setattr",
		.fields = OP_FIELD_ATTRS,
		.flags = WIRE_FLAGS | OP_FORCE | OP_GONE | OP_IS_DIR,
		.sent = true,
		.root = true},
	[OP_SETXATTR] = {.name = "setxattr",
		.fields = OP_FIELD_XNAME | OP_FIELD_VALUE,
		.flags = WIRE_FLAGS | OP_FORCE | OP_GONE | OP_IS_DIR,
		.sent = true,
		.root = true},
	[OP_REMOVEXATTR] = {.name = "removexattr",
		.fields = OP_FIELD_XNAME,
		.flags = WIRE_FLAGS | OP_GONE | OP_IS_DIR,
		.sent = true,
		.root = true},
	[OP_CONTENT] = {.name = "content",
		.fields = OP_FIELD_ATTRS | OP_FIELD_RANGES | OP_FIELD_CONTENT,
		.flags = WIRE_FLAGS | OP_FORCE | OP_GONE | OP_WHOLE | OP_NEW,
		.sent = true},
	[OP_DIRTY] = {.name = "dirty", .flags = OP_WHOLE},
	[OP_FSYNC] = {.name = "fsync",
		.flags = WIRE_FLAGS | OP_GONE | OP_IS_DIR,
		.sent = true,
		.root = true},
	[OP_ASK] = {.name = "ask",
		.fields = OP_FIELD_ABOUT,
		.flags = WIRE_FLAGS | OP_DEEP | OP_KEEP | OP_COMPARE,
		.sent = true,
		.root = true},
	[OP_ANSWER] = {.name = "answer",
		.fields = OP_FIELD_ABOUT,
		.flags = WIRE_FLAGS,
		.sent = true,
		.root = true},
	[OP_VAULT] = {.name = "vault",
		.fields = OP_FIELD_TARGET | OP_FIELD_ATTRS | OP_FIELD_VALUE | OP_FIELD_CONTENT,
		.flags = WIRE_FLAGS | OP_GONE | OP_WHOLE,
		.sent = true},
};

const struct op_spec *op_spec_of(unsigned type)
{
	return type < OP_TYPE_END && specs[type].name ? &specs[type] : NULL;
}

void content_free(struct content *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_xattrs; i++) {
		free(c->xattrs[i].name);
		free(c->xattrs[i].value);
	}
	free(c->xattrs);
	free(c->extents);
	free(c->data);
	free(c);
}

void op_clear(struct op *op)
{
	free(op->path);
	free(op->path2);
	free(op->xname);
	free(op->value);
	free(op->ranges);
	content_free(op->content);
	*op = (struct op){0};
}

const char *op_name(enum op_type type)
{
	const struct op_spec *spec = op_spec_of(type);

	return spec ? spec->name : "unknown";
}

bool op_is_sent(enum op_type type)
{
	const struct op_spec *spec = op_spec_of(type);

	return spec && spec->sent;
}

bool fid_equal(const struct fid *a, const struct fid *b)
{
	return a->ino == b->ino && a->type == b->type && a->len == b->len &&
	       memcmp(a->bytes, b->bytes, a->len) == 0;
}

/* Appends to the text of @at bytes in @dst; returns the new length, which never passes the end. */
__attribute__((format(printf, 4, 5))) static size_t append(
	char *dst, size_t size, size_t at, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(dst + at, size - at, format, ap);
	va_end(ap);
	if (n < 0)
		return at;
	return (size_t)n < size - at ? at + (size_t)n : size - 1;
}

const char *op_describe(const struct op *op, char *dst, size_t size)
{
	const struct op_spec *spec = op_spec_of(op->type);
	uint32_t fields = spec ? spec->fields : 0;
	size_t at = 0;

	if (size == 0)
		return dst;
	at = append(dst, size, at, "%s %s", op_name(op->type),
		op->path && op->path[0] ? op->path : ".");
	if (fields & (OP_FIELD_NAME2 | OP_FIELD_TARGET))
		at = append(dst, size, at, " to %s", op->path2 ? op->path2 : "");
	if (fields & OP_FIELD_XNAME)
		at = append(dst, size, at, " %s", op->xname ? op->xname : "");
	if (op->flags & OP_EXCHANGE)
		at = append(dst, size, at, " (exchange)");
	if (op->flags & OP_WHOLE)
		append(dst, size, at, " (whole)");
	return dst;
}

size_t op_paths(const struct op *op, const char *dst[2])
{
	const struct op_spec *spec = op_spec_of(op->type);
	size_t n = 0;

	if (op->path)
		dst[n++] = op->path;
	if (spec && (spec->fields & OP_FIELD_NAME2) && op->path2)
		dst[n++] = op->path2;
	return n;
}

bool op_related(const struct op *a, const struct op *b)
{
	const char *pa[2], *pb[2];
	size_t na = op_paths(a, pa), nb = op_paths(b, pb);

	/* Two names of one inode. */
	if (a->fid.ino && fid_equal(&a->fid, &b->fid))
		return true;
	for (size_t i = 0; i < na; i++)
		for (size_t k = 0; k < nb; k++)
			if (confine_below(pa[i], pb[k]) || confine_below(pb[k], pa[i]))
				return true;
	return false;
}
