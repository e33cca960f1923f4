/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "replicate/apply.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/durable.h"
#include "replicate/content.h"
#include "replicate/digest.h"

/*
 * Each test has a directory of its own: root, scratch, stage and outside side by side. Every op
 * goes through applied(), which applies it twice and checks that the second time left the tree as
 * the first did. Needs root for owners and devices; without it those tests are skipped.
 */

#define T0 1700000000123456789ull /* of ops and files */

struct fixture {
	char base[96];
	int dir;
	struct apply_target t;
	unsigned alive;
};

static void count_alive(void *ctx)
{
	++*(unsigned *)ctx;
}

static int open_sub(struct fixture *f, const char *name)
{
	int fd;

	assert_int_equal(mkdirat(f->dir, name, 0755), 0);
	fd = openat(f->dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void fixture_dirs(struct fixture *f)
{
	f->dir = open(f->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->dir >= 0);
	f->t.root = open_sub(f, "root");
	f->t.scratch = open_sub(f, "scratch");
	f->t.stage = open_sub(f, "stage");
	assert_int_equal(mkdirat(f->dir, "outside", 0755), 0);
	f->t.alive = count_alive;
	f->t.ctx = &f->alive;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	umask(077); /* must not matter */
	strcpy(f->base, "/tmp/test_apply.XXXXXX");
	assert_non_null(mkdtemp(f->base));
	fixture_dirs(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	close(f->t.root);
	close(f->t.scratch);
	close(f->t.stage);
	close(f->dir);
	snprintf(command, sizeof(command), "rm -rf %s", f->base);
	assert_int_equal(system(command), 0);
	free(f);
	return 0;
}

static void need_root(void)
{
	if (geteuid() != 0)
		skip();
}

/* ---- looking at the tree ---- */

static struct stat stat_of(int dir, const char *path)
{
	struct stat st = {0};

	if (fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		assert_int_equal(errno, ENOENT);
	return st;
}

static int64_t mtime_of(int dir, const char *path)
{
	struct stat st = stat_of(dir, path);

	return (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

static void set_mtime(int dir, const char *path, int64_t ns)
{
	struct timespec ts[2] = {
		{.tv_nsec = UTIME_OMIT}, {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000}};

	assert_int_equal(utimensat(dir, path, ts, AT_SYMLINK_NOFOLLOW), 0);
}

static unsigned count_names(int dir)
{
	_cleanup_closedir_ DIR *d = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY));
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	return n - 2;
}

/* Name, inode, mode, owner, size, mtime, bytes and xattrs of all below root, as one text. */
static char *snapshot(struct fixture *f)
{
	char command[512];
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r;

	snprintf(command, sizeof(command),
		"cd %s && { find root -printf '%%p %%i %%m %%U %%G %%s %%T@ %%n %%l\\n' | sort;"
		" find root -type f | sort | xargs -r md5sum;"
		" getfattr -hRd -m - root 2>/dev/null; } >snap",
		f->base);
	assert_int_equal(system(command), 0);
	r = durable_read(f->dir, "snap", 1 << 20, &text, &len);
	assert_int_equal(r, 0);
	return steal_pointer(&text);
}

static void put_file(int dir, const char *path, const char *text)
{
	_cleanup_close_ int fd = openat(dir, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write_all(fd, text, strlen(text)), 0);
}

static void assert_file(int dir, const char *path, const char *text)
{
	_cleanup_free_ char *got = NULL;
	size_t len;

	assert_int_equal(durable_read(dir, path, 1 << 20, &got, &len), 0);
	assert_int_equal(len, strlen(text));
	assert_memory_equal(got, text, len);
}

/* ---- making ops; all strings are borrowed, so ops are not cleared ---- */

static struct op op_of(enum op_type type, const char *path, const char *path2)
{
	return (struct op){.type = type,
		.path = (char *)path,
		.path2 = (char *)path2,
		.time = T0,
		.mode = 0750,
		.uid = geteuid(),
		.gid = getegid()};
}

static struct range whole_of(const char *text)
{
	return (struct range){0, strlen(text)};
}

static struct content content_of(const char *data, uint64_t size, struct range *e, size_t n)
{
	struct content c = {.size = size,
		.extents = e,
		.n_extents = n,
		.data = (uint8_t *)data,
		.data_len = strlen(data),
		.digest_name = "sha256"};

	assert_int_equal(digest_of("sha256", data, strlen(data), c.digest, &c.digest_len), 0);
	return c;
}

/* As content_of, the data in the stage. */
static struct content staged(struct fixture *f, const char *name, const char *data, uint64_t size,
	struct range *e, size_t n)
{
	struct content c = content_of(data, size, e, n);

	put_file(f->t.stage, name, data);
	c.data = NULL;
	strcpy(c.stage, name);
	return c;
}

static struct op content_op(const char *path, struct content *c, uint32_t flags)
{
	struct op op = op_of(OP_CONTENT, path, NULL);

	op.flags = flags;
	op.mask = OP_MODE | OP_UID | OP_GID | OP_MTIME;
	op.mode = 0640;
	op.mtime = (int64_t)T0 + 7;
	op.content = c;
	return op;
}

static int apply(struct fixture *f, const struct op *op, struct apply_result *ret)
{
	return op_apply(&f->t, op, ret);
}

/* Applies, and again: the same tree, nothing left behind. */
static struct apply_result applied(struct fixture *f, struct op *op)
{
	_cleanup_free_ char *once = NULL, *twice = NULL;
	struct apply_result first, second;
	const char *where = op->type == OP_RENAME || op->type == OP_LINK ? op->path2 : op->path;
	struct stat st;

	if (op->type == OP_RENAME)
		(void)fid_of_path(f->t.root, op->path, &op->fid);
	assert_int_equal(apply(f, op, &first), 0);
	once = snapshot(f);
	assert_int_equal(apply(f, op, &second), 0);
	twice = snapshot(f);
	if (op->type != OP_CONTENT || !(op->flags & OP_WHOLE)) /* that has a new inode */
		assert_string_equal(once, twice);
	st = stat_of(f->t.root, where[0] ? where : ".");
	assert_int_equal(first.after.st_ino == 0, st.st_ino == 0);
	assert_int_equal(second.after.st_ino, st.st_ino);
	assert_int_equal(count_names(f->t.scratch), 0);
	return first;
}

static void refused(struct fixture *f, struct op *op, int error)
{
	_cleanup_free_ char *before = snapshot(f), *after = NULL;
	struct apply_result ret;

	assert_int_equal(apply(f, op, &ret), error);
	after = snapshot(f);
	assert_string_equal(before, after);
	assert_int_equal(count_names(f->t.scratch), 0);
}

/* ---- names ---- */

static void makes_directory(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_MKDIR, "d", NULL);
	struct apply_result ret;
	struct stat st;

	set_mtime(f->t.root, ".", (int64_t)T0 - 1000);
	op.mode = 02777;
	ret = applied(f, &op);
	st = stat_of(f->t.root, "d");
	assert_int_equal(st.st_mode, S_IFDIR | 02777);
	assert_int_equal(mtime_of(f->t.root, "d"), T0);
	assert_int_equal(mtime_of(f->t.root, "."), T0);
	assert_true(ret.changed && !ret.new_inode && !ret.before.st_ino);
	assert_int_equal(ret.after.st_ino, st.st_ino);
	op.mode = 0700;
	put_file(f->t.root, "d/x", "");
	ret = applied(f, &op);
	assert_int_equal(stat_of(f->t.root, "d").st_mode, S_IFDIR | 0700);
	assert_true(ret.changed && !ret.new_inode);
	assert_int_equal(op_applied(f->t.root, &op), 1);
}

static void newer_parent_keeps_its_mtime(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_MKDIR, "d", NULL);

	set_mtime(f->t.root, ".", (int64_t)T0 + 5);
	applied(f, &op);
	assert_int_equal(mtime_of(f->t.root, "."), T0 + 5);
	op = op_of(OP_RMDIR, "d", NULL);
	applied(f, &op);
	assert_int_equal(mtime_of(f->t.root, "."), T0 + 5);
	assert_int_equal(apply_touch(f->t.root, "", T0, false), 0);
	assert_int_equal(mtime_of(f->t.root, "."), T0 + 5);
	assert_int_equal(apply_touch(f->t.root, "", T0, true), 0);
	assert_int_equal(mtime_of(f->t.root, "."), T0);
}

static void makes_symlink(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_SYMLINK, "l", "../outside");
	struct op other = op_of(OP_SYMLINK, "l", "elsewhere");
	char text[64];

	applied(f, &op);
	assert_int_equal(readlinkat(f->t.root, "l", text, sizeof(text)), 10);
	assert_memory_equal(text, "../outside", 10);
	assert_int_equal(mtime_of(f->t.root, "l"), T0);
	assert_int_equal(op_applied(f->t.root, &op), 1);
	assert_int_equal(op_applied(f->t.root, &other), 0);
	refused(f, &other, -EEXIST);
}

static void makes_nodes_with_owner(void **state)
{
	static const struct {
		const char *name;
		uint32_t mode;
		uint64_t rdev;
	} nodes[] = {{"fifo", S_IFIFO | 0622, 0}, {"sock", S_IFSOCK | 0700, 0},
		{"null", S_IFCHR | 04666, 0x103}};
	struct fixture *f = *state;
	struct stat st;
	size_t i;

	need_root();
	for (i = 0; i < 3; i++) {
		struct op op = op_of(OP_MKNOD, nodes[i].name, NULL);

		op.mode = nodes[i].mode;
		op.rdev = nodes[i].rdev;
		op.uid = 12345;
		op.gid = 54321;
		applied(f, &op);
		st = stat_of(f->t.root, nodes[i].name);
		assert_int_equal(st.st_mode, nodes[i].mode);
		assert_int_equal(st.st_rdev, nodes[i].rdev);
		assert_int_equal(st.st_uid, 12345);
		assert_int_equal(st.st_gid, 54321);
		assert_int_equal(mtime_of(f->t.root, nodes[i].name), T0);
		op.mode ^= 0111;
		applied(f, &op);
		assert_int_equal(stat_of(f->t.root, nodes[i].name).st_mode, op.mode);
	}
}

static void another_kind_is_in_the_way(void **state)
{
	struct fixture *f = *state;
	struct op dir = op_of(OP_MKDIR, "file", NULL);
	struct op link = op_of(OP_SYMLINK, "dir", "x");
	struct op fifo = op_of(OP_MKNOD, "file", NULL);
	struct range e = whole_of("x");
	struct content c = content_of("x", 1, &e, 1);
	struct op whole = content_op("dir", &c, OP_WHOLE);
	struct op over_link = content_op("lnk", &c, OP_WHOLE);

	put_file(f->t.root, "file", "text");
	assert_int_equal(mkdirat(f->t.root, "dir", 0755), 0);
	assert_int_equal(symlinkat("file", f->t.root, "lnk"), 0);
	fifo.mode |= S_IFIFO;
	refused(f, &dir, -EEXIST);
	refused(f, &link, -EEXIST);
	refused(f, &fifo, -EEXIST);
	refused(f, &whole, -EISDIR);
	refused(f, &over_link, -EEXIST);
}

static void links_and_unlinks(void **state)
{
	struct fixture *f = *state;
	struct op link = op_of(OP_LINK, "a", "b"), gone = op_of(OP_LINK, "none", "c");
	struct op unlink = op_of(OP_UNLINK, "b", NULL);
	struct apply_result ret;

	put_file(f->t.root, "a", "text");
	put_file(f->t.root, "c", "other");
	set_mtime(f->t.root, ".", (int64_t)T0 - 1);
	assert_int_equal(op_applied(f->t.root, &link), 0);
	ret = applied(f, &link);
	assert_true(ret.changed);
	assert_int_equal(ret.after.st_nlink, 2);
	assert_int_equal(mtime_of(f->t.root, "."), T0);
	assert_int_equal(op_applied(f->t.root, &link), 1);
	refused(f, &gone, -ENOENT);
	gone.flags = OP_GONE;
	applied(f, &gone);
	link.path2 = (char *)"c";
	refused(f, &link, -EEXIST);
	assert_int_equal(op_applied(f->t.root, &unlink), 0);
	ret = applied(f, &unlink);
	assert_true(ret.changed && ret.before.st_ino && !ret.after.st_ino);
	assert_int_equal(op_applied(f->t.root, &unlink), 1);
	unlink.path = (char *)"no/such";
	assert_false(applied(f, &unlink).changed);
}

static void removes_directories(void **state)
{
	struct fixture *f = *state;
	struct op rmdir = op_of(OP_RMDIR, "d", NULL), wrong = op_of(OP_UNLINK, "d", NULL);

	assert_false(applied(f, &rmdir).changed);
	assert_int_equal(mkdirat(f->t.root, "d", 0755), 0);
	put_file(f->t.root, "d/x", "");
	refused(f, &rmdir, -ENOTEMPTY);
	refused(f, &wrong, -EISDIR);
	assert_int_equal(unlinkat(f->t.root, "d/x", 0), 0);
	assert_true(applied(f, &rmdir).changed);
	put_file(f->t.root, "d", "");
	refused(f, &rmdir, -ENOTDIR);
}

static void renames(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_RENAME, "a", "d/b");
	struct apply_result ret;

	put_file(f->t.root, "a", "text");
	assert_int_equal(mkdirat(f->t.root, "d", 0755), 0);
	set_mtime(f->t.root, "d", (int64_t)T0 - 1);
	set_mtime(f->t.root, ".", (int64_t)T0 + 1);
	ret = applied(f, &op);
	assert_true(ret.changed && !ret.new_inode);
	assert_int_equal(mtime_of(f->t.root, "d"), T0);
	assert_int_equal(mtime_of(f->t.root, "."), T0 + 1);
	assert_file(f->t.root, "d/b", "text");
	assert_int_equal(op_applied(f->t.root, &op), 1);
	/* A new file at the old name must not be taken for the one that was moved. */
	put_file(f->t.root, "a", "new");
	assert_int_equal(op_apply(&f->t, &op, &ret), 0);
	assert_false(ret.changed);
	assert_file(f->t.root, "d/b", "text");
	assert_file(f->t.root, "a", "new");
}

