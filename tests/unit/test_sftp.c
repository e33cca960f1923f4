/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The client against answers written here byte by byte, well-formed and hostile, and against
 * OpenSSH's sftp-server over a socket pair where that is installed.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
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

#include "replicate/base/cleanup.h"
#include "replicate/base/clock.h"
#include "replicate/sftp.h"
#include "replicate/sftp_packet.h"

#define SFTP_SERVER "/usr/lib/openssh/sftp-server"

/* ---- a scripted channel ---- */

struct script {
	struct buf input;  /* what the server says */
	struct buf output; /* what it was told */
	size_t read_at;
	size_t read_most; /* bytes of one read */
	bool by_packet;   /* one packet comes at a time */
	bool paused;
	size_t accept; /* bytes that writes take before -EAGAIN */
	unsigned writes;
	struct sftp *sftp;
};

static ssize_t script_read(void *ctx, void *dst, size_t len)
{
	struct script *s = ctx;
	size_t left = s->input.len - s->read_at;

	s->paused = s->by_packet && !s->paused;
	if (left == 0 || (s->by_packet && !s->paused))
		return -EAGAIN;
	if (s->by_packet)
		left = 4 + load_be32(s->input.data + s->read_at);
	if (len > s->read_most)
		len = s->read_most;
	if (len > left)
		len = left;
	memcpy(dst, s->input.data + s->read_at, len);
	s->read_at += len;
	return (ssize_t)len;
}

static ssize_t script_write(void *ctx, const void *data, size_t len)
{
	struct script *s = ctx;

	if (len > s->accept)
		len = s->accept;
	if (len == 0)
		return -EAGAIN;
	buf_put(&s->output, data, len);
	s->accept -= len;
	s->writes++;
	return (ssize_t)len;
}

/* What is not in the script never comes. */
static int script_wait(void *ctx)
{
	struct script *s = ctx;
	uint64_t before = sftp_answered(s->sftp);
	int r = sftp_pump(s->sftp);

	if (r < 0)
		return r;
	return sftp_answered(s->sftp) > before ? 0 : -ETIMEDOUT;
}

static const struct sftp_io script_io = {script_read, script_write, script_wait};

static size_t say_begin(struct buf *b, uint8_t type)
{
	size_t at = b->len;

	put_be32(b, 0);
	buf_put_u8(b, type);
	return at;
}

static void say_end(struct buf *b, size_t at)
{
	set_be32(b->data + at, (uint32_t)(b->len - at - 4));
}

static void say_version(struct buf *b)
{
	size_t at = say_begin(b, SFTP_VERSION);

	put_be32(b, 3);
	put_be_string(b, "posix-rename@openssh.com");
	put_be_string(b, "1");
	put_be_string(b, "unheard-of@example.org");
	put_be_string(b, "");
	put_be_string(b, "lsetstat@openssh.com");
	put_be_string(b, "1");
	say_end(b, at);
}

static void say_status(struct buf *b, uint32_t id, uint32_t status)
{
	size_t at = say_begin(b, SFTP_STATUS);

	put_be32(b, id);
	put_be32(b, status);
	say_end(b, at);
}

static int setup(void **state)
{
	struct script *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->read_most = s->accept = SIZE_MAX;
	assert_int_equal(sftp_new(&script_io, s, &s->sftp), 0);
	*state = s;
	return 0;
}

static int setup_started(void **state)
{
	struct script *s;

	setup(state);
	s = *state;
	say_version(&s->input);
	assert_int_equal(sftp_start(s->sftp), 0);
	buf_reset(&s->output);
	s->writes = 0;
	return 0;
}

static int teardown(void **state)
{
	struct script *s = *state;

	sftp_free(s->sftp);
	buf_clear(&s->input);
	buf_clear(&s->output);
	free(s);
	return 0;
}

