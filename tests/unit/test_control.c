/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The control socket against a replica that this file plays: clients that ask well, badly,
 * slowly, too much and all at once. */

#include "fs/control.h"
#include "fs/control_socket.h"
#include "fs/client.h"
#include "replicate/base/cleanup.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <cmocka.h>

/* ---- the replica ---- */

static atomic_int lag;
static atomic_int waiters;
static atomic_bool endless; /* a comparison goes on until it is stopped */

int replica_status(struct replica *r, struct replica_status *ret)
{
	(void)r;
	*ret = (struct replica_status){
		.node = strdup("web1"),
		.node_id = strdup("1234"),
		.backing = strdup("/srv/\xff"),
		.state_dir = strdup("/s"),
		.mode = MODE_SYNC,
		.journal_head = 77,
		.peers = calloc(1, sizeof(struct peer_status)),
		.n_peers = 1,
	};
	ret->peers[0] = (struct peer_status){
		.url = strdup("sftp://web2/srv/www"),
		.state = PEER_CONNECTING,
		.lag_ops = (uint64_t)lag,
		.lag_bytes = 5,
		.error = strdup("cannot connect"),
	};
	return 0;
}

void replica_status_clear(struct replica_status *s)
{
	free(s->node);
	free(s->node_id);
	free(s->backing);
	free(s->state_dir);
	free(s->peers[0].url);
	free(s->peers[0].error);
	free(s->peers);
}

const char *peer_state_name(enum peer_state s)
{
	return s == PEER_CONNECTING ? "connecting" : "other";
}

const char *replica_mode_name(enum replica_mode m)
{
	return m == MODE_SYNC ? "sync" : "other";
}

bool replica_verify_known(const char *name)
{
	return name != NULL;
}

uint64_t replica_head(struct replica *r)
{
	(void)r;
	return 77;
}

int replica_wait_all(
	struct replica *r, uint64_t seq, int timeout_ms, bool (*interrupted)(void *ctx), void *ctx)
{
	const struct timespec pause = {.tv_nsec = 1000 * 1000};
	int result = -ETIMEDOUT;

	(void)r;
	assert_int_equal(seq, 77);
	waiters++;
	for (int i = 0; timeout_ms < 0 || i <= timeout_ms; i++) {
		if (lag == 0)
			result = 0;
		else if (interrupted(ctx))
			result = -EINTR;
		else {
			(void)nanosleep(&pause, NULL);
			continue;
		}
		break;
	}
	waiters--;
	return result;
}

int replica_verify(struct replica *r, void (*report)(void *ctx, const struct replica_difference *d),
	bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, char **ret_error)
{
	const struct replica_difference d = {"sftp://web2/x", "a/\xe4/b", "content"};

	(void)r;
	(void)ret_error;
	for (int i = 0; endless; i++) {
		waiters = 1;
		if (!progress(ctx, (uint64_t)i, 0)) {
			waiters = 0;
			return -ECANCELED;
		}
	}
	if (!progress(ctx, 10, 20))
		return -ECANCELED;
	report(ctx, &d);
	return 1;
}

int replica_resync(struct replica *r, bool dry_run,
	void (*report)(void *ctx, const struct replica_repair *d),
	bool (*progress)(void *ctx, const char *phase, uint64_t done, uint64_t total), void *ctx,
	char **ret_error)
{
	const struct replica_repair d = {"web2", "a/\xe4/b", dry_run ? "to be sent" : "sent"};

	(void)r;
	(void)ret_error;
	if (!progress(ctx, "comparing", 10, 20))
		return -ECANCELED;
	report(ctx, &d);
	return 1;
}

static atomic_int dropped, kept;

int replica_conflicts(struct replica *r, struct vault_entry **ret, size_t *ret_n)
{
	struct vault_entry *list = calloc(2, sizeof(*list));

	(void)r;
	for (unsigned i = 0; i < 2; i++) {
		list[i] = (struct vault_entry){.path = strdup(i ? "b\xff" : "a/b"),
			.node = strdup("web1"),
			.winner = strdup("web2"),
			.mode = i ? S_IFLNK | 0777 : S_IFREG | 04755,
			.uid = UINT32_MAX,
			.mtime = -1,
			.size = 1ull << 40};
		vault_name(list[i].name, "00112233445566778899aabbccddeeff", 26 + i);
	}
	*ret = list;
	*ret_n = 2;
	return 0;
}