static void rename_replaces_only_what_was_replaced(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_RENAME, "a", "b");
	struct apply_result ret;

	put_file(f->t.root, "a", "text");
	put_file(f->t.root, "b", "old");
	refused(f, &op, -EEXIST);
	op.flags = OP_REPLACED;
	ret = applied(f, &op);
	assert_true(ret.changed && ret.new_inode);
	assert_file(f->t.root, "b", "text");
	op.path = (char *)"none";
	op.fid = (struct fid){0};
	refused(f, &op, -ENOENT);
	assert_int_equal(mkdirat(f->t.root, "d", 0755), 0);
	assert_int_equal(mkdirat(f->t.root, "e", 0755), 0);
	put_file(f->t.root, "e/x", "");
	op = op_of(OP_RENAME, "d", "e");
	op.flags = OP_REPLACED | OP_IS_DIR;
	refused(f, &op, -ENOTEMPTY);
	op.path2 = (char *)"b";
	refused(f, &op, -ENOTDIR);
	op = op_of(OP_RENAME, "b", "e");
	op.flags = OP_REPLACED;
	refused(f, &op, -EISDIR);
}

static void rename_exchanges(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_RENAME, "a", "d");

	op.flags = OP_EXCHANGE;
	put_file(f->t.root, "a", "text");
	assert_int_equal(mkdirat(f->t.root, "d", 0755), 0);
	assert_true(applied(f, &op).new_inode);
	assert_file(f->t.root, "d", "text");
	assert_true(S_ISDIR(stat_of(f->t.root, "a").st_mode));
	/* What was at path2 is gone at the sender, and never came. */
	op = op_of(OP_RENAME, "d", "none");
	op.flags = OP_EXCHANGE;
	applied(f, &op);
	assert_file(f->t.root, "none", "text");
	op = op_of(OP_RENAME, "x", "y");
	op.flags = OP_EXCHANGE;
	refused(f, &op, -ENOENT);
}