/* The id of the request that begins at *at of what was sent; *at to the next one. */
static uint32_t sent_id(const struct script *s, size_t *at, uint8_t type)
{
	uint32_t id;

	assert_true(*at + 9 <= s->output.len);
	assert_int_equal(s->output.data[*at + 4], type);
	id = load_be32(s->output.data + *at + 5);
	*at += 4 + load_be32(s->output.data + *at);
	return id;
}

struct answers {
	unsigned count;
	int last;
	int list[8];
};

static int take_answer(void *ctx, struct sftp_reply *reply)
{
	struct answers *a = ctx;

	if (a->count < 8)
		a->list[a->count] = reply->error;
	a->count++;
	a->last = reply->error;
	return 0;
}

static const struct sftp_handle handle = {.len = 3, .data = "abc"};

static void start_write(struct script *s, struct answers *a, const char *text)
{
	assert_int_equal(
		sftp_write_start(s->sftp, &handle, 7, text, (uint32_t)strlen(text), take_answer, a),
		0);
}

static void test_init(void **state)
{
	static const uint8_t init[] = {0, 0, 0, 5, SFTP_INIT, 0, 0, 0, 3};
	struct script *s = *state;

	s->read_most = 1; /* every packet in pieces */
	say_version(&s->input);
	assert_int_equal(sftp_start(s->sftp), 0);
	assert_int_equal(s->output.len, sizeof(init));
	assert_memory_equal(s->output.data, init, sizeof(init));
	assert_int_equal(sftp_extensions(s->sftp), SFTP_POSIX_RENAME | SFTP_LSETSTAT);
	assert_int_equal(sftp_max_write(s->sftp), 32768);
	assert_int_equal(sftp_pending(s->sftp), 0);
}

static void say_limits(struct script *s, uint64_t read_max, uint64_t write_max)
{
	size_t at = say_begin(&s->input, SFTP_VERSION);

	put_be32(&s->input, 3);
	put_be_string(&s->input, "limits@openssh.com");
	put_be_string(&s->input, "1");
	say_end(&s->input, at);
	at = say_begin(&s->input, SFTP_EXTENDED_REPLY);
	put_be32(&s->input, 0); /* the first slot's first id */
	put_be64(&s->input, 262144);
	put_be64(&s->input, read_max);
	put_be64(&s->input, write_max);
	put_be64(&s->input, 1000);
	say_end(&s->input, at);
}

static void test_limits(void **state)
{
	struct script *s = *state;

	s->by_packet = true;
	say_limits(s, UINT64_MAX, 50000);
	assert_int_equal(sftp_start(s->sftp), 0);
	assert_int_equal(sftp_max_read(s->sftp), 255 << 10);
	assert_int_equal(sftp_max_write(s->sftp), 50000);
}

static void test_bad_version(void **state)
{
	struct script *s = *state;
	size_t at = say_begin(&s->input, SFTP_VERSION);

	put_be32(&s->input, 4);
	say_end(&s->input, at);
	assert_int_equal(sftp_start(s->sftp), -EPROTO);
	assert_int_equal(sftp_remove(s->sftp, "/x"), -EPROTO);
}

static void test_bad_extension(void **state)
{
	struct script *s = *state;
	size_t at = say_begin(&s->input, SFTP_VERSION);

	put_be32(&s->input, 3);
	put_be32(&s->input, 0xffffffff); /* a name longer than the packet */
	say_end(&s->input, at);
	assert_int_equal(sftp_start(s->sftp), -EPROTO);
}

static void test_not_sftp(void **state)
{
	struct script *s = *state;

	buf_put(&s->input, "Welcome to this host!\n", 22);
	assert_int_equal(sftp_start(s->sftp), -EPROTO);
}

