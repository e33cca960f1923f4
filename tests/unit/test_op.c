/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Ops: what is encoded comes back; what no honest sender writes is refused. */

#include "replicate/op.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void *copy_of(const void *data, size_t len)
{
	void *p = malloc(len);

	assert_non_null(p);
	memcpy(p, data, len);
	return p;
}

/* An op with everything that any type can have; the codec takes what the type has. */
static struct op full(enum op_type type)
{
	static const struct range ranges[] = {{0, 10}, {10, 5}, {4096, 1}};

	return (struct op){
		.type = type,
		.time = 1234567890123456789u,
		.fid = {.ino = 42, .type = 1, .len = 3, .bytes = {1, 2, 3}},
		.path = strdup("dir/file"),
		.path2 = strdup("dir/other"),
		.mask = OP_MODE | OP_UID | OP_MTIME,
		.mode = type == OP_MKNOD ? S_IFIFO | 04755 : 04755,
		.uid = 33,
		.gid = 34,
		.rdev = 0x0103,
		.about = 77,
		.atime = -1,
		.mtime = 1700000000123456789,
		.xname = strdup("user.note"),
		.value = copy_of("value", 5),
		.value_len = 5,
		.ranges = copy_of(ranges, sizeof(ranges)),
		.n_ranges = 3,
	};
}

static struct content *content(const char *data)
{
	struct content *c = calloc(1, sizeof(*c));
	struct range extent = {4096, strlen(data)};

	c->size = 10000;
	c->extents = copy_of(&extent, sizeof(extent));
	c->n_extents = 1;
	c->data_len = extent.len;
	c->data = copy_of(data, extent.len);
	strcpy(c->digest_name, "sha256");
	c->digest_len = 32;
	memset(c->digest, 0xab, 32);
	return c;
}

static void add_xattr(struct content *c, const char *name, const char *value)
{
	c->xattrs = realloc(c->xattrs, (c->n_xattrs + 1) * sizeof(*c->xattrs));
	c->xattrs[c->n_xattrs++] = (struct xattr){.name = strdup(name),
		.value = copy_of(value, strlen(value) + 1),
		.len = strlen(value)};
}

static int decode(const struct buf *b, enum op_encoding encoding, struct op *ret)
{
	/* A copy of its own, so that the address sanitizer sees a read past the end. */
	uint8_t *exact = copy_of(b->data, b->len);
	struct reader r = reader_of(exact, b->len);
	const char *why = NULL;
	int e = op_decode(&r, encoding, ret, &why);

	free(exact);
	if (e < 0) {
		static const struct op none;

		assert_non_null(why);
		assert_memory_equal(ret, &none, sizeof(none));
	}
	return e;
}

