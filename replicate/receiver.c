/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * One spool: .tandemfs/in/SENDER, and the ack file that answers it.
 *
 * A turn looks at hello, reads the current segment of the current session, applies every whole
 * frame and writes the ack. Everything in the spool is written by an account that need not be
 * trusted with more than its own tree: files are opened without following links and must be
 * regular.
 *
 * A new hello ends the session before: what lies whole in its log is applied, its files
 * are deleted, and the ack then carries the new session's number. From that the sender knows that
 * the position in it is final for all that it wrote before.
 */

#include "receiver.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/durable.h"
#include "digest.h"
#include "room.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_BYTES (1u << 20)
#define BEAT_MS 500
/* On a full disk, what is kept free for a segment must not become less. */
#define AHEAD_MIN (128u << 10)
/* Operations between two acks while there is more to do. */
#define ACK_EVERY 256

static int open_regular(int dir, const char *name, int *ret)
{
	struct stat st;
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		(void)close(fd);
		return -EINVAL;
	}
	*ret = fd;
	return 0;
}

/* ---- the ack ---- */

void receiver_alive(void *receiver)
{
	struct receiver *v = receiver;
	uint64_t now = clock_mono_ms();

	if (now - v->beat_ms < BEAT_MS)
		return;
	v->beat_ms = now;
	v->beat++;
	v->ack_due = true;
	receiver_acknowledge(v);
}

static void fill_ack(struct receiver *v, struct wire_ack *a)
{
	struct replica *r = v->replica;

	*a = (struct wire_ack){
		.version = WIRE_VERSION,
		.session = v->session,
		.epoch = v->epoch,
		.beat = v->beat,
		.durable = v->durable,
		.restart = v->damaged,
		.refused = !v->accepted,
		.stuck_seq = v->parked ? v->parked->op.seq : 0,
		.stuck_errno = v->parked ? v->parked->error : 0,
	};
	(void)snprintf(a->id, sizeof(a->id), "%s", r->node.id);
	(void)snprintf(a->problem, sizeof(a->problem), "%s", v->damaged ? v->refusal : v->problem);
	position_copy(&a->applied, &v->shown);
	a->head = v->shown_head;
	a->lost_power = v->lost_power;
}

/* What was applied can be acknowledged once the kernel shows nothing older. A sign of life in the
 * middle of a batch must not run ahead of that. */
static void show(struct receiver *v)
{
	struct replica *r = v->replica;

	if (!v->unshown)
		return;
	if (r->hooks.settle)
		r->hooks.settle(r->hooks.ctx);
	(void)pthread_mutex_lock(&r->lock);
	position_copy(&v->shown, &v->origin->applied);
	v->shown_head = r->asks ? UINT64_MAX : replica_head(r);
	(void)pthread_mutex_unlock(&r->lock);
	v->unshown = false;
	v->ack_due = true;
}

/* After a crash the last record is in doubt, though it may have been carried out. What is
 * acknowledged must not be: the sender forgets it. A record after it says that it is no longer
 * open. */
static int seal(struct receiver *v)
{
	uint64_t ignored;
	int e = 0;

	if (v->unsealed)
		e = journal_append(
			v->replica->journal, JOURNAL_NOTE, false, NULL, 0, NULL, 0, &ignored);
	v->unsealed = e < 0;
	return e;
}

void receiver_acknowledge(struct receiver *v)
{
	_cleanup_buf_ struct buf b = {0};
	struct wire_ack a;
	int e;

	if (!v->ack_due || !v->session)
		return;
	fill_ack(v, &a);
	wire_put_ack(&b, &a);
	e = buf_error(&b);
	if (e == 0)
		e = seal(v);
	fault_point("receiver.ack.before");
	if (e == 0)
		e = pwrite_all(v->ack, b.data, b.len, 0);
	if (e < 0) {
		log_error("cannot acknowledge to %s: %s", v->sender.name, strerror(-e));
		return;
	}
	fault_point("receiver.ack.after");
	v->ack_due = false;
}

/* ---- making ---- */