static void test_write_bytes(void **state)
{
	static const uint8_t want[] = {0, 0, 0, 26, SFTP_WRITE, 0, 0, 0, 0, 0, 0, 0, 3, 'a', 'b',
		'c', 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2, 'h', 'i'};
	struct script *s = *state;
	struct answers a = {0};

	start_write(s, &a, "hi");
	assert_int_equal(sftp_pending(s->sftp), 1);
	assert_int_equal(sftp_unsent(s->sftp), sizeof(want));
	assert_int_equal(sftp_pump(s->sftp), 0);
	assert_int_equal(s->output.len, sizeof(want));
	assert_memory_equal(s->output.data, want, sizeof(want));
	say_status(&s->input, 0, SFTP_OK);
	assert_int_equal(sftp_pump(s->sftp), SFTP_CAME);
	assert_int_equal(a.count, 1);
	assert_int_equal(a.last, 0);
	assert_int_equal(sftp_pending(s->sftp), 0);
	assert_int_equal(sftp_pending_bytes(s->sftp), 0);
}

static void test_out_of_order(void **state)
{
	struct script *s = *state;
	struct answers a[3] = {0};
	uint32_t ids[3];
	size_t at = 0;

	for (int i = 0; i < 3; i++)
		start_write(s, &a[i], "x");
	assert_int_equal(sftp_pump(s->sftp), 0);
	assert_int_equal(s->writes, 1); /* all in one piece */
	for (int i = 0; i < 3; i++)
		ids[i] = sent_id(s, &at, SFTP_WRITE);
	assert_int_equal(at, s->output.len);
	say_status(&s->input, ids[2], SFTP_PERMISSION_DENIED);
	say_status(&s->input, ids[0], SFTP_OK);
	say_status(&s->input, ids[1], SFTP_FAILURE);
	assert_int_equal(sftp_pump(s->sftp), SFTP_CAME);
	assert_int_equal(a[2].last, -EACCES);
	assert_int_equal(a[0].last, 0);
	assert_int_equal(a[1].last, -EIO);
	for (int i = 0; i < 3; i++)
		assert_int_equal(a[i].count, 1);
}

static void expect_end(struct script *s, struct answers *a, int error)
{
	assert_int_equal(sftp_pump(s->sftp), error);
	assert_int_equal(sftp_error(s->sftp), error);
	assert_int_equal(a->count, 1);
	assert_int_equal(sftp_pending(s->sftp), 0);
	assert_int_equal(sftp_write_start(s->sftp, &handle, 0, "x", 1, take_answer, a), error);
	assert_int_equal(sftp_remove(s->sftp, "/x"), error);
	assert_int_equal(sftp_unsent(s->sftp), 0);
	assert_int_equal(sftp_pump(s->sftp), error);
	assert_int_equal(a->count, 1);
}

static void test_unknown_id(void **state)
{
	struct script *s = *state;
	struct answers a = {0};

	start_write(s, &a, "x");
	say_status(&s->input, 5, SFTP_OK);
	expect_end(s, &a, -EPROTO);
	assert_int_equal(a.last, -EPROTO);
}

static void test_answered_twice(void **state)
{
	struct script *s = *state;
	struct answers a = {0}, b = {0};

	start_write(s, &a, "x");
	say_status(&s->input, 0, SFTP_OK);
	assert_int_equal(sftp_pump(s->sftp), SFTP_CAME);
	start_write(s, &b, "x"); /* the same slot, another id */
	say_status(&s->input, 0, SFTP_OK);
	expect_end(s, &b, -EPROTO);
	assert_int_equal(a.count, 1);
}

static void test_huge_length(void **state)
{
	struct script *s = *state;
	struct answers a = {0};

	start_write(s, &a, "x");
	put_be32(&s->input, 0xfffffff0);
	expect_end(s, &a, -EPROTO);
}

static void test_short_packets(void **state)
{
	static const uint8_t packets[][9] = {
		{0, 0, 0, 0}, {0, 0, 0, 1, SFTP_STATUS}, {0, 0, 0, 4, SFTP_STATUS, 0, 0, 0},
		{0, 0, 0, 5, SFTP_STATUS, 0, 0, 0, 0}, /* no status in it */
	};
	static const size_t lens[] = {4, 5, 8, 9};

	for (size_t i = 0; i < 4; i++) {
		struct answers a = {0};
		void *inner;

		setup_started(&inner);
		start_write(inner, &a, "x");
		buf_put(&((struct script *)inner)->input, packets[i], lens[i]);
		expect_end(inner, &a, -EPROTO);
		teardown(&inner);
	}
	(void)state;
}

