/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "apply_fixture.h"

#include "replicate/base/fault.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

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

/* The digest of what had arrived so far. */
static struct digest *known;
static uint64_t known_len;

static bool know(void *ctx, ino_t ino, const char *name, struct digest **ret, uint64_t *ret_done)
{
	(void)ctx;
	assert_true(ino > 0);
	assert_string_equal(name, "sha256");
	*ret = steal_pointer(&known);
	*ret_done = known_len;
	return *ret != NULL;
}

static void know_prefix(const char *bytes, uint64_t len)
{
	assert_null(known);
	assert_int_equal(digest_new("sha256", &known), 0);
	assert_int_equal(digest_update(known, bytes, strlen(bytes)), 0);
	known_len = len;
}

static void digest_that_was_begun(void **state)
{
	static const struct {
		const char *bytes;
		uint64_t len;
		bool damaged;
	} cases[] = {{"123", 3, false}, {"12345", 5, false}, {"124", 3, false},
		{"123456", 6, false}, {"123", 3, true}, {"12345", 5, true}};
	struct fixture *f = *state;
	struct range e = whole_of("12345");

	f->t.digested = know;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct content c = staged(f, "up.1", "12345", 5, &e, 1);
		struct op op = content_op("a", &c, OP_WHOLE);

		put_file(f->t.root, "a", "old");
		c.digest[3] ^= cases[i].damaged;
		know_prefix(cases[i].bytes, cases[i].len);
		if (cases[i].damaged) {
			refused(f, &op, -EBADMSG);
			assert_null(known);
			continue;
		}
		applied(f, &op);
		assert_file(f->t.root, "a", "12345");
	}
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

/* ---- a full disk ---- */

/* @small.base is a file system of about 1.3 MiB. */
static void fill_up(struct fixture *small)
{
	size_t size = 700u << 10;
	_cleanup_free_ char *data = malloc(size + 1);
	struct range e[2] = {{0, 350u << 10}, {400u << 10, 350u << 10}};
	struct content c;
	struct op op;

	assert_non_null(data);
	memset(data, 'x', size);
	data[size] = '\0';
	fixture_dirs(small);
	put_file(small->t.root, "a", "old");
	c = staged(small, "up.1", data, 750u << 10, e, 2);
	op = content_op("a", &c, OP_WHOLE);
	set_mtime(small->t.root, "a", (int64_t)T0 - 3);
	assert_int_equal(op_apply(&small->t, &op, &(struct apply_result){0}), -ENOSPC);
	assert_file(small->t.root, "a", "old");
	assert_int_equal(stat_of(small->t.stage, "up.1").st_size, size); /* for a retry */
	op.flags = 0;
	op.ranges = e;
	op.n_ranges = 2;
	assert_int_equal(op_apply(&small->t, &op, &(struct apply_result){0}), -ENOSPC);
	assert_file(small->t.root, "a", "old");
	assert_int_equal(mtime_of(small->t.root, "a"), T0 - 3);
	assert_int_equal(count_names(small->t.scratch), 0);
	close(small->t.root);
	close(small->t.scratch);
	close(small->t.stage);
	close(small->dir);
}

static void full_disk(struct fixture *f, const char *mount_command)
{
	struct fixture small = {.base = ""};
	char command[512];

	need_root();
	strcpy(small.base, f->base);
	strcat(small.base, "/outside");
	snprintf(command, sizeof(command), "cd %s && { %s; } 2>/dev/null", f->base, mount_command);
	if (system(command) != 0)
		skip();
	fill_up(&small);
	assert_int_equal(umount(small.base), 0);
}

static void full_tmpfs_leaves_the_old_file(void **state)
{
	full_disk(*state, "mount -t tmpfs -o size=1m tmpfs outside");
}

static void full_ext4_leaves_the_old_file(void **state)
{
	full_disk(*state, "truncate -s 1400k img && PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q img &&"
			  " mount -o loop img outside");
}

/* ---- killed on the way (make FAULTS=1) ---- */

#ifdef TANDEMFS_FAULTS
static const char *fatal_label;

static void die_at_label(const char *label)
{
	if (strcmp(label, fatal_label) == 0)
		(void)kill(getpid(), SIGKILL);
}

static void killed_at(struct fixture *f, struct op *op, const char *label)
{
	struct apply_result ret;
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		fatal_label = label;
		fault_set_hook(die_at_label);
		_exit(op_apply(&f->t, op, &ret) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void killed_while_replacing(void **state)
{
	static const char *const labels[] = {
		"apply.content.before_rename", "apply.content.after_rename"};
	struct fixture *f = *state;
	struct range e = whole_of("staged");
	struct content c;
	struct op op;
	size_t i;

	for (i = 0; i < 2; i++) {
		put_file(f->t.root, "a", "old");
		c = staged(f, "up.1", "staged", 6, &e, 1);
		op = content_op("a", &c, OP_WHOLE);
		killed_at(f, &op, labels[i]);
		assert_file(f->t.root, "a", i ? "staged" : "old");
		applied(f, &op);
		assert_file(f->t.root, "a", "staged");
		assert_int_equal(count_names(f->t.stage), 0);
	}
}

static void killed_while_renaming(void **state)
{
	struct fixture *f = *state;
	struct op op = op_of(OP_RENAME, "a", "b");
	struct apply_result ret;

	put_file(f->t.root, "a", "moved");
	put_file(f->t.root, "b", "replaced");
	op.flags = OP_REPLACED;
	assert_int_equal(fid_of_path(f->t.root, "a", &op.fid), 0);
	killed_at(f, &op, "apply.rename.after");
	assert_int_equal(op_applied(f->t.root, &op), 1);
	assert_int_equal(op_apply(&f->t, &op, &ret), 0);
	assert_false(ret.changed);
	assert_file(f->t.root, "b", "moved");
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
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
		CASE(digest_that_was_begun),
		CASE(stage_traps),
		CASE(crashed_between_taking_and_renaming),
		CASE(alive_during_long_work),
		CASE(full_tmpfs_leaves_the_old_file),
		CASE(full_ext4_leaves_the_old_file),
#ifdef TANDEMFS_FAULTS
		CASE(killed_while_replacing),
		CASE(killed_while_renaming),
#endif
	};

	return cmocka_run_group_tests_name("apply_content", tests, NULL, NULL);
}
