/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The conflict vault: what is kept and how, what people call it, its bound, and what a peer may not
 * do with it. */

#include "apply_fixture.h"

#include "replicate/base/confine.h"
#include "replicate/vault.h"

static const char A[] = "aaaabbbbccccdddd0000111122223333",
		  B[] = "aaaabbbbccccdddd4444555566667777",
		  C[] = "0123456789abcdef0123456789abcdef";

struct box {
	struct fixture *f;
	struct vault *v;
};

static int setup_vault(void **state)
{
	struct box *b = calloc(1, sizeof(*b));

	setup((void **)&b->f);
	assert_int_equal(vault_open(b->f->dir, 0, &b->v), 0);
	*state = b;
	return 0;
}

static int teardown_vault(void **state)
{
	struct box *b = *state;

	vault_close(b->v);
	teardown((void **)&b->f);
	free(b);
	return 0;
}

static struct vault_entry entry_of(const char *id, uint64_t seq)
{
	struct vault_entry e = {.path = (char *)"a",
		.node = (char *)"web1",
		.winner = (char *)"web2",
		.seq = seq,
		.other_seq = 9};

	vault_name(e.name, id, seq);
	return e;
}

/* Puts @path there, which goes away after it. */
static struct vault_entry keep(struct box *b, const char *path, uint64_t seq)
{
	struct vault_entry e = entry_of(A, seq);

	e.path = (char *)path;
	assert_int_equal(vault_keep(b->v, b->f->t.root, path, true, &e), 0);
	return e;
}

static void assert_bytes(struct box *b, const char *name, const char *want)
{
	char got[64] = "";
	_cleanup_close_ int fd = vault_read(b->v, name, NULL);

	assert_true(fd >= 0);
	assert_int_equal(read(fd, got, sizeof(got) - 1), strlen(want));
	assert_string_equal(got, want);
}

static size_t listed(struct box *b, const char *const *names)
{
	struct vault_entry *list;
	size_t n;

	assert_int_equal(vault_list(b->v, &list, &n), 0);
	assert_int_equal(vault_count(b->v), n);
	for (size_t i = 0; i < n && names && names[i]; i++)
		assert_string_equal(list[i].path, names[i]);
	vault_list_free(list, n);
	return n;
}

/* ---- keeping ---- */

static void what_leaves_is_linked(void **state)
{
	struct box *b = *state;
	struct vault_entry e, got;
	_cleanup_close_ int writer = -1, fd = -1;
	struct stat before;

	put_file(b->f->t.root, "a", "text");
	set_mtime(b->f->t.root, "a", (int64_t)T0 + 123);
	assert_int_equal(fchmodat(b->f->t.root, "a", 04751, 0), 0);
	before = stat_of(b->f->t.root, "a");
	writer = openat(b->f->t.root, "a", O_WRONLY | O_APPEND);
	e = keep(b, "a", 17);
	assert_int_equal(stat_of(vault_dir(b->v), e.name).st_ino, before.st_ino);
	assert_int_equal(unlinkat(b->f->t.root, "a", 0), 0);
	/* a process that still has it open */
	assert_int_equal(write(writer, " more", 5), 5);
	assert_bytes(b, e.name, "text more");
	fd = vault_read(b->v, e.name, &got);
	assert_true(fd >= 0);
	assert_string_equal(got.name, e.name);
	assert_string_equal(got.path, "a");
	assert_string_equal(got.node, "web1");
	assert_string_equal(got.winner, "web2");
	assert_int_equal(got.seq, 17);
	assert_int_equal(got.other_seq, 9);
	assert_int_equal(got.mode, S_IFREG | 04751);
	assert_int_equal(got.uid, before.st_uid);
	assert_int_equal(got.mtime, T0 + 123);
	assert_int_equal(got.size, 9);
	assert_true(got.kept > T0 / 2);
	vault_entry_clear(&got);
}

static void what_stays_or_has_other_names_is_copied(void **state)
{
	struct box *b = *state;
	struct vault_entry e = entry_of(A, 1);

	put_file(b->f->t.root, "a", "text");
	assert_int_equal(vault_keep(b->v, b->f->t.root, "a", false, &e), 0);
	assert_int_equal(stat_of(b->f->t.root, "a").st_nlink, 1);
	assert_bytes(b, e.name, "text");
	assert_int_equal(stat_of(vault_dir(b->v), e.name).st_mode, S_IFREG | 0600);
	assert_int_equal(linkat(b->f->t.root, "a", b->f->t.root, "b", 0), 0);
	e = keep(b, "a", 2);
	assert_int_equal(stat_of(b->f->t.root, "a").st_nlink, 2);
	put_file(b->f->t.root, "b", "another");
	assert_bytes(b, e.name, "text");
}