static void test_wrong_type(void **state)
{
	struct script *s = *state;
	size_t at = say_begin(&s->input, SFTP_NAME);

	put_be32(&s->input, 0);
	put_be32(&s->input, 0);
	say_end(&s->input, at);
	assert_int_equal(sftp_remove(s->sftp, "/x"), -EPROTO);
	assert_int_equal(sftp_error(s->sftp), -EPROTO);
}

static void test_bad_handle(void **state)
{
	struct script *s = *state;
	size_t at = say_begin(&s->input, SFTP_HANDLE);
	struct sftp_handle h;
	char big[300] = {0};

	put_be32(&s->input, 0);
	put_be_blob(&s->input, big, sizeof(big));
	say_end(&s->input, at);
	assert_int_equal(sftp_open(s->sftp, "/x", SFTP_OPEN_READ, 0, &h), -EPROTO);
}

static void test_more_data_than_asked(void **state)
{
	struct script *s = *state;
	_cleanup_buf_ struct buf out = {0};
	size_t at = say_begin(&s->input, SFTP_DATA);

	put_be32(&s->input, 0);
	put_be_string(&s->input, "12345");
	say_end(&s->input, at);
	assert_int_equal(sftp_read(s->sftp, &handle, 0, 4, &out), -EPROTO);
	assert_int_equal(out.len, 0);
}

static void say_check_file(struct buf *b)
{
	size_t at = say_begin(b, SFTP_VERSION);

	put_be32(b, 3);
	put_be_string(b, "check-file");
	put_be_string(b, "1");
	say_end(b, at);
}

static void say_digest(struct script *s, const char *name, const void *digest, size_t len)
{
	size_t at = say_begin(&s->input, SFTP_EXTENDED_REPLY);

	put_be32(&s->input, 0);
	put_be_string(&s->input, name);
	buf_put(&s->input, digest, len);
	say_end(&s->input, at);
}

/* The digest that a server computes: as asked for, of another name, too long. */
static void test_check_file(void **state)
{
	static const struct {
		const char *name;
		size_t len;
		int result;
	} cases[] = {{"sha256", 32, 0}, {"md5", 16, -EOPNOTSUPP}, {"sha256", 65, -EPROTO},
		{"sha256", 0, -EPROTO}};
	uint8_t digest[80] = {1, 2, 3}, got[64] = {0}, len = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		void *one;
		struct script *s;

		setup(&one);
		s = one;
		say_check_file(&s->input);
		assert_int_equal(sftp_start(s->sftp), 0);
		assert_int_equal(sftp_extensions(s->sftp), SFTP_CHECK_FILE);
		say_digest(s, cases[i].name, digest, cases[i].len);
		assert_int_equal(
			sftp_check_file(s->sftp, &handle, "sha256", got, &len), cases[i].result);
		teardown(&one);
	}
	assert_int_equal(len, 32);
	assert_memory_equal(got, digest, 32);
}

static void test_no_check_file(void **state)
{
	struct script *s = *state;
	uint8_t got[64], len;

	assert_int_equal(sftp_check_file(s->sftp, &handle, "sha256", got, &len), -EOPNOTSUPP);
	assert_int_equal(s->output.len, 0);
}

static void test_short_attributes(void **state)
{
	struct script *s = *state;
	size_t at = say_begin(&s->input, SFTP_ATTRS);
	struct sftp_attr attr = {.size = 99};

	put_be32(&s->input, 0);
	put_be32(&s->input, SFTP_ATTR_SIZE | SFTP_ATTR_TIMES);
	put_be64(&s->input, 5);
	put_be32(&s->input, 1);
	say_end(&s->input, at);
	assert_int_equal(sftp_lstat(s->sftp, "/x", &attr), -EPROTO);
	assert_int_equal(attr.size, 99);
}

