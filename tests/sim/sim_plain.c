/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A plain peer: a directory behind calls as SFTP has them, with whole seconds, refusals that do not
 * say why, and connections that break in the middle: before a change, after it without its answer,
 * or with a part of the bytes.
 */

#include "sim.h"
#include "sim_queue.h"

#include "replicate/base/cleanup.h"
#include "replicate/base/durable.h"
#include "replicate/base/fault.h"
#include "replicate/digest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <utlist.h>

struct remote_file {
	struct remote_file *next;
	struct plain_remote *remote;
	int fd;
	struct chunk *queue;
};

struct plain_remote {
	struct remote base;
	struct plain_remote *next;
	bool connected;
	struct remote_file *files;
};

static struct plain_remote *all_remotes;

static struct plain_remote *of(const struct remote *r)
{
	return (struct plain_remote *)r;
}

static void drop_connection(struct plain_remote *r)
{
	struct remote_file *f;

	r->connected = false;
	LL_FOREACH (r->files, f) {
		unsigned keep = sim_below(4);

		while (f->queue && keep--)
			queue_take(&f->queue, f->fd, f->queue->len);
		if (f->queue)
			queue_take(&f->queue, f->fd, sim_below((unsigned)f->queue->len + 1));
		queue_drop(&f->queue);
	}
}

void sim_plain_cut(void)
{
	struct plain_remote *r;

	LL_FOREACH (all_remotes, r)
		drop_connection(r);
}

static int check(struct plain_remote *r)
{
	if (!r->connected)
		return -ENOTCONN;
	if (!sim.plain_up) {
		drop_connection(r);
		return -EPIPE;
	}
	return 0;
}

/* Before a change: the connection may end, the process may die, the server may refuse. */
static int before(struct plain_remote *r)
{
	int e = check(r);

	fault_point_hit("sim.plain.before");
	if (e == 0 && sim.plain_faults && sim_chance(1)) {
		drop_connection(r);
		e = -ECONNRESET;
	}
	return e == 0 && sim.plain_refuses ? -EIO : e;
}

/* After one: its answer may be lost. */
static int after(struct plain_remote *r, int result)
{
	int e = result < 0 ? -errno : 0;

	fault_point_hit("sim.plain.after");
	if (sim.plain_faults && sim_chance(1)) {
		drop_connection(r);
		return -ECONNRESET;
	}
	return e == 0 || e == -ENOENT || e == -EACCES ? e : -EIO; /* FX_FAILURE */
}

static void op_disconnect(struct remote *base)
{
	drop_connection(of(base));
}

static void op_free(struct remote *base)
{
	drop_connection(of(base));
	LL_DELETE(all_remotes, of(base));
	free(of(base));
}

static int op_connect(struct remote *base, char **ret_error)
{
	(void)ret_error;
	if (!sim.plain_up)
		return -ECONNREFUSED;
	of(base)->connected = true;
	return 0;
}

static bool op_connected(const struct remote *base)
{
	return of(base)->connected;
}

static unsigned op_features(const struct remote *base)
{
	(void)base;
	return REMOTE_HARDLINK | REMOTE_FSYNC | (sim.seed % 8 < 4 ? REMOTE_DIGEST : 0) |
	       (sim.seed % 2 ? REMOTE_REPLACES : 0) | (sim.seed % 4 < 2 ? REMOTE_LSETATTR : 0);
}

static int op_get(struct remote *base, const char *path, size_t max, char **ret, size_t *ret_len)
{
	int r = check(of(base));

	return r < 0 ? r : durable_read(AT_FDCWD, path, max, ret, ret_len);
}

static int op_put(struct remote *base, const char *path, const void *data, size_t len)
{
	int r = before(of(base));

	return r < 0 ? r : after(of(base), durable_replace(AT_FDCWD, path, data, len, 0600, 0));
}

