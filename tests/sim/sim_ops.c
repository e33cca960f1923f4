/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Changes on a node, made the way in which the file system makes them: the record first, then the
 * system call, then the directory's time; OP_CREATE or OP_DIRTY when a file begins to change,
 * OP_CONTENT when it is closed, and before its name changes.
 */

#include "sim.h"

#include "replicate/base/cleanup.h"
#include "replicate/base/confine.h"
#include "replicate/base/fault.h"
#include "replicate/content.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static void make_name(struct sim_node *n, char *dst, size_t size)
{
	static const char *const dirs[] = {"", "d0/", "d1/", "d0/e/"};
	char owner = sim.shared_names ? 'x' : (char)('x' + (int)n->index);

	(void)snprintf(dst, size, "%s%c%u", dirs[sim_below(4)], owner, sim_below(4));
}

static void dir_of(const char *path, char *dst, size_t size)
{
	(void)snprintf(dst, size, "%.*s", (int)confine_parent_len(path), path);
}

struct change {
	struct sim_node *n;
	struct op op;
	struct tree_guard guard;
	bool renames;
};

static int begin(struct change *c)
{
	struct replica *r = c->n->replica;

	c->renames = c->op.type == OP_RENAME;
	tree_lock(replica_tree(r), c->renames ? TREE_RENAME : TREE_CHANGE);
	if (!c->renames)
		tree_guard(replica_tree(r), c->op.path, c->op.path2, &c->guard);
	c->op.time = replica_now(r);
	return replica_log(r, &c->op);
}

static void touch_parent(struct change *c, const char *path)
{
	char dir[128];

	dir_of(path, dir, sizeof(dir));
	replica_touch(c->n->replica, dir, c->op.time);
}

static void end(struct change *c, int error)
{
	struct replica *r = c->n->replica;

	if (error == 0) {
		if (c->op.type != OP_LINK)
			touch_parent(c, c->op.path);
		if (c->op.path2 && c->op.type != OP_SYMLINK)
			touch_parent(c, c->op.path2);
	}
	fault_point_hit("sim.before_done");
	if (c->op.seq)
		replica_done(r, c->op.seq, -error);
	if (!c->renames)
		tree_unguard(&c->guard);
	tree_unlock(replica_tree(r));
	sim.ops += error == 0;
	sim_trace("node %u: %s %s %s: %s", c->n->index, op_name(c->op.type), c->op.path,
		c->op.path2 ?: "", error ? strerror(error) : "done");
	op_clear(&c->op);
}

static struct sim_open_file *find_open(struct sim_node *n, const char *path)
{
	for (unsigned i = 0; i < n->n_open; i++)
		if (strcmp(n->open[i].path, path) == 0)
			return &n->open[i];
	return NULL;
}

static void forget_open(struct sim_node *n, struct sim_open_file *f)
{
	(void)close(f->fd);
	*f = n->open[--n->n_open];
}

void sim_forget_open(struct sim_node *n)
{
	while (n->n_open)
		forget_open(n, &n->open[0]);
}

/* ---- versions ---- */

void sim_versions_of(int fd, struct sim_versions *dst)
{
	static char text[200001];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	for (const char *p = text; (p = strstr(p, "node ")); p++) {
		unsigned node, version;
		int len = 0;

		if (sscanf(p, "node %u version %u%n", &node, &version, &len) == 2 &&
			p[len] == '\n' && node < NODES && version < SIM_VERSIONS)
			dst->has[node][version] = true;
	}
}

static void versions_at(struct sim_node *n, const char *path, struct sim_versions *dst)
{
	_cleanup_close_ int fd = confine_open(n->root, path, O_RDONLY, 0);

	memset(dst, 0, sizeof(*dst));
	if (fd >= 0)
		sim_versions_of(fd, dst);
}

/* What was seen before a change and is not there after it was overwritten knowingly. */
static void versions_end(const struct sim_versions *before, const struct sim_versions *after)
{
	for (unsigned i = 0; i < NODES; i++)
		for (unsigned k = 0; k < SIM_VERSIONS; k++)
			if (before->has[i][k] && !after->has[i][k])
				sim.live.has[i][k] = false;
}

