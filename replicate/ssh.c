/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A session is non-blocking from the start. The steps of connecting wait in poll(2) for what
 * libssh2_session_block_directions() names, up to one deadline. Afterwards nothing here waits: the
 * SFTP client above polls.
 *
 * libssh2 sends one packet at a time: when the socket took only a part of one, any other packet is
 * an error that ends the connection. Not only writes send packets. A read widens the receive
 * window when it has become narrow, and that may itself stay half sent. So the window is widened
 * here, before libssh2 would, when nothing else is half sent; and reading goes on without it until
 * the window is down to where libssh2 would widen it. Only then it waits for the packet.
 */

#include "ssh_state.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>

/* What the server may send before we say that we have read it. */
#define CHANNEL_WINDOW (4u << 20)
#define CHANNEL_PACKET 32768
#define WINDOW_LOW (CHANNEL_WINDOW / 8 * 7) /* widened below this */
#define WINDOW_OWN (CHANNEL_WINDOW / 4 * 3) /* libssh2 widens below this and the read's length */
#define READ_MAX (64u << 10)

static pthread_once_t init_once = PTHREAD_ONCE_INIT;
static int init_result;

static void init_library(void)
{
	init_result = libssh2_init(0);
}

static int translate(int code)
{
	switch (code) {
	case LIBSSH2_ERROR_EAGAIN:
		return -EAGAIN;
	case LIBSSH2_ERROR_ALLOC:
		return -ENOMEM;
	case LIBSSH2_ERROR_TIMEOUT:
	case LIBSSH2_ERROR_SOCKET_TIMEOUT:
		return -ETIMEDOUT;
	case LIBSSH2_ERROR_SOCKET_SEND:
	case LIBSSH2_ERROR_SOCKET_RECV:
	case LIBSSH2_ERROR_SOCKET_DISCONNECT:
		return -ECONNRESET;
	case LIBSSH2_ERROR_CHANNEL_CLOSED:
	case LIBSSH2_ERROR_CHANNEL_EOF_SENT:
		return -EPIPE;
	case LIBSSH2_ERROR_AUTHENTICATION_FAILED:
	case LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED:
	case LIBSSH2_ERROR_PASSWORD_EXPIRED:
	case LIBSSH2_ERROR_METHOD_NOT_SUPPORTED:
	case LIBSSH2_ERROR_FILE: /* a key file that cannot be used, or has a passphrase */
	case LIBSSH2_ERROR_KEYFILE_AUTH_FAILED:
	case LIBSSH2_ERROR_PUBLICKEY_PROTOCOL:
		return -EACCES;
	default:
		return -EPROTO;
	}
}

int ssh_error(struct ssh *s, int code, const char *doing)
{
	char *text = NULL;

	if (code == LIBSSH2_ERROR_EAGAIN && s->deadline_ms && clock_mono_ms() >= s->deadline_ms)
		return -ETIMEDOUT;
	(void)libssh2_session_last_error(s->session, &text, NULL, 0);
	log_debug("ssh %s: %s: %s (%d)", s->config->host, doing, text ?: "", code);
	return translate(code);
}

short ssh_events(struct ssh *s)
{
	int directions = libssh2_session_block_directions(s->session);

	if (s->stalled)
		return POLLOUT; /* the socket may be full of what cannot be read yet */
	if (s->writing)
		return POLLIN | POLLOUT;
	return (short)(POLLIN | (directions & LIBSSH2_SESSION_BLOCK_OUTBOUND ? POLLOUT : 0));
}

int ssh_fd(const struct ssh *s)
{
	return s->socket;
}

int ssh_wait(struct ssh *s)
{
	uint64_t now = clock_mono_ms();
	struct pollfd p = {.fd = s->socket, .events = ssh_events(s)};
	int n;

	if (now >= s->deadline_ms)
		return -ETIMEDOUT;
	if (!(libssh2_session_block_directions(s->session) & LIBSSH2_SESSION_BLOCK_INBOUND) &&
		(p.events & POLLOUT))
		p.events = POLLOUT;
	n = poll(&p, 1, (int)(s->deadline_ms - now));
	if (n < 0 && errno != EINTR)
		return -errno;
	return n == 0 ? -ETIMEDOUT : 0;
}

