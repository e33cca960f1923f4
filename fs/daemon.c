/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Who types `tandemfs A B` or has it in fstab wants to know whether the mount is up, and why not.
 * So the parent stays until the child has reported through a pipe:
 *
 *     one byte exit code, then text for people up to the end of file
 *
 * A pipe that ends without that byte is a child that died; its wait status says how. Threads do
 * not survive fork(2), so everything that starts one comes after it, in the child.
 *
 * STATE/lock is locked with flock(2) as long as the daemon lives, however it dies. It holds the
 * process id, for people. The backing directory itself is locked likewise: two daemons on one, each
 * with a state of its own, would not know of each other's changes.
 */

#include "daemon.h"
#include "replicate/base/say.h"

#include "control_socket.h"
#include "mounts.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/durable.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define LOCK_NAME "lock"
#define REPORT_MAX 8192
/* After umount(8) a daemon may still have files to close. */
#define LOCK_SECONDS 10
#define ALIVE_SECONDS 1
/* Among the last to be killed: the web root hangs on it. */
#define OOM_SCORE "-500"

void daemon_report_clear(struct daemon_report *report)
{
	free(report->text);
	report->text = NULL;
}

/* Reads up to the end of file; returns the number of bytes, or -errno. */
static ssize_t read_report(int fd, char *dst, size_t size)
{
	size_t len = 0;

	while (len < size) {
		ssize_t n = read(fd, dst + len, size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	return (ssize_t)len;
}

/* The child is gone without a word. */
static int report_death(pid_t child, struct daemon_report *ret)
{
	int status, r;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	ret->code = EXIT_CANNOT;
	if (WIFSIGNALED(status))
		r = asprintf(&ret->text, "the daemon was killed by signal %d (%s) while starting",
			WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		r = asprintf(&ret->text, "the daemon ended with code %d while starting",
			WEXITSTATUS(status));
	return r < 0 ? -ENOMEM : 0;
}

static int wait_for_report(int fd, pid_t child, struct daemon_report *ret)
{
	char message[REPORT_MAX + 1];
	ssize_t len = read_report(fd, message, REPORT_MAX);

	if (len < 0)
		return (int)len;
	if (len == 0)
		return report_death(child, ret);
	message[len] = '\0';
	ret->code = (enum exit_code)(unsigned char)message[0];
	if (len > 1) {
		ret->text = strdup(message + 1);
		if (!ret->text)
			return -ENOMEM;
	}
	return 0;
}

int daemon_fork(struct daemon_report *ret, int *ret_pipe)
{
	int fds[2], r;
	pid_t child;

	*ret = (struct daemon_report){0};
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	child = fork();
	if (child < 0) {
		r = -errno;
		(void)close(fds[0]);
		(void)close(fds[1]);
		return r;
	}
	if (child == 0) {
		(void)close(fds[0]);
		/* Fails only for a group leader, which a fresh child is not. */
		(void)setsid();
		*ret_pipe = fds[1];
		return 0;
	}
	(void)close(fds[1]);
	r = wait_for_report(fds[0], child, ret);
	(void)close(fds[0]);
	return r < 0 ? r : 1;
}

int daemon_tell(int *pipe_fd, enum exit_code code, const char *text)
{
	char byte = (char)code;
	int fd = *pipe_fd, r;

	*pipe_fd = -1;
	r = write_all(fd, &byte, 1);
	if (r == 0 && text)
		r = write_all(fd, text, strlen(text));
	if (close(fd) < 0 && r == 0)
		r = -errno;
	return r;
}

int daemon_detach(void)
{
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return -errno;
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (dup2(null, fd) < 0)
			return -errno;
	/* /dev/null may itself have become one of the three. */
	if (null <= STDERR_FILENO)
		null = -1;
	return chdir("/") < 0 ? -errno : 0;
}

static int write_oom_score(void)
{
	_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return write_all(fd, OOM_SCORE, strlen(OOM_SCORE));
}

void daemon_raise_limits(void)
{
	struct rlimit limit;
	int r;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			log_info("the limit of open files stays: %s", strerror(errno));
	}
	r = write_oom_score();
	if (r < 0)
		log_info("oom_score_adj stays: %s", strerror(-r));
}

static int explain_held(int fd, const char *state, char **ret_error)
{
	char pid[32] = "";
	ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);

	if (n > 0)
		pid[strspn(pid, "0123456789")] = '\0';
	return say(ret_error, -EBUSY,
		"state directory %s is in use by another tandemfs daemon (process %s): each mount "
		"needs its own, see state=",
		state, *pid ? pid : "unknown");
}

/* Locks @fd. A holder that is not @alive is ending, or starting and will soon be; it gets
 * LOCK_SECONDS. One that has just been unmounted looks alive for a moment. -EWOULDBLOCK when it
 * keeps the lock. */
static int lock_patiently(int fd, bool (*alive)(const char *what), const char *what)
{
	const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
	int seen = 0;

	for (int i = 0; i < LOCK_SECONDS * 50; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno;
		seen = alive(what) ? seen + 1 : 0;
		if (seen > ALIVE_SECONDS * 50)
			break;
		(void)nanosleep(&pause, NULL);
	}
	return -EWOULDBLOCK;
}

static bool control_answers(const char *state)
{
	_cleanup_close_ int fd = control_connect(state);

	return fd >= 0;
}

static int is_ours_of(void *ctx, const char *source, const char *dir, const char *type)
{
	(void)dir;
	return strcmp(type, MOUNTS_TYPE) == 0 && strcmp(source, ctx) == 0;
}

static bool is_mounted(const char *backing)
{
	return mounts_each(is_ours_of, (void *)backing) > 0;
}

int daemon_lock(const char *state, int *ret_fd, char **ret_error)
{
	_cleanup_close_ int dir = -1, fd = -1;
	char pid[32];
	int r = mkdir_parents(state, 0700);

	if (r == 0) {
		dir = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0)
			r = -errno;
	}
	if (r < 0)
		return say(ret_error, r, "cannot use state directory %s: %s", state, strerror(-r));
	fd = openat(dir, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return say(ret_error, -errno, "cannot write in state directory %s: %s", state,
			strerror(errno));
	r = lock_patiently(fd, control_answers, state);
	if (r == -EWOULDBLOCK)
		return explain_held(fd, state, ret_error);
	if (r < 0)
		return say(ret_error, r, "cannot lock %s/" LOCK_NAME ": %s", state, strerror(-r));
	(void)snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	if (ftruncate(fd, 0) < 0)
		return say(ret_error, -errno, "%s/" LOCK_NAME ": %s", state, strerror(errno));
	r = pwrite_all(fd, pid, strlen(pid), 0);
	if (r < 0)
		return say(ret_error, r, "%s/" LOCK_NAME ": %s", state, strerror(-r));
	*ret_fd = steal_fd(&fd);
	return 0;
}

int daemon_lock_backing(int root, const char *backing, char **ret_error)
{
	int r = lock_patiently(root, is_mounted, backing);

	if (r == -EWOULDBLOCK)
		return say(ret_error, -EBUSY,
			"backing directory %s is mounted by another tandemfs daemon; `tandemfs "
			"status` shows where",
			backing);
	if (r < 0)
		return say(ret_error, r, "cannot lock backing directory %s: %s", backing,
			strerror(-r));
	return 0;
}
