/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "manifest.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/durable.h"
#include "content.h"
#include "digest.h"
#include "manifest_format.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uthash.h>

/*
 * DESIGN: the format, integers and strings as in buf.h:
 *
 *     magic   8 bytes "tandemM1"
 *     head    u32 length, then: string digest name, string path of the subtree, u8 flags
 *     entry*  u32 length (above 0), then: string path, u32 mode, u32 uid, u32 gid, u32 nlink,
 *             u64 size, u64 mtime (ns, two's complement), u64 rdev, string target, string link,
 *             blob content digest, blob xattrs digest
 *     end     u32 0, u64 number of entries
 *
 * A stream without its end was cut short. Everything that is one node's own (sizes of directories,
 * their link counts, inode numbers, atime, ctime) is left out, so equal trees have equal bytes.
 *
 * The xattrs digest is over the replicated xattrs sorted by name, each as two blobs: name, value.
 *
 * The tree is walked with one path buffer. Each inode is opened by its path, confined to the
 * root, first with O_PATH, so that devices and FIFOs are not touched; a regular file is then
 * opened for reading through that descriptor. A directory's names are read at once, sorted, and its
 * descriptor closed before anything below it is opened: depth costs no descriptors.
 */

#define READ_ROOM (256u << 10)
#define FLUSH_AT (64u << 10)
#define PROGRESS_BYTES (8u << 20)

/* An inode with several names, by number. */
struct inode {
	ino_t ino;
	char *path; /* owned: the first name */
	uint8_t content_len;
	uint8_t content[OP_DIGEST_MAX];
	UT_hash_handle hh;
};

struct writer {
	int root;
	const struct manifest_options *options;
	const struct manifest_sink *sink;
	struct digest *digest; /* owned */
	struct buf out;        /* owned: not yet given to the sink */
	uint8_t *room;         /* owned: READ_ROOM bytes */
	struct inode *inodes;  /* owned table */
	uint64_t entries, bytes;
	uint64_t put; /* bytes of the manifest that the sink has */
	size_t path_len;
	char path[TANDEMFS_PATH_MAX + 1];
};

int manifest_put_fd(void *ctx, const void *data, size_t len)
{
	return write_all(*(int *)ctx, data, len);
}

int manifest_put_buf(void *ctx, const void *data, size_t len)
{
	buf_put(ctx, data, len);
	return buf_error(ctx);
}

static int flush(struct writer *w)
{
	int r = buf_error(&w->out);

	if (r == 0 && w->out.len > 0)
		r = w->sink->put(w->sink->ctx, w->out.data, w->out.len);
	w->put += w->out.len;
	buf_reset(&w->out);
	return r;
}

static int progress(const struct writer *w)
{
	const struct manifest_options *o = w->options;

	return o->progress ? o->progress(o->ctx, w->entries, w->bytes) : 0;
}

/* ---- one entry ---- */

static int digest_content(struct writer *w, int node, struct manifest_entry *e)
{
	_cleanup_close_ int fd = -1;
	char proc[32];
	ssize_t n;
	int r = 0;

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", node);
	fd = open(proc, O_RDONLY | O_CLOEXEC | O_NOATIME);
	if (fd < 0 && errno == EPERM)
		fd = open(proc, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (;;) {
		n = read(fd, w->room, READ_ROOM);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		r = digest_update(w->digest, w->room, (size_t)n);
		w->bytes += (uint64_t)n;
		if (r == 0 && w->bytes % PROGRESS_BYTES < (uint64_t)n)
			r = progress(w);
		if (r < 0)
			return r;
	}
	if (n < 0)
		return -errno;
	return digest_final(w->digest, e->content, &e->content_len);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct xattr *)a)->name, ((const struct xattr *)b)->name);
}

static int digest_xattrs(struct writer *w, int node, struct manifest_entry *e)
{
	_cleanup_buf_ struct buf b = {0};
	struct xattr *x;
	size_t n, i;
	int r;

	r = xattrs_read(node, &x, &n);
	if (r < 0 || n == 0)
		return r;
	qsort(x, n, sizeof(*x), by_name);
	for (i = 0; i < n; i++) {
		buf_put_string(&b, x[i].name);
		buf_put_blob(&b, x[i].value, x[i].len);
	}
	xattrs_free(x, n);
	r = buf_error(&b);
	if (r == 0)
		r = digest_update(w->digest, b.data, b.len);
	return r < 0 ? r : digest_final(w->digest, e->xattrs, &e->xattrs_len);
}

static void put_entry(struct buf *b, const struct manifest_entry *e)
{
	size_t at = b->len;

	buf_put_u32(b, 0);
	buf_put_string(b, e->path);
	buf_put_u32(b, e->mode);
	buf_put_u32(b, e->uid);
	buf_put_u32(b, e->gid);
	buf_put_u32(b, e->nlink);
	buf_put_u64(b, e->size);
	buf_put_u64(b, (uint64_t)e->mtime);
	buf_put_u64(b, e->rdev);
	buf_put_string(b, e->target);
	buf_put_string(b, e->link);
	buf_put_blob(b, e->content, e->content_len);
	buf_put_blob(b, e->xattrs, e->xattrs_len);
	if (buf_error(b) == 0)
		buf_set_u32(b, at, (uint32_t)(b->len - at - 4));
}

