/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A remote is one SSH connection with up to two SFTP channels: MAIN for everything, and SIDE,
 * opened with the first REMOTE_SIDE file, so that a poll of a small file does not queue behind
 * megabytes of writes.
 *
 * Bytes move in pump(), which never blocks; all waiting is in wait_once(). Reading one channel
 * may take the other's packets off the socket, which poll(2) then no longer shows: nobody sleeps
 * while a channel holds any.
 *
 * The link is dead when an answer is due and for timeout_ms neither a byte came nor output that
 * was held back went on. An idle link is never called dead.
 *
 * break_connection() ends a connection from anywhere below: the socket is closed and every request
 * answered with the error, but the SFTP objects stay until the next connect, since calls on them
 * may be on the stack. `generation` tells the files of former connections.
 */

#include "remote_sftp.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "digest.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>

/* ---- the connection ---- */

static ssize_t io_read(void *ctx, void *dst, size_t len)
{
	struct channel *c = ctx;

	return c->ssh ? ssh_channel_read(c->ssh, dst, len) : -ENOTCONN;
}

static ssize_t io_write(void *ctx, const void *data, size_t len)
{
	struct channel *c = ctx;

	return c->ssh ? ssh_channel_write(c->ssh, data, len) : -ENOTCONN;
}

static int io_wait(void *ctx)
{
	struct channel *c = ctx;

	return remote_wait(c->remote);
}

static const struct sftp_io channel_io = {.read = io_read, .write = io_write, .wait = io_wait};

static void break_connection(struct remote_sftp *r, int error)
{
	if (!r->ssh)
		return;
	ssh_free(r->ssh);
	r->ssh = NULL;
	for (int i = 0; i < N_CHANNELS; i++) {
		r->channels[i].ssh = NULL;
		if (r->channels[i].sftp)
			sftp_abort(r->channels[i].sftp, error);
	}
	r->generation++;
	r->read_answers = 0;
}

static void free_channels(struct remote_sftp *r)
{
	for (int i = 0; i < N_CHANNELS; i++) {
		sftp_free(r->channels[i].sftp);
		r->channels[i].sftp = NULL;
	}
}

int remote_result(struct remote_sftp *r, struct channel *channel, int error)
{
	if (r->ssh && sftp_error(channel->sftp) < 0)
		break_connection(r, sftp_error(channel->sftp));
	return error;
}

static uint64_t answered(const struct remote_sftp *r)
{
	uint64_t n = 0;

	for (int i = 0; i < N_CHANNELS; i++)
		if (r->channels[i].sftp)
			n += sftp_answered(r->channels[i].sftp);
	return n;
}

/* One round over the channels: enum sftp_life or the error. */
static int pump_once(struct remote_sftp *r)
{
	int life = 0;

	for (int i = 0; i < N_CHANNELS; i++) {
		int n = r->channels[i].sftp ? sftp_pump(r->channels[i].sftp) : 0;

		if (n < 0) {
			break_connection(r, n);
			return n;
		}
		life |= n;
	}
	/* A socket may take a little more without having said so; that is no sign of life. */
	if (life & SFTP_CAME || (life & SFTP_WENT && r->polled))
		r->life_ms = clock_mono_ms();
	return life;
}

static int pump(struct remote_sftp *r)
{
	int n;

	if (!r->ssh)
		return -ENOTCONN;
	do
		n = pump_once(r);
	while (n > 0 && n & SFTP_CAME);
	r->polled = false;
	return n < 0 ? n : 0;
}

/* How long the link may stay silent from now on; INT_MAX when no answer is due. */
static int silence_left(const struct remote_sftp *r)
{
	uint64_t since = UINT64_MAX, end, now = clock_mono_ms();

	for (int i = 0; i < N_CHANNELS; i++) {
		uint64_t due;

		if (r->channels[i].sftp && sftp_due_since(r->channels[i].sftp, &due) && due < since)
			since = due;
	}
	if (since == UINT64_MAX)
		return INT_MAX;
	if (since < r->life_ms)
		since = r->life_ms;
	end = since + (uint64_t)r->config.timeout_ms;
	return end > now ? (int)(end - now) : 0;
}

/* What one channel's read took off the socket for the other after that was read. */
static bool holds_input(const struct remote_sftp *r)
{
	for (int i = 0; i < N_CHANNELS; i++)
		if (r->channels[i].ssh && ssh_channel_holds(r->channels[i].ssh))
			return true;
	return false;
}

/* Sleeps until the socket or @wake_fd is ready or the time is over, after a pump() that brought
 * nothing. 1 when the caller is to return: woken, or @timeout_ms (-1: none) is over. */