/* Encodes, checks the result of decoding, and that another encoding gives the same bytes. */
static int round_trip(const struct op *op, enum op_encoding encoding)
{
	_cleanup_buf_ struct buf a = {0}, b = {0};
	_cleanup_op_ struct op back;
	int r;

	op_encode(op, encoding, &a);
	assert_int_equal(buf_error(&a), 0);
	r = decode(&a, encoding, &back);
	if (r < 0)
		return r;
	op_encode(&back, encoding, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	assert_int_equal(back.type, op->type);
	assert_string_equal(back.path, op->path);
	assert_true(back.time == op->time);
	assert_int_equal(back.flags, op->flags);
	assert_int_equal(fid_equal(&back.fid, &op->fid), encoding != OP_ENCODE_WIRE);
	return 0;
}

static void every_type_comes_back(void **state)
{
	(void)state;
	for (int type = OP_CREATE; type < OP_TYPE_END; type++) {
		_cleanup_op_ struct op op = full(type);

		assert_int_equal(round_trip(&op, OP_ENCODE_LOCAL), 0);
		if (type == OP_CONTENT || type == OP_VAULT)
			op.content = content("bytes");
		assert_int_equal(round_trip(&op, OP_ENCODE_BRIEF), 0);
		assert_int_equal(round_trip(&op, OP_ENCODE_WIRE), op_is_sent(type) ? 0 : -EBADMSG);
	}
	assert_false(op_is_sent(OP_CREATE));
	assert_false(op_is_sent(OP_DIRTY));
	assert_true(op_is_sent(OP_FSYNC));
}

static void fields_come_back(void **state)
{
	_cleanup_op_ struct op op = full(OP_CONTENT), back;
	_cleanup_buf_ struct buf b = {0};

	(void)state;
	op.flags = OP_WHOLE;
	op.content = content("bytes");
	add_xattr(op.content, "user.a", "");
	add_xattr(op.content, "user.b", "beta");
	op_encode(&op, OP_ENCODE_WIRE, &b);
	assert_int_equal(decode(&b, OP_ENCODE_WIRE, &back), 0);
	assert_int_equal(back.mask, op.mask);
	assert_int_equal(back.mode, 04755);
	assert_int_equal(back.uid, 33);
	assert_true(back.atime == -1 && back.mtime == op.mtime);
	assert_int_equal(back.n_ranges, 0); /* of a whole file: none */
	assert_int_equal(back.content->size, 10000);
	assert_int_equal(back.content->extents[0].start, 4096);
	assert_int_equal(back.content->n_xattrs, 2);
	assert_string_equal(back.content->xattrs[1].name, "user.b");
	assert_memory_equal(back.content->xattrs[1].value, "beta", 4);
	assert_memory_equal(back.content->data, "bytes", 5);
	assert_string_equal(back.content->digest_name, "sha256");
	assert_int_equal(back.content->digest[31], 0xab);
}

static void brief_has_no_data(void **state)
{
	_cleanup_op_ struct op op = full(OP_CONTENT), back;
	_cleanup_buf_ struct buf b = {0};

	(void)state;
	op.content = content("bytes");
	op_encode(&op, OP_ENCODE_BRIEF, &b);
	assert_int_equal(decode(&b, OP_ENCODE_BRIEF, &back), 0);
	assert_null(back.content->data);
	assert_int_equal(back.content->data_len, 5);
	assert_int_equal(back.n_ranges, 3);
}

static void empty_and_staged_contents(void **state)
{
	_cleanup_op_ struct op op = full(OP_CONTENT), back, back2;
	_cleanup_buf_ struct buf b = {0}, b2 = {0};

	(void)state;
	op.content = content("");
	op.content->n_extents = 0;
	op_encode(&op, OP_ENCODE_WIRE, &b);
	assert_int_equal(decode(&b, OP_ENCODE_WIRE, &back), 0);
	assert_non_null(back.content->data);
	op.content->n_extents = 1;
	op.content->extents[0].len = op.content->data_len = 5000;
	strcpy(op.content->stage, "17.new-1_x");
	op_encode(&op, OP_ENCODE_WIRE, &b2);
	assert_int_equal(decode(&b2, OP_ENCODE_WIRE, &back2), 0);
	assert_null(back2.content->data);
	assert_string_equal(back2.content->stage, "17.new-1_x");
}

static void set(char **field, const char *value)
{
	free(*field);
	*field = strdup(value);
}

static void bad_paths(void **state)
{
	static const char *const bad[] = {"", "/", "/etc", "..", "a/..", "../a", "a/../../b", ".",
		"a/./b", "a//b", "a/", ".tandemfs", ".tandemfs/in"};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		_cleanup_op_ struct op op = full(OP_UNLINK), op2 = full(OP_RENAME);

		set(&op.path, bad[i]);
		assert_int_equal(round_trip(&op, OP_ENCODE_WIRE), -EBADMSG);
		set(&op2.path2, bad[i]);
		assert_int_equal(round_trip(&op2, OP_ENCODE_WIRE), -EBADMSG);
	}
}

