/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The journal: what was appended comes back, in order, after a clean end, a crash, and damage. */

#include "replicate/journal.h"
#include "replicate/base/log.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHECKPOINT "state"

struct fixture {
	char dir[64];
	struct journal_config config;
	struct journal *j;
};

static void checkpoint(void *ctx, struct buf *dst)
{
	(void)ctx;
	buf_put(dst, CHECKPOINT, strlen(CHECKPOINT));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/tandemfs-journal-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->config.segment_size = 8192;
	f->config.checkpoint = checkpoint;
	log_set_level(LOG_LEVEL_ERROR);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	journal_close(f->j);
	(void)umount2(f->dir, MNT_DETACH); /* when full_disk failed half-way */
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	free(f);
	return 0;
}

static void start(struct fixture *f)
{
	assert_int_equal(journal_open(f->dir, &f->config, &f->j), 0);
}

static void restart(struct fixture *f)
{
	journal_close(f->j);
	f->j = NULL;
	start(f);
}

/* Appends a record whose payload is its own number in decimal, after @pad bytes. */
static uint64_t append(struct journal *j, bool open, size_t pad)
{
	_cleanup_buf_ struct buf b = {0};
	static _Atomic uint64_t count;
	uint64_t seq = 0;
	char text[32];

	snprintf(text, sizeof(text), "%" PRIu64, ++count);
	if (pad)
		memset(buf_extend(&b, pad), 'x', pad);
	assert_int_equal(
		journal_append(j, JOURNAL_LOCAL, open, b.data, b.len, text, strlen(text), &seq), 0);
	return seq;
}

struct trace {
	uint64_t n, first, last, locals, checkpoints, aborts, n_open, open[8];
	uint64_t gap_before; /* may start behind left out numbers */
};

static int trace_one(void *ctx, const struct journal_record *r)
{
	struct trace *t = ctx;

	if (t->n++ == 0)
		t->first = r->seq;
	else if (r->seq != t->gap_before)
		assert_int_equal(r->seq, t->last + 1);
	t->last = r->seq;
	t->n_open = r->n_open;
	for (size_t i = 0; i < r->n_open && i < 8; i++)
		t->open[i] = load_u64(r->open + 8 * i);
	t->locals += r->kind == JOURNAL_LOCAL;
	t->aborts += r->kind == JOURNAL_ABORT;
	if (r->kind == JOURNAL_CHECKPOINT) {
		t->checkpoints++;
		assert_memory_equal(r->data, CHECKPOINT, r->len);
	}
	return 0;
}

static struct trace recover(struct journal *j)
{
	struct trace t = {0};

	assert_int_equal(journal_recover(j, trace_one, &t), 0);
	return t;
}

static void empty_journal(void **state)
{
	struct fixture *f = *state;

	start(f);
	assert_int_equal(journal_head(f->j), 0);
	assert_int_equal(journal_tail(f->j), 1);
	assert_int_equal(recover(f->j).n, 0);
	assert_int_equal(journal_sync(f->j, 5), 0);
	restart(f);
	assert_int_equal(append(f->j, false, 0), 2); /* 1 is the checkpoint */
}

static void comes_back(void **state)
{
	struct fixture *f = *state;
	struct trace t;

	start(f);
	for (int i = 0; i < 1000; i++)
		append(f->j, false, (size_t)i % 300);
	t = recover(f->j);
	assert_int_equal(t.locals, 1000);
	assert_true(t.checkpoints > 10);
	restart(f);
	assert_memory_equal(&t, &(struct trace[]){recover(f->j)}, sizeof(t));
	assert_int_equal(append(f->j, false, 0), t.last + 2);
	assert_int_equal(journal_settled(f->j), t.last + 2);
}

