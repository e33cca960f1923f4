/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Open files of a remote. Writes and the read are requests that the file counts in `pending`; it
 * is freed only when none is left, which holds at once after the connection has ended, because
 * that answers them all.
 *
 * Small writes are held back until FLUSH_AT bytes are together, or until anything waits or
 * turn() is called: then one packet of the layer below carries many.
 */

#include "remote_sftp.h"

#include "base/cleanup.h"
#include "sftp_packet.h"

#include <errno.h>

/* Unanswered bytes of one channel; twice what sshd's window lets through in a round trip. */
#define WINDOW (4u << 20)
#define FLUSH_AT (64u << 10)

enum read_state { READ_IDLE, READ_ASKED, READ_ANSWERED };

struct remote_file {
	struct remote_sftp *remote;
	struct channel *channel;
	unsigned generation; /* of the connection that the handle is for */
	struct sftp_handle handle;
	size_t pending;
	int error; /* the first of any write */
	enum read_state read_state;
	int read_error;
	uint8_t *data; /* what the read brought */
	size_t data_len, data_cap, data_want;
};

static bool is_connected(const struct remote_file *f)
{
	return f->remote->ssh && f->generation == f->remote->generation;
}

int remote_sftp_open(struct remote *remote, const char *path, unsigned flags, mode_t mode,
	struct remote_file **ret)
{
	static const struct {
		enum remote_open remote;
		enum sftp_open_flags sftp;
	} map[] = {
		{REMOTE_READ, SFTP_OPEN_READ},
		{REMOTE_WRITE, SFTP_OPEN_WRITE},
		{REMOTE_CREATE, SFTP_OPEN_CREATE},
		{REMOTE_EXCL, SFTP_OPEN_EXCL},
		{REMOTE_TRUNC, SFTP_OPEN_TRUNC},
	};
	struct remote_sftp *r = remote_sftp_of(remote);
	_cleanup_free_ struct remote_file *f = calloc(1, sizeof(*f));
	uint32_t pflags = 0;
	int n = f ? 0 : -ENOMEM;

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (flags & map[i].remote)
			pflags |= map[i].sftp;
	if (n == 0)
		n = remote_channel(r, flags & REMOTE_SIDE, &f->channel);
	if (n == 0)
		n = remote_result(
			r, f->channel, sftp_open(f->channel->sftp, path, pflags, mode, &f->handle));
	if (n < 0)
		return n;
	f->remote = r;
	f->generation = r->generation;
	*ret = steal_pointer(&f);
	return 0;
}

/* ---- writing ---- */

static int take_status(void *ctx, struct sftp_reply *reply)
{
	struct remote_file *f = ctx;

	f->pending--;
	if (f->error == 0)
		f->error = reply->error;
	return reply->error == 0 && reply->type != SFTP_STATUS ? -EPROTO : 0;
}

static int await_room(struct remote_file *f)
{
	while (is_connected(f) && f->error == 0 && sftp_pending_bytes(f->channel->sftp) > WINDOW) {
		int n = remote_wait(f->remote);

		if (n < 0)
			return n;
	}
	return f->error;
}

int remote_sftp_write(struct remote_file *f, uint64_t offset, const void *data, size_t len)
{
	const uint8_t *p = data;
	struct sftp *s = f->channel->sftp;
	int n = is_connected(f) ? f->error : -ENOTCONN;

	while (n == 0 && len > 0) {
		uint32_t part = len < sftp_max_write(s) ? (uint32_t)len : sftp_max_write(s);

		n = await_room(f);
		if (n == 0)
			n = sftp_write_start(s, &f->handle, offset, p, part, take_status, f);
		if (n < 0)
			break;
		f->pending++;
		offset += part;
		p += part;
		len -= part;
		if (sftp_unsent(s) >= FLUSH_AT) {
			n = sftp_flush(s);
			n = remote_result(f->remote, f->channel, n < 0 ? n : 0);
		}
	}
	return n;
}

