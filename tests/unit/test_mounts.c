/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "fs/mounts.h"
#include "replicate/base/cleanup.h"

#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

static void escaped(const char *path, const char *expected)
{
	_cleanup_free_ char *name = NULL;

	assert_int_equal(mounts_escape(path, &name), 0);
	assert_string_equal(name, expected);
}

/* What systemd-escape --path prints. */
static void test_escape(void **state)
{
	(void)state;
	escaped("/var/www/html", "var-www-html");
	escaped("//var///www/", "var-www");
	escaped("/", "-");
	escaped("/a-b/c d", "a\\x2db-c\\x20d");
	escaped("/.hidden/.x", "\\x2ehidden-.x");
	escaped("/a_b:c.d", "a_b:c.d");
	escaped("/\xc3\xa4\\", "\\xc3\\xa4\\x5c");
}

static void test_default_state(void **state)
{
	_cleanup_free_ char *dir = NULL;

	(void)state;
	assert_int_equal(mounts_default_state("/var/www/html", &dir), 0);
	assert_string_equal(dir, "/var/lib/tandemfs/var-www-html");
}

static void resolves(const char *path, const char *expected)
{
	_cleanup_free_ char *resolved = NULL;

	assert_int_equal(mounts_resolve(path, &resolved), 0);
	assert_string_equal(resolved, expected);
}

static void test_resolve(void **state)
{
	char dir[] = "/tmp/test_mounts.XXXXXX", path[PATH_MAX], expected[PATH_MAX];
	_cleanup_free_ char *resolved = NULL;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(expected, sizeof(expected), "%s/a", dir);
	assert_int_equal(mkdir(expected, 0700), 0);
	(void)snprintf(path, sizeof(path), "%s/link", dir);
	assert_int_equal(symlink("a", path), 0);
	resolves(path, expected);
	(void)snprintf(path, sizeof(path), "%s/./a/../link//", dir);
	resolves(path, expected);
	resolves("/", "/");
	resolves("/proc", "/proc");
	resolves("/proc/", "/proc");
	(void)snprintf(path, sizeof(path), "%s/none", dir);
	assert_int_equal(mounts_resolve(path, &resolved), -ENOENT);
	(void)snprintf(path, sizeof(path), "%s/none/x", dir);
	assert_int_equal(mounts_resolve(path, &resolved), -ENOENT);
	assert_int_equal(mounts_resolve("", &resolved), -ENOENT);

	assert_int_equal(chdir(expected), 0);
	resolves(".", expected);
	resolves("../link", expected);
	assert_int_equal(chdir("/"), 0);
	(void)snprintf(path, sizeof(path), "%s/link", dir);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(expected), 0);
	assert_int_equal(rmdir(dir), 0);
}

static void test_at(void **state)
{
	_cleanup_free_ char *source = NULL, *type = NULL;

	(void)state;
	assert_int_equal(mounts_at("/proc", &source, &type), 1);
	assert_string_equal(type, "proc");
	assert_int_equal(mounts_at("/proc/self", &source, &type), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_escape),
		cmocka_unit_test(test_default_state),
		cmocka_unit_test(test_resolve),
		cmocka_unit_test(test_at),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