/* ---- TCP ---- */

static int finish_connect(int fd, uint64_t deadline_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	int error = 0;
	socklen_t len = sizeof(error);

	for (;;) {
		uint64_t now = clock_mono_ms();
		int n = now < deadline_ms ? poll(&p, 1, (int)(deadline_ms - now)) : 0;

		if (n == 0)
			return -ETIMEDOUT;
		if (n > 0)
			break;
		if (errno != EINTR)
			return -errno;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return -errno;
	return -error;
}

/* Errors are not fatal here: the connection works without, only less well. */
static void tune_socket(const struct ssh *s, int fd)
{
	int yes = 1, user_timeout = 4 * s->config->timeout_ms;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)) < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes)) < 0 ||
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof(user_timeout)) <
			0)
		log_debug("ssh %s: setsockopt: %s", s->config->host, strerror(errno));
}

/* An equal part of the time that is left, so that a dead address does not use up that of the next.
 */
static uint64_t address_deadline(const struct ssh *s, const struct addrinfo *a)
{
	uint64_t now = clock_mono_ms(), left = s->deadline_ms > now ? s->deadline_ms - now : 0;
	unsigned n = 0;

	for (; a; a = a->ai_next)
		n++;
	return now + left / n;
}

static int connect_address(struct ssh *s, const struct addrinfo *a)
{
	_cleanup_close_ int fd =
		socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
	int r = 0;

	if (fd < 0)
		return -errno;
	tune_socket(s, fd);
	if (connect(fd, a->ai_addr, a->ai_addrlen) < 0)
		r = errno == EINPROGRESS ? finish_connect(fd, address_deadline(s, a)) : -errno;
	if (r == 0)
		s->socket = steal_fd(&fd);
	return r;
}

static int connect_socket(struct ssh *s, char **ret_error)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	char port[16];
	int r;

	(void)snprintf(port, sizeof(port), "%u", s->config->port);
	r = getaddrinfo(s->config->host, port, &hints, &list);
	if (r != 0)
		return say(ret_error, -EHOSTUNREACH,
			"%s: %s: check the host in peer=", s->config->host, gai_strerror(r));
	r = -EHOSTUNREACH;
	for (const struct addrinfo *a = list; a && s->socket < 0; a = a->ai_next)
		r = connect_address(s, a);
	freeaddrinfo(list);
	if (s->socket >= 0)
		return 0;
	return say(ret_error, r, "cannot connect to %s port %u: %s%s", s->config->host,
		s->config->port, strerror(-r), r == -ECONNREFUSED ? " (does sshd run there?)" : "");
}

/* ---- the session ---- */

static int find_user(struct ssh *s)
{
	_cleanup_free_ char *buffer = malloc(16384);
	struct passwd pw, *found = NULL;
	const char *home = getenv("HOME");

	if (!buffer)
		return -ENOMEM;
	(void)getpwuid_r(getuid(), &pw, buffer, 16384, &found);
	if (!s->config->user && !found)
		return -ENOENT;
	(void)snprintf(
		s->user, sizeof(s->user), "%s", s->config->user ? s->config->user : found->pw_name);
	if (!home || home[0] != '/')
		home = found ? found->pw_dir : "";
	(void)snprintf(s->home, sizeof(s->home), "%s", home);
	return 0;
}

static void prefer_methods(struct ssh *s)
{
	ssh_hostkey_prefer(s);
#if LIBSSH2_VERSION_NUM < 0x010b00
	/* Newer versions choose well themselves; of what 1.10 has these are the fastest. */
	(void)libssh2_session_method_pref(
		s->session, LIBSSH2_METHOD_CRYPT_CS, "aes128-ctr,aes256-ctr,aes192-ctr");
	(void)libssh2_session_method_pref(
		s->session, LIBSSH2_METHOD_CRYPT_SC, "aes128-ctr,aes256-ctr,aes192-ctr");
	(void)libssh2_session_method_pref(
		s->session, LIBSSH2_METHOD_MAC_CS, "hmac-sha2-256,hmac-sha2-512,hmac-sha1");
	(void)libssh2_session_method_pref(
		s->session, LIBSSH2_METHOD_MAC_SC, "hmac-sha2-256,hmac-sha2-512,hmac-sha1");
#endif
}