/* Remembers the inode under its first name. */
static int inode_add(struct writer *w, ino_t ino, const struct manifest_entry *e)
{
	struct inode *i = calloc(1, sizeof(*i));

	if (!i)
		return -ENOMEM;
	i->ino = ino;
	i->path = strdup(e->path);
	if (!i->path) {
		free(i);
		return -ENOMEM;
	}
	i->content_len = e->content_len;
	memcpy(i->content, e->content, sizeof(i->content));
	HASH_ADD(hh, w->inodes, ino, sizeof(i->ino), i);
	return 0;
}

/* The content's digest, read once for all names of an inode. */
static int fill_content(struct writer *w, int node, const struct stat *st, struct manifest_entry *e)
{
	struct inode *known = NULL;
	int r = 0;

	if (st->st_nlink > 1)
		HASH_FIND(hh, w->inodes, &st->st_ino, sizeof(st->st_ino), known);
	if (known) {
		e->link = known->path;
		e->content_len = known->content_len;
		memcpy(e->content, known->content, sizeof(e->content));
		return 0;
	}
	if (S_ISREG(st->st_mode) && !w->options->without_content)
		r = digest_content(w, node, e);
	if (r == 0 && st->st_nlink > 1)
		r = inode_add(w, st->st_ino, e);
	return r;
}

static void fill_numbers(const struct stat *st, struct manifest_entry *e)
{
	e->mode = st->st_mode;
	e->uid = st->st_uid;
	e->gid = st->st_gid;
	e->mtime = clock_ns_of(&st->st_mtim);
	if (!S_ISDIR(st->st_mode))
		e->nlink = (uint32_t)st->st_nlink;
	if (S_ISREG(st->st_mode))
		e->size = (uint64_t)st->st_size;
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
		e->rdev = st->st_rdev;
}

/* The entry that stands in w->out from @at on. */
static int index_entry(struct writer *w, size_t at, bool dir)
{
	struct manifest_index *x = w->options->index;
	int r = buf_error(&w->out);

	if (r < 0 || !x)
		return r;
	if (dir)
		r = manifest_index_enter(x, w->path, w->put + at);
	return r < 0 ? r : manifest_index_feed(x, w->out.data + at, w->out.len - at);
}

