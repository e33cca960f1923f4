/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_TEST_SSHD_FIXTURE_H
#define TANDEMFS_TEST_SSHD_FIXTURE_H

/*
 * A private sshd on the loopback for test_ssh.c and test_remote.c, one at a time: keys "host" and
 * "user", its configuration "sshd_config" and its log are in a temporary directory.
 */

#include <arpa/inet.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define SSHD "/usr/sbin/sshd"

static struct {
	char base[64];
	uint16_t port;
	pid_t pid; /* 0: not running */
} sshd;

/* A shell command that must succeed. */
static void run(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	assert_int_equal(system(command), 0);
}

/* The path of a file in the directory, good until some calls later. */
static const char *in(const char *name)
{
	static char paths[8][128];
	static unsigned next;
	char *p = paths[next++ % 8];

	snprintf(p, sizeof(paths[0]), "%s/%s", sshd.base, name);
	return p;
}

/* A bound socket of the loopback; it listens and never answers when @listens. */
static int bound(uint16_t *ret_port, bool listens)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	if (listens)
		assert_int_equal(listen(fd, 4), 0);
	*ret_port = ntohs(a.sin_port);
	return fd;
}

static bool sshd_answers(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons(sshd.port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r = connect(fd, (struct sockaddr *)&a, sizeof(a));

	close(fd);
	return r == 0;
}

static void sshd_start(void)
{
	sshd.pid = fork();
	assert_true(sshd.pid >= 0);
	if (sshd.pid == 0) {
		setpgid(0, 0);
		execl(SSHD, SSHD, "-D", "-f", in("sshd_config"), "-E", in("sshd.log"), NULL);
		_exit(127);
	}
	for (int i = 0; i < 500 && !sshd_answers(); i++)
		usleep(10000);
	assert_true(sshd_answers());
}

/* The directory, the keys and the configuration, with the lines of @more at its end. Newer sshds
 * lock out an address from which many logins fail, as they do in tests. */
static void sshd_make(const char *more)
{
	strcpy(sshd.base, "/tmp/test_sshd.XXXXXX");
	assert_non_null(mkdtemp(sshd.base));
	close(bound(&sshd.port, false));
	run("ssh-keygen -q -t ed25519 -N '' -f %s && ssh-keygen -q -t ed25519 -N '' -f %s",
		in("host"), in("user"));
	(void)mkdir("/run/sshd", 0755); /* it wants that for its unprivileged part */
	run("printf 'Port %u\\nListenAddress 127.0.0.1\\nHostKey %s\\nAuthorizedKeysFile %s\\n"
	    "UsePAM no\\nStrictModes no\\nPidFile none\\nPermitRootLogin yes\\n"
	    "Subsystem sftp internal-sftp\\n%s' > %s",
		sshd.port, in("host"), in("user.pub"), more, in("sshd_config"));
	run("if " SSHD " -t -f %s -o PerSourcePenalties=no 2>/dev/null; then "
	    "echo PerSourcePenalties no >> %s; fi",
		in("sshd_config"), in("sshd_config"));
}

/* A file with the server's address and the public key. */
static void known_hosts(const char *file, const char *key)
{
	run("printf '[127.0.0.1]:%u ' >> %s; cut -d' ' -f1,2 %s >> %s", sshd.port, in(file),
		in(key), in(file));
}

/* The pids of the processes below @parent, children before grandchildren. sshd puts its
 * sessions into process groups of their own. */
static size_t sshd_descendants(pid_t parent, pid_t *pids, size_t max)
{
	char path[64];
	size_t n = 0;
	int child;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
	file = fopen(path, "re");
	if (!file)
		return 0;
	while (n < max && fscanf(file, "%d", &child) == 1) {
		pids[n++] = child;
		n += sshd_descendants(child, pids + n, max - n);
	}
	fclose(file);
	return n;
}

/* How many sessions there were. */
static size_t sshd_signal_sessions(int sig)
{
	pid_t pids[64];
	size_t n = sshd_descendants(sshd.pid, pids, 64);

	for (size_t i = 0; i < n; i++)
		(void)kill(pids[i], sig);
	return n;
}

static void sshd_stop(void)
{
	(void)sshd_signal_sessions(SIGKILL);
	(void)kill(sshd.pid, SIGKILL);
	assert_int_equal(waitpid(sshd.pid, NULL, 0), sshd.pid);
	sshd.pid = 0;
}

static void sshd_remove(void)
{
	if (sshd.pid)
		sshd_stop();
	run("rm -rf %s", sshd.base);
}

#endif