/* One of two names was removed. If the other node removed the other one, both did so knowingly. */
static void versions_parted(struct sim_node *n, const struct sim_versions *before)
{
	for (unsigned i = 0; i < NODES; i++)
		for (unsigned k = 0; k < SIM_VERSIONS; k++) {
			bool *parted = &sim.parted[n->index].has[i][k];

			*parted = *parted || before->has[i][k];
			if (*parted && sim.parted[1 - n->index].has[i][k])
				sim.live.has[i][k] = false;
		}
}

/* The file at @path is about to lose this name. */
static void versions_gone(struct sim_node *n, const char *path, const struct stat *st)
{
	static struct sim_versions before, none;

	if (!S_ISREG(st->st_mode))
		return;
	versions_at(n, path, &before);
	if (st->st_nlink == 1)
		versions_end(&before, &none);
	else
		versions_parted(n, &before);
}

/* ---- what is open ---- */

/* The names of open files follow the peer's renames; one whose name has another inode now is an
 * orphan. */
static void follow_rename(struct sim_open_file *f, const char *from, const char *to)
{
	char now[256];

	(void)snprintf(now, sizeof(now), "%s%s", to, f->path + strlen(from));
	(void)snprintf(f->path, sizeof(f->path), "%.127s", now);
}

void sim_applied(void *ctx, const struct op *op, const struct apply_result *result)
{
	struct sim_node *n = ctx;

	(void)result;
	for (unsigned i = 0; i < n->n_open; i++) {
		struct sim_open_file *f = &n->open[i];
		struct fid fid;

		if (!f->path[0])
			continue;
		if (op->type == OP_RENAME && confine_below(f->path, op->path))
			follow_rename(f, op->path, op->path2);
		else if (op->flags & OP_EXCHANGE && confine_below(f->path, op->path2))
			follow_rename(f, op->path2, op->path);
		if (fid_of_path(n->root, f->path, &fid) < 0 || !fid_equal(&fid, &f->fid))
			f->path[0] = '\0';
	}
}

static size_t write_text(struct sim_node *n, int fd, off_t at);
static void end_growth(struct sim_node *n, struct sim_open_file *f);

static void close_file(struct sim_node *n, struct sim_open_file *f);

/* Another name of the file, as the file system looks for one. */
static bool find_name(struct sim_node *n, ino_t ino, char dst[128])
{
	static const char *const dirs[] = {"", "d0/", "d1/", "d0/e/"};

	for (unsigned d = 0; d < 4; d++)
		for (const char *c = "xyz"; *c; c++)
			for (unsigned i = 0; i < 4; i++) {
				struct stat st;

				(void)snprintf(dst, 128, "%s%c%u", dirs[d], *c, i);
				if (confine_stat(n->root, dst, &st) == 0 && st.st_ino == ino)
					return true;
			}
	dst[0] = '\0';
	return false;
}

/* The file lost its name to the peer's version: what was written is to be in the vault. */
static void close_orphan(struct sim_node *n, struct sim_open_file *f)
{
	bool written = sim_chance(50);
	struct stat st;
	int e = -ENOENT;

	if (written) {
		(void)write_text(n, f->fd, 0);
		end_growth(n, f);
	}
	if (fstat(f->fd, &st) == 0 && st.st_nlink > 0 && find_name(n, st.st_ino, f->path)) {
		close_file(n, f);
		return;
	}
	if (written)
		e = replica_orphan_changed(n->replica, &f->fid, "lost", f->fd);
	if (e == 0)
		replica_orphan_forget(n->replica, &f->fid);
	else
		e = replica_orphan_closed(n->replica, &f->fid);
	if (e < 0 && st.st_nlink > 0)
		sim_fail("an open file is gone and not in the vault: %s", strerror(-e));
	sim_trace("node %u: closes an orphan", n->index);
	replica_clean(n->replica, f->dirty_seq);
	forget_open(n, f);
}

