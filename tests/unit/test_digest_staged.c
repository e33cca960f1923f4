/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "replicate/base/durable.h"
#include "replicate/digest_staged.h"

#define MB (1u << 20)

struct fixture {
	char path[64];
	int dir;
	uint8_t *bytes; /* 8 MiB of no pattern */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	strcpy(f->path, "/tmp/test_staged.XXXXXX");
	assert_non_null(mkdtemp(f->path));
	f->dir = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->dir >= 0);
	f->bytes = malloc(8 * MB);
	assert_non_null(f->bytes);
	for (uint32_t i = 0, x = 1; i < 8 * MB; i++)
		f->bytes[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	close(f->dir);
	snprintf(command, sizeof(command), "rm -rf %s", f->path);
	assert_int_equal(system(command), 0);
	free(f->bytes);
	free(f);
	return 0;
}

/* Makes @name be the first @len bytes. */
static ino_t grow(struct fixture *f, const char *name, size_t len)
{
	int fd = openat(f->dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct stat st;

	assert_true(fd >= 0);
	assert_int_equal(pwrite_all(fd, f->bytes, len, 0), 0);
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	return st.st_ino;
}

static void assert_prefix(struct fixture *f, struct digest *d, uint64_t done, size_t len)
{
	uint8_t got[OP_DIGEST_MAX], want[OP_DIGEST_MAX], got_len, want_len;

	assert_int_equal(digest_update(d, f->bytes + done, len - done), 0);
	assert_int_equal(digest_final(d, got, &got_len), 0);
	assert_int_equal(digest_of("sha256", f->bytes, len, want, &want_len), 0);
	assert_int_equal(got_len, want_len);
	assert_memory_equal(got, want, want_len);
}

static void follows_growth(void **state)
{
	struct fixture *f = *state;
	struct digest_staged *s;
	struct digest *d;
	uint64_t done;
	ino_t ino;

	assert_int_equal(digest_staged_new("sha256", f->dir, false, &s), 0);
	ino = grow(f, "a", 4 * MB + 5);
	assert_true(digest_staged_round(s));
	assert_false(digest_staged_round(s));
	(void)grow(f, "a", 7 * MB + 9);
	assert_true(digest_staged_round(s));
	assert_int_equal(renameat(f->dir, "a", f->dir, "b"), 0);
	assert_true(digest_staged_take(s, ino, "SHA256", &d, &done));
	assert_int_equal(done, 7 * MB);
	assert_prefix(f, d, done, 7 * MB + 9);
	digest_free(d);
	assert_false(digest_staged_take(s, ino, "sha256", &d, &done));
	digest_staged_free(s);
}

static void what_is_not_followed(void **state)
{
	struct fixture *f = *state;
	struct digest_staged *s;
	struct digest *d;
	uint64_t done;
	ino_t small, linked, cut, other;

	assert_int_equal(digest_staged_new("none", f->dir, false, &s), -EINVAL);
	assert_int_equal(digest_staged_new("sha256", f->dir, false, &s), 0);
	small = grow(f, "small", 4 * MB - 1);
	linked = grow(f, "linked", 5 * MB);
	assert_int_equal(linkat(f->dir, "linked", f->dir, "again", 0), 0);
	assert_int_equal(symlinkat("linked", f->dir, "symlink"), 0);
	assert_int_equal(mkfifoat(f->dir, "fifo", 0600), 0);
	assert_false(digest_staged_round(s));
	assert_false(digest_staged_take(s, small, "sha256", &d, &done));
	assert_false(digest_staged_take(s, linked, "sha256", &d, &done));
	other = grow(f, "other", 5 * MB);
	cut = grow(f, "cut", 5 * MB);
	assert_true(digest_staged_round(s));
	assert_false(digest_staged_take(s, other, "md5", &d, &done));
	assert_int_equal(unlinkat(f->dir, "cut", 0), 0);
	(void)digest_staged_round(s);
	assert_false(digest_staged_take(s, cut, "sha256", &d, &done));
	digest_staged_free(s);
}

static void in_a_thread(void **state)
{
	struct fixture *f = *state;
	struct digest_staged *s;
	struct digest *d;
	uint64_t done = 0;
	bool found = false;

	/* taken in the middle of its growth it begins anew, which changes nothing */
	assert_int_equal(digest_staged_new("sha256", f->dir, true, &s), 0);
	for (size_t len = MB; len <= 8 * MB; len += MB)
		(void)grow(f, "a", len);
	for (unsigned i = 0; i < 1000 && done < 8 * MB; i++) {
		found = digest_staged_take(s, grow(f, "a", 1), "sha256", &d, &done);
		if (found)
			assert_prefix(f, d, done, 8 * MB);
		if (found)
			digest_free(d);
		usleep(10000);
	}
	assert_int_equal(done, 8 * MB);
	digest_staged_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(follows_growth, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_not_followed, setup, teardown),
		cmocka_unit_test_setup_teardown(in_a_thread, setup, teardown),
	};

	return cmocka_run_group_tests_name("digest_staged", tests, NULL, NULL);
}
