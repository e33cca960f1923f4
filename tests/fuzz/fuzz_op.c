/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Fuzzes op_decode(): what a peer may send. The first byte chooses the encoding.
 *
 * What is accepted must be within the limits of op.h, must encode to the same bytes again, and can
 * be described and compared.
 *
 *     clang -std=c17 -D_GNU_SOURCE -I. -g -O1 -fsanitize=fuzzer,address,undefined -o fuzz_op \
 *             tests/fuzz/fuzz_op.c replicate/op.c replicate/op_codec.c replicate/base/buf.c \
 *             replicate/base/confine.c -lxxhash
 *     ./fuzz_op -max_total_time=60 -max_len=8192 NEW-CORPUS tests/fuzz/corpus/op
 */

#include "replicate/op.h"
#include "replicate/base/confine.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
	if (!condition)
		abort();
}

static void check_content(const struct op *op, enum op_encoding encoding)
{
	const struct content *c = op->content;
	uint64_t sum = 0;

	if (!c)
		return;
	for (size_t i = 0; i < c->n_extents; i++)
		sum += c->extents[i].len;
	require(sum == c->data_len && c->n_extents <= OP_EXTENTS_MAX);
	require(c->stage[0] != '.' && !strchr(c->stage, '/'));
	require((c->data != NULL) == (encoding == OP_ENCODE_WIRE && !c->stage[0]));
	require(c->digest_len <= OP_DIGEST_MAX);
}

static void check(const struct op *op, enum op_encoding encoding, const uint8_t *data, size_t size)
{
	_cleanup_buf_ struct buf again = {0};
	char text[256];

	require(confine_check(op->path, true) == 0);
	require(op->type == OP_SYMLINK || !op->path2 || confine_check(op->path2, false) == 0);
	require(op->n_ranges <= OP_RANGES_MAX && op->value_len <= OP_XATTR_VALUE_MAX);
	check_content(op, encoding);
	require(op_related(op, op));
	require(strlen(op_describe(op, text, sizeof(text))) < sizeof(text));
	op_encode(op, encoding, &again);
	require(buf_error(&again) == 0 && again.len == size);
	require(memcmp(again.data, data, size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader r;
	struct op op;
	const char *why = NULL;
	enum op_encoding encoding;

	if (size < 1 || data[0] > OP_ENCODE_BRIEF)
		return -1;
	encoding = data[0];
	r = reader_of(data + 1, size - 1);
	if (op_decode(&r, encoding, &op, &why) < 0) {
		require(why != NULL && op.path == NULL && op.content == NULL);
		return 0;
	}
	check(&op, encoding, data + 1, size - 1);
	op_clear(&op);
	return 0;
}
