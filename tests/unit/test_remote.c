/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A remote against a private sshd on the loopback: its keys, its configuration and the files are in
 * a temporary directory, and it runs in a process group of its own so that it can be stopped and
 * killed with all of its children. Skipped where there is no sshd.
 */

#include "sshd_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "replicate/base/cleanup.h"
#include "replicate/base/clock.h"
#include "replicate/base/durable.h"
#include "replicate/remote.h"

#define TIMEOUT_MS 1500

struct fixture {
	char key[96], known_hosts[96];
	struct remote *remote;
	const struct remote_ops *ops;
};

static bool have_sshd;

static int setup(void **state)
{
	struct fixture *f;
	struct remote_config config = {
		.host = "127.0.0.1", .connect_timeout_ms = 10000, .timeout_ms = TIMEOUT_MS};

	*state = NULL;
	if (!have_sshd)
		return 0;
	f = calloc(1, sizeof(*f));
	assert_non_null(f);
	sshd_make("PasswordAuthentication no\\n");
	known_hosts("known_hosts", "host.pub");
	strcpy(f->key, in("user"));
	strcpy(f->known_hosts, in("known_hosts"));
	sshd_start();
	config.port = sshd.port;
	config.identity = f->key;
	config.known_hosts = f->known_hosts;
	assert_int_equal(remote_sftp_new(&config, &f->remote), 0);
	f->ops = f->remote->ops;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (!f)
		return 0;
	f->ops->free(f->remote);
	sshd_remove();
	free(f);
	return 0;
}

static void login(struct fixture *f)
{
	_cleanup_free_ char *error = NULL;
	int r = f->ops->connect(f->remote, &error);

	if (r < 0)
		print_message("connect: %s\n", error ? error : strerror(-r));
	assert_int_equal(r, 0);
}

static struct fixture *started(void **state)
{
	if (!*state)
		skip();
	login(*state);
	return *state;
}

/* ---- calls by path ---- */

static void collect(void *ctx, const char *name)
{
	strcat(ctx, name);
	strcat(ctx, " ");
}