static int wait_once(struct remote_sftp *r, int timeout_ms, int wake_fd)
{
	struct pollfd fds[2] = {
		{.fd = ssh_fd(r->ssh), .events = ssh_events(r->ssh)},
		{.fd = wake_fd, .events = POLLIN},
	};
	int silence = silence_left(r);
	int limit = timeout_ms >= 0 && timeout_ms < silence ? timeout_ms : silence;
	int n;

	if (silence == 0) {
		break_connection(r, -ETIMEDOUT);
		return -ETIMEDOUT;
	}
	if (holds_input(r))
		return 0;
	n = poll(fds, 2, limit == INT_MAX ? -1 : limit);
	if (n < 0 && errno != EINTR) {
		n = -errno;
		break_connection(r, n);
		return n;
	}
	r->polled = n > 0 && fds[0].revents != 0;
	return n > 0 && fds[1].revents != 0;
}

int remote_wait(struct remote_sftp *r)
{
	uint64_t before = answered(r);
	int n = pump(r);

	while (n >= 0 && answered(r) == before) {
		n = wait_once(r, -1, -1);
		if (n >= 0)
			n = pump(r);
	}
	return n < 0 ? n : 0;
}

static int remote_turn(struct remote *remote, int timeout_ms, int wake_fd)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	uint64_t before = answered(r), start = clock_mono_ms();
	int left = timeout_ms;
	int n = pump(r);

	while (n == 0 && answered(r) == before && r->read_answers == 0) {
		uint64_t gone = clock_mono_ms() - start;

		if (timeout_ms >= 0)
			left = gone < (uint64_t)timeout_ms ? timeout_ms - (int)gone : 0;
		n = wait_once(r, left, wake_fd);
		if (n < 0)
			return n;
		if (n > 0 || left == 0)
			return pump(r);
		n = pump(r);
	}
	return n;
}

static int open_channel(struct remote_sftp *r, struct channel *c, int timeout_ms)
{
	int n = ssh_open_sftp(r->ssh, timeout_ms, &c->ssh);

	if (n < 0)
		return n;
	n = sftp_new(&channel_io, c, &c->sftp);
	r->life_ms = clock_mono_ms();
	return n < 0 ? n : sftp_start(c->sftp);
}

int remote_channel(struct remote_sftp *r, bool side, struct channel **ret)
{
	struct channel *c = &r->channels[side ? SIDE : MAIN];
	int n;

	if (!r->ssh)
		return -ENOTCONN;
	if (!c->sftp) {
		n = open_channel(r, c, r->config.timeout_ms);
		if (n < 0) {
			break_connection(r, n);
			return n;
		}
	}
	*ret = c;
	return 0;
}

static void remote_disconnect(struct remote *remote)
{
	struct remote_sftp *r = remote_sftp_of(remote);

	break_connection(r, -ENOTCONN);
	free_channels(r);
}

static int remote_connect(struct remote *remote, char **ret_error)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	int n;

	remote_disconnect(remote);
	n = ssh_connect(&r->config, &r->ssh, ret_error);
	if (n < 0) {
		r->ssh = NULL;
		return n;
	}
	n = open_channel(r, &r->channels[MAIN], r->config.connect_timeout_ms);
	if (n == 0)
		return 0;
	remote_disconnect(remote);
	if (asprintf(ret_error,
		    "%s: logged in, but SFTP does not work there (%s): check the line "
		    "\"Subsystem sftp\" of its sshd_config and that the user may use it",
		    r->config.host, strerror(-n)) < 0)
		*ret_error = NULL;
	return n;
}

static void remote_free(struct remote *remote)
{
	remote_disconnect(remote);
	free(remote_sftp_of(remote));
}

/* ---- calls by path ---- */

static int remote_mkdir(struct remote *remote, const char *path, mode_t mode)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct channel *c;
	int n = remote_channel(r, false, &c);

	return n < 0 ? n : remote_result(r, c, sftp_mkdir(c->sftp, path, mode));
}

static int remote_remove(struct remote *remote, const char *path)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct channel *c;
	int n = remote_channel(r, false, &c);

	return n < 0 ? n : remote_result(r, c, sftp_remove(c->sftp, path));
}

static int remote_stat(struct remote *remote, const char *path, struct stat *ret)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct sftp_attr attr;
	struct channel *c;
	int n = remote_channel(r, false, &c);

	if (n == 0)
		n = remote_result(r, c, sftp_lstat(c->sftp, path, &attr));
	if (n == 0)
		remote_stat_of(&attr, ret);
	return n;
}

struct lister {
	void (*fn)(void *ctx, const char *name);
	void *ctx;
};

static void list_name(void *ctx, const char *name, const struct sftp_attr *attr)
{
	struct lister *l = ctx;

	(void)attr;
	l->fn(l->ctx, name);
}

