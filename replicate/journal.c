/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "journal.h"
#include "journal_state.h"
#include "base/cleanup.h"
#include "base/durable.h"
#include "base/fault.h"
#include "base/log.h"

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>

/*
 * FORMAT. A journal is a directory of segments, each a file named by the number of its first
 * record, 16 hex digits and ".log". Integers are little-endian.
 *
 *     segment   8 bytes  magic "TDMFSJNL"
 *               u32      version, 1
 *               u32      flags: 1, numbers were left out before its first record
 *               u64      number of the first record, as in the name
 *               u64      XXH3 of the 24 bytes before
 *               records, one after another; the first is a JOURNAL_CHECKPOINT
 *               zeros up to the end of the file, or its end
 *
 *     record    u32      length of the payload, at most JOURNAL_RECORD_MAX
 *               u16      kind
 *               u16      count of open records
 *               u64      number, one more than that of the record before
 *               u64      XXH3 of the 16 bytes before, seeded with the XXH3 of all that follows
 *               u64 each numbers of the records that were open when it was appended
 *               payload
 *
 * VALIDITY. A record is valid when its length, number and checksum fit and all records before it in
 * the segment are valid. A segment is whole when its valid records reach the number before the next
 * segment's first, or that one says that numbers were left out.
 *
 * WRITING. A record is one pwrite(2) behind the last. The segment's space is allocated when it is
 * made and zeroed some way ahead of the records: a later fdatasync(2) then has no extent or size to
 * write. When a segment is full, the next is put together under a temporary name with its header
 * and checkpoint, the full one is cut to its records and synced, and the new one gets its name. So
 * all segments but the last were on the disk before the last was there. The last few kilobytes of a
 * segment are kept for abort records, which must find room when the disk has none.
 * A write that failed half-way seals the segment: what follows goes to a new one.
 *
 * RECOVERY. All segments are read, oldest first. Each but the last must be whole and adjoin the
 * next; else the journal is damaged and is not opened. In the last one the first record that is not
 * valid is the end: the process or the machine died while it was written. The file is cut there, so
 * that nothing behind can ever come back; a last segment without any valid record is deleted, its
 * number is used again by the next segment. The next append starts a new segment.
 * In doubt are the newest record and those that it names as open. While the owner decides them, the
 * only records that it appends are aborts: those name the same numbers again, so that a death in
 * the midst of deciding loses no doubt. The first record of another kind ends it.
 *
 * DESIGN. One mutex. Records that are open and records that were aborted are small sorted arrays.
 * Readers (journal_reader.c) have their own descriptors and take the mutex once per batch.
 */

#define SEGMENT_SIZE_MIN 4096u
#define RESERVE_MAX (256u << 10)
#define ZERO_STEP (256u << 10)
#define MARK_DISTANCE (64u << 10)

/* ---- the open and the aborted records ---- */

int seq_set_reserve(struct seq_set *s)
{
	size_t cap = s->cap ? s->cap * 2 : 32;
	uint64_t *p;

	if (s->n < s->cap)
		return 0;
	p = reallocarray(s->seqs, cap, sizeof(*p));
	if (!p)
		return -ENOMEM;
	s->seqs = p;
	s->cap = cap;
	return 0;
}