static void count_name(void *ctx, const char *name, const struct sftp_attr *attr)
{
	(void)attr;
	assert_string_not_equal(name, ".");
	(*(unsigned *)ctx)++;
}

static void say_names(struct script *s, uint32_t id, uint32_t n, const char *name)
{
	size_t at = say_begin(&s->input, SFTP_NAME);

	put_be32(&s->input, id);
	put_be32(&s->input, n);
	put_be_string(&s->input, name);
	put_be_string(&s->input, "-rw-r--r--");
	put_be32(&s->input, 0);
	say_end(&s->input, at);
}

static void say_handle(struct script *s, uint32_t id)
{
	size_t at = say_begin(&s->input, SFTP_HANDLE);

	put_be32(&s->input, id);
	put_be_string(&s->input, "h");
	say_end(&s->input, at);
}

static void test_lying_names(void **state)
{
	static const char *const names[] = {"ok", "../../etc/passwd"};

	for (int i = 0; i < 2; i++) {
		struct script *s;
		unsigned count = 0;
		void *inner;

		setup_started(&inner);
		s = inner;
		s->by_packet = true;
		say_handle(s, 0);
		say_names(s, 1u << 20, 0xffffffff, names[i]);
		assert_int_equal(sftp_list(s->sftp, "/", count_name, &count), -EPROTO);
		assert_int_equal(count, i == 0 ? 1 : 0);
		teardown(&inner);
	}
	(void)state;
}

static void test_closed(void **state)
{
	struct script *s = *state;
	struct answers a = {0};

	start_write(s, &a, "x");
	sftp_abort(s->sftp, -ECONNRESET);
	assert_int_equal(a.count, 1);
	assert_int_equal(a.last, -ECONNRESET);
	assert_int_equal(sftp_pump(s->sftp), -ECONNRESET);
}

static void test_no_answer(void **state)
{
	struct script *s = *state;

	assert_int_equal(sftp_remove(s->sftp, "/x"), -ETIMEDOUT);
	assert_int_equal(sftp_remove(s->sftp, "/x"), -ETIMEDOUT);
}

static void test_held_back(void **state)
{
	struct script *s = *state;
	struct answers a = {0};
	size_t at = 0;

	for (int i = 0; i < 100; i++) {
		s->accept = 17; /* never a whole packet */
		start_write(s, &a, "hello");
		assert_true(sftp_pump(s->sftp) >= 0);
	}
	s->accept = SIZE_MAX;
	assert_int_equal(sftp_flush(s->sftp), SFTP_WENT);
	for (int i = 0; i < 100; i++)
		assert_int_equal(sent_id(s, &at, SFTP_WRITE), i);
	assert_int_equal(at, s->output.len);
	assert_int_equal(sftp_unsent(s->sftp), 0);
	sftp_abort(s->sftp, -ECANCELED);
	assert_int_equal(a.count, 100);
}

static uint64_t test_now;

static uint64_t test_clock(void)
{
	return test_now * 1000000;
}

static void test_due(void **state)
{
	struct script *s = *state;
	struct answers a = {0};
	uint64_t due;

	clock_set_source(test_clock);
	test_now = 1000;
	start_write(s, &a, "x");
	assert_false(sftp_due_since(s->sftp, &due)); /* not sent: nothing is due */
	test_now = 2000;
	sftp_flush(s->sftp);
	assert_true(sftp_due_since(s->sftp, &due));
	assert_int_equal(due, 2000);
	test_now = 3000;
	start_write(s, &a, "x");
	sftp_flush(s->sftp);
	assert_true(sftp_due_since(s->sftp, &due));
	assert_int_equal(due, 2000);
	say_status(&s->input, 0, SFTP_OK);
	say_status(&s->input, 1, SFTP_OK);
	sftp_pump(s->sftp);
	assert_false(sftp_due_since(s->sftp, &due));
	clock_set_source(NULL);
}

/* ---- against OpenSSH's server ---- */

struct server {
	char base[64];
	int fd;
	pid_t pid;
	struct sftp *sftp;
};

