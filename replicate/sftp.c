/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Packets: u32 length, u8 type, u32 id, fields; all big-endian. INIT and VERSION have a version
 * number in the place of the id.
 *
 * A request takes a slot; its id is the slot's index and, above it, a count of the slot's uses, so
 * that a second answer to an id is noticed. Requests are encoded straight into `out`, which is
 * offered to the channel as one run of bytes: many small requests share a packet of the layer
 * below. `sent` bytes of it are gone; they are cut off when they outweigh the rest, so that each
 * byte is moved at most once.
 *
 * Answers are parsed in place in `in`, which holds at most one incomplete packet between calls.
 */

#include "sftp.h"

#include "base/clock.h"
#include "sftp_packet.h"

#include <errno.h>
#include <stdlib.h>

#define SFTP_V3 3
#define HEADER 9u              /* length, type, id */
#define REPLY_MAX (257u << 10) /* OpenSSH sends at most 256 KiB */
#define IN_MIN (64u << 10)
#define CHUNK_DEFAULT (32u << 10)
#define CHUNK_MAX (255u << 10)
#define OFFER_MAX (1u << 20)
#define SLOT_BITS 20
#define SLOTS_FIRST 64
#define NO_SLOT UINT32_MAX

struct slot {
	sftp_reply_fn *fn; /* NULL: free */
	void *ctx;
	size_t bytes;
	uint32_t uses;
	uint32_t next_free;
};

struct sftp {
	struct sftp_io io;
	void *ctx;
	int error;
	bool greeted; /* VERSION came */
	unsigned extensions;
	uint32_t max_read, max_write;

	struct slot *slots;
	uint32_t n_slots, free_slot;
	size_t pending, pending_bytes;
	size_t unflushed; /* of the pending, not yet offered to the channel */
	uint64_t answered;
	uint64_t due_ms; /* when the oldest of the others was offered, or later */

	struct buf out;
	size_t sent;
	size_t begun;   /* where the request in the making starts */
	bool held_back; /* the channel took less than it was offered */

	uint8_t *in;
	size_t in_len, in_cap;
};

int sftp_new(const struct sftp_io *io, void *ctx, struct sftp **ret)
{
	struct sftp *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->io = *io;
	s->ctx = ctx;
	s->free_slot = NO_SLOT;
	s->max_read = s->max_write = CHUNK_DEFAULT;
	s->in = malloc(IN_MIN);
	s->in_cap = IN_MIN;
	if (!s->in) {
		free(s);
		return -ENOMEM;
	}
	*ret = s;
	return 0;
}

void sftp_free(struct sftp *s)
{
	if (!s)
		return;
	sftp_abort(s, -ENOTCONN);
	buf_clear(&s->out);
	free(s->slots);
	free(s->in);
	free(s);
}

int sftp_error(const struct sftp *s)
{
	return s->error;
}

size_t sftp_pending(const struct sftp *s)
{
	return s->pending;
}

size_t sftp_pending_bytes(const struct sftp *s)
{
	return s->pending_bytes;
}

size_t sftp_unsent(const struct sftp *s)
{
	return s->out.len - s->sent;
}

uint64_t sftp_answered(const struct sftp *s)
{
	return s->answered;
}

bool sftp_due_since(const struct sftp *s, uint64_t *ret_ms)
{
	if (s->pending == s->unflushed)
		return false;
	*ret_ms = s->due_ms;
	return true;
}

uint32_t sftp_max_read(const struct sftp *s)
{
	return s->max_read;
}

uint32_t sftp_max_write(const struct sftp *s)
{
	return s->max_write;
}

unsigned sftp_extensions(const struct sftp *s)
{
	return s->extensions;
}

/* ---- slots ---- */

static int grow_slots(struct sftp *s)
{
	uint32_t n = s->n_slots ? s->n_slots * 2 : SLOTS_FIRST;
	struct slot *slots;

	if (n > 1u << SLOT_BITS)
		return -ENOBUFS;
	slots = reallocarray(s->slots, n, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots + s->n_slots, 0, (n - s->n_slots) * sizeof(*slots));
	for (uint32_t i = n; i-- > s->n_slots;) {
		slots[i].next_free = s->free_slot;
		s->free_slot = i;
	}
	s->slots = slots;
	s->n_slots = n;
	return 0;
}

static uint32_t slot_id(const struct sftp *s, uint32_t index)
{
	return s->slots[index].uses << SLOT_BITS | index;
}

static struct slot *find_slot(struct sftp *s, uint32_t id)
{
	uint32_t index = id & ((1u << SLOT_BITS) - 1);

	if (index >= s->n_slots || !s->slots[index].fn || slot_id(s, index) != id)
		return NULL;
	return &s->slots[index];
}

static int answer_slot(struct sftp *s, struct slot *slot, struct sftp_reply *reply)
{
	sftp_reply_fn *fn = slot->fn;

	slot->fn = NULL;
	slot->uses++;
	slot->next_free = s->free_slot;
	s->free_slot = (uint32_t)(slot - s->slots);
	s->pending--;
	s->pending_bytes -= slot->bytes;
	s->answered++;
	return fn(slot->ctx, reply);
}

