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
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>

#include "replicate/base/buf.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/durable.h"
#include "replicate/manifest.h"

/* Two trees, "a" (here) and "b" (there), made alike by shell commands and then changed. */
struct fixture {
	char base[64];
	int a, b;
};

__attribute__((format(printf, 2, 3))) static void shell(struct fixture *f, const char *format, ...)
{
	char text[1024], command[1200];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(command, sizeof(command), "cd %s && { %s; }", f->base, text);
	assert_int_equal(system(command), 0);
}

static int open_tree(struct fixture *f, const char *name)
{
	char path[80];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", f->base, name);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	strcpy(f->base, "/tmp/test_manifest.XXXXXX");
	assert_non_null(mkdtemp(f->base));
	shell(f,
		"mkdir -p a/d/e a/.tandemfs/in a/d/.tandemfs; cd a; echo one >d/one; echo two >d-x;"
		" echo three >d/e/three; ln d/one d/z; ln -s nowhere l; mkfifo p; echo x >d.y;"
		" echo hidden >.tandemfs/x; echo seen >d/.tandemfs/x; cd ..; cp -a a b;"
		" echo other >b/.tandemfs/x; touch -r a b");
	f->a = open_tree(f, "a");
	f->b = open_tree(f, "b");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->a);
	close(f->b);
	shell(f, "cd /tmp && rm -rf %s", f->base);
	free(f);
	return 0;
}

/* A source that gives a few bytes at a time. */
struct memory {
	const uint8_t *data;
	size_t len, pos;
};

static int get_memory(void *ctx, void *dst, size_t size, size_t *ret_len)
{
	struct memory *m = ctx;
	size_t n = m->len - m->pos;

	n = n < 7 ? n : 7;
	n = n < size ? n : size;
	memcpy(dst, m->data + m->pos, n);
	m->pos += n;
	*ret_len = n;
	return 0;
}

static void write_buf(int root, const char *path, const struct manifest_options *o, struct buf *b)
{
	struct manifest_sink sink = {manifest_put_buf, b};

	assert_int_equal(manifest_write(root, path, o, &sink), 0);
}

static int open_buf(const struct buf *b, struct memory *m, struct manifest_reader **ret)
{
	*m = (struct memory){b->data, b->len, 0};
	return manifest_reader_new(&(struct manifest_source){get_memory, m}, ret);
}

struct findings {
	char text[4096];
};

static void note(void *ctx, const char *path, const char *what)
{
	struct findings *f = ctx;
	size_t len = strlen(f->text);

	snprintf(f->text + len, sizeof(f->text) - len, "%s:%s;", path, what);
}

/* The manifest without what is skipped. */
static void cut(const struct buf *b, const struct manifest_skips *s, struct buf *ret)
{
	uint64_t at = 0;

	for (size_t i = 0; i < s->n; i++) {
		assert_true(s->list[i].start >= at && s->list[i].end > s->list[i].start);
		buf_put(ret, b->data + at, s->list[i].start - at);
		at = s->list[i].end;
	}
	assert_true(at < b->len);
	buf_put(ret, b->data + at, b->len - at);
}

static void write_indexed(int root, const char *path, const struct manifest_options *o,
	struct buf *b, struct manifest_index **ret)
{
	struct manifest_options with = *o;

	assert_int_equal(manifest_index_new(o->digest, ret), 0);
	with.index = *ret;
	write_buf(root, path, &with, b);
}

/* By way of its encoding, as a peer's. */
static void send_index(struct manifest_index **x)
{
	_cleanup_buf_ struct buf b = {0};
	struct manifest_index *got;

	manifest_index_encode(*x, 77, &b);
	assert_int_equal(manifest_index_decode(b.data, b.len, 77, &got), 0);
	manifest_index_free(*x);
	*x = got;
}