/* The OP_CONTENT of a file that was changed. */
static void close_file(struct sim_node *n, struct sim_open_file *f)
{
	struct op op = {.type = OP_CONTENT, .flags = f->whole ? OP_WHOLE : 0};

	if (!f->path[0]) {
		close_orphan(n, f);
		return;
	}
	op.path = strdup(f->path);
	if (!f->whole) {
		op.ranges = calloc(1, sizeof(*op.ranges));
		op.ranges[0] = (struct range){0, 1 << 20};
		op.n_ranges = 1;
	}
	if (fid_of_path(n->root, f->path, &op.fid) < 0)
		sim_fail("an open file is gone: %s", f->path);
	if (replica_note(n->replica, &op) < 0)
		sim_fail("journal");
	sim_trace("node %u: content %s (%llu)", n->index, f->path, (unsigned long long)op.seq);
	replica_clean(n->replica, f->dirty_seq);
	forget_open(n, f);
	op_clear(&op);
}

void sim_close_all(struct sim_node *n)
{
	while (n->n_open)
		close_file(n, &n->open[0]);
}

static void close_below(struct sim_node *n, const char *dir)
{
	for (unsigned i = 0; i < n->n_open;)
		if (confine_below(n->open[i].path, dir))
			close_file(n, &n->open[i]);
		else
			i++;
}

/* What was written by a name that goes is in the file by its others. */
static void close_linked(struct sim_node *n, const char *path, const struct stat *st)
{
	struct sim_open_file *f = find_open(n, path);

	if (f && st->st_nlink > 1)
		close_file(n, f);
}

static void note_open(struct sim_node *n, const char *path, uint64_t seq, bool whole)
{
	struct sim_open_file *f;

	if (n->n_open == SIM_OPEN_MAX)
		close_file(n, &n->open[0]);
	f = &n->open[n->n_open++];
	f->fd = confine_open(n->root, path, O_RDWR, 0);
	if (f->fd < 0 || fid_of_fd(f->fd, &f->fid) < 0)
		sim_fail("open %s", path);
	(void)snprintf(f->path, sizeof(f->path), "%s", path);
	f->dirty_seq = seq;
	f->whole = whole;
	f->front = 0;
}

/* The clock of the machine has no say in who wins. */
static void written_now(struct sim_node *n, int fd)
{
	uint64_t now = replica_now(n->replica);
	struct timespec times[2] = {
		{.tv_sec = (time_t)(now / 1000000000u), .tv_nsec = (long)(now % 1000000000u)}};

	times[1] = times[0];
	if (futimens(fd, times) < 0)
		sim_fail("futimens: %s", strerror(errno));
}

/* A file so long that it goes by way of the stage; some are told of while they grow. */
#define BIG 1300000

static void fill(struct sim_node *n, int fd, uint64_t from, uint64_t to)
{
	static char big[BIG];

	memset(big, 'a' + (int)(++n->counter % 26), sizeof(big));
	if (pwrite(fd, big, (size_t)(to - from), (off_t)from) != (ssize_t)(to - from))
		sim_fail("write: %s", strerror(errno));
	written_now(n, fd);
}

static void grow_to(struct sim_node *n, struct sim_open_file *f, uint64_t from, uint64_t front)
{
	fill(n, f->fd, from, front);
	f->front = front;
	replica_grown(n->replica, f->dirty_seq, &f->fid, front);
}

static void end_growth(struct sim_node *n, struct sim_open_file *f)
{
	if (f->front)
		replica_rewritten(n->replica, f->dirty_seq);
	f->front = 0;
}

/* A writer goes on where it was, or changes what it has written behind the text. */
static void grow_file(struct sim_node *n, struct sim_open_file *f)
{
	uint64_t front = f->front + 1 + sim_below(BIG / 2);

	if (sim_chance(80) && front < BIG) {
		grow_to(n, f, f->front, front);
		return;
	}
	fill(n, f->fd, f->front - sim_below(BIG / 4), f->front);
	end_growth(n, f);
}