static void rename_of_what_is_gone(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_RENAME, "a", "b");

	op.flags = OP_GONE | OP_REPLACED;
	put_file(f->t.root, "b", "replaced at the sender");
	applied(f, &op);
	assert_int_equal(stat_of(f->t.root, "b").st_ino, 0);
	op.path = (char *)"no/dir";
	op.path2 = (char *)"nor/here";
	assert_false(applied(f, &op).changed);
	put_file(f->t.root, "a", "it came before it went");
	op = op_of(OP_RENAME, "a", "b");
	op.flags = OP_GONE;
	applied(f, &op);
	assert_file(f->t.root, "b", "it came before it went");
}

static void rename_of_one_inode(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_RENAME, "a", "b");

	put_file(f->t.root, "a", "text");
	assert_int_equal(linkat(f->t.root, "a", f->t.root, "b", 0), 0);
	op.flags = OP_REPLACED;
	assert_int_equal(op_apply(&f->t, &op, &(struct apply_result){0}), 0);
	assert_file(f->t.root, "b", "text");
}

/* ---- attributes ---- */

static void sets_attributes(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_SETATTR, "a", NULL);
	struct apply_result ret;
	struct stat st;

	need_root();
	put_file(f->t.root, "a", "text");
	op.mask = OP_MODE | OP_UID | OP_GID | OP_MTIME | OP_ATIME;
	op.mode = 06755;
	op.uid = 1234;
	op.gid = 4321;
	op.mtime = -1500000000;
	op.atime = (int64_t)T0 + 2;
	ret = applied(f, &op);
	assert_true(ret.changed);
	st = ret.after; /* the snapshots read the file, which changes its atime */
	assert_int_equal(st.st_mode, S_IFREG | 06755);
	assert_int_equal(st.st_uid, 1234);
	assert_int_equal(st.st_gid, 4321);
	assert_int_equal(st.st_mtim.tv_sec, -2);
	assert_int_equal(st.st_mtim.tv_nsec, 500000000);
	assert_int_equal(st.st_atim.tv_nsec, (T0 + 2) % 1000000000);
	op.mask = OP_UID;
	op.uid = 77;
	applied(f, &op);
	op.path = (char *)"none";
	refused(f, &op, -ENOENT);
	op.flags = OP_GONE;
	assert_false(applied(f, &op).changed);
}

