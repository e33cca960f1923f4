/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What is remembered of a plain peer, since nobody there keeps a position for us: the file
 * STATE/plain-HASH, HASH of the peer's URL, rewritten in place.
 *
 *     u32 magic, u8 version, u8 flags (1 synced, 2 clean, 4 met), 36 bytes id of the boot,
 *     u64 session, next, applied, attempted, scan_from, u64 counts each, u64 xxh64 of all before
 *
 * It is written after what it speaks of was answered by the server, and (attempted) before anything
 * new is begun; a killed process leaves both right. It is not synced, so after the machine's end
 * nothing in it can be trusted: such a state, which has another boot's id and was not closed,
 * counts as not synced, and both trees are compared. The numbers of its ops could belong to other
 * ops by then.
 */

#include "plain.h"

#include "base/cleanup.h"
#include "base/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <xxhash.h>

#define MAGIC 0x746e6c70u
#define VERSION 1
#define BOOT_LEN 36
enum { FLAG_SYNCED = 1, FLAG_CLEAN = 2, FLAG_MET = 4 };

static void name_of(const char *url, char dst[32])
{
	(void)snprintf(dst, 32, "plain-%016llx", (unsigned long long)XXH64(url, strlen(url), 0));
}

/* Zeros where the kernel does not tell: then every boot looks the same. */
static void this_boot(char id[BOOT_LEN])
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	memset(id, 0, BOOT_LEN);
	if (durable_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, &len) == 0 &&
		len >= BOOT_LEN)
		memcpy(id, text, BOOT_LEN);
}

static void encode(const struct plain_state *s, bool clean, struct buf *b)
{
	char boot[BOOT_LEN];

	this_boot(boot);
	buf_put_u32(b, MAGIC);
	buf_put_u8(b, VERSION);
	buf_put_u8(b, (uint8_t)((s->synced ? FLAG_SYNCED : 0) | (s->met ? FLAG_MET : 0) |
				(clean ? FLAG_CLEAN : 0)));
	buf_put(b, boot, sizeof(boot));
	buf_put_u64(b, s->session);
	buf_put_u64(b, s->next);
	buf_put_u64(b, s->applied);
	buf_put_u64(b, s->attempted);
	buf_put_u64(b, s->scan_from);
	for (unsigned i = 0; i < PLAIN_COUNTS; i++)
		buf_put_u64(b, s->counts[i]);
	if (!b->failed)
		buf_put_u64(b, XXH64(b->data, b->len, 0));
}

static int decode(const char *data, size_t len, struct plain_state *ret)
{
	struct reader r = reader_of(data, len);
	struct plain_state s = {0};
	char boot[BOOT_LEN];
	const uint8_t *theirs;
	uint8_t flags;

	if (reader_u32(&r) != MAGIC || reader_u8(&r) != VERSION)
		return -EBADMSG;
	flags = reader_u8(&r);
	theirs = reader_bytes(&r, BOOT_LEN);
	s.session = reader_u64(&r);
	s.next = reader_u64(&r);
	s.applied = reader_u64(&r);
	s.attempted = reader_u64(&r);
	s.scan_from = reader_u64(&r);
	for (unsigned i = 0; i < PLAIN_COUNTS; i++)
		s.counts[i] = reader_u64(&r);
	if (reader_error(&r) < 0 || XXH64(data, r.pos, 0) != reader_u64(&r) || r.failed)
		return -EBADMSG;
	this_boot(boot);
	if (flags & FLAG_CLEAN || memcmp(theirs, boot, sizeof(boot)) == 0)
		s.synced = flags & FLAG_SYNCED;
	else
		s.scan_from = 0;
	s.met = flags & FLAG_MET;
	*ret = s;
	return 0;
}

int plain_state_load(struct replica *r, const char *url, struct plain_state *ret)
{
	_cleanup_free_ char *data = NULL;
	char name[32];
	size_t len;
	int e;

	*ret = (struct plain_state){0};
	name_of(url, name);
	e = durable_read(r->state, name, 4096, &data, &len);
	if (e == -ENOENT)
		return 0;
	return e < 0 ? e : decode(data, len, ret);
}

int plain_state_save(
	struct replica *r, const char *url, const struct plain_state *state, enum plain_save how)
{
	_cleanup_buf_ struct buf b = {0};
	_cleanup_close_ int fd = -1;
	char name[32];
	int e;

	encode(state, how == PLAIN_SAVE_CLEAN, &b);
	e = buf_error(&b);
	if (e < 0)
		return e;
	name_of(url, name);
	fd = openat(r->state, name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	e = pwrite_all(fd, b.data, b.len, 0);
	if (e == 0 && how != PLAIN_SAVE_FAST && fdatasync(fd) < 0)
		e = -errno;
	return e;
}

int plain_state_remove(struct replica *r, const char *url)
{
	char name[32];

	name_of(url, name);
	return unlinkat(r->state, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}