static void twice_is_once(void **state)
{
	struct box *b = *state;
	struct vault_entry e;

	put_file(b->f->t.root, "a", "text");
	keep(b, "a", 1);
	e = keep(b, "a", 1);
	assert_int_equal(listed(b, NULL), 1);
	/* another inode by now: the later bytes count */
	assert_int_equal(unlinkat(b->f->t.root, "a", 0), 0);
	put_file(b->f->t.root, "a", "later");
	e = keep(b, "a", 1);
	assert_int_equal(listed(b, NULL), 1);
	assert_bytes(b, e.name, "later");
}

static void other_kinds(void **state)
{
	struct box *b = *state;
	struct vault_entry e, got;
	_cleanup_close_ int fd = -1;

	assert_int_equal(symlinkat("../target", b->f->t.root, "l"), 0);
	e = keep(b, "l", 1);
	assert_bytes(b, e.name, "../target");
	assert_int_equal(mkfifoat(b->f->t.root, "p", 0620), 0);
	e = keep(b, "p", 2);
	assert_bytes(b, e.name, "");
	fd = vault_read(b->v, e.name, &got);
	assert_true(S_ISFIFO(got.mode));
	vault_entry_clear(&got);
	e = entry_of(B, 3);
	e.mode = S_IFLNK | 0777;
	assert_int_equal(vault_keep_text(b->v, "their target", &e), 0);
	assert_bytes(b, e.name, "their target");
	e = entry_of(B, 4);
	assert_int_equal(vault_keep(b->v, b->f->t.root, "none", true, &e), -ENOENT);
	assert_int_equal(listed(b, NULL), 3);
}

static void a_content_that_arrived(void **state)
{
	struct box *b = *state;
	struct range whole = whole_of("theirs");
	struct content c = content_of("theirs", 6, &whole, 1);
	struct content s = staged(b->f, "up.1", "staged", 6, &whole, 1);
	struct op op = content_op("a", &c, OP_WHOLE), staged_op = content_op("a", &s, OP_WHOLE);
	struct vault_entry e = entry_of(B, 1), got;
	_cleanup_close_ int fd = -1;

	put_file(b->f->t.root, "a", "ours");
	assert_int_equal(vault_keep_content(b->v, &b->f->t, &op, &e), 0);
	assert_bytes(b, e.name, "theirs");
	assert_file(b->f->t.root, "a", "ours");
	fd = vault_read(b->v, e.name, &got);
	assert_int_equal(got.mode, S_IFREG | 0640);
	assert_int_equal(got.mtime, op.mtime);
	vault_entry_clear(&got);
	/* never what the content says: nobody but root, and not to be run */
	assert_int_equal(stat_of(vault_dir(b->v), e.name).st_mode, S_IFREG | 0600);
	e = entry_of(B, 2);
	assert_int_equal(vault_keep_content(b->v, &b->f->t, &staged_op, &e), 0);
	assert_bytes(b, e.name, "staged");
	assert_int_equal(count_names(b->f->t.stage), 0);
	c.digest[0] ^= 1;
	e = entry_of(B, 3);
	assert_int_equal(vault_keep_content(b->v, &b->f->t, &op, &e), -EBADMSG);
	assert_int_equal(listed(b, NULL), 2);
}