static void sets_attributes_of_all_kinds(void **state)
{
	struct fixture *f = *state;
	const char *paths[] = {"", "l", "p"};
	struct op op = op_of(OP_SETATTR, NULL, NULL);
	size_t i;

	need_root();
	put_file(f->t.root, "victim", "text");
	assert_int_equal(symlinkat("victim", f->t.root, "l"), 0);
	assert_int_equal(mkfifoat(f->t.root, "p", 0600), 0);
	op.mask = OP_MODE | OP_UID | OP_GID | OP_MTIME;
	op.mode = 0711;
	op.uid = 99;
	op.mtime = (int64_t)T0;
	for (i = 0; i < 3; i++) {
		op.path = (char *)paths[i];
		applied(f, &op);
		assert_int_equal(stat_of(f->t.root, i ? paths[i] : ".").st_uid, 99);
		assert_int_equal(mtime_of(f->t.root, i ? paths[i] : "."), T0);
	}
	assert_int_equal(stat_of(f->t.root, "p").st_mode, S_IFIFO | 0711);
	assert_int_equal(stat_of(f->t.root, "victim").st_uid, 0);
}

static void sets_xattrs(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_SETXATTR, "a", NULL);
	char path[128], value[8];

	put_file(f->t.root, "a", "text");
	snprintf(path, sizeof(path), "%s/root/a", f->base);
	op.xname = (char *)"user.x";
	op.value = (uint8_t *)"va\0ue";
	op.value_len = 5;
	applied(f, &op);
	assert_int_equal(getxattr(path, "user.x", value, sizeof(value)), 5);
	assert_memory_equal(value, "va\0ue", 5);
	op.type = OP_REMOVEXATTR;
	assert_true(applied(f, &op).changed);
	assert_int_equal(getxattr(path, "user.x", value, sizeof(value)), -1);
	op.type = OP_SETXATTR;
	op.xname = (char *)"security.selinux";
	refused(f, &op, -EPERM);
}

