/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The transport against a private sshd on the loopback: who is let in, what is refused and with
 * which words, and both directions full at once. Skipped where there is no sshd.
 */

#include "sshd_fixture.h"

#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>

#include "replicate/base/clock.h"
#include "replicate/ssh.h"

#define NEEDS_SSHD()                                                                               \
	do {                                                                                       \
		if (access(SSHD, X_OK) < 0 || geteuid() != 0) {                                    \
			print_message("skipped: needs root and " SSHD "\n");                       \
			skip();                                                                    \
		}                                                                                  \
	} while (0)

static int start(void **state)
{
	(void)state;
	if (access(SSHD, X_OK) < 0 || geteuid() != 0)
		return 0;
	sshd_make("");
	run("cd %s && ssh-keygen -q -t ecdsa -N '' -f host_ecdsa && "
	    "ssh-keygen -q -t ed25519 -N '' -f other && "
	    "ssh-keygen -q -t ed25519 -N secret -f locked && echo HostKey %s >> sshd_config",
		sshd.base, in("host_ecdsa"));
	run("printf '@cert-authority * strange\\nnonsense\\n' | tee %s %s > %s", in("known"),
		in("known_ecdsa"), in("changed"));
	known_hosts("known", "host.pub");
	known_hosts("known_ecdsa", "host_ecdsa.pub");
	known_hosts("changed", "other.pub");
	run("cp %s %s; printf '@revoked * ' >> %s; cut -d' ' -f1,2 %s >> %s", in("known"),
		in("revoked"), in("revoked"), in("host.pub"), in("revoked"));
	run("printf '127.0.0.1 ' > %s; cut -d' ' -f1,2 %s >> %s", in("portless"), in("host.pub"),
		in("portless"));
	/* of another server on the usual port, and of that one and this */
	run("printf '127.0.0.1 ' > %s; cut -d' ' -f1,2 %s >> %s", in("usual"), in("other.pub"),
		in("usual"));
	run("cat %s > %s", in("usual"), in("both"));
	known_hosts("both", "host_ecdsa.pub");
	/* ssh-keygen hashes no file with lines it does not know */
	run("grep '^\\[' %s > %s && ssh-keygen -q -H -f %s >/dev/null 2>&1", in("known"),
		in("hashed"), in("hashed"));
	run("echo 'elsewhere.example ssh-ed25519 AAAA' > %s", in("unknown"));
	sshd_start();
	return 0;
}

static int stop(void **state)
{
	(void)state;
	if (sshd.pid)
		sshd_remove();
	return 0;
}

static struct remote_config config(const char *identity, const char *known)
{
	static char key[128], hosts[128];

	snprintf(key, sizeof(key), "%s", in(identity));
	snprintf(hosts, sizeof(hosts), "%s", in(known));
	return (struct remote_config){.host = "127.0.0.1",
		.port = sshd.port,
		.user = "root",
		.identity = key,
		.known_hosts = hosts,
		.connect_timeout_ms = 20000,
		.timeout_ms = 5000};
}

static void expect_login(const struct remote_config *c)
{
	struct ssh *s = NULL;
	char *error = NULL;
	int r = ssh_connect(c, &s, &error);

	if (r < 0)
		print_message("%s\n", error);
	assert_int_equal(r, 0);
	assert_null(error);
	ssh_free(s);
}

/* The text has every one of the words, up to NULL. */
static void expect_refusal(const struct remote_config *c, int expected, ...)
{
	struct ssh *s = NULL;
	char *error = NULL;
	const char *word;
	va_list words;

	assert_int_equal(ssh_connect(c, &s, &error), expected);
	assert_null(s);
	assert_non_null(error);
	va_start(words, expected);
	while ((word = va_arg(words, const char *)))
		if (!strstr(error, word))
			fail_msg("no \"%s\" in \"%s\"", word, error);
	va_end(words);
	free(error);
}

static void test_key(void **state)
{
	struct remote_config c;

	(void)state;
	NEEDS_SSHD();
	c = config("user", "known");
	expect_login(&c);
	c = config("user", "hashed");
	expect_login(&c);
	c = config("user", "portless");
	expect_login(&c);
	c = config("user", "both");
	expect_login(&c);
	/* the server would rather show its ed25519 key, which is not on file */
	c = config("user", "known_ecdsa");
	expect_login(&c);
}

static void test_wrong_key(void **state)
{
	struct remote_config c;

	(void)state;
	NEEDS_SSHD();
	c = config("other", "known");
	expect_refusal(&c, -EACCES, "127.0.0.1", "as root", c.identity, NULL);
	c = config("locked", "known");
	expect_refusal(&c, -EACCES, "as root", c.identity, NULL);
	c = config("absent", "known");
	expect_refusal(&c, -EACCES, c.identity, NULL);
}

