/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mount_fixture.h"

#include <signal.h>

/* What the mount records, and what of a peer's changes it shows. */

/* The next note from *at on, asserted to be of that kind. */
static const struct note *expect(uint64_t *at, enum op_type type, const char *path)
{
	const struct note *n;

	++*at;
	assert_true(*at <= replica.head);
	n = &replica.notes[*at];
	assert_string_equal(op_name(n->op.type), op_name(type));
	assert_string_equal(n->op.path, path);
	assert_false(n->open);
	return n;
}

static void expect_end(uint64_t at)
{
	if (at < replica.head)
		fail_msg("unexpected %s %s", op_name(replica.notes[at + 1].op.type),
			replica.notes[at + 1].op.path);
}

static void write_file(struct place *p, const char *name, int flags, const char *text)
{
	int fd = openat(p->top, name, flags | O_WRONLY, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	assert_int_equal(close(fd), 0);
}

/* RELEASE comes after close(2) has returned; a call on the same inode does not wait for it. */
static void test_new_file(void **state)
{
	struct place *p = *state;
	uint64_t at = 0;

	write_file(p, "f", O_CREAT, "hello");
	assert_true(expect(&at, OP_CREATE, "f")->cleaned);
	assert_int_equal(expect(&at, OP_CONTENT, "f")->op.flags, OP_WHOLE);
	assert_int_equal(replica.notes[2].op.time, replica.notes[1].op.time);
	expect_end(at);
}

static void test_append(void **state)
{
	struct place *p = *state;
	uint64_t at = 2;
	const struct note *n;

	write_file(p, "f", O_CREAT, "hello");
	write_file(p, "f", O_APPEND, " world");
	assert_true(expect(&at, OP_DIRTY, "f")->cleaned);
	n = expect(&at, OP_CONTENT, "f");
	assert_int_equal(n->op.flags, 0);
	assert_int_equal(n->op.n_ranges, 1);
	assert_int_equal(n->op.ranges[0].start, 5);
	assert_int_equal(n->op.ranges[0].len, 6);
	expect_end(at);
}

static void test_truncate(void **state)
{
	struct place *p = *state;
	uint64_t at = 2;
	int fd;

	write_file(p, "f", O_CREAT, "hello");
	write_file(p, "f", O_TRUNC, "x");
	(void)expect(&at, OP_DIRTY, "f");
	assert_int_equal(expect(&at, OP_CONTENT, "f")->op.flags, OP_WHOLE);
	fd = openat(p->top, "f", O_WRONLY);
	assert_int_equal(ftruncate(fd, 10), 0);
	(void)close(fd);
	(void)expect(&at, OP_DIRTY, "f");
	assert_int_equal(expect(&at, OP_CONTENT, "f")->op.ranges[0].start, 1);
	assert_int_equal(replica.notes[at].op.ranges[0].len, 9);
	expect_end(at);
}

static void test_rename_of_dirty(void **state)
{
	struct place *p = *state;
	uint64_t at = 0;
	int fd;

	assert_int_equal(mkdirat(p->top, "d", 0755), 0);
	fd = openat(p->top, "d/f", O_CREAT | O_WRONLY, 0644);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(renameat(p->top, "d", p->top, "e"), 0);
	assert_int_equal(write(fd, "y", 1), 1);
	assert_int_equal(close(fd), 0);
	(void)expect(&at, OP_MKDIR, "d");
	(void)expect(&at, OP_CREATE, "d/f");
	(void)expect(&at, OP_CONTENT, "d/f");
	assert_int_equal(expect(&at, OP_RENAME, "d")->op.flags, OP_IS_DIR);
	(void)expect(&at, OP_DIRTY, "e/f");
	assert_int_equal(expect(&at, OP_CONTENT, "e/f")->op.ranges[0].start, 1);
	expect_end(at);
}

static void test_unlink_of_dirty(void **state)
{
	struct place *p = *state;
	uint64_t at = 0;
	int fd = openat(p->top, "f", O_CREAT | O_WRONLY, 0644);

	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(unlinkat(p->top, "f", 0), 0);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(close(fd), 0);
	assert_true(expect(&at, OP_CREATE, "f")->cleaned);
	(void)expect(&at, OP_UNLINK, "f");
	expect_end(at);
}

static void test_attributes_of_unsent(void **state)
{
	struct place *p = *state;
	uint64_t at = 0;
	int fd = openat(p->top, "f", O_CREAT | O_WRONLY, 0644);

	/* an empty file would be noted by RELEASE, which close(2) does not wait for */
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(fchmod(fd, 0600), 0);
	assert_int_equal(close(fd), 0);
	assert_int_equal(fchmodat(p->top, "f", 0640, 0), 0);
	(void)expect(&at, OP_CREATE, "f");
	(void)expect(&at, OP_CONTENT, "f");
	assert_int_equal(expect(&at, OP_SETATTR, "f")->op.mode, 0640);
	expect_end(at);
}

static void test_failures_are_aborted(void **state)
{
	struct place *p = *state;

	write_file(p, "f", O_CREAT, "x");
	assert_int_equal(mkdirat(p->top, "d", 0755), 0);
	write_file(p, "d/g", O_CREAT, "x");
	assert_int_equal(unlinkat(p->top, "d", AT_REMOVEDIR), -1);
	assert_int_equal(errno, ENOTEMPTY);
	assert_true(replica.notes[replica.head].aborted);
}

/* ---- a peer's changes ---- */

static void peer(struct place *p, struct op *op)
{
	struct apply_target t = {.root = p->root, .scratch = p->root, .stage = -1};
	struct apply_result result = {0};

	op->time = replica_now(&replica);
	tree_lock(replica.tree, TREE_RENAME);
	assert_int_equal(op_apply(&t, op, &result), 0);
	p->hooks.applied(p->hooks.ctx, op, &result);
	tree_unlock(replica.tree);
	p->hooks.settle(p->hooks.ctx);
}

static bool exists(struct place *p, const char *name)
{
	struct stat st;

	return fstatat(p->top, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static unsigned listed(struct place *p, const char *name)
{
	int fd = openat(p->top, name, O_RDONLY | O_DIRECTORY);
	_cleanup_closedir_ DIR *d = fdopendir(fd);
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	return n - 2;
}

static void test_peer_makes_and_removes(void **state)
{
	struct place *p = *state;
	struct op make = {.type = OP_MKDIR,
		.path = (char *)"d",
		.mode = 0755,
		.mask = OP_MODE | OP_UID | OP_GID};
	struct op link = {.type = OP_SYMLINK, .path = (char *)"d/l", .path2 = (char *)"x"};
	struct op unlink = {.type = OP_UNLINK, .path = (char *)"d/l"};
	struct op remove = {.type = OP_RMDIR, .path = (char *)"d"};

	for (int k = 0; k < 20; k++) {
		assert_false(exists(p, "d"));
		assert_int_equal(listed(p, "."), 0);
		peer(p, &make);
		assert_true(exists(p, "d"));
		assert_false(exists(p, "d/l"));
		assert_int_equal(listed(p, "."), 1);
		assert_int_equal(listed(p, "d"), 0);
		peer(p, &link);
		assert_true(exists(p, "d/l"));
		assert_int_equal(listed(p, "d"), 1);
		peer(p, &unlink);
		assert_false(exists(p, "d/l"));
		assert_int_equal(listed(p, "d"), 0);
		peer(p, &remove);
	}
}

static void test_peer_renames(void **state)
{
	struct place *p = *state;
	struct op there = {
		.type = OP_RENAME, .path = (char *)"a", .path2 = (char *)"s/b", .flags = OP_IS_DIR};
	struct op back = {
		.type = OP_RENAME, .path = (char *)"s/b", .path2 = (char *)"a", .flags = OP_IS_DIR};
	int fd;

	assert_int_equal(mkdirat(p->top, "a", 0755) | mkdirat(p->top, "s", 0755), 0);
	fd = openat(p->top, "a/f", O_CREAT | O_WRONLY, 0644);
	for (int k = 0; k < 20; k++) {
		assert_true(exists(p, "a/f"));
		assert_false(exists(p, "s/b"));
		peer(p, &there);
		assert_false(exists(p, "a"));
		assert_true(exists(p, "s/b/f"));
		peer(p, &back);
	}
	peer(p, &there);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(close(fd), 0);
	assert_string_equal(replica.notes[replica.head].op.path, "s/b/f");
}

static void test_peer_changes_attributes(void **state)
{
	struct place *p = *state;
	struct op op = {.type = OP_SETATTR, .path = (char *)"f", .mask = OP_MODE};
	struct stat st;

	write_file(p, "f", O_CREAT, "x");
	for (uint32_t mode = 0600; mode < 0700; mode++) {
		op.mode = mode;
		peer(p, &op);
		assert_int_equal(fstatat(p->top, "f", &st, 0), 0);
		assert_int_equal(st.st_mode & 0777, mode);
	}
}

static void test_busy(void **state)
{
	struct place *p = *state;
	int fd = openat(p->top, "f", O_CREAT | O_WRONLY, 0644);
	struct fid fid;

	assert_true(p->hooks.busy);
	fid = (struct fid){0};
	write_file(p, "g", O_CREAT, "x");
	assert_int_equal(fchmodat(p->top, "g", 0600, 0), 0);
	fid = replica.notes[replica.head].op.fid;
	assert_false(p->hooks.busy(p->hooks.ctx, &fid));
	assert_int_equal(close(fd), 0);
	fd = openat(p->top, "g", O_WRONLY);
	assert_int_equal(write(fd, "y", 1), 1);
	assert_true(p->hooks.busy(p->hooks.ctx, &fid));
	assert_int_equal(close(fd), 0);
	assert_false(p->hooks.busy(p->hooks.ctx, &fid));
}

/* ---- while local calls wait ---- */

static void *make_directory(void *ctx)
{
	struct place *p = ctx;

	return (void *)(intptr_t)mkdirat(p->top, "d/mine", 0755);
}

static void hold(bool held)
{
	(void)pthread_mutex_lock(&replica.lock);
	replica.held = held;
	(void)pthread_cond_broadcast(&replica.changed);
	(void)pthread_mutex_unlock(&replica.lock);
}

static void await_waiting(unsigned n)
{
	struct timespec until;

	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_S;
	(void)pthread_mutex_lock(&replica.lock);
	while (replica.waiting < n)
		assert_int_equal(
			pthread_cond_timedwait(&replica.changed, &replica.lock, &until), 0);
	(void)pthread_mutex_unlock(&replica.lock);
}

/* Two servers that change one directory at once, in sync mode: the acknowledgement of the peer's
 * change must not wait for our own call, which waits for the peer. */
static void test_no_deadlock(void **state)
{
	struct place *p = *state;
	struct op theirs = {.type = OP_MKDIR,
		.path = (char *)"d/theirs",
		.mode = 0755,
		.mask = OP_MODE | OP_UID | OP_GID};
	struct op gone = {.type = OP_RMDIR, .path = (char *)"d/theirs"};
	struct op other = {.type = OP_MKDIR,
		.path = (char *)"o/x",
		.mode = 0755,
		.mask = OP_MODE | OP_UID | OP_GID};
	pthread_t thread;
	void *result;

	assert_int_equal(mkdirat(p->top, "d", 0755) | mkdirat(p->top, "o", 0755), 0);
	assert_false(exists(p, "d/theirs"));
	assert_false(exists(p, "o/x"));
	replica.sync = true;
	hold(true);
	(void)alarm(WAIT_S);
	assert_int_equal(pthread_create(&thread, NULL, make_directory, p), 0);
	await_waiting(1);
	peer(p, &theirs);
	peer(p, &other);
	assert_true(exists(p, "o/x")); /* not queued behind */
	peer(p, &gone);
	peer(p, &theirs);
	hold(false);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_null(result);
	(void)alarm(0);
	replica.sync = false;
	for (int k = 0; k < 100 && !exists(p, "d/theirs"); k++)
		(void)usleep(10000);
	assert_true(exists(p, "d/theirs"));
	assert_true(exists(p, "d/mine"));
}

/* The notice is on its way into the kernel when the call begins to wait. */
static void test_no_deadlock_race(void **state)
{
	struct place *p = *state;
	struct op theirs = {.type = OP_MKDIR,
		.path = (char *)"d/theirs",
		.mode = 0755,
		.mask = OP_MODE | OP_UID | OP_GID};
	struct op gone = {.type = OP_RMDIR, .path = (char *)"d/theirs"};
	pthread_t thread;
	void *result;

	assert_int_equal(mkdirat(p->top, "d", 0755), 0);
	replica.sync = true;
	(void)alarm(WAIT_S);
	for (int k = 0; k < 200; k++) {
		hold(true);
		assert_int_equal(pthread_create(&thread, NULL, make_directory, p), 0);
		peer(p, k % 2 ? &gone : &theirs);
		await_waiting(1);
		hold(false);
		assert_int_equal(pthread_join(thread, &result), 0);
		assert_null(result);
		assert_int_equal(unlinkat(p->top, "d/mine", AT_REMOVEDIR), 0);
		assert_int_equal(exists(p, "d/theirs"), k % 2 == 0);
	}
	(void)alarm(0);
}

/* ---- the end ---- */

static void test_end_with_open_files(void **state)
{
	struct place *p = *state;
	int fd = openat(p->top, "f", O_CREAT | O_WRONLY, 0644);
	uint64_t at = 0;
	void *result;

	assert_int_equal(write(fd, "x", 1), 1);
	mount_stop(p->m);
	assert_int_equal(pthread_join(p->thread, &result), 0);
	assert_true(expect(&at, OP_CREATE, "f")->cleaned);
	(void)expect(&at, OP_CONTENT, "f");
	expect_end(at);
	assert_int_equal(pthread_create(&p->thread, NULL, run_mount, p->m), 0);
	p->left_open = fd; /* its close waits for an answer while the session's device is open */
}

#define MOUNTED(test) cmocka_unit_test_setup_teardown(test, place_open, place_close)

/* The peer puts another file where @name is. */
static void peer_replaces(struct place *p, const char *name)
{
	struct op link = {.type = OP_SYMLINK, .path = (char *)"other", .path2 = (char *)"x"};
	struct op rename = {.type = OP_RENAME,
		.flags = OP_REPLACED,
		.path = (char *)"other",
		.path2 = (char *)name};

	peer(p, &link);
	peer(p, &rename);
}

static void test_replaced_while_open(void **state)
{
	struct place *p = *state;
	uint64_t at = 2;
	int fd;

	write_file(p, "f", O_CREAT, "old");
	replica.vault_path = "f";
	fd = openat(p->top, "f", O_WRONLY | O_APPEND);
	peer_replaces(p, "f");
	assert_int_equal(write(fd, ", late", 6), 6);
	assert_int_equal(replica.vault_puts, 0);
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(replica.vault_puts, 1);
	assert_string_equal(replica.vault, "old, late");
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(replica.vault_puts, 1); /* nothing is new */
	assert_int_equal(write(fd, "r", 1), 1);
	/* a vault that is full is told to who closes, and again */
	replica.vault_error = -ENOSPC;
	assert_int_equal(fsync(fd), -1);
	assert_int_equal(errno, ENOSPC);
	replica.vault_error = 0;
	assert_int_equal(replica.forgotten, 0);
	assert_int_equal(close(fd), 0);
	assert_string_equal(replica.vault, "old, later");
	expect_end(at); /* and nothing of it is a change of the tree */
}

static void test_replaced_while_dirty(void **state)
{
	struct place *p = *state;
	int fd = openat(p->top, "f", O_CREAT | O_WRONLY, 0644);

	replica.vault_path = "f";
	assert_int_equal(write(fd, "new", 3), 3);
	peer_replaces(p, "f");
	assert_false(replica.notes[1].cleaned); /* a crash now, and recovery looks after it */
	assert_int_equal(close(fd), 0);
	assert_string_equal(replica.vault, "new");
	/* RELEASE comes when close(2) has returned */
	for (int i = 0; i < WAIT_S * 100 && !replica.notes[1].cleaned; i++) {
		const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};

		(void)nanosleep(&pause, NULL);
	}
	assert_true(replica.notes[1].cleaned);
	assert_int_equal(replica.forgotten, 1);
	assert_int_equal(replica.vault_puts, 1);
}

/* What the peer removed and had seen is nobody's version; what it had not seen is in the vault. */
static void test_removed_while_open(void **state)
{
	struct op unlink = {.type = OP_UNLINK, .path = (char *)"f"};
	struct place *p = *state;

	for (unsigned kept = 0; kept < 2; kept++) {
		int fd;

		write_file(p, "f", O_CREAT, "old");
		fd = openat(p->top, "f", O_WRONLY | O_APPEND);
		replica.vault_link = kept;
		replica.vault_path = "f";
		peer(p, &unlink);
		assert_int_equal(write(fd, "x", 1), 1);
		assert_int_equal(close(fd), 0);
		assert_int_equal(replica.vault_puts, kept);
	}
}

static void test_replaced_here_while_open(void **state)
{
	struct place *p = *state;
	int fd;

	write_file(p, "f", O_CREAT, "old");
	write_file(p, "g", O_CREAT, "other");
	fd = openat(p->top, "f", O_WRONLY | O_APPEND);
	assert_int_equal(renameat(p->top, "g", p->top, "f"), 0);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(close(fd), 0);
	assert_int_equal(replica.vault_puts, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MOUNTED(test_new_file),
		MOUNTED(test_append),
		MOUNTED(test_truncate),
		MOUNTED(test_rename_of_dirty),
		MOUNTED(test_unlink_of_dirty),
		MOUNTED(test_attributes_of_unsent),
		MOUNTED(test_failures_are_aborted),
		MOUNTED(test_peer_makes_and_removes),
		MOUNTED(test_replaced_while_open),
		MOUNTED(test_replaced_while_dirty),
		MOUNTED(test_removed_while_open),
		MOUNTED(test_replaced_here_while_open),
		MOUNTED(test_peer_renames),
		MOUNTED(test_peer_changes_attributes),
		MOUNTED(test_busy),
		MOUNTED(test_no_deadlock),
		MOUNTED(test_no_deadlock_race),
		MOUNTED(test_end_with_open_files),
	};

	if (!possible()) {
		print_message("[  SKIPPED ] test_mount: needs root and /dev/fuse\n");
		return 0;
	}
	(void)pthread_mutex_init(&replica.lock, NULL);
	(void)pthread_cond_init(&replica.changed, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