/* ---- content ---- */

static void new_file_inline(void **state)
{
	struct fixture *f = *state;
	struct range e = whole_of("hello");
	struct content c = content_of("hello", 5, &e, 1);
	struct op op = content_op("a", &c, OP_WHOLE);
	struct apply_result ret;

	set_mtime(f->t.root, ".", (int64_t)T0 - 9);
	ret = applied(f, &op);
	assert_file(f->t.root, "a", "hello");
	assert_int_equal(stat_of(f->t.root, "a").st_mode, S_IFREG | 0640);
	assert_int_equal(mtime_of(f->t.root, "a"), T0 + 7);
	assert_int_equal(mtime_of(f->t.root, "."), T0);
	assert_true(ret.changed && !ret.new_inode);
}

static void replaced_file_is_no_change_of_its_directory(void **state)
{
	struct fixture *f = *state;
	struct range e = whole_of("hello");
	struct content c = content_of("hello", 5, &e, 1);
	struct op op = content_op("a", &c, OP_WHOLE);

	put_file(f->t.root, "a", "old");
	set_mtime(f->t.root, ".", (int64_t)T0 - 9);
	assert_true(applied(f, &op).new_inode);
	assert_file(f->t.root, "a", "hello");
	assert_int_equal(mtime_of(f->t.root, "."), T0 - 9);
}

static void empty_file(void **state)
{
	struct fixture *f = *state;
	struct content c = content_of("", 0, NULL, 0);
	struct op op = content_op("a", &c, OP_WHOLE);

	c.data = NULL;
	applied(f, &op);
	assert_file(f->t.root, "a", "");
}

static void setuid_and_xattrs_of_whole(void **state)
{
	struct fixture *f = *state;
	struct range e = whole_of("hello");
	struct content c = content_of("hello", 5, &e, 1);
	struct xattr x = {(char *)"user.k", (uint8_t *)"v", 1};
	struct op op = content_op("a", &c, OP_WHOLE);
	char path[128], value[8];
	struct stat st;

	need_root();
	c.xattrs = &x;
	c.n_xattrs = 1;
	op.mode = 06755;
	op.uid = 33;
	op.gid = 34;
	applied(f, &op);
	st = stat_of(f->t.root, "a");
	assert_int_equal(st.st_mode, S_IFREG | 06755);
	assert_int_equal(st.st_uid, 33);
	assert_int_equal(st.st_gid, 34);
	snprintf(path, sizeof(path), "%s/root/a", f->base);
	assert_int_equal(getxattr(path, "user.k", value, sizeof(value)), 1);
}

static void inherited_acl_is_dropped(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_MKDIR, "d", NULL);
	struct range e = whole_of("x");
	struct content c = content_of("x", 1, &e, 1);
	struct op file = content_op("f", &c, OP_WHOLE);
	char command[320], path[128], value[256];

	snprintf(command, sizeof(command), "setfacl -d -m u:12:rwx %s/root %s/scratch 2>/dev/null",
		f->base, f->base);
	if (system(command) != 0)
		skip();
	applied(f, &op);
	applied(f, &file);
	snprintf(path, sizeof(path), "%s/root/d", f->base);
	assert_int_equal(getxattr(path, "system.posix_acl_default", value, sizeof(value)), -1);
	assert_int_equal(getxattr(path, "system.posix_acl_access", value, sizeof(value)), -1);
	assert_int_equal(stat_of(f->t.root, "d").st_mode, S_IFDIR | 0750);
	path[strlen(path) - 1] = 'f';
	assert_int_equal(getxattr(path, "system.posix_acl_access", value, sizeof(value)), -1);
	assert_int_equal(stat_of(f->t.root, "f").st_mode, S_IFREG | 0640);
}

static void staged_whole_becomes_the_file(void **state)
{
	struct fixture *f = *state;
	struct range e = whole_of("staged");
	struct content c = staged(f, "up.1", "staged", 6, &e, 1);
	struct op op = content_op("a", &c, OP_WHOLE);
	ino_t ino = stat_of(f->t.stage, "up.1").st_ino;

	applied(f, &op); /* the second time nothing is staged: known as done */
	assert_file(f->t.root, "a", "staged");
	assert_int_equal(stat_of(f->t.root, "a").st_ino, ino);
	assert_int_equal(stat_of(f->t.root, "a").st_mode, S_IFREG | 0640);
	assert_int_equal(count_names(f->t.stage), 0);
	put_file(f->t.root, "a", "drift!");
	refused(f, &op, -EBADMSG);
}