int replica_conflict_find(struct replica *r, const char *text, char ret[VAULT_NAME_SIZE])
{
	(void)r;
	if (strcmp(text, "0011-1b") != 0)
		return strcmp(text, "0011") == 0 ? -ENOTUNIQ : -ENOENT;
	vault_name(ret, "00112233445566778899aabbccddeeff", 27);
	return 0;
}

int replica_conflict_open(struct replica *r, const char *name)
{
	int fd = memfd_create("bytes", MFD_CLOEXEC);

	(void)r;
	assert_non_null(strstr(name, "-000000000000001b"));
	assert_int_equal(pwrite(fd, "a version", 9, 0), 9);
	return fd;
}

int replica_conflict_drop(struct replica *r, const char *name)
{
	(void)r;
	assert_true(vault_name_good(name));
	dropped++;
	return dropped > 3 ? -EIO : 0;
}

int replica_conflict_keep(struct replica *r, const char *path)
{
	(void)r;
	kept++;
	return strcmp(path, "d") == 0 ? -EISDIR : 0;
}

/* ---- the fixture ---- */

struct fixture {
	char dir[64];
	struct control *control;
	atomic_int unmounted;
	int unmount_result;
};

static int unmount(void *ctx)
{
	struct fixture *f = ctx;

	f->unmounted++;
	return f->unmount_result;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct control_config config = {.state = f->dir,
		.mountpoint = "/mnt",
		.on_peer_down = "continue",
		.unmount = unmount,
		.ctx = f};

	lag = 0;
	endless = false;
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/test_control.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	*state = f;
	return control_start(&config, &f->control);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->control)
		control_stop(f->control);
	/* Fails when the socket is left behind. */
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

/* Sends @text and reads until the end; the answer's last line. The caller frees it. */
static char *ask(struct fixture *f, const char *text, size_t len)
{
	_cleanup_close_ int fd = control_connect(f->dir);
	static char answer[65536];
	size_t n = 0;
	char *last;

	assert_true(fd >= 0);
	/* The server may answer and hang up before it has read all. */
	(void)send(fd, text, len, MSG_NOSIGNAL);
	while (n < sizeof(answer) - 1) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t got;

		assert_int_equal(poll(&p, 1, 20000), 1);
		got = recv(fd, answer + n, sizeof(answer) - 1 - n, 0);
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	answer[n] = '\0';
	if (n > 0 && answer[n - 1] == '\n')
		answer[--n] = '\0';
	last = strrchr(answer, '\n');
	return strdup(last ? last + 1 : answer);
}

static void answered(struct fixture *f, const char *request, int code, const char *word)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ char *last = NULL;
	char expected[32];

	assert_true(asprintf(&text, "%s\n", request) > 0);
	last = ask(f, text, strlen(text));
	(void)snprintf(expected, sizeof(expected), "{\"exit\":%d", code);
	if (strncmp(last, expected, strlen(expected)) != 0 || !strstr(last, word))
		fail_msg("%s: answered %s, not %s with \"%s\"", request, last, expected, word);
}

static void take_line(void *ctx, json_t *line)
{
	json_array_append(ctx, line);
}

/* ---- the tests ---- */

static void test_mode(void **state)
{
	struct fixture *f = *state;
	char path[128];
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s/control", f->dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0600);
}

static void test_status(void **state)
{
	struct fixture *f = *state;
	json_t *lines = json_array(), *status, *peer;

	lag = 3;
	assert_int_equal(client_request("/mnt", f->dir, json_pack("{s:s}", "command", "status"), 20,
				 take_line, lines),
		EXIT_DONE);
	assert_int_equal(json_array_size(lines), 1);
	status = json_object_get(json_array_get(lines, 0), "status");
	assert_string_equal(json_string_value(json_object_get(status, "mountpoint")), "/mnt");
	assert_string_equal(json_string_value(json_object_get(status, "backing")), "/srv/\\xff");
	assert_string_equal(json_string_value(json_object_get(status, "mode")), "sync");
	peer = json_array_get(json_object_get(status, "peers"), 0);
	assert_int_equal(json_integer_value(json_object_get(peer, "lag_ops")), 3);
	assert_true(json_is_null(json_object_get(peer, "node")));
	json_decref(lines);
}

