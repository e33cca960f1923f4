/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "fs/daemon.h"
#include "replicate/base/cleanup.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

/* Starts a child that runs @child with the pipe and ends with what it returns. */
static void start(int (*child)(int pipe_fd), struct daemon_report *ret)
{
	int fd, r = daemon_fork(ret, &fd);

	if (r == 0)
		_exit(child(fd));
	assert_int_equal(r, 1);
	while (waitpid(-1, NULL, 0) > 0)
		continue;
}

static int say_done(int fd)
{
	return daemon_tell(&fd, EXIT_DONE, NULL) < 0 || fd != -1;
}

static int say_why_not(int fd)
{
	return daemon_tell(&fd, EXIT_CANNOT, "no space on the moon") < 0;
}

static int say_much(int fd)
{
	char text[100000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	/* The parent stops reading at some point; the child must not die of that. */
	(void)signal(SIGPIPE, SIG_IGN);
	(void)daemon_tell(&fd, EXIT_CANNOT, text);
	return 0;
}

static int crash(int fd)
{
	(void)fd;
	(void)raise(SIGKILL);
	return 0;
}

static int end_silently(int fd)
{
	(void)fd;
	return 7;
}

static void test_reports(void **state)
{
	_cleanup_report_ struct daemon_report done, why, much;

	(void)state;
	start(say_done, &done);
	assert_int_equal(done.code, EXIT_DONE);
	assert_null(done.text);
	start(say_why_not, &why);
	assert_int_equal(why.code, EXIT_CANNOT);
	assert_string_equal(why.text, "no space on the moon");
	start(say_much, &much);
	assert_int_equal(much.code, EXIT_CANNOT);
	assert_int_equal(much.text[0], 'x');
}

static void test_deaths(void **state)
{
	_cleanup_report_ struct daemon_report killed, ended;

	(void)state;
	start(crash, &killed);
	assert_int_equal(killed.code, EXIT_CANNOT);
	assert_non_null(strstr(killed.text, "signal 9"));
	start(end_silently, &ended);
	assert_int_equal(ended.code, EXIT_CANNOT);
	assert_non_null(strstr(ended.text, "code 7"));
}

/* Alone in its session, with /dev/null for a terminal. */
static int look_around(int fd)
{
	struct stat null, st;

	if (getsid(0) != getpid() || daemon_detach() < 0 || stat("/dev/null", &null) < 0)
		return 1;
	for (int i = 0; i < 3; i++)
		if (fstat(i, &st) < 0 || st.st_rdev != null.st_rdev)
			return 1;
	return daemon_tell(&fd, EXIT_DONE, NULL) < 0;
}

static void test_detached(void **state)
{
	_cleanup_report_ struct daemon_report report;

	(void)state;
	start(look_around, &report);
	assert_int_equal(report.code, EXIT_DONE);
}

static int parent_is_gone(int fd)
{
	int fds[2];

	(void)signal(SIGPIPE, SIG_IGN);
	if (pipe(fds) < 0 || close(fds[0]) < 0)
		return 1;
	if (daemon_tell(&fds[1], EXIT_DONE, NULL) != -EPIPE)
		return 1;
	return daemon_tell(&fd, EXIT_DONE, NULL) < 0;
}

static void test_nobody_to_tell(void **state)
{
	_cleanup_report_ struct daemon_report report;

	(void)state;
	start(parent_is_gone, &report);
	assert_int_equal(report.code, EXIT_DONE);
}

static void test_lock(void **state)
{
	char dir[] = "/tmp/test_daemon.XXXXXX", path[PATH_MAX], content[32] = "";
	_cleanup_free_ char *error = NULL;
	struct stat st;
	int fd, other;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/a/b", dir);
	assert_int_equal(daemon_lock(path, &fd, &error), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_true(pread(fd, content, sizeof(content) - 1, 0) > 0);
	assert_int_equal(atoi(content), getpid());

	(void)snprintf(path, sizeof(path), "%s/a/b/lock", dir);
	other = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(other, LOCK_EX | LOCK_NB), -1);
	(void)close(fd);
	assert_int_equal(flock(other, LOCK_EX | LOCK_NB), 0);
	(void)close(other);

	assert_int_equal(daemon_lock(path, &fd, &error), -ENOTDIR);
	assert_non_null(strstr(error, path));
	assert_int_equal(unlink(path), 0);
	for (int i = 0; i < 3; i++) {
		*strrchr(path, '/') = '\0';
		assert_int_equal(rmdir(path), 0);
	}
}

static void test_limits(void **state)
{
	struct rlimit limit;

	(void)state;
	daemon_raise_limits();
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(limit.rlim_cur, limit.rlim_max);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reports),
		cmocka_unit_test(test_deaths),
		cmocka_unit_test(test_detached),
		cmocka_unit_test(test_nobody_to_tell),
		cmocka_unit_test(test_lock),
		cmocka_unit_test(test_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