void sftp_abort(struct sftp *s, int error)
{
	if (s->error == 0)
		s->error = error;
	for (uint32_t i = 0; i < s->n_slots; i++) {
		struct sftp_reply reply = {.error = s->error};

		if (s->slots[i].fn)
			(void)answer_slot(s, &s->slots[i], &reply); /* cannot get worse */
	}
	s->unflushed = 0;
	buf_reset(&s->out);
	s->sent = 0;
}

/* ---- sending ---- */

static void cut_sent(struct sftp *s)
{
	size_t left = s->out.len - s->sent;

	if (s->sent == 0 || left > s->sent)
		return;
	memmove(s->out.data, s->out.data + s->sent, left);
	s->out.len = left;
	s->sent = 0;
}

struct buf *sftp_begin(struct sftp *s, uint8_t type)
{
	cut_sent(s);
	s->begun = s->out.len;
	put_be32(&s->out, 0);
	buf_put_u8(&s->out, type);
	put_be32(&s->out, 0);
	return &s->out;
}

static int end_packet(struct sftp *s, uint32_t id)
{
	uint8_t *p;

	if (s->out.failed)
		return -ENOMEM;
	p = s->out.data + s->begun;
	set_be32(p, (uint32_t)(s->out.len - s->begun - 4));
	set_be32(p + 5, id);
	return 0;
}

int sftp_submit(struct sftp *s, size_t bytes, sftp_reply_fn *fn, void *ctx)
{
	struct slot *slot;
	int r = s->error;

	if (r == 0 && s->free_slot == NO_SLOT)
		r = grow_slots(s);
	if (r == 0)
		r = end_packet(s, slot_id(s, s->free_slot));
	if (r < 0) {
		s->out.failed = false;
		s->out.len = s->begun; /* as if it had never begun */
		return r;
	}
	slot = &s->slots[s->free_slot];
	s->free_slot = slot->next_free;
	slot->fn = fn;
	slot->ctx = ctx;
	slot->bytes = bytes + HEADER;
	s->pending++;
	s->unflushed++;
	s->pending_bytes += slot->bytes;
	return 0;
}

int sftp_flush(struct sftp *s)
{
	bool moved = false, was_held = s->held_back;

	if (s->error < 0)
		return s->error;
	if (s->pending == s->unflushed)
		s->due_ms = clock_mono_ms();
	s->unflushed = 0;
	s->held_back = false;
	while (s->sent < s->out.len) {
		size_t len = s->out.len - s->sent;
		ssize_t n = s->io.write(
			s->ctx, s->out.data + s->sent, len < OFFER_MAX ? len : OFFER_MAX);

		if (n == -EAGAIN || n == 0) {
			s->held_back = true;
			return was_held && moved ? SFTP_WENT : 0;
		}
		if (n < 0) {
			sftp_abort(s, (int)n);
			return (int)n;
		}
		s->sent += (size_t)n;
		moved = true;
	}
	buf_reset(&s->out);
	s->sent = 0;
	return was_held && moved ? SFTP_WENT : 0;
}

/* ---- receiving ---- */

static int status_error(uint32_t status)
{
	switch (status) {
	case SFTP_OK:
		return 0;
	case SFTP_EOF:
		return -ENODATA;
	case SFTP_NO_SUCH_FILE:
		return -ENOENT;
	case SFTP_PERMISSION_DENIED:
		return -EACCES;
	case SFTP_OP_UNSUPPORTED:
		return -EOPNOTSUPP;
	default:
		return -EIO;
	}
}

static void note_extension(struct sftp *s, const uint8_t *name, size_t len)
{
	static const struct {
		const char *name;
		enum sftp_extension bit;
	} known[] = {
		{"posix-rename@openssh.com", SFTP_POSIX_RENAME},
		{"hardlink@openssh.com", SFTP_HARDLINK},
		{"fsync@openssh.com", SFTP_FSYNC},
		{"limits@openssh.com", SFTP_LIMITS},
		{"lsetstat@openssh.com", SFTP_LSETSTAT},
		{"statvfs@openssh.com", SFTP_STATVFS},
		{"check-file", SFTP_CHECK_FILE},
		{"check-file-handle", SFTP_CHECK_FILE},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strlen(known[i].name) == len && memcmp(known[i].name, name, len) == 0)
			s->extensions |= known[i].bit;
}

static int take_version(struct sftp *s, struct reader *body)
{
	if (get_be32(body) != SFTP_V3 || body->failed)
		return -EPROTO;
	while (reader_left(body) > 0) {
		size_t name_len, data_len;
		const uint8_t *name = get_be_blob(body, &name_len);

		(void)get_be_blob(body, &data_len);
		if (body->failed)
			return -EPROTO;
		note_extension(s, name, name_len);
	}
	s->greeted = true;
	s->pending--;
	s->answered++;
	return 0;
}

