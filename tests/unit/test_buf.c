/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Buffers and readers: what goes in comes out, errors stick, nothing is read past the end. */

#include "replicate/base/buf.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void round_trip(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct reader r;
	const uint8_t *p;
	char *s;
	size_t len;

	(void)state;
	buf_put_u8(&b, 0xfe);
	buf_put_u16(&b, 0xfedc);
	buf_put_u32(&b, 0xfedcba98);
	buf_put_u64(&b, 0xfedcba9876543210);
	buf_put_string(&b, "name");
	buf_put_string(&b, NULL);
	buf_put_blob(&b, "\0\1", 2);
	assert_memory_equal(b.data, "\xfe\xdc\xfe\x98\xba\xdc\xfe\x10\x32\x54", 10);
	r = reader_of(b.data, b.len);
	assert_int_equal(reader_u8(&r), 0xfe);
	assert_int_equal(reader_u16(&r), 0xfedc);
	assert_int_equal(reader_u32(&r), 0xfedcba98);
	assert_true(reader_u64(&r) == 0xfedcba9876543210);
	s = reader_string(&r, 4);
	assert_string_equal(s, "name");
	free(s);
	s = reader_string(&r, 0);
	assert_string_equal(s, "");
	free(s);
	p = reader_blob(&r, &len);
	assert_int_equal(len, 2);
	assert_memory_equal(p, "\0\1", 2);
	assert_int_equal(reader_left(&r), 0);
	assert_int_equal(reader_error(&r), 0);
}

static void overwrite(void **state)
{
	_cleanup_buf_ struct buf b = {0};

	(void)state;
	buf_put_u32(&b, 0);
	buf_put_u64(&b, 0);
	buf_set_u32(&b, 0, 77);
	buf_set_u64(&b, 4, 1ull << 40);
	assert_int_equal(load_u32(b.data), 77);
	assert_true(load_u64(b.data + 4) == 1ull << 40);
}

static void reads_past_the_end(void **state)
{
	uint8_t bytes[3] = {1, 2, 3};
	struct reader r = reader_of(bytes, sizeof(bytes));
	size_t len = 9;

	(void)state;
	assert_int_equal(reader_u16(&r), 0x0201);
	assert_int_equal(reader_u32(&r), 0);
	assert_int_equal(reader_error(&r), -EBADMSG);
	assert_int_equal(reader_u8(&r), 0); /* there is a byte, but the reader has failed */
	assert_int_equal(reader_left(&r), 0);
	assert_null(reader_blob(&r, &len));
	assert_int_equal(len, 0);
}

static void bad_strings(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct reader r;

	(void)state;
	buf_put_blob(&b, "a\0b", 3);
	r = reader_of(b.data, b.len);
	assert_null(reader_string(&r, 10));
	assert_int_equal(reader_error(&r), -EBADMSG);
	r = reader_of(b.data, b.len);
	assert_null(reader_string(&r, 2));
	buf_set_u32(&b, 0, UINT32_MAX); /* longer than what is there */
	r = reader_of(b.data, b.len);
	assert_null(reader_string(&r, SIZE_MAX));
	assert_int_equal(reader_error(&r), -EBADMSG);
}

static void failure_sticks(void **state)
{
	_cleanup_buf_ struct buf b = {0};

	(void)state;
	buf_put_u8(&b, 1);
	assert_null(buf_extend(&b, SIZE_MAX - 1));
	buf_put_u8(&b, 2);
	assert_int_equal(b.len, 1);
	assert_int_equal(buf_error(&b), -ENOMEM);
	buf_reset(&b);
	buf_put_u8(&b, 3);
	assert_int_equal(buf_error(&b), 0);
	assert_int_equal(b.len, 1);
	assert_int_equal(b.data[0], 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(overwrite),
		cmocka_unit_test(reads_past_the_end),
		cmocka_unit_test(bad_strings),
		cmocka_unit_test(failure_sticks),
	};

	return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