static void strange_paths(void **state)
{
	struct box *b = *state;
	char longest[TANDEMFS_NAME_MAX + 1];
	struct vault_entry e, *list;
	struct op op;
	size_t n;

	memset(longest, '"', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	put_file(b->f->t.root, longest, "x");
	e = keep(b, longest, 1);
	put_file(b->f->t.root, "\xff\xfe", "not UTF-8");
	e = keep(b, "\xff\xfe", 2);
	assert_bytes(b, e.name, "not UTF-8");
	assert_int_equal(vault_list(b->v, &list, &n), 0);
	assert_int_equal(n, 2);
	assert_string_equal(list[0].path, longest);
	assert_string_equal(list[1].path, "?");
	vault_list_free(list, n);
	assert_int_equal(vault_op(b->v, e.name, &op), 0);
	assert_string_equal(op.path, "?");
	op_clear(&op);
}

static void an_open_file_without_a_name(void **state)
{
	struct box *b = *state;
	struct vault_entry e = entry_of(A, 1), got;
	char name[VAULT_NAME_SIZE];
	_cleanup_close_ int fd = -1, bytes = -1;

	put_file(b->f->t.root, "a", "text");
	set_mtime(b->f->t.root, "a", (int64_t)T0 + 123);
	fd = openat(b->f->t.root, "a", O_WRONLY | O_APPEND);
	assert_int_equal(unlinkat(b->f->t.root, "a", 0), 0);
	assert_int_equal(vault_keep_fd(b->v, fd, &e), 0);
	assert_bytes(b, e.name, "text");
	assert_int_equal(vault_refresh(b->v, e.name), 0);
	assert_int_equal(write(fd, ", more", 6), 6);
	assert_int_equal(vault_keep_fd(b->v, fd, &e), 0);
	assert_bytes(b, e.name, "text, more");
	assert_int_equal(listed(b, NULL), 1);
	bytes = vault_read(b->v, e.name, &got);
	assert_true(got.mtime > (int64_t)T0 + 123);
	vault_entry_clear(&got);
	assert_false(vault_link_of(b->v, stat_of(b->f->t.root, ".").st_ino, name));
}

static void a_link_that_was_written_to(void **state)
{
	struct box *b = *state;
	struct vault_entry e, got;
	char name[VAULT_NAME_SIZE];
	_cleanup_close_ int fd = -1, bytes = -1;

	put_file(b->f->t.root, "a", "text");
	fd = openat(b->f->t.root, "a", O_WRONLY | O_APPEND);
	e = keep(b, "a", 1);
	assert_true(vault_link_of(b->v, stat_of(b->f->t.root, "a").st_ino, name));
	assert_string_equal(name, e.name);
	assert_int_equal(unlinkat(b->f->t.root, "a", 0), 0);
	assert_int_equal(vault_refresh(b->v, e.name), 0);
	assert_int_equal(write(fd, ", more", 6), 6);
	set_mtime(vault_dir(b->v), e.name, (int64_t)T0 + 5); /* clocks are coarse */
	assert_int_equal(vault_refresh(b->v, e.name), 1);
	assert_int_equal(vault_refresh(b->v, e.name), 0);
	/* the entry is the file: nothing is copied onto itself */
	assert_int_equal(vault_keep_fd(b->v, fd, &e), 0);
	bytes = vault_read(b->v, e.name, &got);
	assert_int_equal(got.mtime, T0 + 5);
	assert_int_equal(got.size, 10);
	vault_entry_clear(&got);
	assert_int_equal(vault_refresh(b->v, "../a"), -EINVAL);
}

/* ---- names ---- */

static void good_names(void **state)
{
	char name[VAULT_NAME_SIZE];

	(void)state;
	vault_name(name, A, UINT64_MAX);
	assert_string_equal(name, "aaaabbbbccccdddd0000111122223333-ffffffffffffffff");
	assert_true(vault_name_good(name));
	vault_name(name, A, 0);
	assert_true(vault_name_good(name));
	name[32] = '/';
	assert_false(vault_name_good(name));
	vault_name(name, "AAAABBBBCCCCDDDD0000111122223333", 1);
	assert_false(vault_name_good(name));
	assert_false(vault_name_good(""));
	assert_false(vault_name_good("../x"));
}

static void put_text(struct box *b, const char *id, uint64_t seq)
{
	struct vault_entry e = entry_of(id, seq);

	assert_int_equal(vault_keep_text(b->v, "", &e), 0);
}

static void finds(struct box *b, const char *text, const char *id, uint64_t seq)
{
	char got[VAULT_NAME_SIZE], want[VAULT_NAME_SIZE];

	vault_name(want, id, seq);
	assert_int_equal(vault_find(b->v, text, got), 0);
	assert_string_equal(got, want);
}

static void what_people_call_them(void **state)
{
	struct box *b = *state;
	char got[VAULT_NAME_SIZE], name[VAULT_NAME_SIZE];

	put_text(b, A, 0x1a);
	put_text(b, A, 0x2a);
	put_text(b, B, 0x1a);
	put_text(b, C, 0);
	finds(b, "0", C, 0);
	finds(b, "0123-0", C, 0);
	finds(b, "0123-00000", C, 0);
	finds(b, "a-2a", A, 0x2a);
	finds(b, "aaaabbbbccccdddd0-1a", A, 0x1a);
	finds(b, "aaaabbbbccccdddd4", B, 0x1a);
	vault_name(name, A, 0x1a);
	finds(b, name, A, 0x1a);
	name[VAULT_NAME_SIZE - 2] = 0;
	finds(b, name, A, 0x1a); /* the last digit is not needed */
	assert_int_equal(vault_find(b->v, "a-1a", got), -ENOTUNIQ);
	assert_int_equal(vault_find(b->v, "aaaa", got), -ENOTUNIQ);
	assert_int_equal(vault_find(b->v, "a-1", got), -ENOENT);
	assert_int_equal(vault_find(b->v, "", got), -ENOENT);
	assert_int_equal(vault_find(b->v, "-", got), -ENOENT);
	assert_int_equal(vault_find(b->v, "-1a", got), -ENOENT);
	assert_int_equal(vault_find(b->v, "0-", got), -ENOENT);
	assert_int_equal(vault_find(b->v, "g", got), -ENOENT);
}

static void short_forms_find_what_they_stand_for(void **state)
{
	struct box *b = *state;
	struct vault_entry *list;
	size_t n;

	put_text(b, A, 0x1a);
	put_text(b, B, 0x1a);
	put_text(b, B, 0xa1000);
	put_text(b, C, 0);
	assert_int_equal(vault_list(b->v, &list, &n), 0);
	assert_int_equal(n, 4);
	for (size_t i = 0; i < n; i++) {
		char brief[VAULT_NAME_SIZE], found[VAULT_NAME_SIZE];

		vault_short(brief, list, n, &list[i]);
		assert_true(strlen(brief) < 24);
		assert_int_equal(vault_find(b->v, brief, found), 0);
		assert_string_equal(found, list[i].name);
	}
	vault_short(list[0].name, list + 3, 1, &list[3]);
	assert_string_equal(list[0].name, "0123-0");
	vault_list_free(list, n);
}

/* ---- the bound ---- */

static void fill(struct vault *v, uint64_t seq, const char *path, size_t size)
{
	struct vault_entry e = entry_of(A, seq);
	_cleanup_free_ char *text = malloc(size + 1);

	memset(text, 'x', size);
	text[size] = 0;
	e.path = (char *)path;
	assert_int_equal(vault_keep_text(v, text, &e), 0);
}

static void the_oldest_go_first(void **state)
{
	struct box *b = *state;

	vault_close(b->v);
	assert_int_equal(vault_open(b->f->dir, 1000, &b->v), 0);
	fill(b->v, 9, "first", 400);
	fill(b->v, 8, "second", 400);
	fill(b->v, 7, "third", 200);
	assert_int_equal(listed(b, (const char *const[]){"first", "second", "third", NULL}), 3);
	fill(b->v, 6, "fourth", 1);
	assert_int_equal(listed(b, (const char *const[]){"second", "third", "fourth", NULL}), 3);
	fill(b->v, 5, "fifth", 900);
	assert_int_equal(listed(b, (const char *const[]){"fourth", "fifth", NULL}), 2);
	/* what was dropped leaves nothing behind */
	assert_int_equal(count_names(vault_dir(b->v)), 4);
	/* one that is larger than all is kept, alone */
	fill(b->v, 4, "large", 5000);
	assert_int_equal(listed(b, (const char *const[]){"large", NULL}), 1);
	fill(b->v, 3, "small", 10);
	assert_int_equal(listed(b, (const char *const[]){"small", NULL}), 1);
}

static void the_bound_holds_from_the_start(void **state)
{
	struct box *b = *state;

	fill(b->v, 1, "first", 600);
	fill(b->v, 2, "second", 600);
	vault_close(b->v);
	assert_int_equal(vault_open(b->f->dir, 1000, &b->v), 0);
	assert_int_equal(listed(b, (const char *const[]){"second", NULL}), 1);
	/* what is dropped by hand makes room */
	assert_int_equal(vault_drop(b->v, "aaaabbbbccccdddd0000111122223333-0000000000000002"), 0);
	fill(b->v, 3, "third", 900);
	assert_int_equal(listed(b, (const char *const[]){"third", NULL}), 1);
}

static void drop(void **state)
{
	struct box *b = *state;
	struct vault_entry e;

	put_file(b->f->t.root, "a", "x");
	e = keep(b, "a", 1);
	assert_true(vault_has(b->v, e.name));
	assert_int_equal(vault_drop(b->v, e.name), 0);
	assert_false(vault_has(b->v, e.name));
	assert_int_equal(vault_drop(b->v, e.name), -ENOENT);
	assert_int_equal(vault_read(b->v, e.name, NULL), -ENOENT);
	assert_int_equal(vault_drop(b->v, "../a"), -EINVAL);
	assert_int_equal(vault_drop(b->v, "."), -EINVAL);
	assert_int_equal(listed(b, NULL), 0);
	assert_int_equal(count_names(vault_dir(b->v)), 0);
	assert_file(b->f->t.root, "a", "x");
}

/* ---- the peer's ---- */

/* As it would arrive: what vault_op() says, with the bytes. */
static struct op arriving(struct content *c, char *name, char *meta)
{
	struct op op = content_op(meta ? "a" : "?", c, OP_WHOLE);

	op.type = OP_VAULT;
	op.path2 = name;
	op.value = (uint8_t *)meta;
	op.value_len = meta ? strlen(meta) : 0;
	return op;
}

static void from_one_node_to_the_other(void **state)
{
	struct box *b = *state;
	struct range whole = whole_of("bytes");
	struct content c = content_of("bytes", 5, &whole, 1);
	struct vault_entry e, mine, theirs;
	_cleanup_op_ struct op told = {0};
	struct op op;
	_cleanup_close_ int fd = -1, fd2 = -1;

	put_file(b->f->t.root, "a", "bytes");
	e = keep(b, "a", 5);
	assert_int_equal(vault_op(b->v, e.name, &told), 0);
	assert_int_equal(told.type, OP_VAULT);
	assert_string_equal(told.path2, e.name);
	fd = vault_read(b->v, e.name, &mine);
	assert_int_equal(vault_drop(b->v, e.name), 0);
	assert_int_equal(vault_op(b->v, e.name, &op), -ENOENT);
	/* twice: a peer may send it again */
	for (int i = 0; i < 2; i++) {
		op = arriving(&c, told.path2, strndup((char *)told.value, told.value_len));
		assert_int_equal(vault_take(b->v, &b->f->t, &op), 0);
		free(op.value);
	}
	assert_int_equal(listed(b, NULL), 1);
	assert_bytes(b, e.name, "bytes");
	fd2 = vault_read(b->v, e.name, &theirs);
	assert_int_equal(mine.kept, theirs.kept);
	assert_int_equal(mine.mode, theirs.mode);
	assert_int_equal(mine.mtime, theirs.mtime);
	assert_string_equal(mine.path, theirs.path);
	vault_entry_clear(&mine);
	vault_entry_clear(&theirs);
	op = (struct op){.type = OP_VAULT, .flags = OP_GONE, .path2 = told.path2};
	assert_int_equal(vault_take(b->v, &b->f->t, &op), 0);
	assert_int_equal(vault_take(b->v, &b->f->t, &op), 0);
	assert_int_equal(listed(b, NULL), 0);
}

#define META                                                                                       \
	"\"path\":\"a\",\"node\":\"n\",\"winner\":\"w\",\"seq\":1,\"other_seq\":2,\"kept\":3,"     \
	"\"mode\":33188,\"uid\":0,\"gid\":0,\"mtime\":5"

static void refuse_take(struct box *b, char *name, char *meta)
{
	struct range whole = whole_of("evil");
	struct content c = content_of("evil", 4, &whole, 1);
	struct op op = arriving(&c, name, meta);

	assert_int_equal(vault_take(b->v, &b->f->t, &op), -EBADMSG);
	assert_int_equal(listed(b, NULL), 0);
	assert_int_equal(count_names(vault_dir(b->v)), 0);
	assert_int_equal(count_names(b->f->t.root), 0);
}

static void hostile_names(void **state)
{
	static const char *const names[] = {"../x", "..", ".", "", "x", "/etc/passwd",
		"aaaabbbbccccdddd0000111122223333-0000000000000001.json",
		"aaaabbbbccccdddd0000111122223333-000000000000001",
		"../../../../../../../../../tmp/x",
		"aaaabbbbccccdddd0000111122223333/0000000000000001",
		"AAAABBBBCCCCDDDD0000111122223333-0000000000000001"};
	struct box *b = *state;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		struct op gone = {.type = OP_VAULT, .flags = OP_GONE, .path2 = (char *)names[i]};

		refuse_take(b, (char *)names[i], (char *)"{" META "}");
		assert_int_equal(vault_take(b->v, &b->f->t, &gone), -EBADMSG);
	}
	refuse_take(b, NULL, (char *)"{" META "}");
}