static void two_pieces_and_limits(void **state)
{
	struct fixture *f = *state;
	struct journal_reader *r;
	struct journal_record rec;
	uint8_t *big = calloc(1, JOURNAL_RECORD_MAX);
	uint64_t seq;

	start(f);
	memset(big, 7, JOURNAL_RECORD_MAX);
	assert_int_equal(
		journal_append(f->j, JOURNAL_NOTE, false, big, JOURNAL_RECORD_MAX, "x", 1, &seq),
		-E2BIG);
	assert_int_equal(journal_append(f->j, JOURNAL_NOTE, false, "ab", 2, big,
				 JOURNAL_RECORD_MAX - 2, &seq),
		0);
	assert_int_equal(journal_append(f->j, JOURNAL_NOTE, false, NULL, 0, NULL, 0, &seq), 0);
	assert_int_equal(journal_reader_open(f->j, 2, &r), 0);
	assert_int_equal(journal_reader_next(r, &rec), 0);
	assert_int_equal(rec.len, JOURNAL_RECORD_MAX);
	assert_memory_equal(rec.data, "ab\7\7", 4);
	while (rec.seq < seq)
		assert_int_equal(journal_reader_next(r, &rec), 0);
	assert_int_equal(rec.len, 0);
	journal_reader_close(r);
	free(big);
}

static void readers_stop_at_open_records(void **state)
{
	struct fixture *f = *state;
	struct journal_reader *r;
	struct journal_record rec;
	uint64_t a, b, c;

	start(f);
	a = append(f->j, true, 0);
	b = append(f->j, true, 0);
	c = append(f->j, false, 0);
	assert_int_equal(journal_reader_open(f->j, a, &r), 0);
	assert_int_equal(journal_reader_next(r, &rec), -EAGAIN);
	journal_settle(f->j, b);
	assert_int_equal(journal_settled(f->j), a - 1);
	assert_int_equal(journal_reader_next(r, &rec), -EAGAIN);
	journal_settle(f->j, a);
	assert_int_equal(journal_settled(f->j), c);
	for (uint64_t seq = a; seq <= c; seq++) {
		assert_int_equal(journal_reader_next(r, &rec), 0);
		assert_int_equal(rec.seq, seq);
	}
	assert_int_equal(rec.n_open, 2);
	assert_int_equal(load_u64(rec.open), a);
	assert_int_equal(load_u64(rec.open + 8), b);
	assert_int_equal(journal_reader_next(r, &rec), -EAGAIN);
	append(f->j, false, 0);
	assert_int_equal(journal_reader_next(r, &rec), 0);
	assert_int_equal(rec.n_open, 0);
	journal_reader_close(r);
}

static void numbers_are_skipped(void **state)
{
	struct fixture *f = *state;
	struct trace t = {0};
	struct journal_reader *reader;
	struct journal_record record;
	uint64_t last = 0;

	start(f);
	for (int i = 0; i < 300; i++)
		last = append(f->j, false, 100);
	assert_int_equal(journal_reader_open(f->j, 1, &reader), 0);
	assert_int_equal(journal_skip(f->j, last), 0); /* not back */
	assert_int_equal(journal_head(f->j), last);
	assert_int_equal(journal_skip(f->j, 1000000), 0);
	assert_int_equal(journal_tail(f->j), 1000000);
	assert_int_equal(journal_reader_next(reader, &record), -ESTALE);
	journal_reader_close(reader);
	assert_int_equal(append(f->j, false, 0), 1000001);
	assert_int_equal(journal_settled(f->j), 1000001);
	restart(f);
	assert_int_equal(journal_recover(f->j, trace_one, &t), 0);
	assert_int_equal(t.first, 1000000);
	assert_int_equal(t.last, 1000001);
	assert_int_equal(t.locals, 1);
}