static int op_mkdir(struct remote *base, const char *path, mode_t mode)
{
	struct stat st;
	int r = before(of(base));

	if (r == 0 && lstat(path, &st) == 0)
		return -EEXIST;
	return r < 0 ? r : after(of(base), mkdir(path, mode));
}

static int op_remove(struct remote *base, const char *path)
{
	int r = before(of(base));

	return r < 0 ? r : after(of(base), unlink(path));
}

static int op_rmdir(struct remote *base, const char *path)
{
	int r = before(of(base));

	return r < 0 ? r : after(of(base), rmdir(path));
}

static int op_rename(struct remote *base, const char *from, const char *to)
{
	struct stat st;
	int r = before(of(base));

	if (r == 0 && !(op_features(base) & REMOTE_REPLACES) && lstat(to, &st) == 0)
		return -EEXIST;
	return r < 0 ? r : after(of(base), rename(from, to));
}

static int op_symlink(struct remote *base, const char *target, const char *path)
{
	int r = before(of(base));

	return r < 0 ? r : after(of(base), symlink(target, path));
}

static int op_link(struct remote *base, const char *from, const char *to)
{
	int r = before(of(base));

	return r < 0 ? r : after(of(base), link(from, to));
}

static int op_readlink(struct remote *base, const char *path, char **ret)
{
	char text[4096];
	int r = check(of(base));
	ssize_t n = r < 0 ? 0 : readlink(path, text, sizeof(text) - 1);

	if (r < 0 || n < 0)
		return r < 0 ? r : -EIO;
	text[n] = '\0';
	*ret = strdup(text);
	return *ret ? 0 : -ENOMEM;
}

static int set_attributes(const char *path, const struct remote_attr *a)
{
	int flags = a->mask & REMOTE_LINK ? AT_SYMLINK_NOFOLLOW : 0;
	struct timespec times[2] = {{.tv_sec = a->atime}, {.tv_sec = a->mtime}};

	if (a->mask & REMOTE_SIZE && truncate(path, (off_t)a->size) < 0)
		return -1;
	if (a->mask & REMOTE_MODE && chmod(path, a->mode) < 0)
		return -1;
	if (a->mask & REMOTE_TIMES && utimensat(AT_FDCWD, path, times, flags) < 0)
		return -1;
	if (a->mask & REMOTE_OWNER && fchownat(AT_FDCWD, path, a->uid, a->gid, flags) < 0)
		return -1;
	return 0;
}

static int op_setattr(struct remote *base, const char *path, const struct remote_attr *a)
{
	int r = before(of(base));

	return r < 0 ? r : after(of(base), set_attributes(path, a));
}

static int stat_of(const char *path, struct stat *ret)
{
	if (lstat(path, ret) < 0)
		return -errno;
	ret->st_mtim.tv_nsec = ret->st_atim.tv_nsec = 0;
	ret->st_nlink = 1;
	return 0;
}

static int op_stat(struct remote *base, const char *path, struct stat *ret)
{
	int r = check(of(base));

	r = r < 0 ? r : stat_of(path, ret);
	return r == -ENOTDIR ? -ENOENT : r;
}

static int op_scan(struct remote *base, const char *path,
	void (*fn)(void *ctx, const char *name, const struct stat *st), void *ctx)
{
	_cleanup_closedir_ DIR *dir = NULL;
	struct dirent *entry;
	int r = check(of(base));

	if (r < 0)
		return r;
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? -ENOENT : -EIO;
	while ((entry = readdir(dir))) {
		char full[4096];
		struct stat st;

		(void)snprintf(full, sizeof(full), "%s/%s", path, entry->d_name);
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
			stat_of(full, &st) == 0)
			fn(ctx, entry->d_name, &st);
	}
	return 0;
}

