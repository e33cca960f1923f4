/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Small files: replaced as a whole or not at all. */

#include "replicate/base/durable.h"
#include "replicate/base/cleanup.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static char top[64];
static int dir;

static int setup(void **state)
{
	(void)state;
	strcpy(top, "/tmp/tandemfs-durable-XXXXXX");
	assert_non_null(mkdtemp(top));
	dir = open(top, O_PATH | O_DIRECTORY);
	return dir < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	close(dir);
	return nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void expect(const char *name, const char *content)
{
	_cleanup_free_ char *data = NULL;
	size_t len;

	assert_int_equal(durable_read(dir, name, 100, &data, &len), 0);
	assert_string_equal(data, content);
	assert_int_equal(len, strlen(content));
}

static void replaces(void **state)
{
	mode_t mask = umask(077);
	struct stat st;

	(void)state;
	assert_int_equal(durable_replace(dir, "name", "old", 3, 0644, 1), 0);
	expect("name", "old");
	/* A left-over of a crash is in the way. */
	assert_int_equal(durable_replace(dir, "name.tmp", "left over", 9, 0400, 0), 0);
	assert_int_equal(durable_replace(dir, "name", "new one", 7, 0640, 0), 0);
	expect("name", "new one");
	assert_int_equal(fstatat(dir, "name", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(faccessat(dir, "name.tmp", F_OK, 0), -1);
	assert_int_equal(durable_replace(dir, "empty", NULL, 0, 0644, 0), 0);
	expect("empty", "");
	umask(mask);
}

static void failed_replace_leaves_the_old(void **state)
{
	(void)state;
	assert_int_equal(mkdirat(dir, "sub", 0755), 0);
	assert_int_equal(durable_replace(dir, "sub", "x", 1, 0644, 0), -EISDIR);
	assert_int_equal(faccessat(dir, "sub.tmp", F_OK, 0), -1);
	assert_int_equal(durable_replace(dir, "no/such", "x", 1, 0644, 0), -ENOENT);
}

static void reads(void **state)
{
	char *data = NULL;
	size_t len;

	(void)state;
	assert_int_equal(durable_replace(dir, "ten", "0123456789", 10, 0644, 0), 0);
	assert_int_equal(durable_read(dir, "ten", 9, &data, &len), -EFBIG);
	assert_int_equal(durable_read(dir, "absent", 9, &data, &len), -ENOENT);
	assert_int_equal(symlinkat("ten", dir, "link"), 0);
	assert_int_equal(durable_read(dir, "link", 100, &data, &len), -ELOOP);
	assert_int_equal(mkfifoat(dir, "fifo", 0600), 0);
	assert_int_equal(durable_read(dir, "fifo", 100, &data, &len), -EINVAL); /* and returns */
	assert_null(data);
	expect("ten", "0123456789");
}

static void positions(void **state)
{
	_cleanup_close_ int fd = openat(dir, "pos", O_RDWR | O_CREAT, 0644);
	char got[4];

	(void)state;
	assert_int_equal(write_all(fd, "abcdef", 6), 0);
	assert_int_equal(pwrite_all(fd, "XY", 2, 1), 0);
	assert_int_equal(pread_all(fd, got, 4, 0), 0);
	assert_memory_equal(got, "aXYd", 4);
	assert_int_equal(pread_all(fd, got, 4, 4), -EIO);
	assert_int_equal(pwrite_all(-1, "x", 1, 0), -EBADF);
}

static void directories(void **state)
{
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/a/b//c/", top);
	assert_int_equal(mkdir_parents(path, 0755), 0);
	assert_int_equal(mkdir_parents(path, 0755), 0);
	assert_int_equal(faccessat(dir, "a/b/c", X_OK, 0), 0);
	assert_int_equal(durable_replace(dir, "plain", "", 0, 0644, 0), 0);
	snprintf(path, sizeof(path), "%s/plain/x", top);
	assert_int_equal(mkdir_parents(path, 0755), -ENOTDIR);
	assert_int_equal(mkdir_parents("relative", 0755), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replaces),
		cmocka_unit_test(failed_replace_leaves_the_old),
		cmocka_unit_test(reads),
		cmocka_unit_test(positions),
		cmocka_unit_test(directories),
	};

	return cmocka_run_group_tests_name("durable", tests, setup, teardown);
}