/* The same differences are found when what is the same is left out. */
static void assert_differences_indexed(struct fixture *f, const char *path,
	const struct manifest_options *o, const char *want, struct manifest_skips *ret_skips)
{
	_cleanup_manifest_index_ struct manifest_index *x = NULL, *y = NULL;
	_cleanup_manifest_skips_ struct manifest_skips there_skips = {0};
	_cleanup_manifest_ struct manifest_reader *here = NULL, *there = NULL;
	_cleanup_buf_ struct buf a = {0}, b = {0}, plain = {0}, a_cut = {0}, b_cut = {0};
	struct findings found = {""};
	struct memory ma, mb;
	uint64_t count;

	write_buf(f->a, path, o, &plain);
	write_indexed(f->a, path, o, &a, &x);
	assert_int_equal(a.len, plain.len);
	assert_memory_equal(a.data, plain.data, a.len);
	write_indexed(f->b, path, o, &b, &y);
	send_index(&y);
	assert_int_equal(manifest_index_compare(x, y, ret_skips, &there_skips), 0);
	assert_int_equal(ret_skips->entries, there_skips.entries);
	cut(&a, ret_skips, &a_cut);
	cut(&b, &there_skips, &b_cut);
	assert_int_equal(open_buf(&a_cut, &ma, &here), 0);
	assert_int_equal(open_buf(&b_cut, &mb, &there), 0);
	manifest_reader_skip(here, ret_skips->entries);
	manifest_reader_skip(there, there_skips.entries);
	assert_int_equal(manifest_compare(here, there, note, &found, &count), 0);
	assert_string_equal(found.text, want);
}

static void assert_differences(
	struct fixture *f, const char *path, const struct manifest_options *o, const char *want)
{
	_cleanup_manifest_ struct manifest_reader *here = NULL, *there = NULL;
	_cleanup_manifest_skips_ struct manifest_skips skips = {0};
	_cleanup_buf_ struct buf a = {0}, b = {0};
	struct findings found = {""};
	struct memory ma, mb;
	uint64_t count = 99, semicolons = 0;
	const char *p;

	assert_differences_indexed(f, path, o, want, &skips);
	write_buf(f->a, path, o, &a);
	write_buf(f->b, path, o, &b);
	assert_int_equal(open_buf(&a, &ma, &here), 0);
	assert_int_equal(open_buf(&b, &mb, &there), 0);
	assert_int_equal(manifest_compare(here, there, note, &found, &count), 0);
	assert_string_equal(found.text, want);
	for (p = want; *p; p++)
		semicolons += *p == ';';
	assert_int_equal(count, semicolons);
}

static const struct manifest_options plain = {.digest = "sha256"};

static void order_of_paths(void **state)
{
	static const char *const sorted[] = {
		"", "a", "a/x", "a/x/y", "a/x!", "a\x01", "a!", "a-b", "a.b", "aa", "\xff"};
	int i, j, n = sizeof(sorted) / sizeof(sorted[0]);

	(void)state;
	for (i = 0; i < n; i++)
		for (j = 0; j < n; j++) {
			int r = manifest_path_compare(sorted[i], sorted[j]);

			assert_int_equal((r > 0) - (r < 0), (i > j) - (i < j));
		}
}

static void lists_in_order(void **state)
{
	static const char *const want[] = {"", "d", "d/.tandemfs", "d/.tandemfs/x", "d/e",
		"d/e/three", "d/one", "d/z", "d-x", "d.y", "l", "p"};
	_cleanup_manifest_ struct manifest_reader *m = NULL;
	_cleanup_buf_ struct buf b = {0};
	const struct manifest_entry *e;
	struct fixture *f = *state;
	struct memory memory;
	size_t i;

	write_buf(f->a, "", &plain, &b);
	assert_int_equal(open_buf(&b, &memory, &m), 0);
	for (i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		assert_int_equal(manifest_next(m, &e), 1);
		assert_string_equal(e->path, want[i]);
		if (i == 7)
			assert_string_equal(e->link, "d/one");
		if (i == 6 || i == 7) {
			assert_int_equal(e->nlink, 2);
			assert_int_equal(e->content_len, 32);
			assert_int_equal(e->size, 4);
		}
		if (i == 10)
			assert_string_equal(e->target, "nowhere");
	}
	assert_int_equal(manifest_next(m, &e), 0);
	assert_int_equal(manifest_next(m, &e), 0);
}

