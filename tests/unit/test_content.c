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
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>

#include "replicate/base/cleanup.h"
#include "replicate/base/durable.h"
#include "replicate/content.h"
#include "replicate/digest.h"

struct fixture {
	char base[64];
	int dir;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	strcpy(f->base, "/tmp/test_content.XXXXXX");
	assert_non_null(mkdtemp(f->base));
	f->dir = open(f->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->dir >= 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	close(f->dir);
	snprintf(command, sizeof(command), "rm -rf %s", f->base);
	assert_int_equal(system(command), 0);
	free(f);
	return 0;
}

static int make_file(struct fixture *f, const char *name, const char *text)
{
	int fd = openat(f->dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);

	assert_true(fd >= 0);
	assert_int_equal(write_all(fd, text, strlen(text)), 0);
	return fd;
}

/* ---- identity ---- */

static void opens_by_handle_after_rename(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = make_file(f, "a", "text"), again = -1;
	struct fid fid, path_fid;
	char text[4];

	assert_int_equal(fid_of_fd(fd, &fid), 0);
	assert_int_equal(fid_of_path(f->dir, "a", &path_fid), 0);
	assert_true(fid_equal(&fid, &path_fid));
	if (geteuid() != 0 || fid.len == 0)
		skip();
	assert_int_equal(renameat(f->dir, "a", f->dir, "b"), 0);
	again = fid_open(f->dir, &fid, "a", O_RDONLY);
	assert_true(again >= 0);
	assert_int_equal(pread_all(again, text, 4, 0), 0);
	assert_memory_equal(text, "text", 4);
}

static void gone_is_stale(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = make_file(f, "a", "text"), other = -1;
	struct fid fid;

	assert_int_equal(fid_of_fd(fd, &fid), 0);
	assert_int_equal(unlinkat(f->dir, "a", 0), 0);
	/* Still open, but it has no name. */
	assert_int_equal(fid_open(f->dir, &fid, "a", O_RDONLY), -ESTALE);
	close(steal_fd(&fd));
	other = make_file(f, "a", "other"); /* perhaps with the same number */
	assert_int_equal(fid_open(f->dir, &fid, "a", O_RDONLY), -ESTALE);
}

static void opens_by_path_without_handle(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = make_file(f, "a", "text"), again = -1, other = -1;
	struct fid fid;

	assert_int_equal(fid_of_fd(fd, &fid), 0);
	fid.len = 0;
	again = fid_open(f->dir, &fid, "a", O_RDONLY);
	assert_true(again >= 0);
	assert_int_equal(fid_open(f->dir, &fid, NULL, O_RDONLY), -EOPNOTSUPP);
	assert_int_equal(renameat(f->dir, "a", f->dir, "b"), 0);
	assert_int_equal(fid_open(f->dir, &fid, "a", O_RDONLY), -ESTALE);
	other = make_file(f, "a", "other");
	assert_int_equal(fid_open(f->dir, &fid, "a", O_RDONLY), -ESTALE);
}

/* ---- describing ---- */

static void describes_whole(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = make_file(f, "a", "text");
	_cleanup_op_ struct op op = {.type = OP_CONTENT, .flags = OP_WHOLE};
	struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 5, .tv_nsec = 7}};
	struct stat st;

	assert_int_equal(fsetxattr(fd, "user.k", "v", 1, 0), 0);
	assert_int_equal(futimens(fd, ts), 0);
	assert_int_equal(content_describe(fd, &op, &st), 0);
	assert_int_equal(op.content->size, 4);
	assert_int_equal(op.content->n_extents, 1);
	assert_int_equal(op.content->extents[0].start, 0);
	assert_int_equal(op.content->extents[0].len, 4);
	assert_int_equal(op.content->data_len, 4);
	assert_int_equal(op.content->n_xattrs, 1);
	assert_string_equal(op.content->xattrs[0].name, "user.k");
	assert_int_equal(op.mask, OP_MODE | OP_UID | OP_GID | OP_MTIME);
	assert_int_equal(op.mtime, 5000000007);
	assert_int_equal(op.mode, st.st_mode & 07777);
	assert_int_equal(content_load(fd, &op, "sha256"), 0);
	assert_memory_equal(op.content->data, "text", 4);
	assert_int_equal(op.content->digest_len, 32);
	assert_int_equal(content_load(fd, &op, "none"), 0);
	assert_int_equal(op.content->digest_len, 0);
	assert_string_equal(op.content->digest_name, "");
	assert_int_equal(content_load(fd, &op, "nonesuch"), -EINVAL);
}

static void describes_empty(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = make_file(f, "a", "");
	_cleanup_op_ struct op op = {.type = OP_CONTENT, .flags = OP_WHOLE};
	struct stat st;

	assert_int_equal(content_describe(fd, &op, &st), 0);
	assert_int_equal(op.content->n_extents, 0);
	assert_int_equal(content_load(fd, &op, "md5"), 0);
	assert_non_null(op.content->data);
	assert_int_equal(op.content->data_len, 0);
}

