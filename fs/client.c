/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * From the mount point to the state directory (mounts.h), from there to the control socket, and
 * one question per connection. Whatever goes wrong is said here, once, with the mount point and
 * what to do; commands only return the exit code.
 */

#include "client.h"

#include "control_socket.h"
#include "mounts.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/durable.h"

#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

void client_complain(const char *format, ...)
{
	va_list args;

	client_progress_end();
	(void)fflush(stdout);
	va_start(args, format);
	fputs("tandemfs: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
}

struct each_context {
	int (*fn)(void *ctx, const char *mountpoint);
	void *ctx;
};

static int call_for_ours(void *ctx, const char *source, const char *dir, const char *type)
{
	struct each_context *each = ctx;

	(void)source;
	return strcmp(type, MOUNTS_TYPE) == 0 ? each->fn(each->ctx, dir) : 0;
}

int client_each_mount(int (*fn)(void *ctx, const char *mountpoint), void *ctx)
{
	struct each_context each = {fn, ctx};

	return mounts_each(call_for_ours, &each);
}

/* Adds @mountpoint to the list *ctx. */
static int list_mount(void *ctx, const char *mountpoint)
{
	char **list = ctx, *longer;

	if (asprintf(&longer, "%s%s%s", *list ? *list : "", *list ? ", " : "", mountpoint) < 0)
		return -ENOMEM;
	free(*list);
	*list = longer;
	return 0;
}

static int check_mounted(const char *mountpoint)
{
	_cleanup_free_ char *source = NULL, *type = NULL, *list = NULL;
	int r = mounts_at(mountpoint, &source, &type);

	if (r < 0) {
		client_complain("cannot read the table of mounts: %s", strerror(-r));
		return r;
	}
	if (r > 0 && strcmp(type, MOUNTS_TYPE) == 0)
		return 0;
	r = client_each_mount(list_mount, &list);
	if (r == 0)
		client_complain("%s is no mount point of tandemfs; there is %s", mountpoint,
			list ? list : "none mounted");
	return r < 0 ? r : -ENOENT;
}

enum exit_code client_find(const char *given, bool mounted, char **ret_mountpoint, char **ret_state)
{
	_cleanup_free_ char *mountpoint = NULL;
	int r = mounts_resolve(given, &mountpoint);

	if (r < 0) {
		client_complain("%s: %s", given, strerror(-r));
		return EXIT_CANNOT;
	}
	if (mounted && check_mounted(mountpoint) < 0)
		return EXIT_CANNOT;
	r = mounts_state_of(mountpoint, ret_state);
	if (r < 0) {
		client_complain(
			"%s: cannot tell its state directory: %s", mountpoint, strerror(-r));
		return EXIT_CANNOT;
	}
	*ret_mountpoint = steal_pointer(&mountpoint);
	return EXIT_DONE;
}

static enum exit_code explain_connect(const char *mountpoint, const char *state, int error)
{
	if (error == -EACCES || error == -EPERM)
		client_complain("%s: only root may ask its daemon", mountpoint);
	else if (error == -ENOENT || error == -ECONNREFUSED)
		client_complain("%s: no daemon answers at %s/" CONTROL_SOCKET
				"; if it died, `umount %s` and mount again",
			mountpoint, state, mountpoint);
	else
		client_complain("%s: cannot reach the daemon at %s/" CONTROL_SOCKET ": %s",
			mountpoint, state, strerror(-error));
	return EXIT_CANNOT;
}

static int send_request(int fd, json_t *request)
{
	_cleanup_free_ char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	_cleanup_free_ char *line = NULL;
	int n;

	json_decref(request);
	if (!text)
		return -ENOMEM;
	n = asprintf(&line, "%s\n", text);
	if (n < 0)
		return -ENOMEM;
	return send(fd, line, (size_t)n, MSG_NOSIGNAL) == n ? 0 : -EPIPE;
}

/* What a stream of answers reads from. */
struct source {
	int socket;
	int fd; /* that came with what was read last; -1: none */
};

/* Keeps the descriptor that came along. */
static void take_fd(struct source *s, struct msghdr *message)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(message);

	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
		return;
	cleanup_close(&s->fd);
	memcpy(&s->fd, CMSG_DATA(c), sizeof(s->fd));
}

static ssize_t read_source(void *cookie, char *data, size_t size)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = data, .iov_len = size};
	struct msghdr message = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room)};
	struct source *s = cookie;
	ssize_t n = recvmsg(s->socket, &message, MSG_CMSG_CLOEXEC);

	if (n > 0)
		take_fd(s, &message);
	return n;
}