static int op_batch(struct remote *base, struct remote_call *calls, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct remote_call *c = &calls[i];

		if (c->what == REMOTE_RENAME)
			c->result = op_rename(base, c->path, c->to);
		else if (c->what == REMOTE_SETATTR)
			c->result = op_setattr(base, c->path, &c->attr);
		else
			c->result = op_stat(base, c->path, &c->st);
		if (!of(base)->connected)
			return -ECONNRESET;
	}
	return 0;
}

static int op_open(struct remote *base, const char *path, unsigned flags, mode_t mode,
	struct remote_file **ret)
{
	struct remote_file *f;
	int r = before(of(base));

	if (r < 0)
		return r;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->remote = of(base);
	f->fd = open(path, queue_open_flags(flags), mode);
	r = after(of(base), f->fd);
	if (r < 0) {
		if (f->fd >= 0)
			(void)close(f->fd);
		free(f);
		return r;
	}
	LL_PREPEND(of(base)->files, f);
	*ret = f;
	return 0;
}

static int op_write(struct remote_file *f, uint64_t offset, const void *data, size_t len)
{
	int r = check(f->remote);

	if (r < 0)
		return r;
	queue_add(&f->queue, offset, data, len);
	return 0;
}

static int op_drain(struct remote_file *f)
{
	int r = check(f->remote);

	while (r == 0 && f->queue) {
		queue_take(&f->queue, f->fd, f->queue->len);
		r = before(f->remote);
	}
	return r;
}

static int op_digest(struct remote_file *f, const char *name, uint8_t *dst, uint8_t *ret_len)
{
	_cleanup_free_ uint8_t *data = NULL;
	struct stat st;
	int r = op_drain(f);

	if (r < 0 || fstat(f->fd, &st) < 0)
		return r < 0 ? r : -EIO;
	data = malloc((size_t)st.st_size + 1);
	if (!data || pread_all(f->fd, data, (size_t)st.st_size, 0) < 0)
		return -EIO;
	return digest_of(name, data, (size_t)st.st_size, dst, ret_len);
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
	(void)timeout_ms, (void)wake_fd;
	return check(of(base));
}

static const struct remote_ops plain_ops = {
	.free = op_free,
	.connect = op_connect,
	.disconnect = op_disconnect,
	.get = op_get,
	.put = op_put,
	.mkdir = op_mkdir,
	.remove = op_remove,
	.stat = op_stat,
	.open = op_open,
	.write = op_write,
	.drain = op_drain,
	.close = op_close,
	.turn = op_turn,
	.connected = op_connected,
	.features = op_features,
	.rename = op_rename,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.readlink = op_readlink,
	.link = op_link,
	.setattr = op_setattr,
	.scan = op_scan,
	.batch = op_batch,
	.fsync = op_drain,
	.digest = op_digest,
};

int sim_plain_new(struct remote **ret)
{
	struct plain_remote *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->base.ops = &plain_ops;
	LL_PREPEND(all_remotes, r);
	*ret = &r->base;
	return 0;
}

void sim_plain_compare(void)
{
	char command[4096], why[64] = "";
	FILE *f;

	/* as in sim.c, in whole seconds, without link counts and the root's time */
	(void)snprintf(command, sizeof(command),
		"for d in %s %s; do (cd $d && find . -mindepth 1 -path ./.tandemfs -prune -o "
		"-mindepth 1 ! -type l -printf '%%P %%y %%m %%T@\\n' -o -mindepth 1 -printf "
		"'%%P %%y %%l\\n' | sed -E 's/\\.[0-9]+$//' | sort > $d.plain); done; "
		"diff -u %s.plain %s.plain >&2 && diff -r --no-dereference -x .tandemfs %s %s >&2 && "
		"echo same",
		sim.nodes[0].backing, sim.plain_dir, sim.nodes[0].backing, sim.plain_dir,
		sim.nodes[0].backing, sim.plain_dir);
	f = popen(command, "r");
	if (!f || !fgets(why, sizeof(why), f) || strcmp(why, "same\n") != 0)
		sim_fail("the plain peer's tree differs");
	(void)pclose(f);
}