static ssize_t server_read(void *ctx, void *dst, size_t len)
{
	ssize_t n = read(((struct server *)ctx)->fd, dst, len);

	return n < 0 ? -errno : n;
}

static ssize_t server_write(void *ctx, const void *data, size_t len)
{
	ssize_t n = send(((struct server *)ctx)->fd, data, len, MSG_NOSIGNAL);

	return n < 0 ? -errno : n;
}

static int server_wait(void *ctx)
{
	struct server *s = ctx;
	uint64_t before = sftp_answered(s->sftp);

	for (int i = 0; i < 10000; i++) {
		struct pollfd p = {.fd = s->fd, .events = POLLIN};
		int r = sftp_pump(s->sftp);

		if (r < 0)
			return r;
		if (sftp_answered(s->sftp) > before)
			return 0;
		if (sftp_unsent(s->sftp) > 0)
			p.events |= POLLOUT;
		if (poll(&p, 1, 10000) == 0)
			return -ETIMEDOUT;
	}
	return -ETIMEDOUT;
}

static void start_server(struct server *s)
{
	static const struct sftp_io io = {server_read, server_write, server_wait};
	int fds[2];

	strcpy(s->base, "/tmp/test_sftp.XXXXXX");
	assert_non_null(mkdtemp(s->base));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (s->pid == 0) {
		dup2(fds[1], 0);
		dup2(fds[1], 1);
		execl(SFTP_SERVER, SFTP_SERVER, NULL);
		_exit(127);
	}
	close(fds[1]);
	s->fd = fds[0];
	assert_int_equal(fcntl(s->fd, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(sftp_new(&io, s, &s->sftp), 0);
	assert_int_equal(sftp_start(s->sftp), 0);
}

static void stop_server(struct server *s)
{
	char command[128];

	sftp_free(s->sftp);
	close(s->fd);
	assert_int_equal(waitpid(s->pid, NULL, 0), s->pid);
	snprintf(command, sizeof(command), "rm -rf %s", s->base);
	assert_int_equal(system(command), 0);
}

static const char *in(const struct server *s, const char *name)
{
	static char paths[4][128];
	static unsigned next;
	char *p = paths[next++ % 4];

	snprintf(p, sizeof(paths[0]), "%s/%s", s->base, name);
	return p;
}

static void check_files(struct server *s)
{
	_cleanup_buf_ struct buf out = {0};
	struct sftp_handle h;

	assert_int_equal(sftp_open(s->sftp, in(s, "f"),
				 SFTP_OPEN_WRITE | SFTP_OPEN_CREATE | SFTP_OPEN_EXCL, 0640, &h),
		0);
	assert_int_equal(sftp_fsync(s->sftp, &h), 0);
	assert_int_equal(sftp_close(s->sftp, &h), 0);
	assert_int_equal(sftp_open(s->sftp, in(s, "f"),
				 SFTP_OPEN_WRITE | SFTP_OPEN_CREATE | SFTP_OPEN_EXCL, 0640, &h),
		-EEXIST);
	assert_int_equal(sftp_open(s->sftp, in(s, "none"), SFTP_OPEN_READ, 0, &h), -ENOENT);
	assert_int_equal(sftp_open(s->sftp, in(s, "f"), SFTP_OPEN_READ, 0, &h), 0);
	assert_int_equal(sftp_read(s->sftp, &h, 0, 100, &out), 0);
	assert_int_equal(out.len, 0);
	assert_int_equal(sftp_close(s->sftp, &h), 0);
	assert_int_equal(sftp_close(s->sftp, &h), -ENOENT); /* no such handle any more */
}

static void check_attributes(struct server *s)
{
	struct sftp_attr set = {.flags = SFTP_ATTR_MODE | SFTP_ATTR_TIMES,
		.mode = 0604,
		.atime = 1000000,
		.mtime = 2000000};
	struct sftp_attr got;
	struct statvfs v;

	assert_int_equal(sftp_setstat(s->sftp, in(s, "f"), &set), 0);
	assert_int_equal(sftp_stat(s->sftp, in(s, "f"), &got), 0);
	assert_int_equal(got.mode, S_IFREG | 0604);
	assert_int_equal(got.mtime, 2000000);
	assert_int_equal(got.uid, getuid());
	set = (struct sftp_attr){.flags = SFTP_ATTR_TIMES, .atime = 3000000, .mtime = 4000000};
	assert_int_equal(sftp_symlink(s->sftp, "f", in(s, "link")), 0);
	assert_int_equal(sftp_lsetstat(s->sftp, in(s, "link"), &set), 0);
	assert_int_equal(sftp_lstat(s->sftp, in(s, "link"), &got), 0);
	assert_int_equal(got.mtime, 4000000);
	assert_true(S_ISLNK(got.mode));
	assert_int_equal(sftp_stat(s->sftp, in(s, "link"), &got), 0);
	assert_int_equal(got.mtime, 2000000);
	assert_int_equal(sftp_statvfs(s->sftp, s->base, &v), 0);
	assert_true(v.f_bsize > 0 && v.f_namemax >= 100);
}

static void check_names(struct server *s)
{
	_cleanup_free_ char *target = NULL;
	unsigned count = 0;
	struct stat st;

	assert_int_equal(sftp_readlink(s->sftp, in(s, "link"), &target), 0);
	assert_string_equal(target, "f");
	assert_int_equal(sftp_hardlink(s->sftp, in(s, "f"), in(s, "g")), 0);
	assert_int_equal(stat(in(s, "f"), &st), 0);
	assert_int_equal(st.st_nlink, 2);
	assert_int_equal(sftp_mkdir(s->sftp, in(s, "d"), 0700), 0);
	assert_int_equal(sftp_mkdir(s->sftp, in(s, "d"), 0700), -EEXIST);
	assert_int_equal(sftp_mkdir(s->sftp, in(s, "no/d"), 0700), -ENOENT);
	assert_int_equal(sftp_rename(s->sftp, in(s, "link"), in(s, "g")), 0); /* replaces */
	assert_int_equal(sftp_list(s->sftp, s->base, count_name, &count), 0);
	assert_int_equal(count, 3);
	assert_int_equal(sftp_rmdir(s->sftp, in(s, "d")), 0);
	assert_int_equal(sftp_rmdir(s->sftp, in(s, "d")), -ENOENT);
	assert_int_equal(sftp_remove(s->sftp, in(s, "g")), 0);
	assert_int_equal(sftp_list(s->sftp, in(s, "f"), count_name, &count), -ENOENT);
}

static void test_openssh(void **state)
{
	struct server s = {0};

	if (access(SFTP_SERVER, X_OK) < 0) {
		print_message(SFTP_SERVER " is not installed\n");
		skip();
	}
	start_server(&s);
	assert_int_equal(sftp_extensions(s.sftp), 63);
	assert_true(sftp_max_write(s.sftp) >= 32768);
	check_files(&s);
	check_attributes(&s);
	check_names(&s);
	assert_int_equal(sftp_error(s.sftp), 0);
	stop_server(&s);
	(void)state;
}

int main(void)
{
#define STARTED(test) cmocka_unit_test_setup_teardown(test, setup_started, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_init, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_version, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_extension, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_sftp, setup, teardown),
		STARTED(test_write_bytes),
		STARTED(test_out_of_order),
		STARTED(test_unknown_id),
		STARTED(test_answered_twice),
		STARTED(test_huge_length),
		cmocka_unit_test(test_short_packets),
		STARTED(test_wrong_type),
		STARTED(test_bad_handle),
		STARTED(test_more_data_than_asked),
		cmocka_unit_test(test_check_file),
		STARTED(test_no_check_file),
		STARTED(test_short_attributes),
		cmocka_unit_test(test_lying_names),
		STARTED(test_closed),
		STARTED(test_no_answer),
		STARTED(test_held_back),
		STARTED(test_due),
		cmocka_unit_test(test_openssh),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