static void root_and_targets(void **state)
{
	_cleanup_op_ struct op op = full(OP_SETATTR), link = full(OP_SYMLINK);
	char target[PATH_MAX + 1];

	(void)state;
	set(&op.path, "");
	assert_int_equal(round_trip(&op, OP_ENCODE_WIRE), 0);
	memset(target, 'x', sizeof(target));
	memcpy(target, "../../", 6); /* is only text */
	target[PATH_MAX - 1] = 0;
	set(&link.path2, target);
	assert_int_equal(round_trip(&link, OP_ENCODE_WIRE), 0);
	target[PATH_MAX - 1] = 'x';
	target[PATH_MAX] = 0;
	set(&link.path2, target);
	assert_int_equal(round_trip(&link, OP_ENCODE_WIRE), -EBADMSG);
	set(&link.path2, "");
	assert_int_equal(round_trip(&link, OP_ENCODE_WIRE), -EBADMSG);
}

/* Breaks one thing of a good content op. */
static void expect_refused(void (*spoil)(struct op *op))
{
	_cleanup_op_ struct op op = full(OP_CONTENT);

	op.content = content("bytes");
	assert_int_equal(round_trip(&op, OP_ENCODE_WIRE), 0);
	spoil(&op);
	assert_int_equal(round_trip(&op, OP_ENCODE_WIRE), -EBADMSG);
}

#define SPOIL(name, statement)                                                                     \
	static void name(struct op *op)                                                            \
	{                                                                                          \
		statement;                                                                         \
	}

SPOIL(overlap, op->ranges[1].start = 9)
SPOIL(empty_range, op->ranges[1].len = 0)
SPOIL(range_wraps, op->ranges[2].len = UINT64_MAX - 4096)
SPOIL(flag, op->flags = OP_EXCHANGE)
SPOIL(unknown_flag, op->flags = 1u << 30)
SPOIL(unknown_attribute, op->mask |= 1u << 9)
SPOIL(no_content, content_free(op->content); op->content = NULL)
SPOIL(sum, op->content->extents[0].len--)
SPOIL(past_end, op->content->size = 4100)
SPOIL(size, op->content->size = UINT64_MAX)
SPOIL(stage_up, strcpy(op->content->stage, "../x"))
SPOIL(stage_hidden, strcpy(op->content->stage, ".x"))
SPOIL(empty_digest, op->content->digest_len = 0)
SPOIL(unnamed_digest, op->content->digest_name[0] = 0)
SPOIL(ranges_of_xattrs, add_xattr(op->content, "user.a", "a"))
SPOIL(long_xattr, char name[300]; memset(name, 'n', 299); name[299] = 0; op->flags = OP_WHOLE;
	add_xattr(op->content, name, "a"))

static void bad_contents(void **state)
{
	static void (*const spoils[])(struct op *) = {overlap, empty_range, range_wraps, flag,
		unknown_flag, unknown_attribute, no_content, sum, past_end, size, stage_up,
		stage_hidden, empty_digest, unnamed_digest, ranges_of_xattrs, long_xattr};

	(void)state;
	for (size_t i = 0; i < sizeof(spoils) / sizeof(spoils[0]); i++)
		expect_refused(spoils[i]);
}

static void content_may_be_absent(void **state)
{
	_cleanup_op_ struct op op = full(OP_CONTENT);

	(void)state;
	op.flags = OP_GONE;
	assert_int_equal(round_trip(&op, OP_ENCODE_WIRE), 0);
	op.flags = OP_DEFERRED;
	assert_int_equal(round_trip(&op, OP_ENCODE_WIRE), 0);
}

static void device_modes(void **state)
{
	_cleanup_op_ struct op op = full(OP_MKNOD), dir = full(OP_MKDIR);

	(void)state;
	op.mode = S_IFREG | 0644;
	assert_int_equal(round_trip(&op, OP_ENCODE_WIRE), -EBADMSG);
	op.mode = S_IFCHR | 0600;
	assert_int_equal(round_trip(&op, OP_ENCODE_WIRE), 0);
	dir.mode = S_IFDIR | 01777; /* the type's bits are dropped */
	assert_int_equal(round_trip(&dir, OP_ENCODE_WIRE), 0);
}