static void alike(void **state)
{
	struct fixture *f = *state;
	uint8_t x[OP_DIGEST_MAX], y[OP_DIGEST_MAX], nx, ny;

	assert_differences(f, "", &plain, "");
	assert_int_equal(manifest_digest(f->a, "", &plain, x, &nx), 0);
	assert_int_equal(manifest_digest(f->b, "", &plain, y, &ny), 0);
	assert_int_equal(nx, 32);
	assert_memory_equal(x, y, 32);
	shell(f, "touch -d @5 b/d/one");
	assert_int_equal(manifest_digest(f->b, "", &plain, y, &ny), 0);
	assert_memory_not_equal(x, y, 32);
	assert_int_equal(manifest_digest(f->a, "d/e", &plain, x, &nx), 0);
	assert_int_equal(manifest_digest(f->b, "d/e", &plain, y, &ny), 0);
	assert_memory_equal(x, y, 32);
}

static void differences(void **state)
{
	struct fixture *f = *state;

	shell(f,
		"cd b; echo twO >d-x; touch -r ../a/d-x d-x; echo longer >>d.y; touch -r ../a/d.y d.y;"
		" rm l; ln -s other l; touch -hr ../a/l l; chmod 700 p; touch -d @7 d/e/three;"
		" setfattr -n user.k -v v d/e; touch -r ../a .");
	assert_differences(
		f, "", &plain, "d/e:xattrs;d/e/three:mtime;d-x:content;d.y:size;l:target;p:mode;");
}

static void names_and_types(void **state)
{
	struct fixture *f = *state;

	shell(f, "cd b; rm -r d/e; echo >d/e; echo >d/new; rm d/z; cp -a d/one d/z; rm d-x;"
		 " touch -r ../a/d d; touch -r ../a .; touch -r ../a/d/one d/z");
	assert_differences(f, "", &plain,
		"d/e:type;d/e/three:only here;d/new:only there;d/z:hard links;d-x:only here;");
}

static void owners(void **state)
{
	struct fixture *f = *state;

	if (geteuid() != 0)
		skip();
	shell(f, "chown -h 12:13 b/l b/d");
	assert_differences(f, "", &plain, "d:owner;l:owner;");
}

static void options(void **state)
{
	struct fixture *f = *state;
	struct manifest_options level = {.digest = "md5", .one_level = true};
	struct manifest_options quick = {.digest = "md5", .without_content = true};

	shell(f, "echo onE >b/d/one; touch -r a/d/one b/d/one; echo threE >b/d/e/three;"
		 " touch -r a/d/e/three b/d/e/three");
	assert_differences(f, "d", &level, "d/one:content;d/z:content;");
	assert_differences(f, "", &level, "");
	assert_differences(f, "", &quick, "");
}

static int stop_at_five(void *ctx, uint64_t entries, uint64_t bytes)
{
	(void)ctx;
	(void)bytes;
	return entries == 5 ? -ECANCELED : 0;
}

static void errors(void **state)
{
	_cleanup_manifest_ struct manifest_reader *here = NULL, *there = NULL;
	struct manifest_options o = {.digest = "sha256", .progress = stop_at_five};
	_cleanup_buf_ struct buf b = {0}, c = {0};
	struct manifest_sink sink = {manifest_put_buf, &b};
	struct fixture *f = *state;
	struct memory mb, mc;
	uint64_t count;

	assert_int_equal(manifest_write(f->a, "", &o, &sink), -ECANCELED);
	assert_int_equal(manifest_write(f->a, "none", &plain, &sink), -ENOENT);
	assert_int_equal(manifest_write(f->a, "d-x", &plain, &sink), -ENOTDIR);
	assert_int_equal(manifest_write(f->a, "../b", &plain, &sink), -EINVAL);
	o = (struct manifest_options){.digest = "none"};
	assert_int_equal(manifest_write(f->a, "", &o, &sink), -EINVAL);
	buf_reset(&b);
	write_buf(f->a, "d", &plain, &b);
	write_buf(f->a, "", &plain, &c);
	assert_int_equal(open_buf(&b, &mb, &here), 0);
	assert_int_equal(open_buf(&c, &mc, &there), 0);
	assert_int_equal(manifest_compare(here, there, note, NULL, &count), -EINVAL);
}