static void sparse_stays_sparse(void **state)
{
	struct fixture *f = *state;
	struct range e[2] = {{1 << 20, 3}, {5 << 20, 4}};
	struct content c = staged(f, "up.1", "abcdefg", 8 << 20, e, 2);
	struct op op = content_op("a", &c, OP_WHOLE), out = {.flags = OP_WHOLE};
	_cleanup_close_ int fd = -1;
	struct stat st;

	applied(f, &op);
	st = stat_of(f->t.root, "a");
	assert_int_equal(st.st_size, 8 << 20);
	assert_true(st.st_blocks * 512 < 1 << 20);
	fd = openat(f->t.root, "a", O_RDONLY);
	assert_int_equal(content_describe(fd, &out, &st), 0);
	assert_true(out.content->n_extents == 2);
	assert_true(out.content->data_len < 64 << 10);
	content_free(out.content);
	assert_int_equal(count_names(f->t.stage), 0);
}

static void ranges_in_place(void **state)
{
	struct fixture *f = *state;
	struct range ranges[2] = {{2, 3}, {8, 6}}, e[2] = {{2, 3}, {12, 2}};
	struct content c = content_of("XYZen", 14, e, 2);
	struct op op = content_op("a", &c, 0);
	ino_t ino;
	struct apply_result ret;

	op.ranges = ranges;
	op.n_ranges = 2;
	refused(f, &op, -ENOENT);
	put_file(f->t.root, "a", "0123456789abcdefgh");
	ino = stat_of(f->t.root, "a").st_ino;
	ret = applied(f, &op);
	assert_true(ret.changed && !ret.new_inode);
	assert_int_equal(stat_of(f->t.root, "a").st_ino, ino);
	{
		char got[14];
		_cleanup_close_ int fd = openat(f->t.root, "a", O_RDONLY);

		assert_int_equal(stat_of(f->t.root, "a").st_size, 14);
		assert_int_equal(pread_all(fd, got, 14, 0), 0);
		assert_memory_equal(got, "01XYZ567\0\0\0\0en", 14);
	}
	assert_int_equal(mtime_of(f->t.root, "a"), T0 + 7);
}

static void staged_ranges(void **state)
{
	struct fixture *f = *state;
	struct range range = {1, 2};
	struct content c = staged(f, "up.1", "--", 4, &range, 1);
	struct op op = content_op("a", &c, 0);

	op.ranges = &range;
	op.n_ranges = 1;
	refused(f, &op, -ENOENT);
	assert_file(f->t.stage, "up.1", "--"); /* put back for the next attempt */
	put_file(f->t.root, "a", "abcd");
	applied(f, &op);
	assert_file(f->t.root, "a", "a--d");
	assert_int_equal(count_names(f->t.stage), 0);
}

static void linked_file_is_written_in_place(void **state)
{
	struct fixture *f = *state;
	struct range e = whole_of("new");
	struct content c = staged(f, "up.1", "new", 3, &e, 1);
	struct op op = content_op("a", &c, OP_WHOLE);

	put_file(f->t.root, "a", "old text");
	assert_int_equal(linkat(f->t.root, "a", f->t.root, "b", 0), 0);
	assert_false(applied(f, &op).new_inode);
	assert_file(f->t.root, "b", "new");
	assert_int_equal(stat_of(f->t.root, "a").st_nlink, 2);
	assert_int_equal(count_names(f->t.stage), 0);
}

static void wrong_digest_touches_nothing(void **state)
{
	struct fixture *f = *state;
	struct range e = whole_of("12345");
	struct content in = content_of("12345", 5, &e, 1);
	struct content st = staged(f, "up.1", "12345", 5, &e, 1);
	struct op op = content_op("a", &in, OP_WHOLE), sop = content_op("a", &st, OP_WHOLE);

	put_file(f->t.root, "a", "old");
	in.digest[3] ^= 1;
	refused(f, &op, -EBADMSG);
	op.flags = 0;
	op.ranges = &e;
	op.n_ranges = 1;
	refused(f, &op, -EBADMSG);
	st.digest[3] ^= 1;
	refused(f, &sop, -EBADMSG);
	assert_int_equal(count_names(f->t.stage), 0); /* of no use any more */
	st = staged(f, "up.2", "1234567", 5, &e, 1);
	refused(f, &sop, -EBADMSG);
	refused(f, &sop, -EBADMSG); /* and missing */
}