static int handshake(struct ssh *s, char **ret_error)
{
	int rc;

	s->session = libssh2_session_init_ex(NULL, NULL, NULL, s);
	if (!s->session)
		return -ENOMEM;
	libssh2_session_set_blocking(s->session, 0);
	prefer_methods(s);
	SSH_RETRY(s, rc, libssh2_session_handshake(s->session, s->socket));
	if (rc == 0)
		return 0;
	rc = ssh_error(s, rc, "handshake");
	return say(ret_error, rc, "%s port %u: the SSH handshake failed: %s", s->config->host,
		s->config->port,
		rc == -ETIMEDOUT ? "no answer"
				 : "is that an SSH server, and not too old or too new?");
}

int ssh_connect(const struct remote_config *config, struct ssh **ret, char **ret_error)
{
	struct ssh *s;
	int r;

	*ret_error = NULL;
	(void)pthread_once(&init_once, init_library);
	if (init_result != 0)
		return say(ret_error, -EPROTO, "libssh2 cannot be initialised");
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->config = config;
	s->socket = -1;
	s->deadline_ms = clock_mono_ms() + (uint64_t)config->connect_timeout_ms;
	r = find_user(s);
	if (r < 0)
		(void)say(ret_error, r, "the local user has no name: give user@ in peer=");
	if (r == 0)
		r = connect_socket(s, ret_error);
	if (r == 0)
		r = handshake(s, ret_error);
	if (r == 0)
		r = ssh_hostkey_check(s, ret_error);
	if (r == 0)
		r = ssh_login(s, ret_error);
	if (r < 0) {
		ssh_free(s);
		return r;
	}
	s->deadline_ms = 0;
	*ret = s;
	return 0;
}

void ssh_free(struct ssh *s)
{
	if (!s)
		return;
	/* with the socket gone libssh2 has nobody to say farewell to, and only frees */
	if (s->socket >= 0)
		(void)shutdown(s->socket, SHUT_RDWR);
	while (s->channels) {
		struct ssh_channel *c = s->channels;

		s->channels = c->next;
		free(c);
	}
	if (s->session)
		(void)libssh2_session_free(s->session);
	cleanup_close(&s->socket);
	free(s);
}

/* ---- channels ---- */

/* Whether libssh2 waits for the socket to take the rest of a packet. */
static bool half_sent(const struct ssh *s)
{
	return libssh2_session_block_directions(s->session) & LIBSSH2_SESSION_BLOCK_OUTBOUND;
}

/* Sends the adjustment that is under way on any channel. 0, -EAGAIN or -errno. */
static int go_on_widening(struct ssh *s)
{
	struct ssh_channel *c = s->writing;
	int rc;

	if (!c || c->widening == 0)
		return 0;
	rc = libssh2_channel_receive_window_adjust2(c->channel, c->widening, 1, NULL);
	if (rc == LIBSSH2_ERROR_EAGAIN)
		return -EAGAIN;
	c->widening = 0;
	s->writing = NULL;
	return rc < 0 ? ssh_error(s, rc, "window") : 0;
}

/* Waits until the half sent packet is out: opening a channel sends packets of its own. */
static int finish_packet(struct ssh *s)
{
	struct ssh_channel *c;
	int r;

	while ((r = go_on_widening(s)) == -EAGAIN)
		if (ssh_wait(s) < 0)
			return -ETIMEDOUT;
	c = s->writing;
	if (r < 0 || !c)
		return r;
	SSH_RETRY(s, r, (int)libssh2_channel_write(c->channel, s->packet, s->packet_len));
	if (r < 0)
		return ssh_error(s, r, "write");
	c->sent_early = r;
	s->writing = NULL;
	s->stalled = false;
	return 0;
}