/* Cut short before the segment that leads to the gap was deleted. */
static void a_crash_while_numbers_are_skipped(void **state)
{
	struct fixture *f = *state;
	char command[256];

	start(f);
	(void)append(f->j, false, 10);
	assert_int_equal(journal_skip(f->j, 50), 0); /* makes a segment of a checkpoint alone */
	journal_close(f->j);
	(void)snprintf(command, sizeof(command), "mkdir %s/kept && cp %s/0* %s/kept", f->dir,
		f->dir, f->dir);
	assert_int_equal(system(command), 0);
	start(f);
	assert_int_equal(journal_skip(f->j, 500), 0);
	journal_close(f->j);
	(void)snprintf(command, sizeof(command), "mv %s/kept/* %s && rmdir %s/kept", f->dir, f->dir,
		f->dir);
	assert_int_equal(system(command), 0);
	start(f);
	assert_int_equal(journal_tail(f->j), 500);
	assert_true(append(f->j, false, 0) > 500);
}

/* After a power failure: what is kept stays, and is read across the gap. */
static void numbers_are_left_out(void **state)
{
	struct fixture *f = *state;
	struct journal_reader *reader;
	struct journal_record record;
	struct trace t = {0};
	uint64_t last = 0, next;

	start(f);
	for (int i = 0; i < 3; i++)
		last = append(f->j, false, 100);
	for (int i = 0; i < 2; i++) { /* the second time there is nothing of the first */
		restart(f);
		journal_leap(f->j);
		t = (struct trace){0};
		assert_int_equal(journal_recover(f->j, trace_one, &t), 0);
		assert_int_equal(t.last, last);
	}
	assert_int_equal(journal_reader_open(f->j, last + 1, &reader), 0);
	assert_int_equal(journal_reader_next(reader, &record), -EAGAIN);
	next = append(f->j, false, 10);
	assert_true(next > last + 1000000);
	for (int i = 0; i < 2; i++) { /* the checkpoint, and that */
		assert_int_equal(journal_reader_next(reader, &record), 0);
		assert_int_equal(record.seq, next - 1 + (uint64_t)i);
	}
	assert_int_equal(journal_reader_next(reader, &record), -EAGAIN);
	journal_reader_close(reader);
	restart(f);
	t = (struct trace){.gap_before = next - 1};
	assert_int_equal(journal_recover(f->j, trace_one, &t), 0);
	assert_int_equal(t.first, 1);
	assert_int_equal(t.last, next);
	assert_int_equal(t.locals, 4);
	assert_int_equal(journal_trim(f->j, next), 0);
	assert_int_equal(journal_tail(f->j), next - 1);
	assert_int_equal(append(f->j, false, 0), next + 2);
}

static void aborted_records_are_skipped(void **state)
{
	struct fixture *f = *state;

	start(f);
	for (int i = 0; i < 300; i++) {
		uint64_t seq = append(f->j, true, 50);

		if (i % 3 == 0)
			assert_int_equal(journal_abort(f->j, seq), 0);
		else
			journal_settle(f->j, seq);
	}
	for (int round = 0; round < 2; round++) {
		struct journal_reader *r;
		struct journal_record rec;
		int locals = 0, e;

		assert_int_equal(journal_reader_open(f->j, journal_tail(f->j), &r), 0);
		while ((e = journal_reader_next(r, &rec)) == 0)
			locals += rec.kind == JOURNAL_LOCAL;
		assert_int_equal(e, -EAGAIN);
		assert_int_equal(locals, 200);
		journal_reader_close(r);
		assert_int_equal(recover(f->j).locals, 300);
		restart(f); /* void they stay */
	}
}

static void doubt_survives_its_deciding(void **state)
{
	struct fixture *f = *state;
	uint64_t a, b, c;
	struct trace t;

	start(f);
	a = append(f->j, true, 0);
	b = append(f->j, true, 0);
	c = append(f->j, true, 0);
	restart(f); /* as a crash would leave it: none was settled */
	t = recover(f->j);
	assert_int_equal(t.last, c);
	assert_int_equal(t.n_open, 2);
	assert_int_equal(t.open[0], a);
	assert_int_equal(t.open[1], b);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(journal_abort(f->j, round ? c : b), 0);
		restart(f);
		t = recover(f->j);
		assert_int_equal(t.n_open, 3);
		assert_int_equal(t.open[0], a);
		assert_int_equal(t.open[2], c);
	}
	append(f->j, false, 0);
	assert_int_equal(recover(f->j).n_open, 0);
	restart(f);
	assert_int_equal(recover(f->j).n_open, 0);
}