static void begin_growth(struct sim_node *n, const char *path)
{
	struct sim_open_file *f = find_open(n, path);
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		sim_fail("fstat: %s", strerror(errno));
	grow_to(n, f, (uint64_t)st.st_size, BIG / 2);
}

static void trace_version(const struct sim_node *n, int fd)
{
	char self[32], path[300];
	ssize_t len;

	(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	len = readlink(self, path, sizeof(path));
	sim_trace(
		"node %u: version %u in %.*s", n->index, n->counter, len > 0 ? (int)len : 0, path);
}

static size_t write_text(struct sim_node *n, int fd, off_t at)
{
	static struct sim_versions before, after;
	char text[256];
	int len;

	memset(&before, 0, sizeof(before));
	memset(&after, 0, sizeof(after));
	sim_versions_of(fd, &before);
	len = snprintf(text, sizeof(text), "node %u version %u\n", n->index, ++n->counter);

	if (pwrite(fd, text, (size_t)len, at) != len)
		sim_fail("write: %s", strerror(errno));
	/* sometimes so long that it goes by way of the stage */
	if (sim_chance(15) && ftruncate(fd, 0) == 0) {
		static char big[100000];

		memset(big, 'a' + (int)(n->counter % 26), sizeof(big));
		memcpy(big, text, (size_t)len);
		if (pwrite(fd, big, sizeof(big), 0) != sizeof(big))
			sim_fail("write: %s", strerror(errno));
	}
	written_now(n, fd);
	sim_versions_of(fd, &after);
	versions_end(&before, &after);
	sim.live.has[n->index][n->counter] = after.has[n->index][n->counter];
	trace_version(n, fd);
	return (size_t)len;
}

static void create_file(struct sim_node *n, const char *path)
{
	struct change c = {.n = n,
		.op = {.type = OP_CREATE, .path = strdup(path), .mode = 0644, .mask = OP_MODE}};
	struct stat st;
	int e, fd = -1;
	uint64_t seq;

	if (confine_stat(n->root, path, &st) == 0) {
		free(c.op.path);
		return;
	}
	e = begin(&c);
	if (e == 0) {
		fd = confine_open(n->root, path, O_RDWR | O_CREAT | O_EXCL, 0644);
		e = fd < 0 ? fd : 0;
	}
	seq = c.op.seq;
	end(&c, -e);
	if (e < 0)
		return;
	(void)write_text(n, fd, 0);
	(void)close(fd);
	note_open(n, path, seq, true);
	if (sim_chance(60))
		begin_growth(n, path);
}

static void change_file(struct sim_node *n, const char *path, bool truncate)
{
	struct sim_open_file *f = find_open(n, path);
	struct op op = {.type = OP_DIRTY, .flags = truncate ? OP_WHOLE : 0};
	struct stat st;
	int fd;

	if (confine_stat(n->root, path, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	if (f && truncate && !f->whole)
		close_file(n, f);
	if (!find_open(n, path)) {
		op.path = strdup(path);
		if (fid_of_path(n->root, path, &op.fid) < 0 || replica_note(n->replica, &op) < 0)
			sim_fail("note");
		note_open(n, path, op.seq, truncate);
		op_clear(&op);
	}
	if (truncate) {
		static struct sim_versions before, none;

		versions_at(n, path, &before);
		versions_end(&before, &none);
	}
	fd = confine_open(n->root, path, O_RDWR | (truncate ? O_TRUNC : 0), 0);
	if (fd < 0)
		sim_fail("open %s: %s", path, strerror(-fd));
	(void)write_text(n, fd, truncate ? 0 : (off_t)sim_below(40));
	(void)close(fd);
	end_growth(n, find_open(n, path));
}

static void remove_name(struct sim_node *n, const char *path, bool dir)
{
	struct change c = {
		.n = n, .op = {.type = dir ? OP_RMDIR : OP_UNLINK, .path = strdup(path)}};
	struct sim_open_file *f;
	_cleanup_close_ int parent = -1;
	const char *name;
	struct stat st;
	int e;

	if (fid_of_path(n->root, path, &c.op.fid) < 0 || confine_stat(n->root, path, &st) < 0) {
		free(c.op.path);
		return;
	}
	close_linked(n, path, &st);
	e = begin(&c);
	if (e == 0)
		e = confine_parent(n->root, path, &parent, &name);
	if (e == 0)
		versions_gone(n, path, &st);
	if (e == 0 && unlinkat(parent, name, dir ? AT_REMOVEDIR : 0) < 0)
		e = -errno;
	end(&c, -e);
	f = e == 0 ? find_open(n, path) : NULL;
	if (f) {
		replica_clean(n->replica, f->dirty_seq);
		forget_open(n, f);
	}
}

static void rename_name(struct sim_node *n, const char *from, const char *to)
{
	struct change c = {
		.n = n, .op = {.type = OP_RENAME, .path = strdup(from), .path2 = strdup(to)}};
	struct stat a, b;
	struct sim_open_file *f;
	_cleanup_close_ int dir1 = -1, dir2 = -1;
	const char *name1, *name2;
	bool replaced;
	int e;

	if (confine_stat(n->root, from, &a) < 0 || fid_of_path(n->root, from, &c.op.fid) < 0 ||
		strcmp(from, to) == 0 || confine_below(to, from)) {
		op_clear(&c.op);
		return;
	}
	close_below(n, from);
	replaced = confine_stat(n->root, to, &b) == 0;
	if (replaced && (S_ISDIR(a.st_mode) != S_ISDIR(b.st_mode) || a.st_ino == b.st_ino)) {
		op_clear(&c.op);
		return;
	}
	if (replaced)
		close_linked(n, to, &b);
	c.op.flags = (S_ISDIR(a.st_mode) ? OP_IS_DIR : 0) | (replaced ? OP_REPLACED : 0);
	e = begin(&c);
	if (e == 0)
		e = confine_parent(n->root, from, &dir1, &name1);
	if (e == 0)
		e = confine_parent(n->root, to, &dir2, &name2);
	if (e == 0 && replaced)
		versions_gone(n, to, &b);
	if (e == 0 && renameat(dir1, name1, dir2, name2) < 0)
		e = -errno;
	end(&c, -e);
	f = e == 0 ? find_open(n, to) : NULL;
	if (f) {
		replica_clean(n->replica, f->dirty_seq);
		forget_open(n, f);
	}
}

static void make_dir(struct sim_node *n, const char *path)
{
	struct change c = {.n = n,
		.op = {.type = OP_MKDIR,
			.path = strdup(path),
			.mode = 0755,
			.mask = OP_MODE | OP_UID | OP_GID}};
	struct stat st;
	_cleanup_close_ int parent = -1;
	const char *name;
	int e;

	if (confine_stat(n->root, path, &st) == 0) {
		free(c.op.path);
		return;
	}
	e = begin(&c);
	if (e == 0)
		e = confine_parent(n->root, path, &parent, &name);
	if (e == 0 && mkdirat(parent, name, 0755) < 0)
		e = -errno;
	if (e == 0)
		replica_touch(n->replica, path, c.op.time);
	end(&c, -e);
}

static void make_link(struct sim_node *n, const char *from, const char *to)
{
	struct change c = {
		.n = n, .op = {.type = OP_LINK, .path = strdup(from), .path2 = strdup(to)}};
	struct stat st, other;
	_cleanup_close_ int dir1 = -1, dir2 = -1;
	const char *name1, *name2;
	struct sim_open_file *f;
	int e;

	if (confine_stat(n->root, from, &st) < 0 || !S_ISREG(st.st_mode) ||
		confine_stat(n->root, to, &other) == 0 ||
		fid_of_path(n->root, from, &c.op.fid) < 0) {
		op_clear(&c.op);
		return;
	}
	f = find_open(n, from);
	if (f)
		close_file(n, f);
	e = begin(&c);
	if (e == 0)
		e = confine_parent(n->root, from, &dir1, &name1);
	if (e == 0)
		e = confine_parent(n->root, to, &dir2, &name2);
	if (e == 0 && linkat(dir1, name1, dir2, name2, 0) < 0)
		e = -errno;
	end(&c, -e);
}

static void set_mode(struct sim_node *n, const char *path)
{
	struct change c = {
		.n = n, .op = {.type = OP_SETATTR, .path = strdup(path), .mask = OP_MODE}};
	struct stat st;
	_cleanup_close_ int fd = -1;
	char proc[64];
	int e;

	if (confine_stat(n->root, path, &st) < 0 || S_ISLNK(st.st_mode) || find_open(n, path) ||
		fid_of_path(n->root, path, &c.op.fid) < 0) {
		op_clear(&c.op);
		return;
	}
	c.op.mode = 0600 + sim_below(8) * 8 + sim_below(8);
	c.op.flags = S_ISDIR(st.st_mode) ? OP_IS_DIR : 0;
	e = begin(&c);
	fd = confine_open(n->root, path, O_PATH, 0);
	(void)snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	if (e == 0 && chmod(proc, c.op.mode) < 0)
		e = -errno;
	fault_point_hit("sim.before_done");
	if (c.op.seq)
		replica_done(n->replica, c.op.seq, e);
	tree_unguard(&c.guard);
	tree_unlock(replica_tree(n->replica));
	sim_trace("node %u: chmod %s", n->index, path);
	op_clear(&c.op);
}

/* An fsync, of an open file or a closed one: of one that is written whole the content comes with
 * its close. */
static void sync_file(struct sim_node *n, const char *path)
{
	struct sim_open_file *f = find_open(n, path);
	_cleanup_op_ struct op op = {.type = OP_FSYNC, .path = strdup(path)};
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (confine_stat(n->root, path, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	if (f && !f->whole)
		close_file(n, f);
	fd = confine_open(n->root, op.path, O_RDONLY, 0); /* @path was perhaps that of @f */
	op.time = replica_now(n->replica);
	if (fd < 0 || fsync(fd) < 0 || fid_of_fd(fd, &op.fid) < 0 ||
		replica_note(n->replica, &op) < 0 || replica_sync_journal(n->replica, op.seq) < 0)
		sim_fail("fsync of %s: %s", op.path, strerror(errno));
	sim_versions_of(fd, &sim.synced);
	sim_trace("node %u: fsync %s (%llu)", n->index, op.path, (unsigned long long)op.seq);
}

void sim_local_change(struct sim_node *n)
{
	static const char *const shared_dirs[] = {"d0", "d1", "d0/e"};
	char a[64], b[64];

	make_name(n, a, sizeof(a));
	make_name(n, b, sizeof(b));
	for (unsigned i = 0; i < n->n_open; i++)
		if (n->open[i].front && sim_chance(50))
			grow_file(n, &n->open[i]);
	if (sim.power && sim_chance(15)) {
		sync_file(n, n->n_open ? n->open[sim_below(n->n_open)].path : a);
		return;
	}
	switch (sim_below(14)) {
	case 0:
	case 1:
	case 2:
		create_file(n, a);
		break;
	case 3:
		change_file(n, a, true);
		break;
	case 4:
	case 5:
		change_file(n, a, false);
		break;
	case 6:
		remove_name(n, a, false);
		break;
	case 7:
	case 8:
		rename_name(n, a, b);
		break;
	case 9:
		make_link(n, a, b);
		break;
	case 10:
		set_mode(n, a);
		break;
	case 11:
		if (n->n_open)
			close_file(n, &n->open[sim_below(n->n_open)]);
		break;
	case 12:
		if (sim.shared_names || n->index == 0)
			make_dir(n, shared_dirs[sim_below(3)]);
		break;
	default:
		if (sim.shared_names)
			remove_name(n, shared_dirs[sim_below(3)], true);
		else
			sim_close_all(n);
	}
}