static int take_packet(struct sftp *s, const uint8_t *data, size_t len)
{
	struct sftp_reply reply = {.type = data[0], .body = reader_of(data + 1, len - 1)};
	struct slot *slot;

	if (!s->greeted)
		return reply.type == SFTP_VERSION ? take_version(s, &reply.body) : -EPROTO;
	slot = find_slot(s, get_be32(&reply.body));
	if (!slot || reply.body.failed)
		return -EPROTO;
	if (reply.type == SFTP_STATUS) {
		reply.error = status_error(get_be32(&reply.body));
		if (reply.body.failed)
			return -EPROTO;
	}
	return answer_slot(s, slot, &reply);
}

static int make_room(struct sftp *s, size_t len)
{
	uint8_t *in;

	if (len <= s->in_cap)
		return 0;
	in = realloc(s->in, len);
	if (!in)
		return -ENOMEM;
	s->in = in;
	s->in_cap = len;
	return 0;
}

static int take_packets(struct sftp *s)
{
	size_t at = 0;
	int r = 0;

	while (r == 0 && s->in_len - at >= 4) {
		uint32_t len = load_be32(s->in + at);

		if (len < 5 || len > REPLY_MAX)
			return -EPROTO;
		if (s->in_len - at - 4 < len) {
			r = make_room(s, 4 + (size_t)len);
			break;
		}
		r = take_packet(s, s->in + at + 4, len);
		at += 4 + (size_t)len;
	}
	if (r < 0)
		return r;
	s->in_len -= at;
	if (at > 0)
		memmove(s->in, s->in + at, s->in_len);
	return 0;
}

static int receive(struct sftp *s)
{
	bool moved = false;
	int r = 0;

	while (r == 0) {
		ssize_t n = s->io.read(s->ctx, s->in + s->in_len, s->in_cap - s->in_len);

		if (n == -EAGAIN)
			return moved ? SFTP_CAME : 0;
		if (n == 0)
			r = -EPIPE;
		if (n < 0)
			r = (int)n;
		if (n > 0) {
			s->in_len += (size_t)n;
			moved = true;
			r = take_packets(s);
		}
	}
	sftp_abort(s, r);
	return r;
}

int sftp_pump(struct sftp *s)
{
	int sent = sftp_flush(s);
	int got;

	if (sent < 0)
		return sent;
	got = receive(s);
	return got < 0 ? got : sent | got;
}

/* ---- waiting ---- */

struct awaited {
	uint8_t want;
	bool done;
	int error;
	struct buf *body;
};

static int take_awaited(void *ctx, struct sftp_reply *reply)
{
	struct awaited *a = ctx;

	a->done = true;
	a->error = reply->error;
	if (a->error < 0)
		return 0;
	if (reply->type != a->want) {
		a->error = -EPROTO;
		return -EPROTO;
	}
	if (a->body) {
		buf_put(a->body, reply->body.data + reply->body.pos, reader_left(&reply->body));
		a->error = buf_error(a->body);
	}
	return 0;
}

/* The connection may end in here; whoever owns it frees @s only after this has returned. */
static int wait_until(struct sftp *s, const bool *done)
{
	while (!*done) {
		int r = s->io.wait(s->ctx);

		if (r < 0) {
			sftp_abort(s, r);
			return r;
		}
	}
	return 0;
}

int sftp_await(struct sftp *s, uint8_t want, struct buf *body)
{
	struct awaited a = {.want = want, .body = body};
	int r = sftp_submit(s, 0, take_awaited, &a);

	if (r == 0)
		r = wait_until(s, &a.done);
	return r < 0 ? r : a.error;
}

/* ---- starting ---- */

static uint32_t clamp_chunk(uint64_t limit)
{
	if (limit < 1024)
		return CHUNK_DEFAULT; /* 0 says "no limit known"; nothing sane is that small */
	return limit < CHUNK_MAX ? (uint32_t)limit : CHUNK_MAX;
}

static int ask_limits(struct sftp *s)
{
	_cleanup_buf_ struct buf body = {0};
	struct reader reader;
	struct buf *b;
	int r;

	if (!(s->extensions & SFTP_LIMITS))
		return 0;
	b = sftp_begin(s, SFTP_EXTENDED);
	put_be_string(b, "limits@openssh.com");
	r = sftp_await(s, SFTP_EXTENDED_REPLY, &body);
	if (r < 0)
		return s->error; /* a refusal: the defaults stand */
	reader = reader_of(body.data, body.len);
	(void)get_be64(&reader);
	s->max_read = clamp_chunk(get_be64(&reader));
	s->max_write = clamp_chunk(get_be64(&reader));
	if (reader.failed)
		sftp_abort(s, -EPROTO);
	return s->error;
}

int sftp_start(struct sftp *s)
{
	int r;

	(void)sftp_begin(s, SFTP_INIT);
	r = end_packet(s, SFTP_V3);
	if (r < 0)
		return r;
	s->pending++;
	s->unflushed++;
	r = wait_until(s, &s->greeted);
	return r < 0 ? r : ask_limits(s);
}