static int remote_list(
	struct remote *remote, const char *path, void (*fn)(void *ctx, const char *name), void *ctx)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct lister l = {.fn = fn, .ctx = ctx};
	struct channel *c;
	int n = remote_channel(r, false, &c);

	return n < 0 ? n : remote_result(r, c, sftp_list(c->sftp, path, list_name, &l));
}

static int read_whole(struct sftp *s, const struct sftp_handle *h, size_t max, struct buf *out)
{
	size_t before;
	int n;

	do {
		size_t want = max + 1 - out->len;

		before = out->len;
		n = sftp_read(s, h, before,
			want < sftp_max_read(s) ? (uint32_t)want : sftp_max_read(s), out);
		if (n == 0 && out->len > max)
			n = -EFBIG;
	} while (n == 0 && out->len > before);
	if (n == 0)
		buf_put_u8(out, 0);
	return n < 0 ? n : buf_error(out);
}

static int get_file(struct sftp *s, const char *path, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_buf_ struct buf out = {0};
	struct sftp_handle h;
	int closed, n = sftp_open(s, path, SFTP_OPEN_READ, 0, &h);

	if (n < 0)
		return n;
	n = read_whole(s, &h, max, &out);
	closed = sftp_error(s) < 0 ? 0 : sftp_close(s, &h);
	if (n == 0)
		n = closed;
	if (n < 0)
		return n;
	*ret_len = out.len - 1;
	*ret = steal_pointer(&out.data);
	return 0;
}

static int remote_get(
	struct remote *remote, const char *path, size_t max, char **ret, size_t *ret_len)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	struct channel *c;
	int n = remote_channel(r, false, &c);

	return n < 0 ? n : remote_result(r, c, get_file(c->sftp, path, max, ret, ret_len));
}

static int write_whole(struct remote *remote, const char *path, const void *data, size_t len)
{
	struct remote_file *f;
	int closed, n;

	n = remote_sftp_open(remote, path, REMOTE_WRITE | REMOTE_CREATE | REMOTE_EXCL, 0600, &f);
	if (n < 0)
		return n;
	n = remote_sftp_write(f, 0, data, len);
	closed = remote_sftp_close(f);
	return n < 0 ? n : closed;
}

static int replace(struct sftp *s, const char *from, const char *to)
{
	int n;

	if (!(sftp_extensions(s) & SFTP_POSIX_RENAME)) {
		n = sftp_remove(s, to);
		if (n < 0 && n != -ENOENT)
			return n;
	}
	return sftp_rename(s, from, to);
}

static int remote_put(struct remote *remote, const char *path, const void *data, size_t len)
{
	struct remote_sftp *r = remote_sftp_of(remote);
	_cleanup_free_ char *temporary = NULL;
	struct channel *c;
	uint64_t random;
	int n = remote_channel(r, false, &c);

	if (n == 0)
		n = digest_random(&random, sizeof(random));
	if (n < 0)
		return n;
	if (asprintf(&temporary, "%s.%016llx~", path, (unsigned long long)random) < 0) {
		temporary = NULL;
		return -ENOMEM;
	}
	n = write_whole(remote, temporary, data, len);
	if (n == 0)
		n = remote_result(r, c, replace(c->sftp, temporary, path));
	if (n < 0 && r->ssh)
		(void)remote_remove(remote, temporary); /* @n is the error to report */
	return n;
}

int remote_sftp_new(const struct remote_config *config, struct remote **ret)
{
	static const struct remote_ops ops = {
		.free = remote_free,
		.connect = remote_connect,
		.disconnect = remote_disconnect,
		.get = remote_get,
		.put = remote_put,
		.mkdir = remote_mkdir,
		.remove = remote_remove,
		.stat = remote_stat,
		.list = remote_list,
		.open = remote_sftp_open,
		.write = remote_sftp_write,
		.drain = remote_sftp_drain,
		.read_start = remote_sftp_read_start,
		.read_result = remote_sftp_read_result,
		.close = remote_sftp_close,
		.turn = remote_turn,
		.connected = remote_sftp_connected,
		.features = remote_sftp_features,
		.rename = remote_sftp_rename,
		.rmdir = remote_sftp_rmdir,
		.symlink = remote_sftp_symlink,
		.readlink = remote_sftp_readlink,
		.link = remote_sftp_link,
		.setattr = remote_sftp_setattr,
		.scan = remote_sftp_scan,
		.batch = remote_sftp_batch,
		.statvfs = remote_sftp_statvfs,
		.fsync = remote_sftp_fsync,
		.digest = remote_sftp_digest,
	};
	struct remote_sftp *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->remote.ops = &ops;
	r->config = *config;
	for (int i = 0; i < N_CHANNELS; i++)
		r->channels[i].remote = r;
	*ret = &r->remote;
	return 0;
}