static int start_subsystem(struct ssh *s, struct ssh_channel *c)
{
	int rc;

	do {
		c->channel = libssh2_channel_open_ex(s->session, "session", strlen("session"),
			CHANNEL_WINDOW, CHANNEL_PACKET, NULL, 0);
		rc = c->channel ? 0 : libssh2_session_last_errno(s->session);
	} while (rc == LIBSSH2_ERROR_EAGAIN && ssh_wait(s) == 0);
	if (rc == 0)
		SSH_RETRY(s, rc,
			libssh2_channel_process_startup(c->channel, "subsystem",
				strlen("subsystem"), "sftp", strlen("sftp")));
	return rc == 0 ? 0 : ssh_error(s, rc, "channel");
}

int ssh_open_sftp(struct ssh *s, int timeout_ms, struct ssh_channel **ret)
{
	struct ssh_channel *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->ssh = s;
	s->deadline_ms = clock_mono_ms() + (uint64_t)timeout_ms;
	r = finish_packet(s);
	if (r == 0)
		r = start_subsystem(s, c);
	s->deadline_ms = 0;
	if (r < 0) {
		free(c); /* libssh2's half of it goes with the session */
		return r;
	}
	c->next = s->channels;
	s->channels = c;
	*ret = c;
	return 0;
}

/* 0 when @len bytes may be read without libssh2 sending anything, -EAGAIN, or -errno. */
static int widen(struct ssh_channel *c, size_t len)
{
	struct ssh *s = c->ssh;
	int r = go_on_widening(s);

	if (r < 0 && r != -EAGAIN)
		return r;
	s->stalled = false;
	if (libssh2_channel_window_read_ex(c->channel, NULL, NULL) >= WINDOW_LOW)
		return 0;
	if (!s->writing) {
		c->widening =
			CHANNEL_WINDOW - libssh2_channel_window_read_ex(c->channel, NULL, NULL);
		s->writing = c;
		r = go_on_widening(s);
		if (r < 0 && r != -EAGAIN)
			return r;
	}
	s->stalled = libssh2_channel_window_read_ex(c->channel, NULL, NULL) < WINDOW_OWN + len;
	return s->stalled ? -EAGAIN : 0;
}

ssize_t ssh_channel_read(struct ssh_channel *c, void *dst, size_t len)
{
	struct ssh *s = c->ssh;
	ssize_t n;

	if (len > READ_MAX)
		len = READ_MAX;
	n = widen(c, len);
	if (n < 0)
		return n;
	n = libssh2_channel_read(c->channel, dst, len);
	if (n > 0)
		return n;
	if (n == LIBSSH2_ERROR_EAGAIN)
		return -EAGAIN;
	if (n < 0)
		return ssh_error(s, (int)n, "read");
	return libssh2_channel_eof(c->channel) ? 0 : -EAGAIN;
}

ssize_t ssh_channel_write(struct ssh_channel *c, const void *data, size_t len)
{
	struct ssh *s = c->ssh;
	ssize_t n = go_on_widening(s);

	if (n < 0)
		return n;
	if (s->writing && s->writing != c)
		return -EAGAIN;
	if (c->sent_early > 0) {
		n = c->sent_early;
		c->sent_early = 0;
		return n;
	}
	if (len > SSH_PACKET_MAX)
		len = SSH_PACKET_MAX;
	n = libssh2_channel_write(c->channel, data, len);
	if (n == LIBSSH2_ERROR_EAGAIN && half_sent(s)) {
		s->writing = c;
		memcpy(s->packet, data, len);
		s->packet_len = len;
		return -EAGAIN;
	}
	s->writing = NULL;
	s->stalled = false;
	if (n >= 0)
		return n > 0 ? n : -EAGAIN;
	return n == LIBSSH2_ERROR_EAGAIN ? -EAGAIN : ssh_error(s, (int)n, "write");
}

bool ssh_channel_holds(struct ssh_channel *c)
{
	unsigned long available = 0;

	if (c->ssh->stalled)
		return false;
	(void)libssh2_channel_window_read_ex(c->channel, &available, NULL);
	return available > 0 || libssh2_channel_eof(c->channel) == 1;
}