/* Reads to the end or an error. */
static int drain(const uint8_t *data, size_t len)
{
	_cleanup_manifest_ struct manifest_reader *m = NULL;
	struct memory memory = {data, len, 0};
	const struct manifest_entry *e;
	int r;

	r = manifest_reader_new(&(struct manifest_source){get_memory, &memory}, &m);
	while (r == 0 || r == 1) {
		r = manifest_next(m, &e);
		if (r == 0)
			return 0;
	}
	return r;
}

static void cut_short(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct fixture *f = *state;
	size_t len;

	write_buf(f->a, "", &plain, &b);
	assert_int_equal(drain(b.data, b.len), 0);
	for (len = 0; len < b.len; len++)
		assert_int_equal(drain(b.data, len), -EBADMSG);
}

/* Any byte changed at all: an error or an end, and no access outside (the sanitizers look). */
static void damaged(void **state)
{
	static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x2f};
	_cleanup_buf_ struct buf b = {0};
	struct fixture *f = *state;
	size_t i, k;
	int r;

	write_buf(f->a, "", &plain, &b);
	for (i = 0; i < b.len; i++)
		for (k = 0; k < sizeof(flips); k++) {
			b.data[i] ^= flips[k];
			r = drain(b.data, b.len);
			assert_true(r == 0 || r == -EBADMSG);
			b.data[i] ^= flips[k];
		}
}

static void put_entry(struct buf *b, const char *path, uint32_t mode, const char *link)
{
	size_t at = b->len;

	buf_put_u32(b, 0);
	buf_put_string(b, path);
	buf_put_u32(b, mode);
	buf_put(b, (uint8_t[36]){0}, 36);
	buf_put_string(b, "");
	buf_put_string(b, link);
	buf_put_blob(b, NULL, 0);
	buf_put_blob(b, NULL, 0);
	buf_set_u32(b, at, (uint32_t)(b->len - at - 4));
}

/* A stream with two entries, the second as given. */
static int hostile(const char *path, uint32_t mode, const char *link)
{
	_cleanup_buf_ struct buf b = {0};

	buf_put(&b, "tandemM1", 8);
	buf_put_u32(&b, 4 + 3 + 4 + 1 + 1);
	buf_put_string(&b, "md5");
	buf_put_string(&b, "r");
	buf_put_u8(&b, 0);
	put_entry(&b, "r", S_IFDIR | 0755, "");
	put_entry(&b, path, mode, link);
	buf_put_u32(&b, 0);
	buf_put_u64(&b, 2);
	assert_int_equal(buf_error(&b), 0);
	return drain(b.data, b.len);
}

static void hostile_entries(void **state)
{
	(void)state;
	assert_int_equal(hostile("r/x", S_IFREG | 0644, ""), 0);
	assert_int_equal(hostile("r/x", S_IFREG | 0644, "r/a"), 0);
	assert_int_equal(hostile("r/x", S_IFREG | 0644, "r/y"), -EBADMSG);
	assert_int_equal(hostile("r/x", S_IFREG | 0644, "../a"), -EBADMSG);
	assert_int_equal(hostile("r/x", S_IFDIR | 0644, "r/a"), -EBADMSG);
	assert_int_equal(hostile("r", S_IFDIR | 0644, ""), -EBADMSG);
	assert_int_equal(hostile("s/x", S_IFREG | 0644, ""), -EBADMSG);
	assert_int_equal(hostile("r/../x", S_IFREG | 0644, ""), -EBADMSG);
	assert_int_equal(hostile("r//x", S_IFREG | 0644, ""), -EBADMSG);
	assert_int_equal(hostile("r/x", 0644, ""), -EBADMSG);
	assert_int_equal(hostile("r/x", 0x10000 | S_IFREG, ""), -EBADMSG);
}

