/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_TEST_APPLY_FIXTURE_H
#define TANDEMFS_TEST_APPLY_FIXTURE_H

/* What test_apply.c and test_apply_content.c share. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
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
	unsigned descriptors; /* open before the test */
};

static inline void count_alive(void *ctx)
{
	++*(unsigned *)ctx;
}

static inline unsigned count_names(int dir)
{
	_cleanup_closedir_ DIR *d = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY));
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	return n - 2;
}

static inline unsigned count_descriptors(void)
{
	_cleanup_close_ int fd = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return count_names(fd);
}

static inline int open_sub(struct fixture *f, const char *name)
{
	int fd;

	assert_int_equal(mkdirat(f->dir, name, 0755), 0);
	fd = openat(f->dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static inline void fixture_dirs(struct fixture *f)
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

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	umask(077); /* must not matter */
	strcpy(f->base, "/tmp/test_apply.XXXXXX");
	assert_non_null(mkdtemp(f->base));
	f->descriptors = count_descriptors();
	fixture_dirs(f);
	*state = f;
	return 0;
}

/* Cleans up after failed tests too. */
static inline int teardown(void **state)
{
	struct fixture *f = *state;
	unsigned descriptors;
	char command[512];

	close(f->t.root);
	close(f->t.scratch);
	close(f->t.stage);
	close(f->dir);
	descriptors = count_descriptors();
	snprintf(command, sizeof(command),
		"if mountpoint -q %s/outside; then umount -l %s/outside; fi; rm -rf %s", f->base,
		f->base, f->base);
	assert_int_equal(system(command), 0);
	assert_int_equal(descriptors, f->descriptors);
	free(f);
	return 0;
}

static inline void need_root(void)
{
	if (geteuid() != 0)
		skip();
}

/* ---- looking at the tree ---- */

static inline struct stat stat_of(int dir, const char *path)
{
	struct stat st = {0};

	if (fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		assert_int_equal(errno, ENOENT);
	return st;
}

static inline int64_t mtime_of(int dir, const char *path)
{
	struct stat st = stat_of(dir, path);

	return (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

static inline void set_mtime(int dir, const char *path, int64_t ns)
{
	struct timespec ts[2] = {
		{.tv_nsec = UTIME_OMIT}, {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000}};

	assert_int_equal(utimensat(dir, path, ts, AT_SYMLINK_NOFOLLOW), 0);
}

/* Name, inode, mode, owner, size, mtime, bytes and xattrs of all below root, as one text. */
static inline char *snapshot(struct fixture *f)
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

static inline void put_file(int dir, const char *path, const char *text)
{
	_cleanup_close_ int fd = openat(dir, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write_all(fd, text, strlen(text)), 0);
}

static inline void assert_file(int dir, const char *path, const char *text)
{
	_cleanup_free_ char *got = NULL;
	size_t len;

	assert_int_equal(durable_read(dir, path, 1 << 20, &got, &len), 0);
	assert_int_equal(len, strlen(text));
	assert_memory_equal(got, text, len);
}

/* ---- making ops; all strings are borrowed, so ops are not cleared ---- */

static inline struct op op_of(enum op_type type, const char *path, const char *path2)
{
	return (struct op){.type = type,
		.path = (char *)path,
		.path2 = (char *)path2,
		.time = T0,
		.mode = 0750,
		.uid = geteuid(),
		.gid = getegid()};
}

static inline struct range whole_of(const char *text)
{
	return (struct range){0, strlen(text)};
}

static inline struct content content_of(const char *data, uint64_t size, struct range *e, size_t n)
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
static inline struct content staged(struct fixture *f, const char *name, const char *data,
	uint64_t size, struct range *e, size_t n)
{
	struct content c = content_of(data, size, e, n);

	put_file(f->t.stage, name, data);
	c.data = NULL;
	strcpy(c.stage, name);
	return c;
}

static inline struct op content_op(const char *path, struct content *c, uint32_t flags)
{
	struct op op = op_of(OP_CONTENT, path, NULL);

	op.flags = flags;
	op.mask = OP_MODE | OP_UID | OP_GID | OP_MTIME;
	op.mode = 0640;
	op.mtime = (int64_t)T0 + 7;
	op.content = c;
	return op;
}

static inline int apply(struct fixture *f, const struct op *op, struct apply_result *ret)
{
	return op_apply(&f->t, op, ret);
}

/* Applies, and again: the same tree, nothing left behind. */
static inline struct apply_result applied(struct fixture *f, struct op *op)
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

static inline void refused(struct fixture *f, struct op *op, int error)
{
	_cleanup_free_ char *before = snapshot(f), *after = NULL;
	struct apply_result ret;

	assert_int_equal(apply(f, op, &ret), error);
	after = snapshot(f);
	assert_string_equal(before, after);
	assert_int_equal(count_names(f->t.scratch), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