static void trim_and_stale_readers(void **state)
{
	struct fixture *f = *state;
	struct journal_reader *r;
	struct journal_record rec;
	uint64_t tail, before;

	start(f);
	for (int i = 0; i < 1000; i++)
		append(f->j, false, 100);
	assert_int_equal(journal_reader_open(f->j, 1, &r), 0);
	assert_int_equal(journal_reader_next(r, &rec), 0);
	before = journal_bytes(f->j);
	assert_int_equal(journal_trim(f->j, 500), 0);
	tail = journal_tail(f->j);
	assert_true(tail > 400 && tail <= 500);
	assert_true(journal_bytes(f->j) < before * 6 / 10);
	assert_int_equal(journal_reader_seek(r, tail - 1), -ESTALE);
	assert_int_equal(journal_reader_seek(r, journal_head(f->j) + 2), -EINVAL);
	for (int i = 0; i < 200 && (rec.seq < tail); i++) /* what it has read ahead it may give */
		if (journal_reader_next(r, &rec) == -ESTALE)
			break;
	assert_true(rec.seq < tail);
	assert_int_equal(journal_reader_seek(r, tail), 0);
	for (uint64_t seq = tail; seq <= journal_head(f->j); seq++) {
		assert_int_equal(journal_reader_next(r, &rec), 0);
		assert_int_equal(rec.seq, seq);
	}
	journal_reader_close(r);
	assert_int_equal(journal_trim(f->j, UINT64_MAX), 0);
	assert_true(journal_tail(f->j) <= journal_head(f->j));
	before = journal_head(f->j);
	restart(f);
	assert_int_equal(journal_head(f->j), before);
	assert_int_equal(recover(f->j).first, journal_tail(f->j));
}

static void seek_anywhere(void **state)
{
	struct fixture *f = *state;
	struct journal_reader *r;
	struct journal_record rec;
	uint64_t x = 12345;

	f->config.segment_size = 1 << 20; /* several marks in a segment */
	start(f);
	for (int i = 0; i < 20000; i++)
		append(f->j, false, 100);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(journal_reader_open(f->j, 1, &r), 0);
		for (int i = 0; i < 2000; i++) {
			x = x * 6364136223846793005u + 1442695040888963407u;
			assert_int_equal(journal_reader_seek(r, 1 + (x >> 33) % 20000), 0);
			assert_int_equal(journal_reader_next(r, &rec), 0);
			assert_int_equal(rec.seq, 1 + (x >> 33) % 20000);
		}
		journal_reader_close(r);
		restart(f);
	}
}

static bool readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static void watches(void **state)
{
	struct fixture *f = *state;
	struct journal_reader *r;
	struct journal_record rec;
	uint64_t seq, count;
	int fd;

	start(f);
	assert_int_equal(journal_reader_open(f->j, 1, &r), 0);
	assert_int_equal(journal_watch(f->j, &fd), 0);
	assert_false(readable(fd));
	seq = append(f->j, true, 0);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count)); /* the checkpoint */
	while (journal_reader_next(r, &rec) == 0)
		;
	assert_false(readable(fd));
	journal_settle(f->j, seq);
	assert_true(readable(fd));
	append(f->j, false, 0);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 1); /* one write for both */
	while (journal_reader_next(r, &rec) == 0)
		;
	append(f->j, false, 0);
	assert_true(readable(fd));
	journal_unwatch(f->j, fd);
	journal_reader_close(r);
}

/* ---- damage ---- */