static int write_node(struct writer *w, int node, bool *ret_dir)
{
	struct manifest_entry e = {.path = w->path, .link = (char *)""};
	char target[TANDEMFS_PATH_MAX + 1] = "";
	size_t at = w->out.len;
	struct stat st;
	int r = 0;

	if (fstat(node, &st) < 0)
		return -errno;
	fill_numbers(&st, &e);
	e.target = target;
	if (S_ISLNK(st.st_mode) && readlinkat(node, "", target, sizeof(target) - 1) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		r = fill_content(w, node, &st, &e);
	if (r == 0)
		r = digest_xattrs(w, node, &e);
	if (r < 0)
		return r;
	put_entry(&w->out, &e);
	w->entries++;
	*ret_dir = S_ISDIR(st.st_mode);
	r = index_entry(w, at, *ret_dir);
	return r == 0 && w->out.len >= FLUSH_AT ? flush(w) : r;
}

static bool vanished(int error)
{
	return error == -ENOENT || error == -ENOTDIR || error == -ELOOP || error == -ESTALE;
}

/* Writes what stands at the present path. */
static int write_entry(struct writer *w, bool *ret_dir)
{
	_cleanup_close_ int node = confine_open(w->root, w->path, O_PATH, 0);
	int r;

	if (node < 0)
		return node;
	r = write_node(w, node, ret_dir);
	return r < 0 ? r : progress(w);
}

/* ---- the walk ---- */

struct names {
	char **items; /* owned, with the strings */
	size_t n, cap;
};

static void names_clear(struct names *l)
{
	size_t i;

	for (i = 0; i < l->n; i++)
		free(l->items[i]);
	free(l->items);
}
#define _cleanup_names_ __attribute__((cleanup(names_clear)))

static int names_add(struct names *l, const char *name)
{
	char **items;
	size_t cap;

	if (l->n == l->cap) {
		cap = l->cap ? 2 * l->cap : 16;
		items = reallocarray(l->items, cap, sizeof(*items));
		if (!items)
			return -ENOMEM;
		l->items = items;
		l->cap = cap;
	}
	l->items[l->n] = strdup(name);
	if (!l->items[l->n])
		return -ENOMEM;
	l->n++;
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool skipped(const struct writer *w, const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
	       (w->path_len == 0 && strcmp(name, TANDEMFS_DIR) == 0);
}

/* The sorted names in the directory at the present path. */
static int read_names(const struct writer *w, struct names *l)
{
	_cleanup_closedir_ DIR *d = NULL;
	const struct dirent *entry;
	int r = confine_opendir(w->root, w->path, &d);

	if (r < 0)
		return r;
	while (r == 0 && (errno = 0, entry = readdir(d)))
		if (!skipped(w, entry->d_name))
			r = names_add(l, entry->d_name);
	if (r == 0 && errno)
		r = -errno;
	if (r == 0 && l->n > 0)
		qsort(l->items, l->n, sizeof(*l->items), compare_names);
	return r;
}

static int path_push(struct writer *w, const char *name)
{
	size_t len = strlen(name), slash = w->path_len > 0;

	if (w->path_len + slash + len > TANDEMFS_PATH_MAX)
		return -ENAMETOOLONG;
	if (slash)
		w->path[w->path_len] = '/';
	memcpy(w->path + w->path_len + slash, name, len + 1);
	w->path_len += slash + len;
	return 0;
}

static void path_cut(struct writer *w, size_t len)
{
	w->path_len = len;
	w->path[len] = '\0';
}

static int write_below(struct writer *w);

/* After the entry of the directory at the present path. */
static int write_dir(struct writer *w, bool below)
{
	int r = below ? write_below(w) : 0, left = 0;

	if (w->options->index)
		left = manifest_index_leave(w->options->index, w->put + w->out.len);
	return r < 0 ? r : left;
}

/* What is in the directory at the present path. Depth is bounded by the length of a path. */
static int write_below(struct writer *w)
{
	_cleanup_names_ struct names l = {0};
	size_t here = w->path_len, i;
	bool dir;
	int r;

	r = read_names(w, &l);
	for (i = 0; i < l.n && r == 0; i++) {
		dir = false;
		r = path_push(w, l.items[i]);
		if (r == 0)
			r = write_entry(w, &dir);
		if (r == 0 && dir)
			r = write_dir(w, !w->options->one_level);
		if (vanished(r))
			r = 0;
		path_cut(w, here);
	}
	return r;
}

static void put_head(struct writer *w)
{
	size_t at;

	buf_put(&w->out, MANIFEST_MAGIC, MANIFEST_MAGIC_LEN);
	at = w->out.len;
	buf_put_u32(&w->out, 0);
	buf_put_string(&w->out, w->options->digest);
	buf_put_string(&w->out, w->path);
	buf_put_u8(&w->out, (w->options->one_level ? MANIFEST_ONE_LEVEL : 0) |
				    (w->options->without_content ? MANIFEST_WITHOUT_CONTENT : 0));
	if (buf_error(&w->out) == 0)
		buf_set_u32(&w->out, at, (uint32_t)(w->out.len - at - 4));
}

static int write_all_of(struct writer *w)
{
	bool dir = false;
	int r;

	put_head(w);
	r = write_entry(w, &dir);
	if (r == 0)
		r = dir ? write_dir(w, true) : -ENOTDIR;
	if (r < 0)
		return r;
	buf_put_u32(&w->out, 0);
	buf_put_u64(&w->out, w->entries);
	return flush(w);
}

static void writer_free(struct writer *w)
{
	struct inode *i, *next;

	HASH_ITER (hh, w->inodes, i, next) {
		HASH_DEL(w->inodes, i);
		free(i->path);
		free(i);
	}
	digest_free(w->digest);
	buf_clear(&w->out);
	free(w->room);
	free(w);
}

int manifest_write(int root, const char *path, const struct manifest_options *options,
	const struct manifest_sink *sink)
{
	struct writer *w;
	int r = confine_check(path, true);

	if (r < 0)
		return r;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->root = root;
	w->options = options;
	w->sink = sink;
	w->path_len = strlen(path);
	memcpy(w->path, path, w->path_len);
	w->room = malloc(READ_ROOM);
	r = w->room ? digest_new(options->digest, &w->digest) : -ENOMEM;
	if (r == 0)
		r = write_all_of(w);
	writer_free(w);
	return r;
}

struct digested {
	int fd;
	struct digest *digest;
};

static int put_digested(void *ctx, const void *data, size_t len)
{
	struct digested *to = ctx;
	int r = digest_update(to->digest, data, len);

	return r < 0 ? r : write_all(to->fd, data, len);
}

int manifest_write_fd(int root, const char *path, const struct manifest_options *options, int fd,
	uint8_t dst[OP_DIGEST_MAX], uint8_t *ret_len)
{
	_cleanup_digest_ struct digest *d = NULL;
	struct digested to = {.fd = fd};
	int r = digest_new(options->digest, &d);

	if (r < 0)
		return r;
	to.digest = d;
	r = manifest_write(root, path, options, &(struct manifest_sink){put_digested, &to});
	return r < 0 ? r : digest_final(d, dst, ret_len);
}

static int put_digest(void *ctx, const void *data, size_t len)
{
	return digest_update(ctx, data, len);
}

int manifest_digest(int root, const char *path, const struct manifest_options *options,
	uint8_t dst[OP_DIGEST_MAX], uint8_t *ret_len)
{
	_cleanup_digest_ struct digest *d = NULL;
	int r = digest_new(options->digest, &d);

	if (r < 0)
		return r;
	r = manifest_write(root, path, options, &(struct manifest_sink){put_digest, d});
	return r < 0 ? r : digest_final(d, dst, ret_len);
}
