/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Fuzzes a whole spool: what an account that may write there, and nothing else, can do to a node.
 *
 * The input becomes the log of a session, frame by frame:
 *
 *     u8 how, u16 length, bytes
 *
 * how % 4: 0 a frame of kind how / 4 with a right checksum around the bytes; 1 an operation with a
 * good head and the bytes as its op; 2 the bytes as they are; 3 the bytes as a staged file. The
 * node has symbolic links in its tree and in the spool that point outside. Whatever comes: it goes
 * on, and what is outside stays as it was.
 */

#include "replicate/impl.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/log.h"

#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SENDER "0123456789abcdef0123456789abcdef"
#define SECRET "nobody writes here\n"
#define RUNS_PER_NODE 200

static char top[128];
static struct replica *node;
static int root = -1;
static unsigned runs;
static uint64_t session = 1, seq;

static void require(bool condition)
{
	if (!condition)
		abort();
}

static void path_of(char dst[384], const char *name)
{
	(void)snprintf(dst, 384, "%s/%s", top, name);
}

static void make_dir(const char *name)
{
	char path[384];

	path_of(path, name);
	require(mkdir(path, 0755) == 0 || errno == EEXIST);
}

static void make_link(const char *target, const char *name)
{
	char path[384];

	path_of(path, name);
	require(symlink(target, path) == 0 || errno == EEXIST);
}

static void put_file(const char *name, const void *data, size_t len)
{
	char path[384];
	FILE *f;

	path_of(path, name);
	f = fopen(path, "w");
	require(f && fwrite(data, 1, len, f) == len);
	require(fclose(f) == 0);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static void end_node(void)
{
	if (!node)
		return;
	replica_close(node);
	(void)close(root);
	node = NULL;
	(void)nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void begin_node(void)
{
	struct replica_config config = {.node = "target", .streams = 1, .verify = "none"};
	char backing[384], state[384], *error = NULL;

	/* the last one stays: who runs this removes TMPDIR */
	(void)snprintf(top, sizeof(top), "%s/tandemfs-fuzz-XXXXXX", getenv("TMPDIR") ?: "/tmp");
	require(mkdtemp(top) != NULL);
	make_dir("back");
	make_dir("back/dir");
	make_dir("outside");
	put_file("outside/secret", SECRET, strlen(SECRET));
	make_link("../outside", "back/trap");
	make_link("../outside/secret", "back/secret");
	path_of(backing, "back");
	path_of(state, "state");
	root = open(backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	config.backing = backing;
	config.root = root;
	config.state = state;
	require(replica_open(&config, &node, &error) == 0);
	make_dir("back/.tandemfs/in/" SENDER);
	make_dir("back/.tandemfs/in/" SENDER "/stage");
	make_link("../../../../../outside/secret", "back/.tandemfs/in/" SENDER "/stage/trap");
	seq = 0;
	runs = 0;
}

static void check_outside(void)
{
	char path[384], text[64] = "";
	struct stat st;
	FILE *f;

	path_of(path, "outside/secret");
	f = fopen(path, "r");
	require(f && fgets(text, sizeof(text), f) && strcmp(text, SECRET) == 0);
	(void)fclose(f);
	require(lstat(path, &st) == 0 && (st.st_mode & 07777) == 0644 && st.st_nlink == 1);
	path_of(path, "outside");
	require(lstat(path, &st) == 0 && st.st_nlink == 2);
}

static void put_op(struct buf *log, const uint8_t *data, size_t size)
{
	struct position seen = {0};
	size_t start = wire_begin(log, WIRE_OP);

	buf_put_u64(log, ++seq);
	position_encode(&seen, log);
	buf_put(log, data, size);
	wire_end(log, start);
}

static void put_piece(struct buf *log, unsigned how, const uint8_t *data, size_t size)
{
	size_t start;

	switch (how % 4) {
	case 0:
		start = wire_begin(log, how / 4);
		buf_put(log, data, size);
		wire_end(log, start);
		break;
	case 1:
		put_op(log, data, size);
		break;
	case 2:
		buf_put(log, data, size);
		break;
	default:
		put_file("back/.tandemfs/in/" SENDER "/stage/s", data, size);
	}
}

static void put_hello(void)
{
	_cleanup_buf_ struct buf b = {0};
	struct wire_hello h = {.version = WIRE_VERSION,
		.id = SENDER,
		.name = "fuzz",
		.session = session + 1,
		.head = UINT64_MAX / 2};

	session++;
	wire_put_hello(&b, &h);
	put_file("back/.tandemfs/in/" SENDER "/hello", b.data, b.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_buf_ struct buf log = {0};
	char name[128];
	size_t at = 0;

	log_set_level(0);
	if (node && ++runs > RUNS_PER_NODE)
		end_node();
	if (!node)
		begin_node();
	put_hello();
	while (size - at > 3) {
		size_t len = data[at + 1] | (size_t)data[at + 2] << 8;

		len = len < size - at - 3 ? len : size - at - 3;
		put_piece(&log, data[at], data + at + 3, len);
		at += 3 + len;
	}
	(void)snprintf(name, sizeof(name), "back/.tandemfs/in/" SENDER "/log.%016llx.%016x",
		(unsigned long long)session, 1);
	put_file(name, log.data, log.len);
	for (int i = 0; i < 3; i++)
		(void)inbound_turn(node->inbound);
	check_outside();
	return 0;
}
