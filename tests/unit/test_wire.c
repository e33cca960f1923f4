/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "replicate/base/cleanup.h"
#include "replicate/node.h"
#include "replicate/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

static const char id[] = "0123456789abcdef0123456789abcdef";

static void make_ack(struct buf *b, struct wire_ack *a)
{
	*a = (struct wire_ack){.version = WIRE_VERSION,
		.session = 7,
		.epoch = 8,
		.beat = 9,
		.applied = {.high = 50, .missing = {3, 4}, .n_missing = 2},
		.durable = 40,
		.head = 60,
		.stuck_seq = 3,
		.lost_power = 1,
		.stuck_errno = -ENOSPC,
		.problem = "disk full"};
	memcpy(a->id, id, sizeof(id));
	wire_put_ack(b, a);
	assert_int_equal(buf_error(b), 0);
}

static void test_ack(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct wire_ack a, back;

	(void)state;
	make_ack(&b, &a);
	assert_true(b.len <= WIRE_ACK_MAX);
	assert_int_equal(wire_get_ack(b.data, b.len, &back), 0);
	assert_string_equal(back.id, id);
	assert_int_equal(back.applied.missing[1], 4);
	assert_int_equal(back.stuck_errno, -ENOSPC);
	assert_int_equal(back.lost_power, 1);
	assert_string_equal(back.problem, "disk full");
}

static void test_largest_ack_fits(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct wire_ack a = {.version = WIRE_VERSION};

	(void)state;
	memcpy(a.id, id, sizeof(id));
	a.applied.high = POSITION_MISSING_MAX;
	for (uint64_t i = 0; i < POSITION_MISSING_MAX; i++)
		a.applied.missing[i] = i + 1;
	a.applied.n_missing = POSITION_MISSING_MAX;
	memset(a.problem, 'x', sizeof(a.problem) - 1);
	wire_put_ack(&b, &a);
	assert_true(b.len <= WIRE_ACK_MAX);
	assert_int_equal(wire_get_ack(b.data, b.len, &a), 0);
}

/* No prefix and no single changed byte gets through. */
static void test_damage(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct wire_ack a, back;

	(void)state;
	make_ack(&b, &a);
	for (size_t len = 0; len < b.len; len++)
		assert_int_equal(wire_get_ack(b.data, len, &back), -EAGAIN);
	for (size_t i = 0; i < b.len; i++) {
		b.data[i] ^= 0x40;
		assert_true(wire_get_ack(b.data, b.len, &back) < 0);
		b.data[i] ^= 0x40;
	}
}

static void test_id_is_a_name(void **state)
{
	static const char *const bad[] = {
		"../../../../../../etc/passwd00000", "0123456789ABCDEF0123456789abcdef", "", "0"};

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		_cleanup_buf_ struct buf b = {0};
		struct wire_hello h = {.version = WIRE_VERSION}, back;

		(void)snprintf(h.id, sizeof(h.id), "%s", bad[i]);
		wire_put_hello(&b, &h);
		assert_int_equal(wire_get_hello(b.data, b.len, &back), -EBADMSG);
	}
}

static void test_kinds_and_sizes(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct wire_frame f;
	size_t len, start = wire_begin(&b, WIRE_OP);

	(void)state;
	buf_put_u64(&b, 42);
	wire_end(&b, start);
	assert_int_equal(wire_parse(b.data, b.len, &f, &len), 0);
	assert_int_equal(f.kind, WIRE_OP);
	assert_int_equal(f.len, 8);
	buf_set_u32(&b, 4, WIRE_KIND_END);
	assert_int_equal(wire_parse(b.data, b.len, &f, &len), -EBADMSG);
	buf_set_u32(&b, 4, WIRE_OP);
	buf_set_u32(&b, 0, WIRE_PAYLOAD_MAX + 1);
	assert_int_equal(wire_parse(b.data, b.len, &f, &len), -EBADMSG);
}

/* ---- node ---- */

struct dirs {
	char top[64];
	int backing, state;
};

