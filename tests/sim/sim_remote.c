/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A transport that is the other node's directory. Writes are queued and arrive in turns, a random
 * part of them each time; when the link is cut a random prefix of the bytes arrives, and sometimes
 * the rest long after, as from a server process that outlived its connection.
 */

#include "sim.h"
#include "sim_queue.h"

#include "replicate/base/cleanup.h"
#include "replicate/base/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <utlist.h>

struct remote_file {
	struct remote_file *next;
	struct sim_remote *remote;
	int fd;
	struct chunk *queue;
	bool reading, arrived;
	uint64_t read_offset;
	size_t read_len;
	bool broken;
};

struct sim_remote {
	struct remote base;
	struct sim_remote *next;
	unsigned node; /* whose connection it is */
	bool connected;
	struct remote_file *files;
};

static struct sim_remote *all_remotes;

static struct sim_remote *of(struct remote *r)
{
	return (struct sim_remote *)r;
}

static void arrive(struct remote_file *f)
{
	queue_take(&f->queue, f->fd, f->queue->len);
}

static void break_file(struct remote_file *f)
{
	unsigned keep = sim_below(4);

	while (f->queue && keep--)
		arrive(f);
	if (f->queue && f->queue->len > 1) {
		f->queue->len = 1 + sim_below((unsigned)f->queue->len - 1);
		arrive(f);
	}
	queue_drop(&f->queue);
	f->broken = true;
	f->reading = false;
}

static void drop_connection(struct sim_remote *r)
{
	struct remote_file *f;

	r->connected = false;
	LL_FOREACH (r->files, f)
		break_file(f);
}

void sim_remote_cut(unsigned node)
{
	struct sim_remote *r;

	LL_FOREACH (all_remotes, r)
		if (r->node == node)
			drop_connection(r);
}

static int check(struct sim_remote *r)
{
	if (!r->connected)
		return -ENOTCONN;
	if (!sim.link_up[r->node]) {
		drop_connection(r);
		return -EPIPE;
	}
	return 0;
}

static void op_disconnect(struct remote *base)
{
	drop_connection(of(base));
}

static void op_free(struct remote *base)
{
	struct sim_remote *r = of(base);

	drop_connection(r);
	LL_DELETE(all_remotes, r);
	free(r);
}

static int op_connect(struct remote *base, char **ret_error)
{
	(void)ret_error;
	if (!sim.link_up[of(base)->node])
		return -ECONNREFUSED;
	of(base)->connected = true;
	return 0;
}

static int op_get(struct remote *base, const char *path, size_t max, char **ret, size_t *ret_len)
{
	int r = check(of(base));

	return r < 0 ? r : durable_read(AT_FDCWD, path, max, ret, ret_len);
}

static int op_put(struct remote *base, const char *path, const void *data, size_t len)
{
	int r = check(of(base));

	return r < 0 ? r : durable_replace(AT_FDCWD, path, data, len, 0600, 0);
}

static int op_mkdir(struct remote *base, const char *path, mode_t mode)
{
	int r = check(of(base));

	return r < 0 ? r : mkdir(path, mode) < 0 ? -errno : 0;
}

static int op_remove(struct remote *base, const char *path)
{
	int r = check(of(base));

	return r < 0 ? r : unlink(path) < 0 ? -errno : 0;
}

static int op_stat(struct remote *base, const char *path, struct stat *ret)
{
	int r = check(of(base));

	return r < 0 ? r : lstat(path, ret) < 0 ? -errno : 0;
}

static int op_list(
	struct remote *base, const char *path, void (*fn)(void *ctx, const char *name), void *ctx)
{
	(void)base, (void)path, (void)fn, (void)ctx;
	return -EOPNOTSUPP;
}

static int op_open(struct remote *base, const char *path, unsigned flags, mode_t mode,
	struct remote_file **ret)
{
	struct remote_file *f;
	int r = check(of(base));

	if (r < 0)
		return r;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->remote = of(base);
	f->fd = open(path, queue_open_flags(flags), mode);
	if (f->fd < 0) {
		r = -errno;
		free(f);
		return r;
	}
	LL_PREPEND(of(base)->files, f);
	*ret = f;
	return 0;
}

static int op_write(struct remote_file *f, uint64_t offset, const void *data, size_t len)
{
	int r = f->broken ? -ENOTCONN : check(f->remote);

	if (r < 0 || len == 0)
		return r;
	queue_add(&f->queue, offset, data, len);
	return 0;
}

static int op_drain(struct remote_file *f)
{
	int r = f->broken ? -ENOTCONN : check(f->remote);

	while (r == 0 && f->queue)
		arrive(f);
	return r;
}

static int op_read_start(struct remote_file *f, uint64_t offset, size_t len)
{
	int r = f->broken ? -ENOTCONN : check(f->remote);

	if (r < 0)
		return r;
	f->reading = true;
	f->arrived = false;
	f->read_offset = offset;
	f->read_len = len;
	return 0;
}

static int op_read_result(struct remote_file *f, void *dst, size_t *len)
{
	ssize_t n;
	int r = f->broken ? -ENOTCONN : check(f->remote);

	if (r < 0)
		return r;
	if (!f->reading || !f->arrived)
		return -EAGAIN;
	n = pread(f->fd, dst, f->read_len, (off_t)f->read_offset);
	if (n < 0)
		return -errno;
	f->reading = false;
	*len = (size_t)n;
	return 0;
}

static int op_close(struct remote_file *f)
{
	int r = op_drain(f);

	queue_drop(&f->queue);
	LL_DELETE(f->remote->files, f);
	(void)close(f->fd);
	free(f);
	return r;
}

static int op_turn(struct remote *base, int timeout_ms, int wake_fd)
{
	struct remote_file *f;
	int r = check(of(base));

	(void)wake_fd;
	if (timeout_ms > 0)
		sim_wait((unsigned)timeout_ms);
	if (r < 0)
		return r;
	LL_FOREACH (of(base)->files, f) {
		while (f->queue && sim_chance(70))
			arrive(f);
		if (sim_chance(60))
			f->arrived = true;
	}
	return 0;
}

static bool op_connected(const struct remote *base)
{
	return of((struct remote *)base)->connected;
}

static unsigned op_features(const struct remote *base)
{
	(void)base;
	return 0;
}

static const struct remote_ops sim_ops = {
	.free = op_free,
	.connect = op_connect,
	.disconnect = op_disconnect,
	.get = op_get,
	.put = op_put,
	.mkdir = op_mkdir,
	.remove = op_remove,
	.stat = op_stat,
	.list = op_list,
	.open = op_open,
	.write = op_write,
	.drain = op_drain,
	.read_start = op_read_start,
	.read_result = op_read_result,
	.close = op_close,
	.turn = op_turn,
	.connected = op_connected,
	.features = op_features,
};

int sim_remote_new(struct replica *replica, struct peer *p, struct remote **ret)
{
	struct sim_remote *r = calloc(1, sizeof(*r));
	struct sim_node *n = replica->make_remote_ctx;

	(void)p;
	if (!r)
		return -ENOMEM;
	r->base.ops = &sim_ops;
	r->node = n->index;
	LL_PREPEND(all_remotes, r);
	*ret = &r->base;
	return 0;
}