static void test_wait(void **state)
{
	struct fixture *f = *state;

	answered(f, "{\"command\":\"wait\"}", 0, "");
	answered(f, "{\"command\":\"wait\",\"timeout\":0}", 0, "");
	lag = 3;
	answered(f, "{\"command\":\"wait\",\"timeout\":0}", 1, "3 operations");
	answered(f, "{\"command\":\"wait\",\"timeout\":0.6}", 1, "cannot connect");
	answered(f, "{\"command\":\"wait\",\"timeout\":-1}", 2, "timeout");
	answered(f, "{\"command\":\"wait\",\"timeout\":\"x\"}", 2, "timeout");
	answered(f, "{\"command\":\"wait\",\"timeout\":1e300}", 2, "timeout");
}

static void test_verify(void **state)
{
	struct fixture *f = *state;
	json_t *lines = json_array(), *d;

	assert_int_equal(client_request("/mnt", f->dir, json_pack("{s:s}", "command", "verify"), 20,
				 take_line, lines),
		EXIT_NO);
	assert_int_equal(json_array_size(lines), 3);
	d = json_object_get(json_array_get(lines, 1), "difference");
	assert_string_equal(json_string_value(json_object_get(d, "path")), "a/\\xe4/b");
	json_decref(lines);
}

static void test_resync(void **state)
{
	struct fixture *f = *state;
	json_t *lines = json_array(), *d;

	assert_int_equal(client_request("/mnt", f->dir,
				 json_pack("{s:s,s:b}", "command", "resync", "dry_run", 1), 20,
				 take_line, lines),
		EXIT_NO);
	d = json_object_get(json_array_get(lines, 0), "progress");
	assert_string_equal(json_string_value(json_object_get(d, "phase")), "comparing");
	d = json_object_get(json_array_get(lines, 1), "repair");
	assert_string_equal(json_string_value(json_object_get(d, "action")), "to be sent");
	assert_string_equal(json_string_value(json_object_get(d, "path")), "a/\\xe4/b");
	json_decref(lines);
	answered(f, "{\"command\":\"resync\"}", 0, "");
}

static void test_conflicts(void **state)
{
	struct fixture *f = *state;
	json_t *lines = json_array(), *c;

	assert_int_equal(client_request("/mnt", f->dir, json_pack("{s:s}", "command", "conflicts"),
				 20, take_line, lines),
		EXIT_DONE);
	assert_int_equal(json_array_size(lines), 2);
	c = json_object_get(json_array_get(lines, 0), "conflict");
	assert_string_equal(json_string_value(json_object_get(c, "entry")), "0011-1a");
	assert_string_equal(json_string_value(json_object_get(c, "type")), "file");
	assert_int_equal(json_integer_value(json_object_get(c, "mode")), 04755);
	assert_int_equal(json_integer_value(json_object_get(c, "uid")), UINT32_MAX);
	c = json_object_get(json_array_get(lines, 1), "conflict");
	assert_string_equal(json_string_value(json_object_get(c, "path")), "b\\xff");
	json_decref(lines);
	answered(f, "{\"command\":\"conflicts\",\"open\":\"0011\"}", 3, "several");
	answered(f, "{\"command\":\"conflicts\",\"open\":\"x\"}", 3, "no conflict");
	answered(f, "{\"command\":\"conflicts\",\"keep\":\"a\"}", 0, "");
	answered(f, "{\"command\":\"conflicts\",\"keep\":\"d\"}", 3, "directory");
	assert_int_equal(kept, 2);
	answered(f, "{\"command\":\"conflicts\",\"drop\":\"0011-1b\"}", 0, "");
	assert_int_equal(dropped, 1);
	answered(f, "{\"command\":\"conflicts\",\"drop\":null}", 0, "");
	assert_int_equal(dropped, 3);
	answered(f, "{\"command\":\"conflicts\",\"drop\":null}", 3, "Input/output");
	answered(f, "{\"command\":\"conflicts\",\"drop\":7}", 2, "text");
	answered(f, "{\"command\":\"conflicts\",\"open\":[]}", 2, "text");
	assert_int_equal(dropped, 4);
}

static void read_bytes(void *ctx, json_t *line)
{
	json_t *fd = json_object_get(line, "fd");

	assert_non_null(fd);
	assert_int_equal(read((int)json_integer_value(fd), ctx, 16), 9);
}

static int count_descriptors(void)
{
	_cleanup_closedir_ DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	return n;
}