/* Reads the answer's lines; *ret_last is the one with "exit", a new reference, or NULL when the
 * connection ended without it. */
static int read_lines(FILE *f, struct source *s, void (*fn)(void *ctx, json_t *line), void *ctx,
	json_t **ret_last)
{
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	ssize_t len;

	errno = 0;
	while (!*ret_last && (len = getline(&line, &size, f)) > 0) {
		json_t *object = json_loadb(line, (size_t)len, 0, NULL);

		if (!json_is_object(object)) {
			json_decref(object);
			return -EBADMSG;
		}
		if (json_object_get(object, "exit")) {
			*ret_last = object;
			break;
		}
		if (s->fd >= 0)
			(void)json_object_set_new(object, "fd", json_integer(s->fd));
		if (fn)
			fn(ctx, object);
		json_decref(object);
		errno = 0;
	}
	return *ret_last || errno == 0 ? 0 : -errno;
}

static int read_answer(int fd, void (*fn)(void *ctx, json_t *line), void *ctx, json_t **ret_last)
{
	struct source s = {.socket = fd, .fd = -1};
	_cleanup_fclose_ FILE *f =
		fopencookie(&s, "r", (cookie_io_functions_t){.read = read_source});
	int r;

	*ret_last = NULL;
	if (!f)
		return -errno;
	r = read_lines(f, &s, fn, ctx, ret_last);
	cleanup_close(&s.fd);
	return r;
}

enum exit_code client_request(const char *mountpoint, const char *state, json_t *request,
	unsigned seconds, void (*fn)(void *ctx, json_t *line), void *ctx)
{
	const struct timeval limit = {.tv_sec = seconds};
	_cleanup_close_ int fd = control_connect(state);
	enum exit_code code = EXIT_CANNOT;
	const char *error;
	json_t *last = NULL;
	int r;

	if (fd < 0) {
		json_decref(request);
		return explain_connect(mountpoint, state, fd);
	}
	r = setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ? -errno : 0;
	if (r < 0)
		json_decref(request);
	else
		r = send_request(fd, request);
	if (r == 0)
		r = read_answer(fd, fn, ctx, &last);
	client_progress_end();
	if (r == -EAGAIN) {
		client_complain("%s: the daemon has not answered for %u s; is it stopped?",
			mountpoint, seconds);
		return EXIT_CANNOT;
	}
	if (r < 0 || !last) {
		client_complain("%s: the daemon did not finish its answer%s%s", mountpoint,
			r < 0 ? ": " : "", r < 0 ? strerror(-r) : "");
		return EXIT_CANNOT;
	}
	code = (enum exit_code)json_integer_value(json_object_get(last, "exit"));
	error = json_string_value(json_object_get(last, "error"));
	if (error)
		client_complain("%s: %s", mountpoint, error);
	json_decref(last);
	return code;
}

void client_print_json(const json_t *value)
{
	(void)json_dumpf(
		value, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
	putchar('\n');
}

int client_copy(int from, int to)
{
	char data[65536];

	for (;;) {
		ssize_t n = read(from, data, sizeof(data));
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		r = write_all(to, data, (size_t)n);
		if (r < 0)
			return r;
	}
}

struct client_size client_size_text(uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	struct client_size size;
	double value = (double)bytes;
	unsigned unit = 0;

	while (value >= 1024 && unit < 6) {
		value /= 1024;
		unit++;
	}
	(void)snprintf(
		size.text, sizeof(size.text), unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return size;
}

/* Columns that the progress line takes now. */
static int progress_width;

void client_progress(const char *label, uint64_t done, uint64_t total)
{
	static const char bar[] = "########################################";
	int percent = total ? (int)(done >= total ? 100 : done * 100 / total) : 0;
	int width;

	if (!isatty(STDERR_FILENO))
		return;
	if (total)
		width = fprintf(stderr, "\r%s [%-40.*s] %3d%% %llu of %llu", label,
			percent * 40 / 100, bar, percent, (unsigned long long)done,
			(unsigned long long)total);
	else
		width = fprintf(stderr, "\r%s %llu", label, (unsigned long long)done);
	if (width < progress_width)
		fprintf(stderr, "%*s", progress_width - width, "");
	progress_width = width;
	(void)fflush(stderr);
}

void client_progress_end(void)
{
	if (progress_width > 0)
		fprintf(stderr, "\r%*s\r", progress_width, "");
	progress_width = 0;
}
