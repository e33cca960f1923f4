/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "journal_state.h"
#include "base/cleanup.h"
#include "base/confine.h"
#include "base/log.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

/*
 * DESIGN: recovery as described at the head of journal.c: list the segments, read each to its end,
 * refuse a hole or damage before the last one, cut the last one where its valid records end.
 */

struct found {
	uint64_t *firsts; /* owned */
	size_t n, cap;
};

static int found_add(struct found *f, uint64_t first)
{
	if (f->n == f->cap) {
		size_t cap = f->cap ? f->cap * 2 : 64;
		uint64_t *p = reallocarray(f->firsts, cap, sizeof(*p));

		if (!p)
			return -ENOMEM;
		f->firsts = p;
		f->cap = cap;
	}
	f->firsts[f->n++] = first;
	return 0;
}

static int compare_firsts(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int find_segments(int dir, struct found *ret)
{
	_cleanup_closedir_ DIR *d = NULL;
	uint64_t first;
	int r = confine_opendir(dir, "", &d);

	if (r < 0)
		return r;
	while (r == 0) {
		struct dirent *e;

		errno = 0;
		e = readdir(d);
		if (!e) {
			r = -errno;
			break;
		}
		if (segment_name_parse(e->d_name, &first))
			r = found_add(ret, first);
	}
	if (r == 0 && ret->n)
		qsort(ret->firsts, ret->n, sizeof(*ret->firsts), compare_firsts);
	return r;
}

/* In doubt after a crash would be: the record itself, and what was open when it was appended. */
static int note_doubt(struct journal *j, const struct journal_record *r)
{
	j->doubt.n = 0;
	for (size_t i = 0; i <= r->n_open; i++) {
		if (seq_set_reserve(&j->doubt) < 0)
			return -ENOMEM;
		if (i < r->n_open)
			seq_set_add(&j->doubt, load_u64(r->open + 8 * i));
		else if (r->kind != JOURNAL_ABORT && r->kind != JOURNAL_CHECKPOINT)
			seq_set_add(&j->doubt, r->seq);
	}
	return 0;
}

static int note_abort(struct journal *j, const struct journal_record *r)
{
	if (r->kind != JOURNAL_ABORT || r->len < 8)
		return 0;
	if (seq_set_reserve(&j->aborted) < 0)
		return -ENOMEM;
	seq_set_add(&j->aborted, load_u64(r->data));
	return 0;
}

/* Reads the segment that was added last. 0: zeros or the end of the file follow its records;
 * -EBADMSG: something else does. Either way the valid records count. */
static int read_segment(struct journal *j, struct segment_cursor *c)
{
	struct segment *s = &j->segments[j->n_segments - 1];
	struct journal_record record;
	int r = segment_cursor_open(c, j->dir, s->first);

	if (r < 0)
		return r;
	for (;;) {
		uint64_t offset = c->offset;

		r = segment_cursor_next(c, &record);
		if (r == 0)
			r = note_abort(j, &record);
		if (r == 0)
			r = note_doubt(j, &record);
		if (r < 0)
			return r == -ENODATA ? 0 : r;
		journal_mark(j, record.seq, offset);
		s->end = c->offset;
		j->head = record.seq;
	}
}

/* Whether the next segment says that numbers were left out before it. */
static bool leaps_to(struct journal *j, uint64_t next)
{
	struct segment_cursor c = {.fd = -1};
	bool leaps = segment_cursor_open(&c, j->dir, next) == 0 && c.leap;

	segment_cursor_close(&c);
	if (!leaps || next <= j->head)
		return false;
	j->segments[j->n_segments - 1].last = j->head;
	j->head = next - 1;
	return true;
}

/* An earlier segment must lead up to the first record of the next one, @next. */
static int check_whole(struct journal *j, int result, uint64_t next, const char *dir)
{
	char name[SEGMENT_NAME_SIZE];

	if (result < 0 && result != -EBADMSG)
		return result;
	if (j->head + 1 == next)
		return 0;
	if (result == 0 && (leaps_to(j, next) || journal_skip_gap(j, next) == 0))
		return 0;
	segment_name(j->segments[j->n_segments - 1].first, name);
	log_error("journal: %s/%s is damaged: its records end at %" PRIu64
		  ", the next segment starts at %" PRIu64,
		dir, name, j->head, next);
	return -EBADMSG;
}

/* Cuts the last segment behind its last valid record. */
static int cut_last(struct journal *j, bool torn, const char *dir)
{
	struct segment *s = &j->segments[j->n_segments - 1];
	char name[SEGMENT_NAME_SIZE];
	_cleanup_close_ int fd = -1;

	segment_name(s->first, name);
	if (torn)
		log_notice("journal: %s/%s: cut a torn tail after record %" PRIu64, dir, name,
			j->head);
	if (j->head < s->first) { /* the checkpoint did not make it */
		if (unlinkat(j->dir, name, 0) < 0)
			return -errno;
		free(s->marks);
		j->n_segments--;
		j->leap = j->n_segments && s[-1].last;
		return 0;
	}
	fd = openat(j->dir, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || ftruncate(fd, (off_t)s->end) < 0 || fdatasync(fd) < 0)
		return -errno;
	return 0;
}

int journal_load(struct journal *j, const char *dir)
{
	struct segment_cursor c = {.fd = -1};
	struct found found = {0};
	int r = find_segments(j->dir, &found);

	for (size_t i = 0; r == 0 && i < found.n; i++) {
		bool last = i + 1 == found.n;

		r = journal_add_segment(j, found.firsts[i]);
		if (r < 0)
			break;
		if (i == 0)
			j->head = found.firsts[0] - 1;
		r = read_segment(j, &c);
		if (!last)
			r = check_whole(j, r, found.firsts[i + 1], dir);
		else if (r == 0 || r == -EBADMSG)
			r = cut_last(j, r != 0, dir);
	}
	segment_cursor_close(&c);
	free(found.firsts);
	j->settled = j->leap ? j->segments[j->n_segments - 1].last : j->head;
	j->dir_dirty = true;
	return r;
}