static void test_bytes_of_a_conflict(void **state)
{
	struct fixture *f = *state;
	int before = count_descriptors();

	for (int i = 0; i < 3; i++) {
		char bytes[16] = "";

		assert_int_equal(
			client_request("/mnt", f->dir,
				json_pack("{s:s,s:s}", "command", "conflicts", "open", "0011-1b"),
				20, read_bytes, bytes),
			EXIT_DONE);
		assert_string_equal(bytes, "a version");
	}
	/* Who does not ask for it is not stuck with it. */
	answered(f, "{\"command\":\"conflicts\",\"open\":\"0011-1b\"}", 0, "");
	control_stop(f->control);
	f->control = NULL;
	assert_true(count_descriptors() <= before);
}

static void test_stop(void **state)
{
	struct fixture *f = *state;

	f->unmount_result = -EBUSY;
	answered(f, "{\"command\":\"stop\"}", 3, "fuser");
	f->unmount_result = 0;
	answered(f, "{\"command\":\"stop\"}", 0, "");
	assert_int_equal(f->unmounted, 2);
}

static void test_garbage(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *big = malloc(100000), *last = NULL, *binary = NULL;

	answered(f, "", 2, "JSON");
	answered(f, "status", 2, "JSON");
	answered(f, "[]", 2, "JSON");
	answered(f, "{}", 2, "command");
	answered(f, "{\"command\":7}", 2, "command");
	answered(f, "{\"command\":\"reboot\"}", 2, "reboot");
	answered(f, "{\"command\":\"status\",\"command\":\"stop\"}", 2, "JSON");
	binary = ask(f, "\0\xff\n", 3);
	assert_non_null(strstr(binary, "JSON"));
	memset(big, '[', 100000);
	last = ask(f, big, 100000);
	assert_true(*last == '\0' || strstr(last, "4096"));
	assert_int_equal(f->unmounted, 0);
	answered(f, "{\"command\":\"status\"}", 0, "");
}

/* Clients that say nothing take the places of eight; the ninth is sent away, and a place is free
 * again once one of them is gone. */
static void test_too_many_clients(void **state)
{
	struct fixture *f = *state;
	int fds[8];

	for (int i = 0; i < 8; i++) {
		fds[i] = control_connect(f->dir);
		assert_true(fds[i] >= 0);
	}
	answered(f, "{\"command\":\"status\"}", 3, "eight");
	for (int i = 0; i < 8; i++)
		(void)close(fds[i]);
	for (int i = 0; i < 1000; i++) {
		const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
		_cleanup_free_ char *last = ask(f, "{\"command\":\"status\"}\n", 21);

		if (strcmp(last, "{\"exit\":0}") == 0)
			return;
		(void)nanosleep(&pause, NULL);
	}
	fail_msg("the places of clients that are gone are not given back");
}

static void leave(struct fixture *f, const char *request)
{
	const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
	int fd = control_connect(f->dir);

	assert_int_equal(send(fd, request, strlen(request), 0), strlen(request));
	for (int i = 0; i < 1000 && waiters == 0; i++)
		(void)nanosleep(&pause, NULL);
	assert_int_equal(waiters, 1);
	(void)close(fd);
	for (int i = 0; i < 1000 && waiters > 0; i++)
		(void)nanosleep(&pause, NULL);
	assert_int_equal(waiters, 0);
}

static void test_client_that_leaves(void **state)
{
	lag = 1;
	endless = true;
	leave(*state, "{\"command\":\"wait\"}\n");
	leave(*state, "{\"command\":\"verify\"}\n");
}

/* The end of the daemon ends what is under way. */
static void test_stop_while_waiting(void **state)
{
	const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
	struct fixture *f = *state;
	int waiting = control_connect(f->dir), silent = control_connect(f->dir);
	char answer[256] = "";

	lag = 1;
	assert_true(silent >= 0);
	assert_int_equal(send(waiting, "{\"command\":\"wait\"}\n", 19, 0), 19);
	for (int i = 0; i < 1000 && waiters == 0; i++)
		(void)nanosleep(&pause, NULL);
	control_stop(f->control);
	f->control = NULL;
	assert_int_equal(waiters, 0);
	assert_true(recv(waiting, answer, sizeof(answer) - 1, 0) > 0);
	assert_non_null(strstr(answer, "\"exit\":3"));
	(void)close(waiting);
	(void)close(silent);
	assert_int_equal(control_connect(f->dir), -ENOENT);
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(test_mode),
		test(test_status),
		test(test_wait),
		test(test_verify),
		test(test_resync),
		test(test_conflicts),
		test(test_bytes_of_a_conflict),
		test(test_stop),
		test(test_garbage),
		test(test_too_many_clients),
		test(test_client_that_leaves),
		test(test_stop_while_waiting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
