/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

size_t wire_begin(struct buf *b, enum wire_kind kind)
{
	size_t start = b->len;

	buf_put_u32(b, 0);
	buf_put_u32(b, kind);
	buf_put_u64(b, 0);
	return start;
}

static uint64_t frame_checksum(const uint8_t *frame, size_t payload_len)
{
	return XXH3_64bits_withSeed(frame + WIRE_FRAME_HEAD, payload_len, load_u32(frame + 4));
}

void wire_end(struct buf *b, size_t start)
{
	size_t payload = b->len - start - WIRE_FRAME_HEAD;

	if (b->failed)
		return;
	buf_set_u32(b, start, (uint32_t)payload);
	buf_set_u64(b, start + 8, frame_checksum(b->data + start, payload));
}

int wire_parse(const uint8_t *data, size_t len, struct wire_frame *ret, size_t *ret_len)
{
	uint32_t payload, kind;

	if (len < WIRE_FRAME_HEAD)
		return -EAGAIN;
	payload = load_u32(data);
	kind = load_u32(data + 4);
	if (payload > WIRE_PAYLOAD_MAX || kind == 0 || kind >= WIRE_KIND_END)
		return -EBADMSG;
	if (len - WIRE_FRAME_HEAD < payload)
		return -EAGAIN;
	if (frame_checksum(data, payload) != load_u64(data + 8))
		return -EBADMSG;
	*ret = (struct wire_frame){kind, data + WIRE_FRAME_HEAD, payload};
	*ret_len = WIRE_FRAME_HEAD + payload;
	return 0;
}

static void get_text(struct reader *r, char *dst, size_t size)
{
	size_t len;
	const uint8_t *text = reader_blob(r, &len);

	dst[0] = '\0';
	if (len >= size || (len && memchr(text, '\0', len))) {
		reader_fail(r);
		return;
	}
	if (len)
		memcpy(dst, text, len);
	dst[len] = '\0';
}

/* An id names directories: nothing but hex digits may come through here. */
static void get_id(struct reader *r, char dst[WIRE_ID_LEN + 1])
{
	get_text(r, dst, WIRE_ID_LEN + 1);
	if (strlen(dst) != WIRE_ID_LEN || strspn(dst, "0123456789abcdef") != WIRE_ID_LEN)
		reader_fail(r);
}

static int parse_single(const void *data, size_t len, enum wire_kind kind, struct reader *ret)
{
	struct wire_frame f;
	size_t frame_len;
	int r = wire_parse(data, len, &f, &frame_len);

	if (r < 0)
		return r;
	if (f.kind != kind)
		return -EBADMSG;
	*ret = reader_of(f.payload, f.len);
	return 0;
}

void wire_put_hello(struct buf *b, const struct wire_hello *h)
{
	size_t start = wire_begin(b, WIRE_HELLO);

	buf_put_u32(b, h->version);
	buf_put_string(b, h->id);
	buf_put_string(b, h->name);
	buf_put_u64(b, h->session);
	buf_put_u64(b, h->head);
	wire_end(b, start);
}

int wire_get_hello(const void *data, size_t len, struct wire_hello *ret)
{
	struct reader r;
	int e = parse_single(data, len, WIRE_HELLO, &r);

	if (e < 0)
		return e;
	memset(ret, 0, sizeof(*ret));
	ret->version = reader_u32(&r);
	get_id(&r, ret->id);
	get_text(&r, ret->name, sizeof(ret->name));
	ret->session = reader_u64(&r);
	ret->head = reader_u64(&r);
	return reader_error(&r);
}

void wire_put_ack(struct buf *b, const struct wire_ack *a)
{
	size_t start = wire_begin(b, WIRE_ACK);

	buf_put_u32(b, a->version);
	buf_put_string(b, a->id);
	buf_put_u64(b, a->session);
	buf_put_u64(b, a->epoch);
	buf_put_u64(b, a->beat);
	position_encode(&a->applied, b);
	buf_put_u64(b, a->durable);
	buf_put_u64(b, a->head);
	buf_put_u8(b, a->restart);
	buf_put_u64(b, a->stuck_seq);
	buf_put_u32(b, (uint32_t)a->stuck_errno);
	buf_put_string(b, a->problem);
	buf_put_u8(b, a->refused);
	buf_put_u8(b, a->lost_power);
	wire_end(b, start);
}

int wire_get_ack(const void *data, size_t len, struct wire_ack *ret)
{
	struct reader r;
	int e = parse_single(data, len, WIRE_ACK, &r);

	if (e < 0)
		return e;
	memset(ret, 0, sizeof(*ret));
	ret->version = reader_u32(&r);
	get_id(&r, ret->id);
	ret->session = reader_u64(&r);
	ret->epoch = reader_u64(&r);
	ret->beat = reader_u64(&r);
	position_decode(&r, &ret->applied);
	ret->durable = reader_u64(&r);
	ret->head = reader_u64(&r);
	ret->restart = reader_u8(&r);
	ret->stuck_seq = reader_u64(&r);
	ret->stuck_errno = (int32_t)reader_u32(&r);
	get_text(&r, ret->problem, sizeof(ret->problem));
	ret->refused = reader_u8(&r);
	ret->lost_power = reader_u8(&r);
	return reader_error(&r);
}