static void stage_traps(void **state)
{
	static const char *const names[] = {
		"..", ".", "../root/a", "/etc/passwd", "link", "dir", "fifo", "hard"};
	struct fixture *f = *state;
	struct range e = whole_of("secret");
	struct content c = content_of("secret", 6, &e, 1);
	struct op op = content_op("new", &c, OP_WHOLE);
	size_t i;

	put_file(f->t.root, "a", "secret");
	assert_int_equal(symlinkat("../root/a", f->t.stage, "link"), 0);
	assert_int_equal(mkdirat(f->t.stage, "dir", 0755), 0);
	assert_int_equal(mkfifoat(f->t.stage, "fifo", 0600), 0);
	assert_int_equal(linkat(f->t.root, "a", f->t.stage, "hard", 0), 0);
	c.data = NULL;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct apply_result ret;

		strcpy(c.stage, names[i]);
		assert_int_equal(op_apply(&f->t, &op, &ret), -EBADMSG);
	}
	assert_int_equal(stat_of(f->t.root, "new").st_ino, 0);
	assert_file(f->t.root, "a", "secret");
	assert_int_equal(count_names(f->t.scratch), 0);
	strcpy(c.stage, "x");
	refused(f, &op, -EBADMSG);
}

static void crashed_between_taking_and_renaming(void **state)
{
	struct fixture *f = *state;
	struct range e = whole_of("staged");
	struct content c = staged(f, "up.1", "staged", 6, &e, 1);
	struct op op = content_op("a", &c, OP_WHOLE);
	char name[64];

	snprintf(name, sizeof(name), "s%llu.up.1",
		(unsigned long long)stat_of(f->dir, "stage").st_ino);
	assert_int_equal(renameat(f->t.stage, "up.1", f->t.scratch, name), 0);
	applied(f, &op);
	assert_file(f->t.root, "a", "staged");
}

static void alive_during_long_work(void **state)
{
	struct fixture *f = *state;
	size_t size = 40u << 20;
	_cleanup_free_ char *data = malloc(size + 1);
	struct range e[2] = {{0, 30u << 20}, {35u << 20, 10u << 20}};
	struct content c;
	struct op op;

	assert_non_null(data);
	memset(data, 'x', size);
	data[size] = '\0';
	c = staged(f, "up.1", data, 45u << 20, e, 2);
	op = content_op("a", &c, OP_WHOLE);
	assert_int_equal(op_apply(&f->t, &op, &(struct apply_result){0}), 0);
	assert_in_range(f->alive, 5, 20);
	assert_int_equal(stat_of(f->t.root, "a").st_size, 45 << 20);
}

/* ---- hostile paths ---- */

static void symlink_in_place_of_a_parent(void **state)
{
	struct fixture *f = *state;
	struct range e = whole_of("x");
	struct content c = content_of("x", 1, &e, 1);
	struct op ops[] = {content_op("trap/f", &c, OP_WHOLE), content_op("trap/f", &c, 0),
		op_of(OP_MKDIR, "trap/d", NULL), op_of(OP_SYMLINK, "trap/l", "x"),
		op_of(OP_MKNOD, "trap/p", NULL), op_of(OP_UNLINK, "trap/f", NULL),
		op_of(OP_RMDIR, "trap/e", NULL), op_of(OP_RENAME, "a", "trap/a"),
		op_of(OP_RENAME, "trap/f", "b"), op_of(OP_LINK, "trap/f", "b"),
		op_of(OP_LINK, "a", "trap/a"), op_of(OP_SETATTR, "trap/f", NULL),
		op_of(OP_SETXATTR, "trap/f", NULL), op_of(OP_FSYNC, "trap/f", NULL)};
	_cleanup_free_ char *before = NULL, *after = NULL;
	struct apply_result ret;
	size_t i, len;
	int r;

	put_file(f->t.root, "a", "text");
	put_file(f->dir, "outside/f", "safe");
	assert_int_equal(mkdirat(f->dir, "outside/e", 0755), 0);
	assert_int_equal(symlinkat("../outside", f->t.root, "trap"), 0);
	ops[4].mode |= S_IFIFO;
	ops[11].mask = OP_MODE;
	ops[12].xname = (char *)"user.x";
	before = snapshot(f);
	for (i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		r = op_apply(&f->t, &ops[i], &ret);
		if (r != -ELOOP && r != -ENOTDIR)
			fail_msg("op %zu: %d", i, r);
		assert_true(op_applied(f->t.root, &ops[i]) <= 0);
	}
	after = snapshot(f);
	assert_string_equal(before, after);
	free(steal_pointer(&before));
	assert_int_equal(durable_read(f->dir, "outside/f", 100, &before, &len), 0);
	assert_string_equal(before, "safe");
	assert_int_equal(stat_of(f->dir, "outside").st_nlink, 3);
}

static void paths_that_leave_or_belong_to_tandemfs(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_MKDIR, "../x", NULL);

	refused(f, &op, -EINVAL);
	op.path = (char *)"/x";
	refused(f, &op, -EINVAL);
	op.path = (char *)".tandemfs/x";
	refused(f, &op, -EPERM);
	op.path = (char *)"";
	refused(f, &op, -EINVAL);
	op = op_of(OP_RENAME, "a", ".tandemfs/in/a");
	refused(f, &op, -EPERM);
	op.type = OP_CREATE;
	refused(f, &op, -EINVAL);
	op.type = OP_TYPE_END;
	refused(f, &op, -EINVAL);
}