static void bad_descriptions(void **state)
{
	static const char *const metas[] = {"", "{", "null", "[]", "{}", "7", "{" META,
		"{\"path\":7,\"node\":\"n\",\"winner\":\"w\",\"seq\":1,\"other_seq\":2,\"kept\":3,"
		"\"mode\":33188,\"uid\":0,\"gid\":0,\"mtime\":5}",
		"{\"path\":\"a\",\"node\":\"n\",\"winner\":\"w\",\"seq\":1.5,\"other_seq\":2,"
		"\"kept\":3,\"mode\":33188,\"uid\":0,\"gid\":0,\"mtime\":5}",
		"{" META ",\"path\":\"\xff\"}", "{" META "} and more",
		"{\"path\":\"a\\u0000b\",\"node\":\"n\",\"winner\":\"w\",\"seq\":1,\"other_seq\":2,"
		"\"kept\":3,\"mode\":33188,\"uid\":0,\"gid\":0,\"mtime\":5}"};
	struct box *b = *state;
	char name[VAULT_NAME_SIZE];
	_cleanup_free_ char *deep = malloc(20001), *giant = malloc(100001);

	vault_name(name, B, 1);
	for (size_t i = 0; i < sizeof(metas) / sizeof(*metas); i++)
		refuse_take(b, name, (char *)metas[i]);
	memset(deep, '[', 20000);
	deep[20000] = 0;
	refuse_take(b, name, deep);
	memset(giant, ' ', 100000);
	memcpy(giant, "{" META "}", strlen("{" META "}"));
	giant[100000] = 0;
	refuse_take(b, name, giant);
}