static int await_pending(struct remote_file *f)
{
	int n = 0;

	while (n == 0 && f->pending > 0)
		n = remote_wait(f->remote);
	return n;
}

int remote_sftp_drain(struct remote_file *f)
{
	int n;

	if (!is_connected(f))
		return -ENOTCONN;
	n = await_pending(f);
	return n < 0 ? n : f->error;
}

/* ---- reading ---- */

static int take_data(struct remote_file *f, struct reader *body)
{
	size_t len;
	const uint8_t *data = get_be_blob(body, &len);

	if (body->failed || len > f->data_want)
		return -EPROTO;
	memcpy(f->data, data, len);
	f->data_len = len;
	return 0;
}

static int take_read(void *ctx, struct sftp_reply *reply)
{
	struct remote_file *f = ctx;

	f->pending--;
	f->remote->read_answers++;
	f->read_state = READ_ANSWERED;
	f->read_error = reply->error == -ENODATA ? 0 : reply->error;
	f->data_len = 0;
	if (reply->error < 0)
		return 0;
	return reply->type == SFTP_DATA ? take_data(f, &reply->body) : -EPROTO;
}

static int reserve(struct remote_file *f, size_t len)
{
	uint8_t *data;

	if (len <= f->data_cap)
		return 0;
	data = realloc(f->data, len);
	if (!data)
		return -ENOMEM;
	f->data = data;
	f->data_cap = len;
	return 0;
}

int remote_sftp_read_start(struct remote_file *f, uint64_t offset, size_t len)
{
	struct sftp *s = f->channel->sftp;
	int n;

	if (!is_connected(f))
		return -ENOTCONN;
	if (f->read_state != READ_IDLE)
		return -EBUSY;
	if (len > sftp_max_read(s))
		len = sftp_max_read(s);
	n = reserve(f, len);
	if (n == 0)
		n = sftp_read_start(s, &f->handle, offset, (uint32_t)len, take_read, f);
	if (n < 0)
		return n;
	f->data_want = len;
	f->pending++;
	f->read_state = READ_ASKED;
	n = sftp_flush(s);
	return remote_result(f->remote, f->channel, n < 0 ? n : 0);
}

int remote_sftp_read_result(struct remote_file *f, void *dst, size_t *len)
{
	if (!is_connected(f))
		return -ENOTCONN;
	if (f->read_state == READ_IDLE)
		return -EINVAL;
	if (f->read_state == READ_ASKED)
		return -EAGAIN;
	f->read_state = READ_IDLE;
	f->remote->read_answers--;
	if (f->read_error < 0)
		return f->read_error;
	if (f->data_len < *len)
		*len = f->data_len;
	memcpy(dst, f->data, *len);
	return 0;
}

/* ---- the server's disk, and what it says of the bytes ---- */

int remote_sftp_fsync(struct remote_file *f)
{
	int n = remote_sftp_drain(f);

	return n < 0 ? n
		     : remote_result(
			       f->remote, f->channel, sftp_fsync(f->channel->sftp, &f->handle));
}

int remote_sftp_digest(struct remote_file *f, const char *name, uint8_t *dst, uint8_t *ret_len)
{
	int n = remote_sftp_drain(f);

	return n < 0 ? n
		     : remote_result(f->remote, f->channel,
			       sftp_check_file(f->channel->sftp, &f->handle, name, dst, ret_len));
}

/* ---- closing ---- */

int remote_sftp_close(struct remote_file *f)
{
	int closed = -ENOTCONN, n = 0;

	if (is_connected(f)) {
		closed = sftp_close_start(f->channel->sftp, &f->handle, take_status, f);
		f->pending += closed == 0;
		n = await_pending(f); /* also without the close: they all point to @f */
	}
	if (n == 0)
		n = closed < 0 ? closed : f->error;
	if (is_connected(f) && f->read_state == READ_ANSWERED)
		f->remote->read_answers--;
	free(f->data);
	free(f);
	return n;
}
