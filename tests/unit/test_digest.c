/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "replicate/digest.h"

static const uint8_t sha256_abc[32] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41,
	0x40, 0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4,
	0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};

static void known_value(void **state)
{
	uint8_t sum[OP_DIGEST_MAX], len;

	(void)state;
	assert_int_equal(digest_of("sha256", "abc", 3, sum, &len), 0);
	assert_int_equal(len, 32);
	assert_memory_equal(sum, sha256_abc, 32);
}

static void final_starts_anew(void **state)
{
	_cleanup_digest_ struct digest *d = NULL;
	uint8_t sum[OP_DIGEST_MAX], len;
	int i;

	(void)state;
	assert_int_equal(digest_new("SHA2-256", &d), 0);
	for (i = 0; i < 2; i++) {
		assert_int_equal(digest_update(d, "a", 1), 0);
		assert_int_equal(digest_update(d, "bc", 2), 0);
		assert_int_equal(digest_final(d, sum, &len), 0);
		assert_memory_equal(sum, sha256_abc, 32);
	}
}

static void lengths_by_name(void **state)
{
	static const struct {
		const char *name;
		int len;
	} known[] = {{"md5", 16}, {"sha1", 20}, {"sha512", 64}, {"blake2b512", 64}};
	uint8_t sum[OP_DIGEST_MAX], len;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		assert_int_equal(digest_of(known[i].name, "", 0, sum, &len), 0);
		assert_int_equal(len, known[i].len);
	}
}

static void unknown_names(void **state)
{
	static const char *const names[] = {
		"", "none", "NONE", "null", "sha257", "sha256 ", " sha256", "sha256\t"};
	struct digest *d = NULL;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_int_equal(digest_new(names[i], &d), -EINVAL);
	assert_int_equal(digest_new(NULL, &d), -EINVAL);
	assert_null(d);
}

static void random_differs(void **state)
{
	uint8_t a[32] = {0}, b[32] = {0};

	(void)state;
	assert_int_equal(digest_random(a, sizeof(a)), 0);
	assert_int_equal(digest_random(b, sizeof(b)), 0);
	assert_memory_not_equal(a, b, sizeof(a));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_value),
		cmocka_unit_test(final_starts_anew),
		cmocka_unit_test(lengths_by_name),
		cmocka_unit_test(unknown_names),
		cmocka_unit_test(random_differs),
	};

	return cmocka_run_group_tests_name("digest", tests, NULL, NULL);
}