static int open_ack(struct receiver *v)
{
	v->ack = openat(
		v->replica->acks, v->origin->id, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (v->ack < 0 || fchmod(v->ack, 0644) < 0)
		return -errno;
	/* So that it can be written on a full disk. Not all file systems can do that. */
	(void)fallocate(v->ack, FALLOC_FL_KEEP_SIZE, 0, WIRE_ACK_MAX);
	return 0;
}

int receiver_new(struct replica *r, const char *id, int dir, struct receiver **ret)
{
	struct receiver *v = calloc(1, sizeof(*v));
	int e;

	if (!v)
		return -ENOMEM;
	v->replica = r;
	v->dir = dir;
	v->stage = v->ack = v->log = -1;
	v->origin = replica_origin(r, id);
	(void)snprintf(v->sender.name, sizeof(v->sender.name), "%s", id);
	e = v->origin ? open_ack(v) : -ENOMEM;
	if (e == 0)
		e = answerer_new(r, dir, id, &v->answerer);
	if (e == 0)
		e = digest_random(&v->epoch, sizeof(v->epoch));
	if (e < 0) {
		v->dir = -1; /* still the caller's */
		receiver_free(v);
		return e;
	}
	*ret = v;
	return 0;
}

void receiver_free(struct receiver *v)
{
	if (!v)
		return;
	answerer_free(v->answerer);
	if (v->origin)
		parked_forget(v);
	digest_staged_free(v->digests);
	cleanup_close(&v->dir);
	cleanup_close(&v->stage);
	cleanup_close(&v->ack);
	cleanup_close(&v->log);
	buf_clear(&v->in);
	free(v);
}

/* ---- segments ---- */

static void segment_name(const struct receiver *v, uint64_t segment, char dst[64])
{
	(void)snprintf(dst, 64, "log.%016llx.%016llx", (unsigned long long)v->session,
		(unsigned long long)segment);
}

static void delete_file(struct receiver *v, int dir, const char *name)
{
	if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
		log_warning(
			"spool of %s: cannot delete %s: %s", v->sender.name, name, strerror(errno));
}

static void close_segment(struct receiver *v)
{
	char name[64];

	cleanup_close(&v->log);
	v->log = -1;
	segment_name(v, v->segment, name);
	delete_file(v, v->dir, name);
	v->segment++;
	v->offset = v->ahead = 0;
	v->in_pos = 0;
	buf_reset(&v->in);
}

static bool next_segment_exists(struct receiver *v)
{
	struct stat st;
	char name[64];

	segment_name(v, v->segment + 1, name);
	return fstatat(v->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A receiver that was started anew finds the segments that are left: the lowest is next. */
static void find_first_segment(struct receiver *v)
{
	_cleanup_closedir_ DIR *d = NULL;
	uint64_t lowest = UINT64_MAX;
	struct dirent *e;

	v->segment = 1;
	if (confine_opendir(v->dir, "", &d) < 0)
		return;
	while ((e = readdir(d))) {
		unsigned long long session, n;

		if (sscanf(e->d_name, "log.%16llx.%16llx", &session, &n) == 2 &&
			session == v->session && n < lowest)
			lowest = n;
	}
	if (lowest != UINT64_MAX)
		v->segment = lowest;
}

static int open_segment(struct receiver *v)
{
	char name[64];

	if (v->log >= 0)
		return 0;
	segment_name(v, v->segment, name);
	return open_regular(v->dir, name, &v->log);
}

/* On a full disk, see room.c. */
static void keep_room(struct receiver *v)
{
	off_t read = v->offset - (off_t)(v->in.len - v->in_pos);

	if (v->log < 0 || !room_is_short(v->replica) || v->offset + (off_t)AHEAD_MIN < v->ahead)
		return;
	room_for_log(v->log, read, v->offset);
	v->ahead = v->offset + (off_t)ROOM_LOG_AHEAD;
}

/* Whether the beginning of the segment was given back: it was read before this start of ours. */
static bool has_lost_beginning(struct receiver *v)
{
	static const uint8_t zeros[WIRE_FRAME_HEAD];

	return v->offset <= (off_t)v->in.len && v->in_pos == 0 && v->in.len >= sizeof(zeros) &&
	       memcmp(v->in.data, zeros, sizeof(zeros)) == 0 && lseek(v->log, 0, SEEK_HOLE) == 0;
}

/* Reads on in the segment. Bytes read, 0 at its present end, or -errno. */
static ssize_t read_more(struct receiver *v)
{
	uint8_t *room;
	ssize_t n;

	if (v->in_pos > 0) {
		memmove(v->in.data, v->in.data + v->in_pos, v->in.len - v->in_pos);
		v->in.len -= v->in_pos;
		v->in_pos = 0;
	}
	room = buf_extend(&v->in, READ_BYTES);
	if (!room)
		return -ENOMEM;
	n = pread(v->log, room, READ_BYTES, v->offset);
	v->in.len -= READ_BYTES - (n > 0 ? (size_t)n : 0);
	if (n < 0)
		return -errno;
	v->offset += n;
	return n;
}

static void note_damage(struct receiver *v)
{
	struct replica *r = v->replica;
	char *copy;

	if (!v->refusal[0])
		(void)snprintf(v->refusal, sizeof(v->refusal), "segment %llu is damaged",
			(unsigned long long)v->segment);
	log_line(v->against_the_rules ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING,
		"what %s sent is refused, it is asked to send it again: %s", v->sender.name,
		v->refusal);
	copy = strdup(v->refusal);
	(void)pthread_mutex_lock(&r->lock);
	free(v->origin->refused);
	v->origin->refused = copy;
	v->origin->refusals++;
	(void)pthread_mutex_unlock(&r->lock);
	v->damaged = true;
	v->ack_due = true;
}

/* Applies the whole frames in the buffer. 0, -EAGAIN (cannot go on now) or -EBADMSG. */
static int apply_buffer(struct receiver *v, unsigned *done)
{
	for (;;) {
		struct wire_frame f;
		size_t len;
		int e = wire_parse(v->in.data + v->in_pos, v->in.len - v->in_pos, &f, &len);

		if (e == -EAGAIN)
			return 0;
		if (e == 0)
			e = incoming_frame(v, &f);
		if (e < 0)
			return e;
		v->in_pos += len;
		(*done)++;
		receiver_alive(v);
		if (*done % ACK_EVERY == 0) {
			show(v);
			receiver_acknowledge(v);
			answerer_turn(v->answerer);
		}
		if (atomic_load(&v->replica->closing))
			return -EAGAIN;
	}
}

/* Reads and applies to the end of what is there. Number of frames. */
static unsigned read_log(struct receiver *v)
{
	unsigned done = 0;

	while (!v->damaged) {
		ssize_t n;
		int e = open_segment(v);

		if (e < 0) {
			if (e != -ENOENT)
				note_damage(v);
			break;
		}
		n = read_more(v);
		if (n > 0 && has_lost_beginning(v)) {
			v->damaged = v->ack_due = true;
			break;
		}
		e = n < 0 ? (int)n : apply_buffer(v, &done);
		keep_room(v);
		if (e == -EAGAIN)
			break;
		if (e < 0) {
			if (e == -EBADMSG)
				note_damage(v);
			else
				log_error("cannot go on with what %s sent: %s", v->sender.name,
					strerror(-e));
			break;
		}
		if (n == 0) {
			if (!next_segment_exists(v))
				break;
			if (read_more(v) == 0) /* what came before the next one was made */
				close_segment(v);
		}
	}
	return done;
}

/* ---- sessions ---- */

static bool belongs_to_old(const struct receiver *v, const char *name)
{
	unsigned long long session;

	if (sscanf(name, "log.%16llx.", &session) == 1 || sscanf(name, "%16llx-", &session) == 1)
		return session != v->session;
	return false;
}

static void delete_old(struct receiver *v, int dir)
{
	_cleanup_closedir_ DIR *d = NULL;
	struct dirent *e;

	if (confine_opendir(dir, "", &d) < 0)
		return;
	while ((e = readdir(d)))
		if (belongs_to_old(v, e->d_name))
			delete_file(v, dir, e->d_name);
}

static bool session_has_log(struct receiver *v)
{
	struct stat st;
	char name[64];

	find_first_segment(v);
	segment_name(v, v->segment, name);
	return fstatat(v->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static int accept_sender(struct receiver *v, const struct wire_hello *h, char **why)
{
	struct replica *r = v->replica;
	size_t known;
	bool paired;
	int e = 0;

	if (h->version != WIRE_VERSION)
		return say(why, -EPROTO, "it speaks version %u of the protocol, this is %u",
			h->version, WIRE_VERSION);
	if (strcmp(h->id, v->origin->id) != 0)
		return say(why, -EPROTO, "its hello names another node than its spool");
	if (strcmp(h->id, r->node.id) == 0)
		return say(why, -EPROTO, "it has this node's own identity: a copied machine?");
	(void)pthread_mutex_lock(&r->lock);
	paired =
		pairings_has(&r->pairings, true, h->id) || pairings_has(&r->pairings, false, h->id);
	known = pairings_count(&r->pairings, true);
	(void)pthread_mutex_unlock(&r->lock);
	if (!paired && known >= (r->n_peers ? r->n_peers : 1))
		return say(why, -EACCES,
			"this node (%s) is paired with another one already: if that is meant, "
			"remove the old \"in\" line from %s/peers",
			r->node.name, r->config.state);
	/* The hello is as old as its session: it counts only while nothing was sent in that. */
	if (h->head < v->origin->applied.high && !session_has_log(v))
		log_notice("%s has forgotten what it did after its change %llu, %llu were applied "
			   "here: it goes on above that, and is reconciled",
			h->name, (unsigned long long)h->head,
			(unsigned long long)v->origin->applied.high);
	(void)pthread_mutex_lock(&r->lock);
	if (!pairings_has(&r->pairings, true, h->id)) {
		struct node_identity sender = {0};

		(void)snprintf(sender.id, sizeof(sender.id), "%s", h->id);
		(void)snprintf(sender.name, sizeof(sender.name), "%s", h->name);
		e = pairings_add(&r->pairings, r->state, NULL, &sender);
	}
	(void)pthread_mutex_unlock(&r->lock);
	return e < 0 ? say(why, e, "the pairing cannot be remembered: %s", strerror(-e)) : 0;
}

static void open_stage(struct receiver *v)
{
	const struct replica *r = v->replica;
	int e;

	if (v->stage < 0)
		v->stage = openat(v->dir, "stage", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (v->stage < 0 || v->digests || strcmp(r->config.verify, "none") == 0)
		return;
	/* the sender is told the same digest, as a rule; without this it only takes longer */
	e = digest_staged_new(r->config.verify, v->stage, r->threaded, &v->digests);
	if (e < 0)
		log_warning("spool of %s: what arrives cannot be watched: %s", v->sender.name,
			strerror(-e));
}

static void begin_session(struct receiver *v, const struct wire_hello *h)
{
	_cleanup_free_ char *why = NULL;
	struct replica *r = v->replica;

	(void)snprintf(v->sender.id, sizeof(v->sender.id), "%s", h->id);
	(void)snprintf(v->sender.name, sizeof(v->sender.name), "%s", h->name);
	parked_forget(v);
	cleanup_close(&v->log);
	v->log = -1;
	buf_reset(&v->in);
	v->in_pos = 0;
	v->offset = v->ahead = 0;
	v->session = h->session;
	v->damaged = v->against_the_rules = false;
	v->refusal[0] = '\0';
	v->last_seq = 0;
	v->problem[0] = '\0';
	v->accepted = accept_sender(v, h, &why) == 0;
	if (!v->accepted) {
		(void)snprintf(v->problem, sizeof(v->problem), "%s", why ?: "out of memory");
		log_warning("%s (%s) is refused: %s", h->name, h->id, v->problem);
	}
	open_stage(v);
	delete_old(v, v->dir);
	if (v->stage >= 0)
		delete_old(v, v->stage);
	find_first_segment(v);
	(void)pthread_mutex_lock(&r->lock);
	v->origin->seen = v->accepted;
	(void)pthread_mutex_unlock(&r->lock);
	v->unshown = true;
	show(v);
	v->ack_due = true;
}

/* Looks whether another session was begun. True when it was. */
static bool look_at_hello(struct receiver *v)
{
	_cleanup_free_ char *data = NULL;
	_cleanup_close_ int fd = -1;
	struct wire_hello h;
	size_t len;

	if (open_regular(v->dir, "hello", &fd) < 0)
		return false; /* not there yet */
	if (durable_read(v->dir, "hello", WIRE_HELLO_MAX, &data, &len) < 0 ||
		wire_get_hello(data, len, &h) < 0) {
		log_debug("spool of %s: hello cannot be read (yet)", v->sender.name);
		return false;
	}
	if (h.session == v->session)
		return false;
	if (v->session && v->accepted)
		(void)read_log(v);
	begin_session(v, &h);
	return true;
}

/* The sender decides by it, too, which version of a file wins. */
static void look_for_power(struct receiver *v)
{
	bool lost = resync_lost_power(v->replica, v->origin->id);

	if (lost != v->lost_power)
		v->ack_due = true;
	v->lost_power = lost;
}

bool receiver_turn(struct receiver *v)
{
	struct replica *r = v->replica;
	unsigned done = 0;
	bool begun;

	look_for_power(v);
	begun = look_at_hello(v);
	if (v->session && v->accepted) {
		done = read_log(v);
		if (parked_retry(v) == -EBADMSG && !v->damaged)
			note_damage(v);
		review_turn(v);
		answerer_turn(v->answerer);
		show(v);
	}
	if (v->parked)
		receiver_alive(v);
	receiver_acknowledge(v);
	if (done)
		changes_flush(r->changes);
	return begun || done > 0;
}