static void missing_parent(void **state)
{
	struct fixture *f = *state;
	struct range e = whole_of("x");
	struct content c = staged(f, "up.1", "x", 1, &e, 1);
	struct op op = content_op("none/f", &c, OP_WHOLE);

	refused(f, &op, -ENOENT);
	assert_file(f->t.stage, "up.1", "x");
	op = op_of(OP_MKDIR, "none/d", NULL);
	refused(f, &op, -ENOENT);
}

/* ---- a full disk ---- */

static void full_disk_leaves_the_old_file(void **state)
{
	struct fixture *f = *state;
	struct fixture small = {.base = ""};
	size_t size = 700u << 10;
	_cleanup_free_ char *data = malloc(size + 1);
	struct range e[2] = {{0, 350u << 10}, {400u << 10, 350u << 10}};
	struct content c;
	struct op op;

	need_root();
	assert_non_null(data);
	memset(data, 'x', size);
	data[size] = '\0';
	strcpy(small.base, f->base);
	strcat(small.base, "/outside");
	if (mount("tmpfs", small.base, "tmpfs", 0, "size=1m") < 0)
		skip();
	fixture_dirs(&small);
	put_file(small.t.root, "a", "old");
	c = staged(&small, "up.1", data, 750u << 10, e, 2);
	op = content_op("a", &c, OP_WHOLE);
	assert_int_equal(op_apply(&small.t, &op, &(struct apply_result){0}), -ENOSPC);
	assert_file(small.t.root, "a", "old");
	assert_int_equal(stat_of(small.t.stage, "up.1").st_size, size); /* for a retry */
	op.flags = 0;
	op.ranges = e;
	op.n_ranges = 2;
	assert_int_equal(op_apply(&small.t, &op, &(struct apply_result){0}), -ENOSPC);
	assert_file(small.t.root, "a", "old");
	assert_int_equal(count_names(small.t.scratch), 0);
	close(small.t.root);
	close(small.t.scratch);
	close(small.t.stage);
	close(small.dir);
	assert_int_equal(umount(small.base), 0);
}

static void syncs(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_FSYNC, "d/a", NULL);

	assert_int_equal(mkdirat(f->t.root, "d", 0755), 0);
	put_file(f->t.root, "d/a", "text");
	assert_false(applied(f, &op).changed);
	op.path = (char *)"";
	applied(f, &op);
	op.path = (char *)"gone";
	applied(f, &op);
}

/* Prints what one small whole file costs; fails only when it is absurd. */
static void cost_of_a_small_file(void **state)
{
	struct fixture *f = *state;
	char text[1025], path[32];
	struct range e = {0, 1024};
	struct content c;
	struct op op;
	struct timespec a, b;
	int i, n = 2000, round;
	double us;

	memset(text, 'x', 1024);
	text[1024] = '\0';
	c = content_of(text, 1024, &e, 1);
	op = content_op(path, &c, OP_WHOLE);
	for (round = 0; round < 2; round++) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (i = 0; i < n; i++) {
			snprintf(path, sizeof(path), "f%d", i);
			assert_int_equal(op_apply(&f->t, &op, &(struct apply_result){0}), 0);
		}
		clock_gettime(CLOCK_MONOTONIC, &b);
		us = (double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3;
		print_message("1 KiB inline, %s: %.1f us\n", round ? "replaced" : "new", us / n);
		assert_true(us / n < 10000);
	}
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(makes_directory),
		CASE(newer_parent_keeps_its_mtime),
		CASE(makes_symlink),
		CASE(makes_nodes_with_owner),
		CASE(another_kind_is_in_the_way),
		CASE(links_and_unlinks),
		CASE(removes_directories),
		CASE(renames),
		CASE(rename_replaces_only_what_was_replaced),
		CASE(rename_exchanges),
		CASE(rename_of_what_is_gone),
		CASE(rename_of_one_inode),
		CASE(sets_attributes),
		CASE(sets_attributes_of_all_kinds),
		CASE(sets_xattrs),
		CASE(new_file_inline),
		CASE(replaced_file_is_no_change_of_its_directory),
		CASE(empty_file),
		CASE(setuid_and_xattrs_of_whole),
		CASE(inherited_acl_is_dropped),
		CASE(staged_whole_becomes_the_file),
		CASE(sparse_stays_sparse),
		CASE(ranges_in_place),
		CASE(staged_ranges),
		CASE(linked_file_is_written_in_place),
		CASE(wrong_digest_touches_nothing),
		CASE(stage_traps),
		CASE(crashed_between_taking_and_renaming),
		CASE(alive_during_long_work),
		CASE(symlink_in_place_of_a_parent),
		CASE(paths_that_leave_or_belong_to_tandemfs),
		CASE(missing_parent),
		CASE(full_disk_leaves_the_old_file),
		CASE(syncs),
		CASE(cost_of_a_small_file),
	};

	return cmocka_run_group_tests_name("apply", tests, NULL, NULL);
}