static void test_host_key(void **state)
{
	struct remote_config c;
	char print[128] = "", port[16];
	char command[256];
	FILE *p;

	(void)state;
	NEEDS_SSHD();
	snprintf(port, sizeof(port), "%u", sshd.port);
	snprintf(command, sizeof(command), "ssh-keygen -lf %s | cut -d' ' -f2", in("host.pub"));
	p = popen(command, "re");
	assert_non_null(p);
	assert_non_null(fgets(print, sizeof(print), p));
	pclose(p);
	print[strcspn(print, "\n")] = '\0';
	c = config("user", "unknown");
	expect_refusal(&c, -EKEYREJECTED, "127.0.0.1", port, "ssh-ed25519", print, c.known_hosts,
		"ssh-keyscan -p", NULL);
	c = config("user", "usual");
	expect_refusal(&c, -EKEYREJECTED, "is not in", port, print, "ssh-keyscan -p", NULL);
	c = config("user", "no_such_file");
	expect_refusal(&c, -EKEYREJECTED, print, NULL);
	c = config("user", "changed");
	expect_refusal(&c, -EKEYREJECTED, "THE HOST KEY OF", port, print, c.known_hosts, NULL);
	c = config("user", "revoked");
	expect_refusal(&c, -EKEYREJECTED, port, "@revoked", NULL);
}

static void test_refused(void **state)
{
	struct remote_config c = config("user", "known");

	(void)state;
	close(bound(&c.port, false));
	expect_refusal(&c, -ECONNREFUSED, "127.0.0.1", NULL);
}

static void test_silent(void **state)
{
	struct remote_config c = config("user", "known");
	int fd = bound(&c.port, true);
	uint64_t start_ms = clock_mono_ms();

	(void)state;
	c.connect_timeout_ms = 400;
	expect_refusal(&c, -ETIMEDOUT, "127.0.0.1", NULL);
	assert_in_range(clock_mono_ms() - start_ms, 300, 3000);
	close(fd);
}

/* two.example has a dead address and that of the server; all others are as ever. */
int getaddrinfo(const char *restrict host, const char *restrict port,
	const struct addrinfo *restrict hints, struct addrinfo **restrict ret)
{
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	int r;

	*(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
	if (strcmp(host, "two.example") != 0)
		return real(host, port, hints, ret);
	r = real("127.0.0.2", port, hints, ret);
	return r ? r : real("127.0.0.1", port, hints, &(*ret)->ai_next);
}

/* A socket of 127.0.0.2 at @port, and those that fill its queue: it drops what else comes. */
static void dead_address(uint16_t port, int fds[4])
{
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1)};

	for (int i = 0; i < 4; i++)
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(fds[0], (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fds[0], 0), 0);
	for (int i = 1; i < 4; i++)
		(void)connect(fds[i], (struct sockaddr *)&a, sizeof(a));
}

static void test_dead_address(void **state)
{
	struct remote_config c;
	int fds[4];

	(void)state;
	NEEDS_SSHD();
	dead_address(sshd.port, fds);
	run("printf 'two.example ' > %s; cut -d' ' -f1,2 %s >> %s", in("two"), in("host.pub"),
		in("two"));
	c = config("user", "two");
	c.host = "two.example";
	c.connect_timeout_ms = 3000;
	expect_login(&c);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
}

static void test_agent(void **state)
{
	struct remote_config c;
	const char *home = getenv("HOME");
	char *kept = home ? strdup(home) : NULL;
	pid_t agent;

	(void)state;
	NEEDS_SSHD();
	setenv("SSH_AUTH_SOCK", in("agent"), 1);
	setenv("HOME", sshd.base, 1);
	agent = fork();
	assert_true(agent >= 0);
	if (agent == 0) {
		(void)!freopen("/dev/null", "w", stdout);
		execlp("ssh-agent", "ssh-agent", "-D", "-a", in("agent"), NULL);
		_exit(127);
	}
	for (int i = 0; i < 500 && access(in("agent"), F_OK) < 0; i++)
		usleep(10000);
	c = config("user", "known");
	c.identity = NULL;
	expect_refusal(&c, -EACCES, "as root", "agent", NULL);
	run("ssh-add -q %s %s 2>/dev/null", in("other"), in("user"));
	expect_login(&c);
	(void)kill(agent, SIGTERM);
	(void)waitpid(agent, NULL, 0);
	unsetenv("SSH_AUTH_SOCK");
	if (kept)
		setenv("HOME", kept, 1);
	free(kept);
}

static void test_password_file(void **state)
{
	struct remote_config c;

	(void)state;
	NEEDS_SSHD();
	run("echo wrong > %s && chmod 644 %s", in("password"), in("password"));
	c = config("other", "known");
	c.password_file = in("password");
	expect_refusal(&c, -EACCES, c.password_file, "chmod 600", NULL);
	chmod(c.password_file, 0600);
	expect_refusal(&c, -EACCES, "as root", "password", NULL);
}