static void test_paths(void **state)
{
	struct fixture *f = started(state);
	char names[256] = "";
	struct stat st;

	assert_int_equal(f->ops->mkdir(f->remote, in("d"), 0750), 0);
	assert_int_equal(f->ops->mkdir(f->remote, in("d"), 0750), -EEXIST);
	assert_int_equal(f->ops->mkdir(f->remote, in("no/d"), 0750), -ENOENT);
	assert_int_equal(f->ops->stat(f->remote, in("d"), &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(f->ops->stat(f->remote, in("none"), &st), -ENOENT);
	assert_int_equal(f->ops->put(f->remote, in("d/f"), "hello", 5), 0);
	assert_int_equal(f->ops->put(f->remote, in("d/f"), "hello!", 6), 0);
	assert_int_equal(f->ops->stat(f->remote, in("d/f"), &st), 0);
	assert_int_equal(st.st_size, 6);
	assert_int_equal(f->ops->list(f->remote, in("d"), collect, names), 0);
	assert_string_equal(names, "f "); /* and no temporary file */
	assert_int_equal(f->ops->remove(f->remote, in("d/f")), 0);
	assert_int_equal(f->ops->remove(f->remote, in("d/f")), -ENOENT);
	assert_int_equal(f->ops->put(f->remote, in("no/f"), "x", 1), -ENOENT);
}

static void test_get(void **state)
{
	struct fixture *f = started(state);
	char *text;
	size_t len;

	run("printf 0123456789 > %s; : > %s", in("f"), in("empty"));
	assert_int_equal(f->ops->get(f->remote, in("f"), 10, &text, &len), 0);
	assert_int_equal(len, 10);
	assert_string_equal(text, "0123456789");
	free(text);
	assert_int_equal(f->ops->get(f->remote, in("f"), 9, &text, &len), -EFBIG);
	assert_int_equal(f->ops->get(f->remote, in("none"), 9, &text, &len), -ENOENT);
	assert_int_equal(f->ops->get(f->remote, in("empty"), 9, &text, &len), 0);
	assert_int_equal(len, 0);
	assert_string_equal(text, "");
	free(text);
}

/* ---- writing ---- */

static struct remote_file *create(struct fixture *f, const char *name, unsigned flags)
{
	struct remote_file *file;

	assert_int_equal(f->ops->open(f->remote, in(name), REMOTE_WRITE | REMOTE_CREATE | flags,
				 0600, &file),
		0);
	return file;
}

static void test_large_write(void **state)
{
	enum { BLOCK = 1000003, BLOCKS = 24 };
	struct fixture *f = started(state);
	struct remote_file *file = create(f, "large", REMOTE_EXCL);
	_cleanup_free_ uint32_t *block = malloc(BLOCK + 4);
	FILE *check = fopen(in("want"), "we");

	assert_non_null(block);
	assert_non_null(check);
	for (uint32_t b = 0; b < BLOCKS; b++) {
		for (uint32_t i = 0; i < BLOCK / 4 + 1; i++)
			block[i] = b * 7919 + i * 2654435761u;
		assert_int_equal(f->ops->write(file, (uint64_t)b * BLOCK, block, BLOCK), 0);
		assert_int_equal(fwrite(block, BLOCK, 1, check), 1);
	}
	assert_int_equal(fclose(check), 0);
	assert_int_equal(f->ops->drain(file), 0);
	run("cmp %s %s", in("want"), in("large"));
	assert_int_equal(f->ops->close(file), 0);
	assert_int_equal(f->ops->open(f->remote, in("large"),
				 REMOTE_WRITE | REMOTE_CREATE | REMOTE_EXCL, 0600, &file),
		-EEXIST);
}

static void test_many_appends(void **state)
{
	enum { COUNT = 10000 };
	struct fixture *f = started(state);
	struct remote_file *file = create(f, "appends", 0);
	char line[201];
	FILE *check;

	for (int i = 0; i < COUNT; i++) {
		snprintf(line, sizeof(line), "%0199d\n", i);
		assert_int_equal(f->ops->write(file, (uint64_t)i * 200, line, 200), 0);
		if (i % 97 == 0)
			assert_int_equal(f->ops->turn(f->remote, 0, -1), 0);
	}
	assert_int_equal(f->ops->drain(file), 0);
	check = fopen(in("appends"), "re");
	assert_non_null(check);
	for (int i = 0; i < COUNT; i++) {
		assert_int_equal(fread(line, 200, 1, check), 1);
		assert_int_equal(atoi(line), i);
	}
	assert_int_equal(fgetc(check), EOF);
	fclose(check);
	assert_int_equal(f->ops->close(file), 0);
}

static void test_write_error(void **state)
{
	struct fixture *f = started(state);
	struct remote_file *file;

	run(": > %s", in("f"));
	assert_int_equal(f->ops->open(f->remote, in("f"), REMOTE_READ, 0, &file), 0);
	assert_int_equal(f->ops->write(file, 0, "x", 1), 0); /* not open for it */
	assert_true(f->ops->drain(file) < 0);
	assert_true(f->ops->close(file) < 0);
	assert_int_equal(f->ops->put(f->remote, in("f"), "x", 1), 0); /* goes on */
}

/* ---- reading ---- */

static int await_read(struct fixture *f, struct remote_file *file, void *dst, size_t *len)
{
	int r;

	for (int i = 0; i < 1000; i++) {
		r = f->ops->read_result(file, dst, len);
		if (r != -EAGAIN)
			return r;
		r = f->ops->turn(f->remote, 5000, -1);
		if (r < 0)
			return r;
	}
	return -EAGAIN;
}

static void test_side_read(void **state)
{
	struct fixture *f = started(state);
	struct remote_file *ack, *log = create(f, "log", 0);
	_cleanup_free_ char *block = calloc(1, 1 << 20);
	char data[64];
	size_t len;

	run("printf one > %s", in("ack"));
	assert_int_equal(f->ops->open(f->remote, in("ack"), REMOTE_READ | REMOTE_SIDE, 0, &ack), 0);
	for (int i = 0; i < 50; i++) {
		assert_int_equal(f->ops->read_start(ack, 0, sizeof(data)), 0);
		assert_int_equal(f->ops->read_start(ack, 0, sizeof(data)), -EBUSY);
		assert_int_equal(f->ops->write(log, (uint64_t)i << 20, block, 1 << 20), 0);
		len = sizeof(data);
		assert_int_equal(await_read(f, ack, data, &len), 0);
		assert_int_equal(len, 3);
		assert_memory_equal(data, "one", 3);
	}
	assert_int_equal(f->ops->read_start(ack, 3, sizeof(data)), 0);
	len = sizeof(data);
	assert_int_equal(await_read(f, ack, data, &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(f->ops->read_start(ack, 0, 1), 0);
	assert_int_equal(f->ops->close(ack), 0); /* with a read under way */
	assert_int_equal(f->ops->close(log), 0);
}

/* Answers of both channels come at the same time; none may be left lying until the next one. */
static void test_no_stall(void **state)
{
	struct fixture *f = started(state);
	struct remote_file *ack, *log = create(f, "log", 0);
	char data[4096] = "";
	unsigned stalls = 0;
	size_t len;

	run("printf one > %s", in("ack"));
	assert_int_equal(f->ops->open(f->remote, in("ack"), REMOTE_READ | REMOTE_SIDE, 0, &ack), 0);
	for (uint64_t i = 0; i < 5000; i++) {
		uint64_t start = clock_mono_ms();

		assert_int_equal(f->ops->write(log, i * 200, data, 200), 0);
		assert_int_equal(f->ops->read_start(ack, 0, sizeof(data)), 0);
		len = sizeof(data);
		assert_int_equal(await_read(f, ack, data, &len), 0);
		if (i % 3 == 0)
			assert_int_equal(f->ops->drain(log), 0);
		stalls += clock_mono_ms() - start > 500;
	}
	assert_int_equal(stalls, 0);
	assert_int_equal(f->ops->close(ack), 0);
	assert_int_equal(f->ops->close(log), 0);
}

static void test_turn(void **state)
{
	struct fixture *f = started(state);
	uint64_t start = clock_mono_ms();
	int wake = eventfd(0, EFD_CLOEXEC);

	assert_int_equal(f->ops->turn(f->remote, 50, wake), 0);
	assert_in_range(clock_mono_ms() - start, 50, 1000);
	assert_int_equal(eventfd_write(wake, 1), 0);
	start = clock_mono_ms();
	assert_int_equal(f->ops->turn(f->remote, 5000, wake), 0);
	assert_in_range(clock_mono_ms() - start, 0, 1000);
	close(wake);
	start = clock_mono_ms(); /* an idle link is not dead */
	assert_int_equal(f->ops->turn(f->remote, TIMEOUT_MS * 2, -1), 0);
	assert_true(clock_mono_ms() - start >= TIMEOUT_MS * 2);
}

/* ---- broken connections ---- */

static void expect_dead(struct fixture *f, struct remote_file *file)
{
	char data[8];
	size_t len = sizeof(data);
	struct remote_file *other;
	struct stat st;

	assert_int_equal(f->ops->write(file, 0, "x", 1), -ENOTCONN);
	assert_int_equal(f->ops->drain(file), -ENOTCONN);
	assert_int_equal(f->ops->read_start(file, 0, 8), -ENOTCONN);
	assert_int_equal(f->ops->read_result(file, data, &len), -ENOTCONN);
	assert_int_equal(f->ops->turn(f->remote, 1000, -1), -ENOTCONN);
	assert_int_equal(f->ops->stat(f->remote, "/", &st), -ENOTCONN);
	assert_int_equal(f->ops->put(f->remote, in("x"), "x", 1), -ENOTCONN);
	assert_int_equal(
		f->ops->open(f->remote, "/", REMOTE_READ | REMOTE_SIDE, 0, &other), -ENOTCONN);
}

static void test_stopped(void **state)
{
	struct fixture *f = started(state);
	struct remote_file *file = create(f, "f", 0);
	_cleanup_free_ char *block = calloc(1, 1 << 20);
	uint64_t start;
	int r = 0;

	assert_true(sshd_signal_sessions(SIGSTOP) > 0);
	start = clock_mono_ms();
	for (uint64_t i = 0; i < 64 && r == 0; i++)
		r = f->ops->write(file, i << 20, block, 1 << 20);
	assert_int_equal(r, -ETIMEDOUT);
	assert_in_range(clock_mono_ms() - start, TIMEOUT_MS, TIMEOUT_MS + 1000);
	expect_dead(f, file);
	assert_true(sshd_signal_sessions(SIGCONT) > 0);
	login(f);
	assert_int_equal(f->ops->drain(file), -ENOTCONN); /* of the former connection */
	assert_int_equal(f->ops->close(file), -ENOTCONN);
	file = create(f, "f", REMOTE_TRUNC);
	assert_int_equal(f->ops->write(file, 0, "back", 4), 0);
	assert_int_equal(f->ops->close(file), 0);
	run("test \"$(cat %s)\" = back", in("f"));
}

static void test_stopped_turn(void **state)
{
	struct fixture *f = started(state);
	struct remote_file *file = create(f, "f", REMOTE_READ | REMOTE_SIDE);
	uint64_t start;

	assert_true(sshd_signal_sessions(SIGSTOP) > 0);
	usleep(TIMEOUT_MS * 1000 + 100000); /* idle for longer than the limit */
	assert_int_equal(f->ops->read_start(file, 0, 8), 0);
	start = clock_mono_ms();
	assert_int_equal(f->ops->turn(f->remote, -1, -1), -ETIMEDOUT);
	assert_in_range(clock_mono_ms() - start, TIMEOUT_MS - 50, TIMEOUT_MS + 1000);
	expect_dead(f, file);
	assert_int_equal(f->ops->close(file), -ENOTCONN);
}

static void test_killed(void **state)
{
	struct fixture *f = started(state);
	struct remote_file *file = create(f, "f", 0);
	struct remote_file *side = create(f, "g", REMOTE_READ | REMOTE_SIDE);
	int r = 0;

	assert_int_equal(f->ops->read_start(side, 0, 8), 0);
	assert_true(sshd_signal_sessions(SIGKILL) > 0);
	for (int i = 0; i < 100 && r == 0; i++) {
		r = f->ops->write(file, 0, "x", 1);
		if (r == 0)
			r = f->ops->drain(file);
	}
	assert_true(r == -EPIPE || r == -ECONNRESET);
	expect_dead(f, file);
	expect_dead(f, side);
	assert_int_equal(f->ops->close(side), -ENOTCONN);
	login(f);
	assert_int_equal(f->ops->close(file), -ENOTCONN);
	assert_int_equal(f->ops->put(f->remote, in("x"), "x", 1), 0);
}

static void test_disconnect(void **state)
{
	struct fixture *f = started(state);
	struct remote_file *file = create(f, "f", 0);
	_cleanup_free_ char *block = calloc(1, 1 << 20);
	uint64_t start = clock_mono_ms();

	assert_true(sshd_signal_sessions(SIGSTOP) > 0);
	assert_int_equal(f->ops->write(file, 0, block, 1 << 20), 0);
	f->ops->disconnect(f->remote);
	f->ops->disconnect(f->remote);
	assert_true(clock_mono_ms() - start < 500);
	expect_dead(f, file);
	assert_int_equal(f->ops->close(file), -ENOTCONN);
	assert_true(sshd_signal_sessions(SIGKILL) > 0);
}

static void test_nobody_there(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *error = NULL;

	if (!f)
		skip();
	sshd_stop();
	assert_int_equal(f->ops->connect(f->remote, &error), -ECONNREFUSED);
	assert_non_null(error);
	sshd_start();
	login(f);
}

static void test_no_sftp(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *error = NULL;

	if (!f)
		skip();
	sshd_stop();
	run("sed -i /^Subsystem/d %s", in("sshd_config"));
	sshd_start();
	assert_true(f->ops->connect(f->remote, &error) < 0);
	assert_non_null(error);
	assert_non_null(strstr(error, "Subsystem"));
	assert_int_equal(f->ops->turn(f->remote, 0, -1), -ENOTCONN);
}

/* ---- speed, for people: TANDEMFS_BENCH=1 ---- */

static double seconds_since(uint64_t start_ns)
{
	return (double)(clock_real_ns() - start_ns) / 1e9;
}

static void bench_upload(struct fixture *f)
{
	enum { MB = 500 };
	_cleanup_free_ char *block = calloc(1, 512 << 10);
	struct remote_file *file;
	uint64_t start;

	run("head -c %dM /dev/urandom > %s", MB, in("source"));
	for (int round = 0; round < 3; round++) {
		int fd = open(in("source"), O_RDONLY | O_CLOEXEC);

		start = clock_real_ns();
		run("scp -q -i %s -P %u -o UserKnownHostsFile=%s %s 127.0.0.1:%s", f->key,
			sshd.port, f->known_hosts, in("source"), in("copy"));
		print_message("scp    %.0f MB/s\n", MB / seconds_since(start));
		start = clock_real_ns();
		file = create(f, "copy", REMOTE_TRUNC);
		for (uint64_t i = 0; i < MB * 2; i++) {
			assert_int_equal(pread(fd, block, 512 << 10, (off_t)(i << 19)), 512 << 10);
			assert_int_equal(f->ops->write(file, i << 19, block, 512 << 10), 0);
		}
		assert_int_equal(f->ops->close(file), 0);
		print_message("remote %.0f MB/s\n", MB / seconds_since(start));
		close(fd);
	}
	run("cmp %s %s", in("source"), in("copy"));
}

static void test_bench(void **state)
{
	struct fixture *f;
	struct remote_file *file;
	uint64_t start;
	char data[4096] = "";
	size_t len;

	if (!getenv("TANDEMFS_BENCH"))
		skip();
	f = started(state);
	file = create(f, "f", 0);
	start = clock_real_ns();
	for (uint64_t i = 0; i < 300000; i++)
		assert_int_equal(f->ops->write(file, i * 200, data, 200), 0);
	assert_int_equal(f->ops->close(file), 0);
	print_message("%.0f appends of 200 bytes/s\n", 300000 / seconds_since(start));
	file = create(f, "f", REMOTE_READ | REMOTE_SIDE);
	start = clock_real_ns();
	for (int i = 0; i < 5000; i++) {
		assert_int_equal(f->ops->read_start(file, 0, sizeof(data)), 0);
		len = sizeof(data);
		assert_int_equal(await_read(f, file, data, &len), 0);
	}
	print_message("%.0f us for a read of 4 KiB\n", seconds_since(start) / 5000 * 1e6);
	assert_int_equal(f->ops->close(file), 0);
	bench_upload(f);
}

int main(void)
{
#define REMOTE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		REMOTE(test_paths),
		REMOTE(test_get),
		REMOTE(test_large_write),
		REMOTE(test_many_appends),
		REMOTE(test_write_error),
		REMOTE(test_side_read),
		REMOTE(test_no_stall),
		REMOTE(test_turn),
		REMOTE(test_stopped),
		REMOTE(test_stopped_turn),
		REMOTE(test_killed),
		REMOTE(test_disconnect),
		REMOTE(test_nobody_there),
		REMOTE(test_no_sftp),
		REMOTE(test_bench),
	};

	have_sshd = access(SSHD, X_OK) == 0;
	if (!have_sshd)
		print_message(SSHD " is not installed: skipped\n");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
