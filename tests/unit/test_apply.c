/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "apply_fixture.h"

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
	op.uid = 78; /* chown alone would clear setuid and setgid */
	applied(f, &op);
	assert_int_equal(stat_of(f->t.root, "a").st_mode, S_IFREG | 06755);
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
	int r, removal;

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
		/* what is to be gone is gone from where the peer means it */
		removal = ops[i].type == OP_UNLINK || ops[i].type == OP_RMDIR;
		assert_true(op_applied(f->t.root, &ops[i]) <= removal);
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
	refused(f, &op, -ENOENT);
	op.flags = OP_GONE;
	applied(f, &op);
}

static void cleans_scratch(void **state)
{
	struct fixture *f = *state;

	put_file(f->t.scratch, "new.1.2", "half");
	put_file(f->t.scratch, "s77.up", "staged");
	assert_int_equal(mkdirat(f->t.scratch, "new.1.3", 0700), 0);
	assert_int_equal(symlinkat("../root", f->t.scratch, "new.1.4"), 0);
	assert_int_equal(apply_clean_scratch(f->t.scratch), 0);
	assert_int_equal(count_names(f->t.scratch), 0);
	assert_int_equal(apply_clean_scratch(f->t.scratch), 0);
}

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
		CASE(symlink_in_place_of_a_parent),
		CASE(paths_that_leave_or_belong_to_tandemfs),
		CASE(missing_parent),
		CASE(syncs),
		CASE(cleans_scratch),
	};

	return cmocka_run_group_tests_name("apply", tests, NULL, NULL);
}