/* ---- both directions full ---- */

#define UP 100000u  /* bytes of a write */
#define DOWN 32768u /* bytes of a read */
#define READS 12
#define BUNDLES 40

static unsigned char *put32(unsigned char *p, uint32_t v)
{
	v = htonl(v);
	memcpy(p, &v, 4);
	return p + 4;
}

static void await(struct ssh *s)
{
	struct pollfd p = {.fd = ssh_fd(s), .events = ssh_events(s)};

	assert_true(poll(&p, 1, 10000) > 0);
}

static void read_packet(struct ssh *s, struct ssh_channel *c, unsigned char *dst, size_t size)
{
	size_t got = 0, want = 4;

	while (got < want) {
		ssize_t n = ssh_channel_read(c, dst + got, want - got);

		if (n == -EAGAIN) {
			await(s);
			continue;
		}
		assert_true(n > 0);
		got += (size_t)n;
		if (got == 4 && want == 4)
			want += (size_t)dst[2] << 8 | dst[3];
		assert_true(want <= size);
	}
}

/* The handle of internal-sftp is four bytes long. */
static void open_file(struct ssh *s, struct ssh_channel *c, const char *path, uint32_t flags,
	unsigned char handle[4])
{
	unsigned char packet[64], answer[512], *p = packet + 4;
	size_t len = strlen(path);

	*p++ = 3;
	p = put32(put32(p, 1), (uint32_t)len);
	memcpy(p, path, len);
	p = put32(put32(p + len, flags), 0);
	put32(packet, (uint32_t)(p - packet - 4));
	assert_int_equal(ssh_channel_write(c, packet, (size_t)(p - packet)), p - packet);
	read_packet(s, c, answer, sizeof(answer));
	assert_int_equal(answer[4], 102);
	memcpy(handle, answer + 13, 4);
}

static unsigned char *request(
	unsigned char *p, unsigned type, const unsigned char *handle, uint32_t len)
{
	p = put32(p, 25 + (type == 6 ? len : 0));
	*p++ = (unsigned char)type;
	p = put32(put32(p, 7), 4);
	memcpy(p, handle, 4);
	memset(p + 4, 0, 8);
	p = put32(p + 12, len);
	return type == 6 ? p + len : p;
}

/* One write to /dev/null and many reads of /dev/zero. */
static size_t bundle(struct ssh *s, struct ssh_channel *c, unsigned char *dst)
{
	unsigned char null[4], zero[4], answer[512], *p = dst;
	const unsigned char init[] = {0, 0, 0, 5, 1, 0, 0, 0, 3};

	assert_int_equal(ssh_channel_write(c, init, sizeof(init)), sizeof(init));
	read_packet(s, c, answer, sizeof(answer));
	open_file(s, c, "/dev/null", 2, null);
	open_file(s, c, "/dev/zero", 1, zero);
	p = request(p, 6, null, UP);
	for (int i = 0; i < READS; i++)
		p = request(p, 5, zero, DOWN);
	return (size_t)(p - dst);
}

static void test_both_directions(void **state)
{
	static unsigned char out[UP + 4096], answers[65536];
	struct remote_config c;
	struct ssh *s = NULL;
	struct ssh_channel *main = NULL, *side = NULL;
	char *error = NULL;
	size_t len, off = 0, got = 0, want = (size_t)BUNDLES * READS * DOWN;
	int sent = 0, small = 4096;

	(void)state;
	NEEDS_SSHD();
	c = config("user", "known");
	assert_int_equal(ssh_connect(&c, &s, &error), 0);
	/* packets are half sent all the time */
	setsockopt(ssh_fd(s), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	assert_int_equal(ssh_open_sftp(s, 10000, &main), 0);
	len = bundle(s, main, out);
	while (got < want) {
		bool moved = false;
		ssize_t n = 0;

		while (sent < BUNDLES && (n = ssh_channel_write(main, out + off, len - off)) > 0) {
			moved = true;
			off = (off + (size_t)n) % len;
			sent += off == 0;
		}
		assert_true(sent == BUNDLES || n == -EAGAIN);
		if (!side && n == -EAGAIN)
			assert_int_equal(ssh_open_sftp(s, 10000, &side), 0);
		while ((n = ssh_channel_read(main, answers, sizeof(answers))) > 0) {
			moved = true;
			got += (size_t)n;
		}
		assert_int_equal(n, -EAGAIN);
		if (!moved && !ssh_channel_holds(main))
			await(s);
	}
	assert_non_null(side);
	ssh_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_key),
		cmocka_unit_test(test_wrong_key),
		cmocka_unit_test(test_host_key),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_silent),
		cmocka_unit_test(test_dead_address),
		cmocka_unit_test(test_agent),
		cmocka_unit_test(test_password_file),
		cmocka_unit_test(test_both_directions),
	};

	return cmocka_run_group_tests(tests, start, stop);
}