static void ranges_are_clipped_to_data(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = make_file(f, "a", "");
	struct range ranges[] = {{1, 2}, {4090, 20}, {1 << 20, 100}, {3 << 20, 1 << 20}};
	struct op op = {.type = OP_CONTENT, .ranges = ranges, .n_ranges = 4};
	_cleanup_content_ struct content *c = NULL;
	char got[4];
	struct stat st;

	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_int_equal(pwrite_all(fd, "abcd", 4, 0), 0);
	assert_int_equal(ftruncate(fd, (3 << 20) + 2), 0);
	assert_int_equal(pwrite_all(fd, "yz", 2, 3 << 20), 0);
	assert_int_equal(content_describe(fd, &op, &st), 0);
	c = op.content;
	/* The hole in the second and third range is none of the data; the end is cut. */
	assert_int_equal(c->extents[0].start, 1);
	assert_int_equal(c->extents[0].len, 2);
	assert_int_equal(c->extents[c->n_extents - 1].start, 3 << 20);
	assert_int_equal(c->extents[c->n_extents - 1].len, 2);
	assert_true(c->n_extents == 3); /* 4090..4096 is in the first block */
	assert_int_equal(c->data_len, 2 + 6 + 2);
	assert_null(c->xattrs);
	assert_int_equal(content_read(fd, c, 1, got, 1), 0);
	assert_int_equal(got[0], 'c');
	assert_int_equal(content_read(fd, c, 8, got, 2), 0);
	assert_memory_equal(got, "yz", 2);
	assert_int_equal(content_read(fd, c, 9, got, 2), -EINVAL);
}

static void many_holes_are_coarsened(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = make_file(f, "a", "");
	_cleanup_op_ struct op op = {.type = OP_CONTENT, .flags = OP_WHOLE};
	_cleanup_free_ uint8_t *got = NULL;
	off_t i, n = 20000;
	struct stat st;

	for (i = 0; i < n; i++)
		assert_int_equal(pwrite_all(fd, "x", 1, i * 8192), 0);
	assert_int_equal(content_describe(fd, &op, &st), 0);
	assert_true(op.content->n_extents <= OP_EXTENTS_MAX / 4);
	assert_int_equal(content_load(fd, &op, NULL), 0);
	/* Whatever was joined, the bytes are the file's. */
	got = calloc(1, (size_t)st.st_size);
	assert_non_null(got);
	{
		uint64_t at = 0;
		size_t k;

		for (k = 0; k < op.content->n_extents; k++) {
			const struct range *e = &op.content->extents[k];

			memcpy(got + e->start, op.content->data + at, e->len);
			at += e->len;
		}
	}
	for (i = 0; i < n; i++)
		assert_int_equal(got[i * 8192], 'x');
}

static void shorter_file_reads_as_zeros(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = make_file(f, "a", "abcdef");
	_cleanup_op_ struct op op = {.type = OP_CONTENT, .flags = OP_WHOLE};
	struct stat st;

	assert_int_equal(content_describe(fd, &op, &st), 0);
	assert_true(content_unchanged(&st, fd));
	assert_int_equal(ftruncate(fd, 2), 0);
	assert_false(content_unchanged(&st, fd));
	assert_int_equal(content_load(fd, &op, "sha256"), 0);
	assert_memory_equal(op.content->data, "ab\0\0\0\0", 6);
}

static void only_regular_files(void **state)
{
	struct fixture *f = *state;
	_cleanup_op_ struct op op = {.type = OP_CONTENT, .flags = OP_WHOLE};
	struct stat st;

	assert_int_equal(content_describe(f->dir, &op, &st), -EINVAL);
	assert_null(op.content);
}

/* ---- xattrs ---- */

static void names_that_are_replicated(void **state)
{
	(void)state;
	assert_true(xattr_is_replicated("user.x"));
	assert_true(xattr_is_replicated("trusted.x"));
	assert_true(xattr_is_replicated("security.capability"));
	assert_true(xattr_is_replicated("system.posix_acl_access"));
	assert_true(xattr_is_replicated("system.posix_acl_default"));
	assert_false(xattr_is_replicated("trusted.overlay.opaque"));
	assert_false(xattr_is_replicated("security.selinux"));
	assert_false(xattr_is_replicated("security.capability2"));
	assert_false(xattr_is_replicated("system.nfs4_acl"));
	assert_false(xattr_is_replicated("userx"));
	assert_false(xattr_is_replicated(""));
}

static void long_lists(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = make_file(f, "a", "");
	char name[128];
	struct xattr *x;
	size_t n;
	int i;

	for (i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "user.%0100d", i);
		assert_int_equal(fsetxattr(fd, name, &i, sizeof(i), 0), 0);
	}
	assert_int_equal(xattrs_read(fd, &x, &n), 0);
	assert_int_equal(n, 20);
	for (i = 0; i < 20; i++)
		assert_int_equal(x[i].len, sizeof(i));
	xattrs_free(x, n);
}

static void of_symlinks_themselves(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = make_file(f, "a", ""), link = -1;
	char path[128];
	struct xattr *x;
	size_t n;

	if (geteuid() != 0)
		skip();
	assert_int_equal(fsetxattr(fd, "user.k", "v", 1, 0), 0);
	assert_int_equal(symlinkat("a", f->dir, "l"), 0);
	snprintf(path, sizeof(path), "%s/l", f->base);
	assert_int_equal(lsetxattr(path, "trusted.t", "link", 4, 0), 0);
	link = openat(f->dir, "l", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	assert_int_equal(xattrs_read(link, &x, &n), 0);
	assert_int_equal(n, 1);
	assert_string_equal(x[0].name, "trusted.t");
	assert_memory_equal(x[0].value, "link", 4);
	xattrs_free(x, n);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(opens_by_handle_after_rename),
		CASE(gone_is_stale),
		CASE(opens_by_path_without_handle),
		CASE(describes_whole),
		CASE(describes_empty),
		CASE(ranges_are_clipped_to_data),
		CASE(many_holes_are_coarsened),
		CASE(shorter_file_reads_as_zeros),
		CASE(only_regular_files),
		cmocka_unit_test(names_that_are_replicated),
		CASE(long_lists),
		CASE(of_symlinks_themselves),
	};

	return cmocka_run_group_tests_name("content", tests, NULL, NULL);
}