static void deep_and_wide(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int at = dup(f->a);
	int i, next;

	/* Deeper than there are descriptors by default. */
	for (i = 0; i < 1500; i++) {
		assert_int_equal(mkdirat(at, "x", 0700), 0);
		next = openat(at, "x", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(at);
		at = next;
	}
	shell(f, "cd a/d/e && seq 3000 | xargs touch");
	{
		_cleanup_buf_ struct buf b = {0};

		write_buf(f->a, "", &plain, &b);
		assert_int_equal(drain(b.data, b.len), 0);
	}
}

/* A subtree is in use while it is listed. */
static void names_vanish(void **state)
{
	struct fixture *f = *state;
	pid_t pid = fork();
	int i;

	assert_true(pid >= 0);
	if (pid == 0) {
		for (i = 0; i < 2000; i++) {
			char name[32];
			int fd;

			snprintf(name, sizeof(name), "d/e/v%d", i % 50);
			fd = openat(f->a, name, O_WRONLY | O_CREAT, 0600);
			close(fd);
			snprintf(name, sizeof(name), "d/e/v%d", (i + 25) % 50);
			(void)unlinkat(f->a, name, 0);
		}
		_exit(0);
	}
	for (i = 0; i < 50; i++) {
		_cleanup_buf_ struct buf b = {0};

		write_buf(f->a, "", &plain, &b);
		assert_int_equal(drain(b.data, b.len), 0);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void only_directories_that_differ(void **state)
{
	_cleanup_manifest_skips_ struct manifest_skips skips = {0};
	const struct manifest_options o = {.digest = "sha256"};
	struct fixture *f = *state;

	shell(f,
		"cd a; mkdir -p same/below other/below late; touch same/1 same/below/2 other/1"
		" other/below/2; cd ..; rm -rf b; cp -a a b; echo x >b/other/1; mkdir a/only; touch a/only/1;"
		" rm b/late -r; touch -r a b; touch -r a/other/1 b/other/1; touch -r a/other b/other");
	close(f->b);
	f->b = open_tree(f, "b");
	assert_differences_indexed(
		f, "", &o, "late:only here;only:only here;only/1:only here;other/1:size;", &skips);
	/* d, other/below and same: each whole */
	assert_int_equal(skips.n, 3);
	assert_int_equal(skips.entries, 7 + 2 + 4);
	assert_differences(f, "other", &o, "other/1:size;");
}

static void hostile_index(void **state)
{
	_cleanup_manifest_index_ struct manifest_index *x = NULL;
	_cleanup_buf_ struct buf m = {0}, b = {0}, twice = {0};
	const struct manifest_options o = {.digest = "sha256"};
	struct fixture *f = *state;
	struct manifest_index *got = NULL;
	size_t whole = 0;

	write_indexed(f->a, "", &o, &m, &x);
	manifest_index_encode(x, 5, &b);
	assert_int_equal(manifest_index_decode(b.data, b.len, 6, &got), -EBADMSG);
	for (size_t len = 0; len < b.len; len++) {
		int r = manifest_index_decode(b.data, len, 5, &got);

		if (r == 0) { /* cut between two directories */
			manifest_index_free(got);
			whole++;
		} else {
			assert_int_equal(r, -EBADMSG);
		}
	}
	assert_int_equal(whole, 4);
	/* the same directories again: out of order */
	buf_put(&twice, b.data, b.len);
	buf_put(&twice, b.data + 16, b.len - 16);
	assert_int_equal(manifest_index_decode(twice.data, twice.len, 5, &got), -EBADMSG);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(only_directories_that_differ),
		CASE(hostile_index),
		cmocka_unit_test(order_of_paths),
		CASE(lists_in_order),
		CASE(alike),
		CASE(differences),
		CASE(names_and_types),
		CASE(owners),
		CASE(options),
		CASE(errors),
		CASE(cut_short),
		CASE(damaged),
		cmocka_unit_test(hostile_entries),
		CASE(deep_and_wide),
		CASE(names_vanish),
	};

	return cmocka_run_group_tests_name("manifest", tests, NULL, NULL);
}