static char *newest_segment(struct fixture *f, char dst[128])
{
	uint64_t first = 0;
	struct journal_record rec;
	struct journal_reader *r;

	assert_int_equal(journal_reader_open(f->j, journal_tail(f->j), &r), 0);
	while (journal_reader_next(r, &rec) == 0)
		if (rec.kind == JOURNAL_CHECKPOINT)
			first = rec.seq;
	journal_reader_close(r);
	snprintf(dst, 128, "%s/%016" PRIx64 ".log", f->dir, first);
	return dst;
}

static char *slurp(const char *path, size_t *ret_len)
{
	FILE *s = fopen(path, "r");
	char *p = malloc(1 << 20);

	assert_non_null(s);
	*ret_len = fread(p, 1, 1 << 20, s);
	fclose(s);
	return p;
}

static void spew(const char *path, const char *data, size_t len)
{
	FILE *s = fopen(path, "w");

	assert_non_null(s);
	assert_int_equal(fwrite(data, 1, len, s), len);
	assert_int_equal(fclose(s), 0);
}

/* Four records of 40 bytes after the checkpoint: their ends in the file. */
#define TAIL_RECORDS 4
#define TAIL_FROM (32 + 24 + 5)
#define TAIL_RECORD (24 + 40)

static char *make_tail(struct fixture *f, char path[128], size_t *ret_len)
{
	uint64_t seq;
	char payload[40];
	char *good;

	memset(payload, 'p', sizeof(payload));
	start(f);
	for (int i = 0; i < TAIL_RECORDS; i++)
		assert_int_equal(journal_append(f->j, JOURNAL_LOCAL, false, payload,
					 sizeof(payload), NULL, 0, &seq),
			0);
	newest_segment(f, path);
	journal_close(f->j);
	f->j = NULL;
	good = slurp(path, ret_len);
	assert_true(*ret_len >= TAIL_FROM + TAIL_RECORDS * TAIL_RECORD);
	return good;
}

/* Reopens; exactly the records that end at or before @damage must be there, and another fit on. */
static void check_cut(struct fixture *f, const char *path, size_t damage)
{
	uint64_t whole = damage < TAIL_FROM ? 0 : (damage - TAIL_FROM) / TAIL_RECORD;
	uint64_t head = damage < TAIL_FROM ? 0 : 1 + whole;

	start(f);
	assert_int_equal(journal_head(f->j), head);
	assert_int_equal(recover(f->j).locals, whole);
	append(f->j, false, 0);
	assert_int_equal(recover(f->j).locals, whole + 1);
	restart(f);
	assert_int_equal(recover(f->j).locals, whole + 1);
	journal_close(f->j);
	f->j = NULL;
	/* One file is left for the next round, the damaged one. */
	if (head) {
		char other[128];

		snprintf(other, sizeof(other), "%s/%016" PRIx64 ".log", f->dir, head + 1);
		assert_int_equal(unlink(other), 0);
	} else {
		assert_int_equal(unlink(path), 0);
	}
}

static void torn_at_every_byte(void **state)
{
	struct fixture *f = *state;
	char path[128];
	size_t len;
	char *good = make_tail(f, path, &len);

	for (size_t cut = 0; cut < TAIL_FROM + TAIL_RECORDS * TAIL_RECORD; cut++) {
		spew(path, good, cut);
		check_cut(f, path, cut);
	}
	free(good);
}

static void flipped_at_every_byte(void **state)
{
	struct fixture *f = *state;
	char path[128];
	size_t len;
	char *good = make_tail(f, path, &len);

	for (size_t at = 0; at < TAIL_FROM + TAIL_RECORDS * TAIL_RECORD; at++) {
		good[at] ^= 0x10;
		spew(path, good, len);
		check_cut(f, path, at);
		good[at] ^= 0x10;
	}
	free(good);
}

