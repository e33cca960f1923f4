/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The description, NAME.json, is written last: bytes without one are no entry, and the next attempt
 * replaces them. It is what the peer is sent as the `value` of OP_VAULT:
 *
 *     {"path": ..., "node": ..., "winner": ..., "seq": N, "other_seq": N, "kept": ns,
 *      "mode": N, "uid": N, "gid": N, "mtime": ns}
 *
 * Bytes that were copied, and the description, are on the disk before anything else takes their
 * place in the tree: that version may have been acknowledged as synced.
 *
 * Several threads may be here at once; the lock serialises those that change or count.
 */

#include "vault.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/durable.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <string.h>

#define META_MAX 32768

struct vault {
	int dir;
	uint64_t max;
	pthread_mutex_t lock;
	uint64_t bytes, n; /* guarded by lock */
};

static void vault_account(struct vault *v);
static void drop_damaged(const struct vault *v);

int vault_open(int control, uint64_t max, struct vault **ret)
{
	struct vault *v;
	int dir;

	if (mkdirat(control, VAULT_DIR, 0700) < 0 && errno != EEXIST)
		return -errno;
	dir = openat(control, VAULT_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	v = fchmod(dir, 0700) < 0 ? NULL : calloc(1, sizeof(*v));
	if (!v) {
		int e = errno ? -errno : -ENOMEM;

		(void)close(dir);
		return e;
	}
	v->dir = dir;
	v->max = max ? max : VAULT_MAX_DEFAULT;
	(void)pthread_mutex_init(&v->lock, NULL);
	drop_damaged(v);
	vault_account(v);
	*ret = v;
	return 0;
}

void vault_close(struct vault *v)
{
	if (!v)
		return;
	(void)close(v->dir);
	(void)pthread_mutex_destroy(&v->lock);
	free(v);
}

int vault_dir(const struct vault *v)
{
	return v->dir;
}

void vault_name(char dst[VAULT_NAME_SIZE], const char *node_id, uint64_t seq)
{
	(void)snprintf(dst, VAULT_NAME_SIZE, "%.32s-%016" PRIx64, node_id, seq);
}

bool vault_name_good(const char *name)
{
	static const char hex[] = "0123456789abcdef";

	return strlen(name) == VAULT_NAME_SIZE - 1 && strspn(name, hex) == 32 && name[32] == '-' &&
	       strspn(name + 33, hex) == 16;
}

/* ---- descriptions ---- */

static void meta_name(char dst[VAULT_NAME_SIZE + 8], const char *name)
{
	(void)snprintf(dst, VAULT_NAME_SIZE + 8, "%s.json", name);
}

static char *describe(const struct vault_entry *e)
{
	json_t *j = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "path", e->path,
		"node", e->node, "winner", e->winner, "seq", (json_int_t)e->seq, "other_seq",
		(json_int_t)e->other_seq, "kept", (json_int_t)e->kept, "mode", (json_int_t)e->mode,
		"uid", (json_int_t)e->uid, "gid", (json_int_t)e->gid, "mtime",
		(json_int_t)e->mtime);
	char *text;

	if (!j) { /* a path that is no UTF-8 */
		struct vault_entry plain = *e;

		if (strcmp(e->path, "?") == 0)
			return NULL;
		plain.path = (char[]){"?"};
		log_warning("conflict: the path of %s is not UTF-8 and is not noted", e->name);
		return describe(&plain);
	}
	text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	return text;
}

static int parse(const char *text, size_t len, struct vault_entry *ret)
{
	const char *path, *node, *winner;
	json_int_t seq, other, kept, mode, uid, gid, mtime;
	json_t *j = json_loadb(text, len, 0, NULL);
	int e = 0;

	if (!j)
		return -EBADMSG;
	if (json_unpack(j, "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "path", &path,
		    "node", &node, "winner", &winner, "seq", &seq, "other_seq", &other, "kept",
		    &kept, "mode", &mode, "uid", &uid, "gid", &gid, "mtime", &mtime) < 0) {
		e = -EBADMSG;
	} else {
		ret->path = strdup(path);
		ret->node = strdup(node);
		ret->winner = strdup(winner);
		ret->seq = (uint64_t)seq;
		ret->other_seq = (uint64_t)other;
		ret->kept = (uint64_t)kept;
		ret->mode = (mode_t)mode;
		ret->uid = (uid_t)uid;
		ret->gid = (gid_t)gid;
		ret->mtime = mtime;
		if (!ret->path || !ret->node || !ret->winner)
			e = -ENOMEM;
	}
	json_decref(j);
	return e;
}

