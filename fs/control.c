/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * One thread accepts, one thread per client answers. A client has 10 s to say what it wants, in
 * one line of at most 4 KiB, and may not let an answer wait longer than that; a ninth client is
 * sent away. So nobody who talks nonsense, or nothing, keeps a thread or holds up the others.
 *
 * The socket needs no further right check: it is 0600 in a directory that is 0700.
 *
 * The end: control_stop() sets closing and wakes the accepting thread, which shuts every client's
 * socket down; their threads see that as a client that is gone. It waits for the last of them.
 */

#include "control_peer.h"
#include "control_socket.h"

#include "options.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/log.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#define CLIENTS_MAX 8
#define REQUEST_MAX 4096
#define CLIENT_SECONDS 10

struct control_client {
	struct control *control;
	int fd;      /* -1: free; guarded by the control's lock */
	bool failed; /* belongs to the client's thread */
};

struct control {
	struct control_config config;
	int dir, fd, wake;
	pthread_t thread;
	atomic_bool closing;
	pthread_mutex_t lock;
	pthread_cond_t idle; /* n_clients became 0 */
	unsigned n_clients;  /* guarded by lock */
	struct control_client clients[CLIENTS_MAX];
};

const struct control_config *control_client_config(const struct control_client *client)
{
	return &client->control->config;
}