/* Every prefix is refused; every changed byte is refused or decodes to something in its limits. */
static void mutilated(void **state)
{
	_cleanup_op_ struct op op = full(OP_CONTENT);
	_cleanup_buf_ struct buf b = {0};
	size_t len;

	(void)state;
	op.flags = OP_WHOLE;
	op.content = content("bytes");
	add_xattr(op.content, "user.b", "beta");
	op_encode(&op, OP_ENCODE_WIRE, &b);
	len = b.len;
	for (b.len = 1; b.len < len; b.len++) {
		struct op back;

		assert_int_equal(decode(&b, OP_ENCODE_WIRE, &back), -EBADMSG);
	}
	for (size_t i = 0; i < len; i++) {
		for (int bit = 0; bit < 8; bit++) {
			struct op back;

			b.data[i] ^= (uint8_t)(1 << bit);
			if (decode(&b, OP_ENCODE_WIRE, &back) == 0)
				op_clear(&back);
			b.data[i] ^= (uint8_t)(1 << bit);
		}
	}
	buf_put_u8(&b, 0);
	assert_int_equal(decode(&b, OP_ENCODE_WIRE, &(struct op){0}), -EBADMSG);
}

static bool related(enum op_type ta, const char *a, const char *a2, const char *b)
{
	struct op x = {.type = ta, .path = (char *)a, .path2 = (char *)a2};
	struct op y = {.type = OP_UNLINK, .path = (char *)b};

	assert_int_equal(op_related(&x, &y), op_related(&y, &x));
	return op_related(&x, &y);
}

static void relations(void **state)
{
	struct op a = {.type = OP_CONTENT, .path = (char *)"a", .fid = {.ino = 7}};
	struct op b = {.type = OP_CONTENT, .path = (char *)"b", .fid = {.ino = 7}};

	(void)state;
	assert_true(related(OP_CONTENT, "a/b", NULL, "a/b"));
	assert_true(related(OP_RMDIR, "a", NULL, "a/b/c"));
	assert_false(related(OP_MKDIR, "a/b", NULL, "a/c"));
	assert_false(related(OP_MKDIR, "a", NULL, "ab"));
	assert_true(related(OP_RENAME, "x", "a", "a/b"));
	assert_true(related(OP_LINK, "x", "a", "x"));
	assert_false(related(OP_SYMLINK, "x", "a", "a")); /* a target is no name */
	assert_true(op_related(&a, &b));
	b.fid.ino = 8;
	assert_false(op_related(&a, &b));
}

static void descriptions(void **state)
{
	_cleanup_op_ struct op op = full(OP_RENAME);
	char text[64], small[8];

	(void)state;
	assert_string_equal(op_describe(&op, text, sizeof(text)), "rename dir/file to dir/other");
	assert_string_equal(op_describe(&op, small, sizeof(small)), "rename ");
	op.type = OP_SETXATTR;
	assert_string_equal(op_describe(&op, text, sizeof(text)), "setxattr dir/file user.note");
	set(&op.path, "");
	op.type = OP_SETATTR;
	assert_string_equal(op_describe(&op, text, sizeof(text)), "setattr .");
	assert_string_equal(op_name(OP_TYPE_END), "unknown");
	assert_string_equal(op_name(0), "unknown");
	for (int type = OP_CREATE; type < OP_TYPE_END; type++)
		assert_string_not_equal(op_name(type), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type_comes_back),
		cmocka_unit_test(fields_come_back),
		cmocka_unit_test(brief_has_no_data),
		cmocka_unit_test(empty_and_staged_contents),
		cmocka_unit_test(bad_paths),
		cmocka_unit_test(root_and_targets),
		cmocka_unit_test(bad_contents),
		cmocka_unit_test(content_may_be_absent),
		cmocka_unit_test(device_modes),
		cmocka_unit_test(mutilated),
		cmocka_unit_test(relations),
		cmocka_unit_test(descriptions),
	};

	return cmocka_run_group_tests_name("op", tests, NULL, NULL);
}