static void zeroed_from_every_byte(void **state)
{
	struct fixture *f = *state;
	char path[128];
	size_t len;
	char *good = make_tail(f, path, &len);
	char *zeroed = malloc(len);

	for (size_t at = TAIL_FROM; at < TAIL_FROM + TAIL_RECORDS * TAIL_RECORD; at++) {
		memcpy(zeroed, good, len);
		memset(zeroed + at, 0, len - at);
		/* A record that ends in zeros anyway would stay whole; ours end in 'p'. */
		spew(path, zeroed, len);
		check_cut(f, path, at);
	}
	free(zeroed);
	free(good);
}

/* A later record that reached the disk while an earlier one did not must never come back. */
static void lost_page_does_not_resurrect(void **state)
{
	struct fixture *f = *state;
	char path[128];
	size_t len;
	char *good = make_tail(f, path, &len);
	struct stat st;

	memset(good + TAIL_FROM + TAIL_RECORD, 0, TAIL_RECORD);
	spew(path, good, len);
	free(good);
	start(f);
	assert_int_equal(journal_head(f->j), 2);
	assert_int_equal(recover(f->j).locals, 1);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, TAIL_FROM + TAIL_RECORD); /* no longer anywhere */
	restart(f);                                            /* nothing was appended in between */
	assert_int_equal(journal_head(f->j), 2);
}

static void earlier_damage_is_refused(void **state)
{
	struct fixture *f = *state;
	char first[128];
	struct journal *j;
	size_t len;
	char *good;

	start(f);
	for (int i = 0; i < 500; i++)
		append(f->j, false, 100);
	journal_close(f->j);
	f->j = NULL;
	snprintf(first, sizeof(first), "%s/%016x.log", f->dir, 1);
	good = slurp(first, &len);
	log_set_level(0); /* the error that this is to bring would fail a log check */
	for (size_t at = 0; at < len; at += 97) {
		good[at] ^= 1;
		spew(first, good, len);
		assert_int_equal(journal_open(f->dir, &f->config, &j), -EBADMSG);
		good[at] ^= 1;
	}
	spew(first, good, len - 1);
	assert_int_equal(journal_open(f->dir, &f->config, &j), -EBADMSG);
	spew(first, good, len);
	free(good);
	start(f);
	assert_int_equal(recover(f->j).locals, 500);
}

static void damage_under_a_reader(void **state)
{
	struct fixture *f = *state;
	struct journal_reader *r;
	struct journal_record rec;
	char path[128];
	int fd;

	start(f);
	append(f->j, false, 100);
	append(f->j, false, 100);
	fd = open(newest_segment(f, path), O_WRONLY);
	assert_int_equal(pwrite(fd, "!", 1, TAIL_FROM + 50), 1);
	close(fd);
	assert_int_equal(journal_reader_open(f->j, 2, &r), 0);
	assert_int_equal(journal_reader_next(r, &rec), -EBADMSG);
	assert_int_equal(journal_reader_next(r, &rec), -EBADMSG);
	journal_reader_close(r);
}

/* ---- a full disk ---- */

static void full_disk(void **state)
{
	struct fixture *f = *state;
	uint64_t open[8], seq, head, locals = 8;
	char payload[500] = "";
	int r;

	if (geteuid() != 0 || mount("tmpfs", f->dir, "tmpfs", 0, "size=128k") < 0)
		skip();
	f->config.segment_size = 32768;
	start(f);
	for (int i = 0; i < 8; i++)
		open[i] = append(f->j, true, 100);
	while ((r = journal_append(f->j, JOURNAL_LOCAL, false, payload, sizeof(payload), NULL, 0,
			&seq)) == 0 &&
		locals < 1000)
		locals++;
	assert_int_equal(r, -ENOSPC);
	head = journal_head(f->j);
	for (int i = 0; i < 8; i++)
		assert_int_equal(journal_abort(f->j, open[i]), 0);
	assert_int_equal(journal_head(f->j), head + 8);
	assert_int_equal(journal_settled(f->j), head + 8);
	assert_int_equal(recover(f->j).locals, locals);
	restart(f);
	assert_int_equal(recover(f->j).locals, locals);
	assert_int_equal(recover(f->j).aborts, 8);
	assert_int_equal(journal_trim(f->j, head), 0);
	append(f->j, false, 100);
}