/* A damaged entry is none, and in nobody's way. */
static void damage(void **state)
{
	struct box *b = *state;
	struct vault_entry e;
	char meta[VAULT_NAME_SIZE + 8];
	int dir = vault_dir(b->v);

	put_file(b->f->t.root, "a", "x");
	e = keep(b, "a", 1);
	e = keep(b, "a", 2);
	(void)snprintf(meta, sizeof(meta), "%s.json", e.name);
	put_file(dir, meta, "{\"path\":");
	assert_int_equal(vault_read(b->v, e.name, &e), -EBADMSG);
	put_file(dir, "README", "what is this");
	assert_int_equal(
		mkdirat(dir, "aaaabbbbccccdddd0000111122223333-0000000000000009", 0700), 0);
	vault_close(b->v);
	assert_int_equal(vault_open(b->f->dir, 0, &b->v), 0);
	assert_int_equal(listed(b, NULL), 1);
	assert_int_equal(unlinkat(vault_dir(b->v),
				 "aaaabbbbccccdddd0000111122223333-0000000000000009", AT_REMOVEDIR),
		0);
}

static void the_directory_is_roots(void **state)
{
	struct box *b = *state;

	assert_int_equal(fchmod(vault_dir(b->v), 0777), 0);
	vault_close(b->v);
	assert_int_equal(vault_open(b->f->dir, 0, &b->v), 0);
	assert_int_equal(stat_of(b->f->dir, VAULT_DIR).st_mode, S_IFDIR | 0700);
	/* a link instead of it is not followed */
	vault_close(b->v);
	b->v = NULL;
	assert_int_equal(unlinkat(b->f->dir, VAULT_DIR, AT_REMOVEDIR), 0);
	assert_int_equal(symlinkat("/tmp", b->f->dir, VAULT_DIR), 0);
	assert_true(vault_open(b->f->dir, 0, &b->v) < 0);
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(name, setup_vault, teardown_vault)
	const struct CMUnitTest tests[] = {
		test(what_leaves_is_linked),
		test(what_stays_or_has_other_names_is_copied),
		test(twice_is_once),
		test(other_kinds),
		test(a_content_that_arrived),
		test(an_open_file_without_a_name),
		test(a_link_that_was_written_to),
		test(strange_paths),
		test(good_names),
		test(what_people_call_them),
		test(short_forms_find_what_they_stand_for),
		test(the_oldest_go_first),
		test(the_bound_holds_from_the_start),
		test(drop),
		test(from_one_node_to_the_other),
		test(hostile_names),
		test(bad_descriptions),
		test(damage),
		test(the_directory_is_roots),
	};

	return cmocka_run_group_tests_name("vault", tests, NULL, NULL);
}