size_t seq_set_find(const struct seq_set *s, uint64_t seq)
{
	size_t low = 0, high = s->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (s->seqs[mid] < seq)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

void seq_set_add(struct seq_set *s, uint64_t seq)
{
	size_t i = seq_set_find(s, seq);

	if (i < s->n && s->seqs[i] == seq)
		return;
	memmove(s->seqs + i + 1, s->seqs + i, (s->n - i) * sizeof(*s->seqs));
	s->seqs[i] = seq;
	s->n++;
}

bool seq_set_remove(struct seq_set *s, uint64_t seq)
{
	size_t i = seq_set_find(s, seq);

	if (i == s->n || s->seqs[i] != seq)
		return false;
	s->n--;
	memmove(s->seqs + i, s->seqs + i + 1, (s->n - i) * sizeof(*s->seqs));
	return true;
}

void seq_set_drop_below(struct seq_set *s, uint64_t seq)
{
	size_t i = seq_set_find(s, seq);

	s->n -= i;
	if (i)
		memmove(s->seqs, s->seqs + i, s->n * sizeof(*s->seqs));
}

/* ---- the list of segments ---- */

int journal_add_segment(struct journal *j, uint64_t first)
{
	if (j->n_segments == j->cap_segments) {
		size_t cap = j->cap_segments ? j->cap_segments * 2 : 16;
		struct segment *p = reallocarray(j->segments, cap, sizeof(*p));

		if (!p)
			return -ENOMEM;
		j->segments = p;
		j->cap_segments = cap;
	}
	j->segments[j->n_segments++] = (struct segment){.first = first, .end = SEGMENT_HEADER_SIZE};
	return 0;
}

void journal_drop_oldest(struct journal *j)
{
	free(j->segments[0].marks);
	j->n_segments--;
	memmove(j->segments, j->segments + 1, j->n_segments * sizeof(*j->segments));
}

void journal_mark(struct journal *j, uint64_t seq, uint64_t offset)
{
	struct segment *s = &j->segments[j->n_segments - 1];
	uint64_t last = s->n_marks ? s->marks[s->n_marks - 1].offset : SEGMENT_HEADER_SIZE;

	if (offset - last < MARK_DISTANCE)
		return;
	if (s->n_marks == s->cap_marks) {
		size_t cap = s->cap_marks ? s->cap_marks * 2 : 16;
		struct segment_mark *p = reallocarray(s->marks, cap, sizeof(*p));

		if (!p) /* a seek takes longer, no more */
			return;
		s->marks = p;
		s->cap_marks = cap;
	}
	s->marks[s->n_marks++] = (struct segment_mark){.seq = seq, .offset = offset};
}

static struct segment *newest(struct journal *j)
{
	return &j->segments[j->n_segments - 1];
}

/* ---- a new segment ---- */

static bool ends_doubt(enum journal_kind kind)
{
	return kind != JOURNAL_ABORT && kind != JOURNAL_CHECKPOINT;
}

/* What a record of this kind names as open. While there is doubt nothing is open. */
static const struct seq_set *named_open(const struct journal *j, enum journal_kind kind)
{
	return j->doubt.n && !ends_doubt(kind) ? &j->doubt : &j->open;
}

static void encode(struct journal *j, const struct journal_record *head, const void *data,
	size_t len, const void *data2, size_t len2, struct buf *dst)
{
	const struct seq_set *open = named_open(j, head->kind);

	record_encode(head, open->seqs, open->n, data, len, data2, len2, dst);
}

/* At the end of each segment, for aborts only. */
static uint64_t reserve(const struct journal *j)
{
	uint64_t part = j->config.segment_size / 8;

	return part < RESERVE_MAX ? part : RESERVE_MAX;
}

/* Header and checkpoint of the segment that starts with record @first. */
static int segment_start(struct journal *j, uint64_t first, struct buf *dst)
{
	struct journal_record head = {.kind = JOURNAL_CHECKPOINT, .seq = first};
	_cleanup_buf_ struct buf checkpoint = {.cap = 0};
	uint8_t *header = buf_extend(dst, SEGMENT_HEADER_SIZE);

	if (!header)
		return -ENOMEM;
	segment_header_encode(first, j->leap, header);
	if (j->config.checkpoint)
		j->config.checkpoint(j->config.ctx, &checkpoint);
	if (buf_error(&checkpoint) < 0)
		return -ENOMEM;
	if (checkpoint.len > JOURNAL_RECORD_MAX)
		return -E2BIG;
	encode(j, &head, checkpoint.data, checkpoint.len, NULL, 0, dst);
	return buf_error(dst);
}

/* Makes the file with all its space, under the temporary name. Returns a descriptor. */
static int segment_make(struct journal *j, const struct buf *start, uint64_t size)
{
	_cleanup_close_ int fd = -1;
	int r;

	if (unlinkat(j->dir, SEGMENT_TEMP, 0) < 0 && errno != ENOENT)
		return -errno;
	fd = openat(j->dir, SEGMENT_TEMP, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	/* Where the file system cannot allocate ahead, zeroing ahead finds a full disk as well. */
	if (fallocate(fd, 0, 0, (off_t)size) < 0 && errno != EOPNOTSUPP)
		return -errno;
	r = pwrite_all(fd, start->data, start->len, 0);
	return r < 0 ? r : steal_fd(&fd);
}

/* The full segment gets no more records. */
static void segment_finish(struct journal *j)
{
	if (j->fd < 0)
		return;
	/* Fails only where the disk does; the zeros that then stay behind do no harm. */
	if (ftruncate(j->fd, (off_t)newest(j)->end) < 0)
		log_warning("journal: cannot cut a full segment: %s", strerror(errno));
	journal_sync_segment(j, j->fd);
	cleanup_close(&j->fd);
	j->fd = -1;
}

static int segment_publish(struct journal *j, uint64_t first)
{
	char name[SEGMENT_NAME_SIZE];
	int r;

	segment_name(first, name);
	r = journal_add_segment(j, first);
	if (r < 0)
		return r;
	if (renameat(j->dir, SEGMENT_TEMP, j->dir, name) < 0) {
		r = -errno;
		j->n_segments--;
		return r;
	}
	return 0;
}

int journal_rotate(struct journal *j, size_t need)
{
	_cleanup_buf_ struct buf start = {.cap = 0};
	_cleanup_close_ int fd = -1;
	uint64_t first = j->head + 1, size;
	int r = segment_start(j, first, &start);

	if (r < 0)
		return r;
	size = start.len + need + reserve(j);
	if (size < j->config.segment_size)
		size = j->config.segment_size;
	fd = segment_make(j, &start, size);
	if (fd < 0) {
		r = fd;
		(void)unlinkat(j->dir, SEGMENT_TEMP, 0);
		return r;
	}
	fault_point("journal.rotate");
	segment_finish(j);
	r = segment_publish(j, first);
	if (r < 0)
		return r;
	j->fd = steal_fd(&fd);
	j->size = size;
	j->zeroed = newest(j)->end = start.len;
	j->sealed = false;
	j->dir_dirty = true;
	j->leap = false;
	j->head = first;
	return 0;
}

/* Zeros, allocated and written, up to @end at least. */
static int zero_ahead(struct journal *j, uint64_t end)
{
	static uint8_t zeros[ZERO_STEP];

	while (j->zeroed < end) {
		uint64_t n = ZERO_STEP - j->zeroed % ZERO_STEP;
		int r;

		if (n > j->size - j->zeroed)
			n = j->size - j->zeroed;
		r = pwrite_all(j->fd, zeros, n, (off_t)j->zeroed);
		if (r < 0)
			return r;
		/* Full pages begin their way to the disk now, so that the sync of the full segment
		 * finds little left. Advice: an error shows up in that sync. */
		if (j->zeroed >= 2 * (uint64_t)ZERO_STEP)
			(void)sync_file_range(j->fd, (off_t)(j->zeroed - 2 * (uint64_t)ZERO_STEP),
				ZERO_STEP, SYNC_FILE_RANGE_WRITE);
		j->zeroed += n;
	}
	return 0;
}

/* ---- append and settle ---- */

static void signal_watches(struct journal *j)
{
	uint64_t one = 1;

	for (size_t i = 0; i < j->n_watches; i++) {
		if (!j->watches[i].armed)
			continue;
		j->watches[i].armed = false;
		/* EAGAIN, the only error there can be, means that it is readable. */
		if (write(j->watches[i].fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
			log_error("journal: eventfd: %s", strerror(errno));
	}
}

void journal_update_settled(struct journal *j)
{
	uint64_t settled = j->open.n ? j->open.seqs[0] - 1 : j->head;

	if (settled == j->settled)
		return;
	j->settled = settled;
	signal_watches(j);
}

/* Makes sure that @size bytes fit in behind the last record. */
static int make_room(struct journal *j, enum journal_kind kind, size_t size)
{
	bool abort = kind == JOURNAL_ABORT;
	int r;

	if (j->fd < 0 || (j->sealed && !abort) ||
		newest(j)->end + size + (abort ? 0 : reserve(j)) > j->size) {
		r = journal_rotate(j, size);
		if (r < 0)
			return r;
	}
	return newest(j)->end + size > j->zeroed ? zero_ahead(j, newest(j)->end + size) : 0;
}

static int write_record(struct journal *j)
{
	struct segment *s = newest(j);
	int r;

	fault_point("journal.append.before");
	r = pwrite_all(j->fd, j->scratch.data, j->scratch.len, (off_t)s->end);
	if (r < 0) {
		j->sealed = true;
		return r;
	}
	fault_point("journal.append.after");
	return 0;
}

static int append_locked(struct journal *j, enum journal_kind kind, bool open, const void *data,
	size_t len, const void *data2, size_t len2)
{
	struct journal_record head = {.kind = kind};
	int r;

	if (j->open.n >= RECORD_OPEN_MAX)
		return -EAGAIN;
	r = seq_set_reserve(&j->open);
	if (r == 0)
		r = make_room(
			j, kind, RECORD_HEADER_SIZE + 8 * named_open(j, kind)->n + len + len2);
	if (r < 0)
		return r;
	head.seq = j->head + 1;
	buf_reset(&j->scratch);
	encode(j, &head, data, len, data2, len2, &j->scratch);
	r = buf_error(&j->scratch);
	if (r == 0)
		r = write_record(j);
	if (r < 0)
		return r;
	journal_mark(j, head.seq, newest(j)->end);
	newest(j)->end += j->scratch.len;
	j->head = head.seq;
	if (ends_doubt(kind))
		j->doubt.n = 0;
	if (open)
		seq_set_add(&j->open, head.seq);
	return 0;
}

int journal_append(struct journal *j, enum journal_kind kind, bool open, const void *data,
	size_t len, const void *data2, size_t len2, uint64_t *ret_seq)
{
	int r;

	if (len > JOURNAL_RECORD_MAX || len2 > JOURNAL_RECORD_MAX - len)
		return -E2BIG;
	pthread_mutex_lock(&j->lock);
	r = append_locked(j, kind, open, data, len, data2, len2);
	if (r == 0)
		*ret_seq = j->head;
	journal_update_settled(j);
	pthread_mutex_unlock(&j->lock);
	return r;
}

void journal_settle(struct journal *j, uint64_t seq)
{
	pthread_mutex_lock(&j->lock);
	if (seq_set_remove(&j->open, seq))
		journal_update_settled(j);
	pthread_mutex_unlock(&j->lock);
}

int journal_abort(struct journal *j, uint64_t seq)
{
	_cleanup_buf_ struct buf payload = {.cap = 0};
	int r, r2;

	buf_put_u64(&payload, seq);
	r = buf_error(&payload);
	pthread_mutex_lock(&j->lock);
	/* Known to be void before it is settled: readers must never get it. */
	r2 = seq_set_reserve(&j->aborted);
	if (r2 == 0)
		seq_set_add(&j->aborted, seq);
	if (r == 0)
		r = append_locked(j, JOURNAL_ABORT, false, payload.data, payload.len, NULL, 0);
	if (r2 == 0)
		(void)seq_set_remove(&j->open, seq);
	journal_update_settled(j);
	pthread_mutex_unlock(&j->lock);
	return r < 0 ? r : r2;
}

/* ---- what there is ---- */

uint64_t journal_head(struct journal *j)
{
	uint64_t v;

	pthread_mutex_lock(&j->lock);
	v = j->head;
	pthread_mutex_unlock(&j->lock);
	return v;
}

uint64_t journal_settled(struct journal *j)
{
	uint64_t v;

	pthread_mutex_lock(&j->lock);
	v = j->settled;
	for (size_t i = 0; i < j->n_watches; i++)
		j->watches[i].armed = true;
	pthread_mutex_unlock(&j->lock);
	return v;
}

uint64_t journal_tail(struct journal *j)
{
	uint64_t v;

	pthread_mutex_lock(&j->lock);
	v = j->n_segments ? j->segments[0].first : j->head + 1;
	pthread_mutex_unlock(&j->lock);
	return v;
}

uint64_t journal_bytes(struct journal *j)
{
	uint64_t v = 0;

	pthread_mutex_lock(&j->lock);
	for (size_t i = 0; i < j->n_segments; i++)
		v += j->segments[i].end;
	pthread_mutex_unlock(&j->lock);
	return v;
}

/* ---- trim ---- */

/* The oldest segment, when there is one after it and all its records are below @seq. */
static bool oldest_below(struct journal *j, uint64_t seq, uint64_t *ret_first)
{
	bool below;

	pthread_mutex_lock(&j->lock);
	below = j->n_segments > 1 && j->segments[1].first <= seq;
	if (below)
		*ret_first = j->segments[0].first;
	pthread_mutex_unlock(&j->lock);
	return below;
}

int journal_trim(struct journal *j, uint64_t seq)
{
	uint64_t first;
	int r = 0;

	pthread_mutex_lock(&j->trim_lock);
	while (r == 0 && oldest_below(j, seq, &first)) {
		char name[SEGMENT_NAME_SIZE];

		fault_point("journal.trim");
		segment_name(first, name);
		/* Without the lock: deleting a large file may take its time. */
		if (unlinkat(j->dir, name, 0) < 0 && errno != ENOENT) {
			r = -errno;
			break;
		}
		pthread_mutex_lock(&j->lock);
		journal_drop_oldest(j);
		seq_set_drop_below(&j->aborted, j->segments[0].first);
		pthread_mutex_unlock(&j->lock);
	}
	pthread_mutex_unlock(&j->trim_lock);
	return r;
}

/* ---- watches ---- */

int journal_watch(struct journal *j, int *ret_fd)
{
	_cleanup_close_ int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct watch *p;

	if (fd < 0)
		return -errno;
	pthread_mutex_lock(&j->lock);
	p = reallocarray(j->watches, j->n_watches + 1, sizeof(*p));
	if (p) {
		j->watches = p;
		p[j->n_watches++] = (struct watch){.fd = fd, .armed = true};
	}
	pthread_mutex_unlock(&j->lock);
	if (!p)
		return -ENOMEM;
	*ret_fd = steal_fd(&fd);
	return 0;
}

void journal_unwatch(struct journal *j, int fd)
{
	pthread_mutex_lock(&j->lock);
	for (size_t i = 0; i < j->n_watches; i++) {
		if (j->watches[i].fd != fd)
			continue;
		j->watches[i] = j->watches[--j->n_watches];
		(void)close(fd);
		break;
	}
	pthread_mutex_unlock(&j->lock);
}

/* ---- open and close ---- */

static void journal_free(struct journal *j)
{
	while (j->n_segments)
		journal_drop_oldest(j);
	for (size_t i = 0; i < j->n_watches; i++)
		(void)close(j->watches[i].fd);
	cleanup_close(&j->fd);
	cleanup_close(&j->dir);
	free(j->segments);
	free(j->watches);
	free(j->open.seqs);
	free(j->aborted.seqs);
	free(j->doubt.seqs);
	buf_clear(&j->scratch);
	(void)pthread_cond_destroy(&j->synced_cond);
	(void)pthread_mutex_destroy(&j->lock);
	(void)pthread_mutex_destroy(&j->trim_lock);
	free(j);
}

int journal_open(const char *dir, const struct journal_config *config, struct journal **ret)
{
	struct journal *j;
	int r = mkdir_parents(dir, 0700);

	if (r < 0)
		return r;
	j = calloc(1, sizeof(*j));
	if (!j)
		return -ENOMEM;
	j->config = *config;
	if (!j->config.segment_size || j->config.segment_size > JOURNAL_SEGMENT_SIZE)
		j->config.segment_size = JOURNAL_SEGMENT_SIZE;
	if (j->config.segment_size < SEGMENT_SIZE_MIN)
		j->config.segment_size = SEGMENT_SIZE_MIN;
	j->fd = -1;
	(void)pthread_mutex_init(&j->lock, NULL);
	(void)pthread_mutex_init(&j->trim_lock, NULL);
	(void)pthread_cond_init(&j->synced_cond, NULL);
	j->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = j->dir < 0 ? -errno : journal_load(j, dir);
	if (r < 0) {
		journal_free(j);
		return r;
	}
	*ret = j;
	return 0;
}

void journal_close(struct journal *j)
{
	int r;

	if (!j)
		return;
	r = journal_sync(j, journal_head(j));
	if (r < 0)
		log_error("journal: sync while closing: %s", strerror(-r));
	journal_free(j);
}