static int read_meta(const struct vault *v, const char *name, char **ret, size_t *ret_len)
{
	char file[VAULT_NAME_SIZE + 8];

	meta_name(file, name);
	return durable_read(v->dir, file, META_MAX, ret, ret_len);
}

void vault_entry_clear(struct vault_entry *e)
{
	free(e->path);
	free(e->node);
	free(e->winner);
	*e = (struct vault_entry){0};
}

static int load(const struct vault *v, const char *name, struct vault_entry *ret)
{
	_cleanup_free_ char *text = NULL;
	struct vault_entry entry = {0};
	struct stat st;
	size_t len;
	int e = vault_name_good(name) ? read_meta(v, name, &text, &len) : -EINVAL;

	if (e == 0)
		e = parse(text, len, &entry);
	if (e == 0 && fstatat(v->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		e = -errno;
	if (e < 0) {
		vault_entry_clear(&entry);
		return e;
	}
	(void)snprintf(entry.name, sizeof(entry.name), "%s", name);
	entry.size = (uint64_t)st.st_size;
	*ret = entry;
	return 0;
}

/* ---- the list ---- */

static int older(const void *a, const void *b)
{
	const struct vault_entry *x = a, *y = b;

	if (x->kept != y->kept)
		return x->kept < y->kept ? -1 : 1;
	return strcmp(x->name, y->name);
}

int vault_list(struct vault *v, struct vault_entry **ret, size_t *ret_n)
{
	_cleanup_closedir_ DIR *d = NULL;
	struct vault_entry *list = NULL;
	const struct dirent *entry;
	size_t n = 0;
	int e = confine_opendir(v->dir, "", &d);

	if (e < 0)
		return e;
	while ((errno = 0, entry = readdir(d))) {
		struct vault_entry one, *more;

		if (!vault_name_good(entry->d_name) || load(v, entry->d_name, &one) < 0)
			continue;
		more = realloc(list, (n + 1) * sizeof(*list));
		if (!more) {
			vault_entry_clear(&one);
			vault_list_free(list, n);
			return -ENOMEM;
		}
		list = more;
		list[n++] = one;
	}
	if (n > 1)
		qsort(list, n, sizeof(*list), older);
	*ret = list;
	*ret_n = n;
	return 0;
}

void vault_list_free(struct vault_entry *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		vault_entry_clear(&list[i]);
	free(list);
}

/* ---- what people call them ---- */

#define ID_LEN 32 /* digits of a node's id at the start of a name */

static const char *without_zeros(const char *hex)
{
	hex += strspn(hex, "0");
	return *hex ? hex : "0";
}

static bool is_meant(const char *name, const char *text)
{
	const char *dash = strchr(text, '-');
	size_t id = dash ? (size_t)(dash - text) : 0;

	if (*text && strncmp(name, text, strlen(text)) == 0)
		return true;
	return id > 0 && id <= ID_LEN && dash[1] && strncmp(name, text, id) == 0 &&
	       strcmp(without_zeros(name + ID_LEN + 1), without_zeros(dash + 1)) == 0;
}

int vault_find(struct vault *v, const char *text, char ret[VAULT_NAME_SIZE])
{
	struct vault_entry *list;
	size_t n, found = 0;
	int e = vault_list(v, &list, &n);

	if (e < 0)
		return e;
	for (size_t i = 0; i < n; i++)
		if (is_meant(list[i].name, text)) {
			memcpy(ret, list[i].name, VAULT_NAME_SIZE);
			found++;
		}
	vault_list_free(list, n);
	if (found == 0)
		return -ENOENT;
	return found == 1 ? 0 : -ENOTUNIQ;
}

static size_t common_length(const char *a, const char *b)
{
	size_t i = 0;

	while (a[i] && a[i] == b[i])
		i++;
	return i;
}

void vault_short(char dst[VAULT_NAME_SIZE], const struct vault_entry *list, size_t n,
	const struct vault_entry *e)
{
	size_t digits = 4;

	for (size_t i = 0; i < n; i++) {
		size_t same = common_length(list[i].name, e->name);

		if (same >= digits && same < ID_LEN)
			digits = same + 1;
	}
	(void)snprintf(dst, VAULT_NAME_SIZE, "%.*s-%s", (int)digits, e->name,
		without_zeros(e->name + ID_LEN + 1));
}

/* ---- the bound ---- */

static int remove_files(const struct vault *v, const char *name)
{
	char meta[VAULT_NAME_SIZE + 8];

	meta_name(meta, name);
	if (unlinkat(v->dir, meta, 0) < 0)
		return -errno;
	return unlinkat(v->dir, name, 0) < 0 ? -errno : 0;
}

/* Counts, and drops the oldest while all together are too large; the newest stays in any case. */
static void vault_account(struct vault *v)
{
	struct vault_entry *list;
	size_t n, i;
	uint64_t bytes = 0;
	int e = vault_list(v, &list, &n);

	if (e < 0) {
		log_warning("the conflict vault cannot be read: %s", strerror(-e));
		return;
	}
	for (i = 0; i < n; i++)
		bytes += list[i].size;
	for (i = 0; i + 1 < n && bytes > v->max; i++) {
		log_warning("the conflict vault is over vault_max: %s (%s, version of %s) is "
			    "dropped",
			list[i].name, list[i].path, list[i].node);
		e = remove_files(v, list[i].name);
		if (e < 0)
			log_warning("cannot drop it: %s", strerror(-e));
		bytes -= list[i].size;
	}
	v->bytes = bytes;
	v->n = n - i;
	vault_list_free(list, n);
}

/* What cannot be read is no description, and its bytes no entry. */
static void drop_damaged(const struct vault *v)
{
	_cleanup_closedir_ DIR *d = NULL;
	const struct dirent *entry;

	if (confine_opendir(v->dir, "", &d) < 0)
		return;
	while ((entry = readdir(d))) {
		char meta[NAME_MAX + 8];
		struct vault_entry e;
		int r = vault_name_good(entry->d_name) ? load(v, entry->d_name, &e) : -EINVAL;

		if (r == 0)
			vault_entry_clear(&e);
		if (r != -EBADMSG)
			continue;
		log_warning("the description of %s in the conflict vault is damaged and removed",
			entry->d_name);
		(void)snprintf(meta, sizeof(meta), "%s.json", entry->d_name);
		if (unlinkat(v->dir, meta, 0) < 0)
			log_warning("cannot remove it: %s", strerror(errno));
	}
}

/* The entry's bytes are there: the description makes it one. */
static int commit(struct vault *v, const char *name, const char *meta)
{
	char file[VAULT_NAME_SIZE + 8];
	struct stat st;
	bool fresh;
	int e;

	meta_name(file, name);
	if (fstatat(v->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	(void)pthread_mutex_lock(&v->lock);
	fresh = faccessat(v->dir, file, F_OK, AT_SYMLINK_NOFOLLOW) < 0;
	e = durable_replace(v->dir, file, meta, strlen(meta), 0600, 1);
	if (e == 0 && fresh) {
		v->bytes += (uint64_t)st.st_size;
		v->n++;
		if (v->bytes > v->max)
			vault_account(v);
	}
	(void)pthread_mutex_unlock(&v->lock);
	return e;
}

static int commit_entry(struct vault *v, struct vault_entry *e)
{
	_cleanup_free_ char *meta = NULL;

	e->kept = clock_real_ns();
	meta = describe(e);
	if (!meta)
		return -ENOMEM;
	log_notice("conflict: the version of %s that %s made gave way to that of %s and is kept as "
		   "%s (tandemfs conflicts)",
		e->path, e->node, e->winner, e->name);
	return commit(v, e->name, meta);
}

/* ---- keeping ---- */

static int copy_file(int from, int to)
{
	static const size_t chunk = 1u << 30;
	ssize_t n;

	do {
		n = copy_file_range(from, NULL, to, NULL, chunk, 0);
	} while (n > 0 || (n < 0 && errno == EINTR));
	return n < 0 ? -errno : 0;
}

static int copy_to(struct vault *v, int from, const char *name)
{
	_cleanup_close_ int to = -1;
	struct stat st;
	int r;

	if (fstat(from, &st) < 0 || (unlinkat(v->dir, name, 0) < 0 && errno != ENOENT))
		return -errno;
	to = openat(v->dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	r = to < 0 ? -errno : copy_file(from, to);
	if (r == 0 && futimens(to, (struct timespec[2]){st.st_atim, st.st_mtim}) < 0)
		r = -errno;
	if (r == 0 && fsync(to) < 0)
		r = -errno;
	return r;
}

static int keep_copy(struct vault *v, int root, const char *path, const char *name)
{
	_cleanup_close_ int from = confine_open(root, path, O_RDONLY | O_NONBLOCK, 0);

	return from < 0 ? from : copy_to(v, from, name);
}

static int keep_text(struct vault *v, const char *name, const char *text, size_t len)
{
	_cleanup_close_ int fd =
		openat(v->dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

	int r = fd < 0 ? -errno : pwrite_all(fd, text, len, 0);

	return r == 0 && fsync(fd) < 0 ? -errno : r;
}

static int keep_symlink(struct vault *v, int dir, const char *leaf, const char *name)
{
	char text[TANDEMFS_PATH_MAX + 1];
	ssize_t n = readlinkat(dir, leaf, text, sizeof(text));

	return n < 0 ? -errno : keep_text(v, name, text, (size_t)n);
}

static int keep_file(struct vault *v, int root, const char *path, int dir, const char *leaf,
	const struct stat *st, bool leaves, const char *name)
{
	struct stat there;

	if (fstatat(v->dir, name, &there, AT_SYMLINK_NOFOLLOW) == 0) {
		if (there.st_ino == st->st_ino && leaves)
			return 0;
		if (unlinkat(v->dir, name, 0) < 0)
			return -errno;
	}
	if (leaves && st->st_nlink == 1 && linkat(dir, leaf, v->dir, name, 0) == 0)
		return 0;
	return keep_copy(v, root, path, name);
}

static void take_attributes(struct vault_entry *e, const struct stat *st)
{
	e->mode = st->st_mode;
	e->uid = st->st_uid;
	e->gid = st->st_gid;
	e->mtime = clock_ns_of(&st->st_mtim);
}

static int copy_open_file(struct vault *v, int fd, const char *name)
{
	char self[32];
	_cleanup_close_ int from = -1;

	/* it may be open for writing only */
	(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	from = open(self, O_RDONLY | O_CLOEXEC);
	return from < 0 ? -errno : copy_to(v, from, name);
}

int vault_keep_fd(struct vault *v, int fd, struct vault_entry *e)
{
	struct stat st, there;
	int r = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	take_attributes(e, &st);
	if (fstatat(v->dir, e->name, &there, AT_SYMLINK_NOFOLLOW) < 0 || there.st_ino != st.st_ino)
		r = copy_open_file(v, fd, e->name);
	return r < 0 ? r : commit_entry(v, e);
}

int vault_keep(struct vault *v, int root, const char *path, bool leaves, struct vault_entry *e)
{
	_cleanup_close_ int dir = -1;
	const char *leaf;
	struct stat st;
	int r = confine_parent(root, path, &dir, &leaf);

	if (r < 0)
		return r;
	if (fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	take_attributes(e, &st);
	if (S_ISREG(st.st_mode))
		r = keep_file(v, root, path, dir, leaf, &st, leaves, e->name);
	else if (S_ISLNK(st.st_mode))
		r = keep_symlink(v, dir, leaf, e->name);
	else
		r = keep_text(v, e->name, "", 0);
	return r < 0 ? r : commit_entry(v, e);
}

int vault_refresh(struct vault *v, const char *name)
{
	struct vault_entry e;
	struct stat st;
	int fd = vault_read(v, name, &e), r;

	if (fd < 0)
		return fd;
	r = fstat(fd, &st) < 0 ? -errno : 0;
	(void)close(fd);
	if (r == 0 && S_ISREG(e.mode) && e.mtime != clock_ns_of(&st.st_mtim)) {
		e.mtime = clock_ns_of(&st.st_mtim);
		r = commit_entry(v, &e);
		r = r < 0 ? r : 1;
	}
	vault_entry_clear(&e);
	return r;
}

int vault_part(struct vault *v, const char *name)
{
	_cleanup_close_ int from = openat(v->dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	return from < 0 ? -errno : copy_to(v, from, name);
}

bool vault_link_of(struct vault *v, ino_t ino, char ret[VAULT_NAME_SIZE])
{
	_cleanup_closedir_ DIR *d = NULL;
	const struct dirent *entry;
	bool found = false;

	if (confine_opendir(v->dir, "", &d) < 0)
		return false;
	while (!found && (entry = readdir(d))) {
		found = entry->d_ino == ino && vault_name_good(entry->d_name);
		if (found)
			memcpy(ret, entry->d_name, VAULT_NAME_SIZE);
	}
	return found;
}

static int sync_bytes(const struct vault *v, const char *name)
{
	_cleanup_close_ int fd = openat(v->dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* The bytes of @op as NAME. */
static int store(
	struct vault *v, const struct apply_target *t, const struct op *op, const char *name)
{
	struct apply_target here = *t;
	struct apply_result ignored;
	struct op file = *op;
	struct content bare = *op->content;
	int r;

	here.root = v->dir;
	bare.xattrs = NULL;
	bare.n_xattrs = 0;
	file.type = OP_CONTENT;
	file.flags = OP_WHOLE | OP_FORCE;
	file.path = (char *)name;
	file.path2 = NULL;
	file.content = &bare;
	file.mask = OP_MODE | OP_UID | OP_GID | OP_MTIME;
	file.mode = 0600;
	file.uid = file.gid = 0;
	r = op_apply(&here, &file, &ignored);
	return r < 0 ? r : sync_bytes(v, name);
}

int vault_keep_content(
	struct vault *v, const struct apply_target *t, const struct op *op, struct vault_entry *e)
{
	int r = store(v, t, op, e->name);

	e->mode = S_IFREG | (op->mode & 07777);
	e->uid = op->uid;
	e->gid = op->gid;
	e->mtime = op->mtime;
	return r < 0 ? r : commit_entry(v, e);
}

int vault_keep_text(struct vault *v, const char *text, struct vault_entry *e)
{
	int r = keep_text(v, e->name, text, strlen(text));

	return r < 0 ? r : commit_entry(v, e);
}

static int drop_locked(struct vault *v, const char *name)
{
	struct stat st;
	int e;

	if (fstatat(v->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	e = remove_files(v, name);
	if (e == 0) {
		v->n--;
		v->bytes -= (uint64_t)st.st_size < v->bytes ? (uint64_t)st.st_size : v->bytes;
	}
	return e;
}

int vault_drop(struct vault *v, const char *name)
{
	int e;

	if (!vault_name_good(name))
		return -EINVAL;
	(void)pthread_mutex_lock(&v->lock);
	e = drop_locked(v, name);
	(void)pthread_mutex_unlock(&v->lock);
	return e;
}

int vault_take(struct vault *v, const struct apply_target *t, const struct op *op)
{
	_cleanup_free_ char *meta = NULL;
	struct vault_entry e = {0};
	int r;

	if (!op->path2 || !vault_name_good(op->path2))
		return -EBADMSG;
	if (op->flags & OP_GONE) {
		r = vault_drop(v, op->path2);
		return r == -ENOENT ? 0 : r;
	}
	meta = strndup((const char *)op->value, op->value_len);
	r = !meta || op->value_len > META_MAX ? -EBADMSG : parse(meta, strlen(meta), &e);
	vault_entry_clear(&e);
	if (r == 0)
		r = store(v, t, op, op->path2);
	return r < 0 ? r : commit(v, op->path2, meta);
}

static int fill_op(struct vault *v, const char *name, struct op *op)
{
	struct vault_entry e;
	char *meta = NULL;
	int r = load(v, name, &e);

	if (r < 0)
		return r;
	op->path = strdup(confine_check(e.path, false) < 0 ? "?" : e.path);
	vault_entry_clear(&e);
	op->path2 = strdup(name);
	r = op->path && op->path2 ? read_meta(v, name, &meta, &op->value_len) : -ENOMEM;
	op->value = (uint8_t *)meta;
	return r;
}

int vault_op(struct vault *v, const char *name, struct op *ret)
{
	struct op op = {.type = OP_VAULT, .flags = OP_WHOLE};
	int r = fill_op(v, name, &op);

	if (r < 0)
		op_clear(&op);
	*ret = op;
	return r;
}

int vault_read(struct vault *v, const char *name, struct vault_entry *ret)
{
	int fd, e;

	if (!vault_name_good(name))
		return -EINVAL;
	fd = openat(v->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	e = ret ? load(v, name, ret) : 0;
	if (e == 0)
		return fd;
	(void)close(fd);
	return e;
}

bool vault_has(struct vault *v, const char *name)
{
	char file[VAULT_NAME_SIZE + 8];

	if (!vault_name_good(name))
		return false;
	meta_name(file, name);
	return faccessat(v->dir, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

uint64_t vault_count(struct vault *v)
{
	uint64_t n;

	(void)pthread_mutex_lock(&v->lock);
	n = v->n;
	(void)pthread_mutex_unlock(&v->lock);
	return n;
}