static int make_dirs(void **state)
{
	static struct dirs d;

	(void)snprintf(d.top, sizeof(d.top), "/tmp/tandemfs-node-XXXXXX");
	if (!mkdtemp(d.top) || chdir(d.top) < 0 || mkdir("b", 0700) < 0 || mkdir("s", 0700) < 0)
		return -1;
	d.backing = open("b", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d.state = open("s", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = &d;
	return d.backing < 0 || d.state < 0 ? -1 : 0;
}

static int remove_dirs(void **state)
{
	struct dirs *d = *state;

	(void)unlinkat(d->backing, "node", 0);
	(void)unlinkat(d->state, "node", 0);
	(void)unlinkat(d->state, "peers", 0);
	(void)close(d->backing);
	(void)close(d->state);
	return rmdir("b") < 0 || rmdir("s") < 0 || chdir("/") < 0 || rmdir(d->top) < 0;
}

static void test_identity(void **state)
{
	struct dirs *d = *state;
	struct node_identity first, again;
	_cleanup_free_ char *error = NULL;
	bool seed = false;

	assert_int_equal(node_identify(d->backing, d->state, "web1", &seed, &first, &error), 0);
	assert_int_equal(node_identify(d->backing, d->state, "web-one", &seed, &again, &error), 0);
	assert_string_equal(first.id, again.id);
	assert_string_equal(again.name, "web-one");
	/* the disk is not mounted */
	assert_int_equal(renameat(d->backing, "node", d->backing, "kept"), 0);
	assert_int_equal(
		node_identify(d->backing, d->state, "web1", &seed, &again, &error), -ESTALE);
	assert_non_null(strstr(error, "mounted"));
	assert_int_equal(renameat(d->backing, "kept", d->backing, "node"), 0);
	/* the state directory is another one */
	free(steal_pointer(&error));
	assert_int_equal(unlinkat(d->state, "node", 0), 0);
	assert_int_equal(
		node_identify(d->backing, d->state, "web1", &seed, &again, &error), -ESTALE);
	assert_non_null(error);
	/* and is to be */
	free(steal_pointer(&error));
	seed = true;
	assert_int_equal(node_identify(d->backing, d->state, "web1", &seed, &again, &error), 0);
	assert_true(seed);
	assert_null(error);
	assert_string_equal(first.id, again.id);
	assert_int_equal(node_identify(d->backing, d->state, "web1", &seed, &again, &error), 0);
	assert_false(seed); /* there was no need */
	/* another node's disk: the state counts */
	assert_int_equal(renameat(d->backing, "node", d->backing, "kept"), 0);
	assert_int_equal(unlinkat(d->state, "node", 0), 0);
	assert_int_equal(node_identify(d->backing, d->state, "web1", &seed, &first, &error), 0);
	assert_string_not_equal(first.id, again.id);
	assert_int_equal(renameat(d->backing, "kept", d->backing, "node"), 0);
	assert_int_equal(
		node_identify(d->backing, d->state, "web1", &seed, &again, &error), -ESTALE);
	seed = true;
	free(steal_pointer(&error));
	assert_int_equal(node_identify(d->backing, d->state, "web1", &seed, &again, &error), 0);
	assert_string_equal(first.id, again.id);
}

static void test_pairings(void **state)
{
	struct dirs *d = *state;
	struct node_identity peer = {.id = "0123456789abcdef0123456789abcdef", .name = "web 2"};
	struct pairings p = {0}, q = {0};

	assert_int_equal(pairings_load(d->state, &p), 0);
	assert_int_equal(pairings_add(&p, d->state, "sftp://web2/srv", &peer), 0);
	assert_int_equal(pairings_add(&p, d->state, NULL, &peer), 0);
	pairings_clear(&p);
	assert_int_equal(pairings_load(d->state, &q), 0);
	assert_int_equal(pairings_count(&q, false), 1);
	assert_int_equal(pairings_count(&q, true), 1);
	assert_string_equal(pairings_out(&q, "sftp://web2/srv")->name, "web 2");
	assert_null(pairings_out(&q, "sftp://web3/srv"));
	assert_true(pairings_has(&q, true, peer.id));
	pairings_clear(&q);
}

static void test_node_text(void **state)
{
	struct node_identity n;

	(void)state;
	assert_int_equal(node_parse("tandemfs 99\nid 0\nname x\n", &n), -EPROTONOSUPPORT);
	assert_int_equal(node_parse("hello", &n), -EBADMSG);
	assert_int_equal(node_parse("tandemfs 1\nid ../../x\nname x\n", &n), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ack),
		cmocka_unit_test(test_largest_ack_fits),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_id_is_a_name),
		cmocka_unit_test(test_kinds_and_sizes),
		cmocka_unit_test_setup_teardown(test_identity, make_dirs, remove_dirs),
		cmocka_unit_test_setup_teardown(test_pairings, make_dirs, remove_dirs),
		cmocka_unit_test(test_node_text),
	};

	return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
