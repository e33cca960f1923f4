/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Fuzzes the handshake: frames, hello, ack and the node file, as a peer's server may serve them.
 * The first byte chooses; the second one whether the frame's checksum is made right, so that what
 * is behind it is reached.
 *
 * What is accepted must be terminated, within its bounds, and come back from another encoding.
 */

#include "replicate/node.h"
#include "replicate/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
	if (!condition)
		abort();
}

static bool terminated(const char *s, size_t size)
{
	return memchr(s, 0, size) != NULL;
}

static void check_frames(const uint8_t *data, size_t size)
{
	struct wire_frame f;
	size_t len, at = 0;

	while (at < size && wire_parse(data + at, size - at, &f, &len) == 0) {
		require(len >= WIRE_FRAME_HEAD && len <= size - at);
		require(f.len == len - WIRE_FRAME_HEAD && f.payload == data + at + WIRE_FRAME_HEAD);
		require(f.kind > 0 && f.kind < WIRE_KIND_END);
		at += len;
	}
}

static void check_hello(const uint8_t *data, size_t size)
{
	_cleanup_buf_ struct buf again = {0};
	struct wire_hello h, back;

	if (wire_get_hello(data, size, &h) < 0)
		return;
	require(terminated(h.id, sizeof(h.id)) && terminated(h.name, sizeof(h.name)));
	require(strlen(h.id) == WIRE_ID_LEN && !strchr(h.id, '/'));
	wire_put_hello(&again, &h);
	require(wire_get_hello(again.data, again.len, &back) == 0);
	require(back.session == h.session && back.head == h.head && strcmp(back.id, h.id) == 0);
}

static void check_ack(const uint8_t *data, size_t size)
{
	_cleanup_buf_ struct buf again = {0};
	struct wire_ack a, back;

	if (wire_get_ack(data, size, &a) < 0)
		return;
	require(terminated(a.id, sizeof(a.id)) && terminated(a.problem, sizeof(a.problem)));
	require(a.applied.n_missing <= POSITION_MISSING_MAX);
	for (unsigned i = 0; i < a.applied.n_missing; i++)
		require(a.applied.missing[i] <= a.applied.high &&
			(i == 0 || a.applied.missing[i] > a.applied.missing[i - 1]));
	wire_put_ack(&again, &a);
	require(wire_get_ack(again.data, again.len, &back) == 0);
	require(back.applied.high == a.applied.high && back.beat == a.beat);
}

static void check_node(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct node_identity n;

	require(text != NULL);
	memcpy(text, data, size);
	text[size] = '\0';
	if (node_parse(text, &n) == 0)
		require(strspn(n.id, "0123456789abcdef") == WIRE_ID_LEN &&
			n.id[WIRE_ID_LEN] == '\0' && terminated(n.name, sizeof(n.name)) &&
			!strchr(n.name, '\n'));
	free(text);
}

/* A frame of @kind around the bytes. */
static void framed(enum wire_kind kind, const uint8_t *data, size_t size,
	void (*check)(const uint8_t *, size_t))
{
	_cleanup_buf_ struct buf b = {0};
	size_t start = wire_begin(&b, kind);

	buf_put(&b, data, size);
	wire_end(&b, start);
	require(buf_error(&b) == 0);
	check(b.data, b.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const checks[])(const uint8_t *, size_t) = {
		check_frames, check_hello, check_ack, check_node};
	static const enum wire_kind kinds[] = {WIRE_OP, WIRE_HELLO, WIRE_ACK, WIRE_SEEN};
	unsigned which;

	if (size < 2)
		return 0;
	which = data[0] % 4;
	if (data[1] % 2 && which != 3)
		framed(kinds[which], data + 2, size - 2, checks[which]);
	else
		checks[which](data + 2, size - 2);
	return 0;
}
