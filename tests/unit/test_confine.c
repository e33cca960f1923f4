/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Confined paths: nothing outside the root can be named or reached. */

#include "replicate/base/confine.h"
#include "replicate/base/cleanup.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <string.h>

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static char top[64];
static int root;

/* top/outside is a file; top/root is the root, with traps in it. */
static int setup(void **state)
{
	int fd;

	(void)state;
	strcpy(top, "/tmp/tandemfs-confine-XXXXXX");
	assert_non_null(mkdtemp(top));
	fd = open(top, O_RDONLY | O_DIRECTORY);
	assert_int_equal(mkdirat(fd, "root", 0755), 0);
	assert_int_equal(mkdirat(fd, "root/dir", 0755), 0);
	close(openat(fd, "outside", O_CREAT | O_WRONLY, 0644));
	close(openat(fd, "root/dir/file", O_CREAT | O_WRONLY, 0644));
	assert_int_equal(symlinkat("..", fd, "root/up"), 0);
	assert_int_equal(symlinkat("dir", fd, "root/inside"), 0);
	assert_int_equal(symlinkat("/etc/passwd", fd, "root/passwd"), 0);
	root = openat(fd, "root", O_RDONLY | O_DIRECTORY);
	close(fd);
	return root < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	close(root);
	return nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void texts(void **state)
{
	char name[TANDEMFS_NAME_MAX + 2], path[TANDEMFS_PATH_MAX + 2];

	(void)state;
	assert_int_equal(confine_check("", true), 0);
	assert_int_equal(confine_check("", false), -EINVAL);
	assert_int_equal(confine_check("a/b.c/...", false), 0);
	assert_int_equal(confine_check("a/.tandemfs", false), 0); /* only the root's is ours */
	assert_int_equal(confine_check(".tandemfs2", false), 0);
	assert_int_equal(confine_check(".tandemfs", false), -EPERM);
	assert_int_equal(confine_check(".tandemfs/in", false), -EPERM);
	for (const char **p =
			(const char *[]){"/a", "a//b", "a/", "..", "a/..", "./a", "a/.", NULL};
		*p; p++)
		assert_int_equal(confine_check(*p, true), -EINVAL);
	memset(name, 'n', sizeof(name));
	name[TANDEMFS_NAME_MAX + 1] = 0;
	assert_int_equal(confine_check(name, false), -ENAMETOOLONG);
	name[TANDEMFS_NAME_MAX] = 0;
	assert_int_equal(confine_check(name, false), 0);
	for (size_t i = 0; i < sizeof(path); i++)
		path[i] = i % 2 ? '/' : 'p';
	path[TANDEMFS_PATH_MAX + 1] = 0;
	assert_int_equal(confine_check(path, false), -ENAMETOOLONG);
	path[TANDEMFS_PATH_MAX] = 0;
	assert_int_equal(confine_check(path, false), 0);
}

static int open_and_close(const char *path, int flags)
{
	int fd = confine_open(root, path, flags, 0644);

	if (fd < 0)
		return fd;
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	return 0;
}

static void opens(void **state)
{
	(void)state;
	assert_int_equal(open_and_close("", O_RDONLY | O_DIRECTORY), 0);
	assert_int_equal(open_and_close("dir/file", O_RDWR), 0);
	assert_int_equal(open_and_close("dir/new", O_RDWR | O_CREAT | O_EXCL), 0);
	assert_int_equal(open_and_close("dir", O_TMPFILE | O_RDWR), 0);
	assert_int_equal(open_and_close("absent", O_RDONLY), -ENOENT);
	assert_int_equal(open_and_close("passwd", O_RDONLY), -ELOOP);
	assert_int_equal(open_and_close("passwd", O_PATH), 0); /* the link itself */
	assert_int_equal(open_and_close("inside/file", O_RDONLY), -ELOOP);
	assert_int_equal(open_and_close("up/outside", O_RDONLY), -ELOOP);
	assert_int_equal(open_and_close("../outside", O_RDONLY), -EXDEV);
	assert_int_equal(open_and_close("/etc/passwd", O_RDONLY), -EXDEV);
}

static void parents(void **state)
{
	_cleanup_close_ int fd = -1, fd2 = -1;
	const char *name;

	(void)state;
	assert_int_equal(confine_parent(root, "dir/file", &fd, &name), 0);
	assert_string_equal(name, "file");
	assert_int_equal(faccessat(fd, name, F_OK, 0), 0);
	assert_int_equal(confine_parent(root, "new", &fd2, &name), 0);
	assert_string_equal(name, "new");
	assert_int_equal(confine_parent(root, "inside/file", &(int){-1}, &name), -ENOTDIR);
	assert_int_equal(confine_parent(root, "dir/file/x", &(int){-1}, &name), -ENOTDIR);
	assert_int_equal(confine_parent(root, "", &(int){-1}, &name), -EINVAL);
	assert_int_equal(confine_parent_len("a/b/c"), 3);
	assert_int_equal(confine_parent_len("a"), 0);
}

static void stats(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(confine_stat(root, "", &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(confine_stat(root, "passwd", &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(confine_stat(root, "inside/file", &st), -ENOTDIR);
}

static void below(void **state)
{
	(void)state;
	assert_true(confine_below("a/b", "a"));
	assert_true(confine_below("a", "a"));
	assert_true(confine_below("a", ""));
	assert_false(confine_below("ab", "a"));
	assert_false(confine_below("a", "a/b"));
}

struct seen {
	unsigned n, up, file;
	int answer;
};

static int see(void *ctx, const char *path)
{
	struct seen *seen = ctx;

	seen->n++;
	seen->up += strcmp(path, "up") == 0;
	seen->file += strcmp(path, "dir/file") == 0;
	return seen->answer;
}

static void entries(void **state)
{
	struct seen all = {0}, in_dir = {0}, one = {.answer = 7};

	(void)state;
	assert_int_equal(confine_each(root, "", see, &all), 0);
	assert_int_equal(all.n, 4); /* dir, inside, passwd, up */
	assert_int_equal(all.up, 1);
	assert_int_equal(confine_each(root, "dir", see, &in_dir), 0);
	assert_true(in_dir.n > 0); /* another test may have left something */
	assert_int_equal(in_dir.file, 1);
	assert_int_equal(confine_each(root, "", see, &one), 7);
	assert_int_equal(one.n, 1);
	assert_int_equal(confine_each(root, "absent", see, &one), -ENOENT);
	assert_int_equal(confine_each(root, "up", see, &one), -ENOTDIR);
	assert_int_equal(one.n, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts),
		cmocka_unit_test(opens),
		cmocka_unit_test(parents),
		cmocka_unit_test(stats),
		cmocka_unit_test(below),
		cmocka_unit_test(entries),
	};

	return cmocka_run_group_tests_name("confine", tests, setup, teardown);
}