/* ---- threads ---- */

#define THREADS 4
#define PER_THREAD 3000

static void *appender(void *arg)
{
	struct journal *j = arg;

	for (int i = 0; i < PER_THREAD; i++) {
		uint64_t seq = append(j, true, (size_t)i % 64);

		if (i % 10 == 0)
			assert_int_equal(journal_abort(j, seq), 0);
		else
			journal_settle(j, seq);
		if (i % 100 == 0)
			assert_int_equal(journal_sync(j, seq), 0);
	}
	return NULL;
}

struct follow {
	struct journal *j;
	uint64_t locals;
	bool trims;
	int fd;
};

/* Reads along until all that the appenders settle has come, or for a minute. */
static void *follower(void *arg)
{
	struct follow *w = arg;
	struct journal_reader *r;
	struct journal_record rec = {0};
	time_t end = time(NULL) + 60;
	uint64_t count, last = 0;
	int e;

	assert_int_equal(journal_reader_open(w->j, 1, &r), 0);
	while (w->locals < THREADS * PER_THREAD * 9 / 10 && time(NULL) < end) {
		struct pollfd p = {.fd = w->fd, .events = POLLIN};

		(void)poll(&p, 1, 5000);
		(void)!read(w->fd, &count, sizeof(count));
		while ((e = journal_reader_next(r, &rec)) == 0) {
			assert_true(rec.seq > last);
			last = rec.seq;
			w->locals += rec.kind == JOURNAL_LOCAL;
		}
		assert_int_equal(e, -EAGAIN);
		if (w->trims)
			assert_int_equal(journal_trim(w->j, last > 4000 ? last - 4000 : 0), 0);
	}
	journal_reader_close(r);
	return NULL;
}

static void threads(void **state)
{
	struct fixture *f = *state;
	pthread_t appenders[THREADS], followers[2];
	struct follow follows[2];

	f->config.segment_size = 65536;
	start(f);
	for (int i = 0; i < 2; i++) {
		follows[i] = (struct follow){.j = f->j};
		assert_int_equal(journal_watch(f->j, &follows[i].fd), 0);
		pthread_create(&followers[i], NULL, follower, &follows[i]);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_create(&appenders[i], NULL, appender, f->j);
	for (int i = 0; i < THREADS; i++)
		pthread_join(appenders[i], NULL);
	for (int i = 0; i < 2; i++) {
		pthread_join(followers[i], NULL);
		assert_int_equal(follows[i].locals, THREADS * PER_THREAD * 9 / 10);
		journal_unwatch(f->j, follows[i].fd);
	}
	assert_int_equal(recover(f->j).locals, THREADS * PER_THREAD);
	assert_int_equal(journal_settled(f->j), journal_head(f->j));
	restart(f);
	assert_int_equal(recover(f->j).locals, THREADS * PER_THREAD);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(empty_journal),
		T(comes_back),
		T(two_pieces_and_limits),
		T(readers_stop_at_open_records),
		T(numbers_are_skipped),
		T(a_crash_while_numbers_are_skipped),
		T(numbers_are_left_out),
		T(aborted_records_are_skipped),
		T(doubt_survives_its_deciding),
		T(trim_and_stale_readers),
		T(seek_anywhere),
		T(watches),
		T(torn_at_every_byte),
		T(flipped_at_every_byte),
		T(zeroed_from_every_byte),
		T(lost_page_does_not_resurrect),
		T(earlier_damage_is_refused),
		T(damage_under_a_reader),
		T(full_disk),
		T(threads),
	};

	return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