static int send_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* The first bytes of @data, with a copy of @fd. How many, or -errno. */
static ssize_t send_with_fd(int socket, const char *data, size_t len, int fd)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = (char *)data, .iov_len = len};
	struct msghdr message = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	ssize_t n;

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	do
		n = sendmsg(socket, &message, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int control_client_send_fd(struct control_client *client, json_t *line, int fd)
{
	_cleanup_free_ char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
	ssize_t n = 0;
	int r;

	json_decref(line);
	if (client->failed)
		return -EPIPE;
	if (!text)
		return -ENOMEM;
	if (fd >= 0)
		n = send_with_fd(client->fd, text, strlen(text), fd);
	r = n < 0 ? (int)n : send_all(client->fd, text + n, strlen(text + n));
	if (r == 0)
		r = send_all(client->fd, "\n", 1);
	client->failed = r < 0;
	return r;
}

int control_client_send(struct control_client *client, json_t *line)
{
	return control_client_send_fd(client, line, -1);
}

bool control_client_gone(void *arg)
{
	struct control_client *client = arg;
	struct pollfd p = {.fd = client->fd, .events = POLLRDHUP};

	if (client->failed || atomic_load(&client->control->closing))
		return true;
	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static int64_t monotonic_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Reads up to the first newline. The length without it; -ETIMEDOUT, -EMSGSIZE, -EPIPE. */
static ssize_t read_line(int fd, char line[REQUEST_MAX + 1])
{
	int64_t deadline = monotonic_ms() + CLIENT_SECONDS * 1000;
	size_t len = 0;

	while (len < REQUEST_MAX) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		int64_t left = deadline - monotonic_ms();
		char *newline;
		ssize_t n;

		if (left <= 0 || poll(&p, 1, (int)left) == 0)
			return -ETIMEDOUT;
		n = recv(fd, line + len, REQUEST_MAX - len, MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		newline = memchr(line + len, '\n', (size_t)n);
		len += (size_t)n;
		if (newline)
			return newline - line;
	}
	return -EMSGSIZE;
}

static int parse_and_answer(struct control_client *client, char **ret_error)
{
	char line[REQUEST_MAX + 1];
	ssize_t len = read_line(client->fd, line);
	json_t *request;
	int code;

	if (len == -EMSGSIZE)
		*ret_error = strdup("the request is longer than 4096 bytes");
	else if (len == -ETIMEDOUT)
		*ret_error = strdup("no request came for 10 s");
	if (len < 0)
		return EXIT_USAGE;
	request = json_loadb(line, (size_t)len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(request)) {
		json_decref(request);
		*ret_error = strdup("the request is no JSON object");
		return EXIT_USAGE;
	}
	code = control_answer(client, request, ret_error);
	json_decref(request);
	return code;
}

static void release_client(struct control_client *client)
{
	struct control *c = client->control;

	pthread_mutex_lock(&c->lock);
	(void)close(client->fd);
	client->fd = -1;
	if (--c->n_clients == 0)
		pthread_cond_broadcast(&c->idle);
	pthread_mutex_unlock(&c->lock);
}

static void *client_main(void *arg)
{
	struct control_client *client = arg;
	_cleanup_free_ char *error = NULL;
	int code = parse_and_answer(client, &error);
	json_t *last = error ? json_pack("{s:i,s:s}", "exit", code, "error", error)
			     : json_pack("{s:i}", "exit", code);
	int r = control_client_send(client, last);

	if (r < 0)
		log_debug("control: a client went away before its answer: %s", strerror(-r));
	release_client(client);
	return NULL;
}

/* A free place for @fd, which it owns from now on; NULL when all are taken. */
static struct control_client *take_client(struct control *c, int fd)
{
	struct control_client *client = NULL;

	pthread_mutex_lock(&c->lock);
	for (unsigned i = 0; !client && i < CLIENTS_MAX; i++)
		if (c->clients[i].fd < 0)
			client = &c->clients[i];
	if (client) {
		*client = (struct control_client){.control = c, .fd = fd};
		c->n_clients++;
	}
	pthread_mutex_unlock(&c->lock);
	return client;
}

static void refuse_client(int fd)
{
	static const char busy[] =
		"{\"exit\":3,\"error\":\"eight commands are under way already; try again later\"}\n";

	/* It gets what fits in the socket's buffer at once; nobody waits for it. */
	if (send(fd, busy, sizeof(busy) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("control: a client could not be sent away: %s", strerror(errno));
	(void)close(fd);
}

static void serve(struct control *c, int fd)
{
	struct timeval limit = {.tv_sec = CLIENT_SECONDS};
	struct control_client *client;
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0) {
		log_warning("control: no time limit for a client: %s", strerror(errno));
		(void)close(fd);
		return;
	}
	client = take_client(c, fd);
	if (!client) {
		refuse_client(fd);
		return;
	}
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attr, client_main, client);
	(void)pthread_attr_destroy(&attr);
	if (r != 0) {
		log_warning("control: no thread for a client: %s", strerror(r));
		release_client(client);
	}
}

static void *accept_main(void *arg)
{
	struct control *c = arg;
	struct pollfd p[] = {{.fd = c->fd, .events = POLLIN}, {.fd = c->wake, .events = POLLIN}};

	while (!atomic_load(&c->closing)) {
		int fd;

		if (poll(p, 2, -1) < 0 || !(p[0].revents & POLLIN))
			continue;
		fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			serve(c, fd);
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
			log_warning("control: accept: %s", strerror(errno));
			(void)poll(&p[1], 1, 1000);
		}
	}
	return NULL;
}

static int open_socket(struct control *c)
{
	struct sockaddr_un a;

	c->dir = open(c->config.state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->dir < 0)
		return -errno;
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		return -errno;
	/* What a killed daemon left; the lock of the state directory says that there is no other.
	 */
	if (unlinkat(c->dir, CONTROL_SOCKET, 0) < 0 && errno != ENOENT)
		return -errno;
	/* Before bind(2) this is the mode that the file gets. */
	if (fchmod(c->fd, 0600) < 0)
		return -errno;
	a = control_address(c->dir);
	if (bind(c->fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(c->fd, 16) < 0)
		return -errno;
	c->wake = eventfd(0, EFD_CLOEXEC);
	return c->wake < 0 ? -errno : 0;
}

static void control_free(struct control *c)
{
	cleanup_close(&c->wake);
	cleanup_close(&c->fd);
	cleanup_close(&c->dir);
	(void)pthread_cond_destroy(&c->idle);
	(void)pthread_mutex_destroy(&c->lock);
	free(c);
}

int control_start(const struct control_config *config, struct control **ret)
{
	struct control *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->config = *config;
	c->dir = c->fd = c->wake = -1;
	(void)pthread_mutex_init(&c->lock, NULL);
	(void)pthread_cond_init(&c->idle, NULL);
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		c->clients[i].fd = -1;
	r = open_socket(c);
	if (r == 0)
		r = -pthread_create(&c->thread, NULL, accept_main, c);
	if (r < 0) {
		control_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void control_stop(struct control *c)
{
	uint64_t one = 1;

	atomic_store(&c->closing, true);
	if (write(c->wake, &one, sizeof(one)) < 0)
		log_warning("control: %s", strerror(errno));
	(void)pthread_join(c->thread, NULL);
	if (unlinkat(c->dir, CONTROL_SOCKET, 0) < 0 && errno != ENOENT)
		log_warning(
			"control: the socket in %s stays: %s", c->config.state, strerror(errno));
	pthread_mutex_lock(&c->lock);
	/* Reading only: an answer that is about to be sent still gets out. */
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (c->clients[i].fd >= 0)
			(void)shutdown(c->clients[i].fd, SHUT_RD);
	while (c->n_clients > 0)
		pthread_cond_wait(&c->idle, &c->lock);
	pthread_mutex_unlock(&c->lock);
	control_free(c);
}
