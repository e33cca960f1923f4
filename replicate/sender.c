/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The session with one peer. A sender belongs to one thread and goes round:
 *
 *   OFFLINE    wait for retry_at, connect, check the peer's node file, put hello
 *   GREETING   read the ack file until it answers this hello
 *   STREAMING  journal -> frames -> log file; ack file -> position, waiters
 *   PLAIN      instead of the last two where no tandemfs runs (plain.c)
 *
 * Any error ends the session: what the peer had not acknowledged is sent again in the next one.
 *
 * A peer is away when its link is silent (the remote says -ETIMEDOUT) or when its daemon neither
 * takes what it was sent nor moves its beat for stall_ms.
 */

#include "sender.h"
#include "plain.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/fault.h"
#include "base/log.h"
#include "digest.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define BACKOFF_MIN_MS 250
#define BACKOFF_MAX_MS 10000
#define BACKOFF_REFUSED_MS 1000
/* Between two looks at the ack file: while a caller waits, while something is under way, when idle.
 */
#define ACK_WAITED_MS 0
#define ACK_BUSY_MS 5
#define ACK_IDLE_MS 1000
#define ACK_GREETING_MS 200
/* When nobody waits, the journal is not looked at again so soon after little was found in it: a
 * packet, wake-ups at each end and an ack for each of many small files cost more than carrying them
 * out. */
#define GATHER_MS 4
#define GATHER_BELOW (BATCH_BYTES / 2)
/* While there is nothing new in the file it is opened anew so often. */
#define ACK_REOPEN_MS 5000

/* ---- making ---- */

static int watch(struct sender *s, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN};

	return epoll_ctl(s->poll, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

int sender_new(struct peer *p, struct sender **ret)
{
	struct sender *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return -ENOMEM;
	s->peer = p;
	s->replica = p->replica;
	s->journal_wake = -1;
	s->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	s->poll = epoll_create1(EPOLL_CLOEXEC);
	if (s->wake < 0 || s->poll < 0)
		r = -errno;
	if (r == 0 && asprintf(&s->control, "%s/" TANDEMFS_DIR, p->config->path) < 0) {
		s->control = NULL;
		r = -ENOMEM;
	}
	if (r == 0)
		r = watch(s, s->wake);
	if (r == 0)
		r = bulk_new(p, s->replica->config.streams, s->wake, &s->bulk);
	if (r == 0)
		r = plain_new(p, s->bulk, &s->plain);
	if (r < 0) {
		sender_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

static void close_files(struct sender *s)
{
	if (s->log)
		(void)s->remote->ops->close(s->log); /* errors show in the ack that does not come */
	if (s->ack)
		(void)s->remote->ops->close(s->ack);
	s->log = s->ack = NULL;
	s->ack_reading = false;
}

void sender_free(struct sender *s)
{
	if (!s)
		return;
	if (s->remote) {
		s->remote->ops->disconnect(s->remote);
		close_files(s);
		s->remote->ops->free(s->remote);
	}
	bulk_free(s->bulk);
	plain_free(s->plain); /* after the threads that use it */
	outgoing_reset(s);
	buf_clear(&s->out);
	if (s->journal_wake >= 0)
		journal_unwatch(s->replica->journal, s->journal_wake);
	cleanup_close(&s->wake);
	cleanup_close(&s->poll);
	free(s->control);
	free(s);
}

void sender_wake(struct sender *s)
{
	uint64_t one = 1;

	if (write(s->wake, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_warning("sender: cannot wake: %s", strerror(errno));
}

void sender_grown(struct sender *s)
{
	bulk_early_wake(s->bulk);
}

static void drain_wakes(struct sender *s)
{
	uint64_t n;

	if (read(s->wake, &n, sizeof(n)) < 0 && errno != EAGAIN)
		log_warning("sender: cannot read the wake-up: %s", strerror(errno));
	if (s->journal_wake >= 0 && read(s->journal_wake, &n, sizeof(n)) < 0 && errno != EAGAIN)
		log_warning("sender: cannot read the journal's wake-up: %s", strerror(errno));
}

/* ---- ending a session ---- */

static uint64_t jitter(uint64_t ms)
{
	uint16_t random = 0;

	if (digest_random(&random, sizeof(random)) < 0)
		return ms;
	return ms * 3 / 4 + ms * random / (2 * 65536);
}

static void drop_session(struct sender *s, enum peer_state state, const char *error)
{
	bulk_cancel(s->bulk);
	if (s->remote)
		s->remote->ops->disconnect(s->remote);
	close_files(s);
	outgoing_reset(s);
	plain_reset(s->plain);
	if (s->phase == SENDER_STREAMING || s->phase == SENDER_PLAIN)
		s->backoff_ms = 0;
	s->phase = SENDER_OFFLINE;
	s->stalled = false;
	s->backoff_ms = s->backoff_ms ? s->backoff_ms * 2 : BACKOFF_MIN_MS;
	if (s->backoff_ms > BACKOFF_MAX_MS)
		s->backoff_ms = BACKOFF_MAX_MS;
	if (s->refused && s->backoff_ms > BACKOFF_REFUSED_MS)
		s->backoff_ms = BACKOFF_REFUSED_MS;
	s->refused = false;
	s->retry_at = clock_mono_ms() + jitter(s->backoff_ms);
	peer_set_state(s->peer, state, error);
}

static const char *reason(int error)
{
	switch (error) {
	case -ETIMEDOUT:
		return "the link is silent";
	case -ERESTART:
		return "it asks to begin anew, after a start or because something arrived damaged";
	case -EBUSY:
		return "another session of this node has taken over its spool";
	default:
		return strerror(-error);
	}
}

static void drop_for(struct sender *s, int error)
{
	_cleanup_free_ char *text = NULL;

	if (s->refused)
		(void)say(&text, 0, "it cannot be written to: %s (%s)", strerror(-error),
			remote_remedy(error));
	else if (error == -ERESTART && s->last_ack.restart && s->last_ack.problem[0])
		(void)say(&text, 0, "it refuses what arrived: %s", s->last_ack.problem);
	else
		(void)say(&text, 0, "connection lost: %s", reason(error));
	drop_session(s, PEER_CONNECTING, text ?: "out of memory");
}

/* @error, of a write to the spool; what is behind it when that was the server's answer. */
static int spool_error(struct sender *s, int error)
{
	if (error == 0 || !s->remote->ops->connected(s->remote))
		return error;
	s->refused = true;
	return remote_cause(s->remote, s->control, 1, error);
}

/* ---- connecting ---- */

static int check_node(struct sender *s, const struct node_identity *node, char **ret_error)
{
	struct replica *r = s->replica;
	struct peer *p = s->peer;
	bool known;
	int e = 0;

	if (strcmp(node->id, r->node.id) == 0)
		return say(ret_error, -EINVAL,
			"%s leads to this node itself, or to a copy of it: remove .tandemfs/node "
			"and the state directory of the copy",
			p->config->url);
	(void)pthread_mutex_lock(&r->lock);
	known = p->known;
	if (known && strcmp(p->node.id, node->id) != 0)
		e = -ESTALE;
	(void)pthread_mutex_unlock(&r->lock);
	if (e < 0)
		return say(ret_error, e,
			"%s is node %s (%s), but this node is paired with %s (%s) there: if that is "
			"meant, remove its line from %s/peers",
			p->config->url, node->name, node->id, p->node.name, p->node.id,
			r->config.state);
	(void)pthread_mutex_lock(&r->lock);
	if (!known)
		e = pairings_add(&r->pairings, r->state, p->config->url, node);
	if (e == 0) {
		p->node = *node;
		p->known = true;
	}
	(void)pthread_mutex_unlock(&r->lock);
	if (e < 0)
		return say(ret_error, e, "cannot remember the pairing with %s: %s", node->name,
			strerror(-e));
	if (!known && r->threaded && strcmp(r->node.id, node->id) < 0)
		(void)resync_need(p, RESYNC_PAIRING); /* it says what is wrong */
	if (!known)
		log_notice("paired with %s (%s) at %s", node->name, node->id, p->config->url);
	return 0;
}

static int get_node(struct sender *s, struct node_identity *ret, char **ret_error)
{
	_cleanup_free_ char *path = NULL, *text = NULL;
	size_t len;
	int r;

	if (asprintf(&path, "%s/node", s->control) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	r = s->remote->ops->get(s->remote, path, 4096, &text, &len);
	if (r == 0)
		r = node_parse(text, ret);
	if (r == -EPROTONOSUPPORT)
		return say(ret_error, r,
			"%s: its tandemfs speaks another version of the protocol: install the same "
			"version on both",
			s->peer->config->url);
	if (r == -EBADMSG)
		return say(ret_error, r, "%s: its .tandemfs/node is damaged", s->peer->config->url);
	return r;
}

/* There is no node file: a plain peer, or one that is not there yet. */
static int connect_plain(struct sender *s, char **ret_error, enum peer_state *ret_state)
{
	struct peer *p = s->peer;
	int e;

	if (p->known) {
		return say(ret_error, -ESTALE,
			"%s: there is no .tandemfs/node, and node %s (%s) was there: is its disk not "
			"mounted, or tandemfs not started? If that is to be a plain copy from now "
			"on, unmount here, remove its line from %s/peers and mount again",
			p->config->url, p->node.name, p->node.id, s->replica->config.state);
	}
	if (s->no_node_since == 0)
		s->no_node_since = clock_mono_ms();
	e = plain_decide(s->plain, s->remote, s->no_node_since, ret_error, ret_state);
	if (e == 0)
		e = plain_begin(s->plain, s->remote, ret_error, ret_state);
	if (e == 0)
		s->phase = SENDER_PLAIN;
	return e;
}

static int make_spool(struct sender *s, char **ret_error)
{
	static const char *const parts[] = {"", "/stage"};

	for (size_t i = 0; i < 2; i++) {
		_cleanup_free_ char *path = NULL;
		int r;

		if (asprintf(&path, "%s/in/%s%s", s->control, s->replica->node.id, parts[i]) < 0) {
			path = NULL;
			return -ENOMEM;
		}
		r = s->remote->ops->mkdir(s->remote, path, 0700);
		if (r < 0 && r != -EEXIST)
			return say(ret_error, r,
				"%s: cannot make %s there: %s (is account= set there to the user "
				"that logs in?)",
				s->peer->config->url, path, strerror(-r));
	}
	return 0;
}

static int put_hello(struct sender *s)
{
	_cleanup_buf_ struct buf b = {0};
	_cleanup_free_ char *path = NULL;
	struct wire_hello h = {.version = WIRE_VERSION, .head = journal_head(s->replica->journal)};
	int r = digest_random(&s->session, sizeof(s->session));

	if (r < 0)
		return r;
	h.session = s->session;
	(void)snprintf(h.id, sizeof(h.id), "%s", s->replica->node.id);
	(void)snprintf(h.name, sizeof(h.name), "%s", s->replica->node.name);
	wire_put_hello(&b, &h);
	if (asprintf(&path, "%s/in/%s/hello", s->control, s->replica->node.id) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	r = buf_error(&b);
	return r < 0 ? r : spool_error(s, s->remote->ops->put(s->remote, path, b.data, b.len));
}

static int connect_peer(struct sender *s, char **ret_error, enum peer_state *ret_state)
{
	struct replica *r = s->replica;
	struct node_identity node;
	int e = 0;

	*ret_state = PEER_CONNECTING;
	if (!s->remote)
		e = r->make_remote(r, s->peer, &s->remote);
	if (e == 0)
		e = s->remote->ops->connect(s->remote, ret_error);
	if (e == -EACCES || e == -EKEYREJECTED)
		*ret_state = PEER_REFUSED;
	if (e == 0)
		e = get_node(s, &node, ret_error);
	if (e == -ENOENT)
		return connect_plain(s, ret_error, ret_state);
	if (e < 0)
		return e;
	s->no_node_since = 0;
	if (s->peer->is_plain)
		plain_turned_active(s->plain);
	e = check_node(s, &node, ret_error);
	if (e < 0) {
		*ret_state = PEER_REFUSED;
		return e;
	}
	e = make_spool(s, ret_error);
	if (e < 0)
		return e;
	e = put_hello(s);
	return s->refused ? say(ret_error, e, "%s cannot be written to: %s (%s)",
				    s->peer->config->url, strerror(-e), remote_remedy(e))
			  : e;
}

static void go_online(struct sender *s)
{
	_cleanup_free_ char *error = NULL;
	enum peer_state state;
	int r = connect_peer(s, &error, &state);

	if (r < 0) {
		if (!error)
			(void)say(&error, 0, "%s: %s", s->peer->config->url, strerror(-r));
		drop_session(s, state, error ?: "out of memory");
		return;
	}
	if (s->phase == SENDER_PLAIN)
		return;
	s->phase = SENDER_GREETING;
	s->segment = s->segment_bytes = 0;
	s->last_news_ms = clock_mono_ms();
	s->ack_asked_ms = 0;
}

/* ---- the log file ---- */

static int next_segment(struct sender *s)
{
	_cleanup_free_ char *path = NULL;
	int r;

	if (s->log) {
		r = s->remote->ops->close(s->log);
		s->log = NULL;
		if (r < 0)
			return spool_error(s, r);
	}
	s->segment++;
	if (asprintf(&path, "%s/in/%s/log.%016llx.%016llx", s->control, s->replica->node.id,
		    (unsigned long long)s->session, (unsigned long long)s->segment) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	s->segment_bytes = 0;
	r = s->remote->ops->open(
		s->remote, path, REMOTE_WRITE | REMOTE_CREATE | REMOTE_EXCL, 0600, &s->log);
	return spool_error(s, r);
}

/* What the server has said by now of what was written. */
static int check_log(struct sender *s)
{
	return s->log ? spool_error(s, s->remote->ops->write(s->log, 0, NULL, 0)) : 0;
}

static int write_out(struct sender *s)
{
	int r = 0;

	if (s->out.len == 0)
		return 0;
	if (!s->log || s->segment_bytes > SEGMENT_BYTES)
		r = next_segment(s);
	fault_point("sender.write.before");
	if (r == 0)
		r = spool_error(s,
			s->remote->ops->write(s->log, s->segment_bytes, s->out.data, s->out.len));
	if (r < 0)
		return r;
	fault_point("sender.write.after");
	s->segment_bytes += s->out.len;
	s->last_sent_ms = clock_mono_ms();
	buf_reset(&s->out);
	return 0;
}

/* ---- acks ---- */

static int open_ack(struct sender *s)
{
	_cleanup_free_ char *path = NULL;

	s->ack_opened_ms = clock_mono_ms();
	if (asprintf(&path, "%s/acks/%s", s->control, s->replica->node.id) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	return s->remote->ops->open(s->remote, path, REMOTE_READ | REMOTE_SIDE, 0, &s->ack);
}

/* What the peer has by now, in our own numbers: those never sent count once all that was sent is
 * there. */
static void effective_position(const struct sender *s, struct position *ret)
{
	position_copy(ret, &s->last_ack.applied);
	if (ret->high >= s->last_sent && s->out.len == 0 && s->passed > ret->high)
		ret->high = s->held.type ? s->held.seq - 1 : s->passed;
	if (s->barrier && s->n_deferred == 0 && s->held.type == 0 &&
		ret->high > s->last_ack.applied.high)
		ret->high = s->last_ack.applied.high; /* an upload in strict order is not there yet
						       */
}

static uint64_t oldest_time_locked(struct sender *s, const struct position *p)
{
	uint64_t head = replica_head(s->replica);

	if (position_contiguous(p) >= head)
		return 0;
	if (s->flights)
		return s->flights->logged ?: s->peer->oldest_time;
	if (s->held.type)
		return s->held_head.logged;
	return s->peer->oldest_time;
}

/* Forgets those of our changes that the peer has seen in all that it will still send: it had
 * applied them when its journal ended at some number, and we have applied what is up to there. */
static void drop_seen_locked(struct sender *s)
{
	struct replica *r = s->replica;
	struct origin *o = origin_find_locked(r, s->peer->node.id);
	uint64_t here = o ? position_contiguous(&o->applied) : 0;

	if (s->peer->ignorant_after)
		return;
	if (r->unseen_upto == 0 && s->last_ack.head != UINT64_MAX) {
		r->unseen_head = s->last_ack.head;
		r->unseen_upto = position_contiguous(&s->last_ack.applied);
	}
	if (r->unseen_upto == 0 || here < r->unseen_head)
		return;
	unseen_drop(r->unseen, r->unseen_upto);
	r->unseen_upto = 0;
}

/* Whether the peer takes nothing any more since too much of what it cannot apply or take has piled
 * up. */
static bool is_blocked_locked(struct sender *s, const struct position *now)
{
	const struct peer *p = s->peer;
	uint64_t ms = clock_mono_ms();

	if (now->high != p->applied.high || now->high >= replica_head(s->replica))
		s->moved_ms = ms;
	return (p->stuck_seq || p->refused_seq) && ms - s->moved_ms > s->replica->stall_ms;
}

static void publish_position(struct sender *s)
{
	struct peer *p = s->peer;
	struct position now;
	bool moved, blocked, in_sync = false, differs = resync_is_due(p);

	effective_position(s, &now);
	if (s->catching_up && s->at_end && !s->catch_up_known) {
		s->catch_up_to = s->passed;
		s->catch_up_known = true;
	}
	if (!s->catching_up && differs) {
		s->catching_up = true;
		peer_set_state(p, PEER_CATCHING_UP, NULL);
	}
	if (s->catching_up && s->catch_up_known && now.high >= s->catch_up_to &&
		!outgoing_under_way(s) && !differs) {
		s->catching_up = false;
		in_sync = true;
	}
	(void)pthread_mutex_lock(&s->replica->lock);
	blocked = is_blocked_locked(s, &now);
	moved = now.high != p->applied.high || now.n_missing != p->applied.n_missing ||
		p->durable != s->last_ack.durable || p->stuck_seq != s->last_ack.stuck_seq ||
		blocked != p->blocked;
	p->blocked = blocked;
	position_copy(&p->applied, &now);
	pending_acked(p->pending, &now);
	if (in_sync && s->n_stuck == 0)
		p->room_doubtful = false;
	p->durable = s->last_ack.durable;
	p->stuck_seq = s->last_ack.stuck_seq;
	p->lost_power = s->last_ack.lost_power;
	memcpy(p->problem, s->last_ack.problem, sizeof(p->problem));
	p->oldest_time = oldest_time_locked(s, &now);
	drop_seen_locked(s);
	if (moved)
		(void)pthread_cond_broadcast(&s->replica->changed);
	(void)pthread_mutex_unlock(&s->replica->lock);
	if (in_sync)
		peer_set_state(p, PEER_IN_SYNC, NULL);
	if (moved)
		replica_trim(s->replica);
}

static int begin_stream(struct sender *s)
{
	int r = outgoing_start(s, &s->last_ack.applied);

	if (r < 0)
		return r;
	s->phase = SENDER_STREAMING;
	s->moved_ms = clock_mono_ms();
	s->backoff_ms = 0;
	peer_set_state(s->peer, PEER_CATCHING_UP, NULL);
	return 0;
}

static int take_greeting(struct sender *s, const struct wire_ack *a)
{
	if (a->session != s->session)
		return 0; /* the answer to an older hello */
	if (a->refused) {
		_cleanup_free_ char *text = NULL;

		(void)say(&text, 0, "%s refuses: %s", s->peer->config->url, a->problem);
		drop_session(s, PEER_REFUSED, text ?: a->problem);
		return -ECANCELED;
	}
	if (strcmp(a->id, s->peer->node.id) != 0 || a->version != WIRE_VERSION)
		return -EPROTO;
	if (a->applied.high > journal_head(s->replica->journal)) {
		int e = resync_restored(s->peer, a->applied.high);

		if (e < 0)
			return e;
	}
	s->last_ack = *a;
	return begin_stream(s);
}

static int take_ack(struct sender *s, const struct wire_ack *a)
{
	const struct wire_ack *last = &s->last_ack;

	if (s->phase == SENDER_GREETING)
		return take_greeting(s, a);
	if (a->session != s->session)
		return -EBUSY; /* somebody else took over the spool */
	if (a->restart || a->epoch != last->epoch) {
		s->last_ack = *a;
		return -ERESTART;
	}
	if (a->beat != last->beat || a->applied.high != last->applied.high ||
		a->applied.n_missing != last->applied.n_missing) {
		s->last_news_ms = clock_mono_ms();
		if (s->stalled) {
			s->stalled = false;
			s->catching_up = true;
			s->catch_up_known = false;
			peer_set_state(s->peer, PEER_CATCHING_UP, NULL);
		}
	}
	s->last_ack = *a;
	s->peer->acked = a->applied.high;
	outgoing_acked(s, &a->applied);
	changes_flush(s->replica->changes);
	return 0;
}

static int read_ack(struct sender *s)
{
	uint8_t data[WIRE_ACK_MAX];
	size_t len = sizeof(data);
	struct wire_ack a;
	int r;

	if (!s->ack_reading)
		return 0;
	r = s->remote->ops->read_result(s->ack, data, &len);
	if (r == -EAGAIN)
		return 0;
	s->ack_reading = false;
	if (r < 0)
		return r;
	r = wire_get_ack(data, len, &a);
	return r < 0 ? 0 : take_ack(s, &a); /* caught while it was written: read again */
}

static uint64_t ack_pause(const struct sender *s)
{
	uint64_t quiet = clock_mono_ms() - s->last_sent_ms;

	if (s->phase == SENDER_GREETING)
		return ACK_GREETING_MS;
	if (!s->n_flights)
		return ACK_IDLE_MS;
	if (atomic_load(&s->replica->sync_waiters) > 0 || s->replica->config.mode != MODE_ASYNC)
		return quiet < 20 ? ACK_WAITED_MS : 1;
	return ACK_BUSY_MS;
}

static uint64_t ack_due(const struct sender *s)
{
	return s->ack_asked_ms + ack_pause(s);
}

/* The peer's directory may have been replaced by another one (a restored backup, a disk that was
 * mounted), while the file that is open here is still what it was. */
static void forget_old_ack(struct sender *s)
{
	if (!s->ack || (s->n_flights && !s->stalled) ||
		clock_mono_ms() - s->ack_opened_ms < ACK_REOPEN_MS)
		return;
	(void)s->remote->ops->close(s->ack);
	s->ack = NULL;
}

static int request_ack(struct sender *s)
{
	int r = 0;

	if (s->ack_reading || clock_mono_ms() < ack_due(s))
		return 0;
	s->ack_asked_ms = clock_mono_ms();
	forget_old_ack(s);
	if (!s->ack) {
		r = open_ack(s);
		if (r == -ENOENT && s->phase == SENDER_GREETING)
			return 0; /* its daemon does not run yet */
	}
	if (r == 0)
		r = s->remote->ops->read_start(s->ack, 0, WIRE_ACK_MAX);
	s->ack_reading = r == 0;
	return r;
}

static void check_stall(struct sender *s)
{
	uint64_t silent = clock_mono_ms() - s->last_news_ms;

	if (s->stalled || silent <= s->replica->stall_ms)
		return;
	if (s->phase == SENDER_STREAMING && !s->n_flights)
		return;
	s->stalled = true;
	peer_set_state(s->peer, PEER_CONNECTING,
		s->phase == SENDER_GREETING ? "sshd answers, but tandemfs does not run there"
					    : "sshd answers, but tandemfs there does not");
}

/* ---- the round ---- */

/* How long to wait for more before the next batch. */
static int gather_left(const struct sender *s)
{
	uint64_t now = clock_mono_ms(), due = s->filled_ms + GATHER_MS;

	if (s->phase != SENDER_STREAMING || s->replica->config.mode != MODE_ASYNC ||
		s->last_batch >= GATHER_BELOW || atomic_load(&s->replica->sync_waiters) > 0)
		return 0;
	return due > now ? (int)(due - now) : 0;
}

static int turn_timeout(const struct sender *s, int timeout_ms)
{
	uint64_t now = clock_mono_ms();
	uint64_t due = ack_due(s);
	int until_ack = due > now ? (int)(due - now) : 0;
	int gather = gather_left(s);

	if (gather > 0 && gather < timeout_ms)
		timeout_ms = gather;
	if (s->ack_reading || until_ack > timeout_ms)
		return timeout_ms;
	return until_ack;
}

static int stream(struct sender *s)
{
	uint64_t passed = s->passed;
	int r = outgoing_collect(s);

	if (r == 0)
		r = outgoing_early(s);
	if (r < 0 || gather_left(s) > 0)
		return r;
	r = outgoing_fill(s);
	if (s->passed != passed) {
		s->filled_ms = clock_mono_ms();
		s->last_batch = s->out.len;
	}
	return r < 0 ? r : write_out(s);
}

static int round_online(struct sender *s, int timeout_ms)
{
	int r = s->phase == SENDER_STREAMING ? stream(s) : 0;

	if (s->phase == SENDER_PLAIN)
		return plain_turn(s->plain, timeout_ms, s->poll);
	if (r == 0)
		r = request_ack(s);
	if (r == 0)
		r = s->remote->ops->turn(s->remote, turn_timeout(s, timeout_ms),
			gather_left(s) > 0 ? s->wake : s->poll);
	if (r == 0)
		r = check_log(s);
	if (r == 0)
		r = read_ack(s);
	if (r == 0 && s->phase == SENDER_STREAMING)
		publish_position(s);
	if (r == 0)
		check_stall(s);
	return r;
}

static int wait_offline(struct sender *s, int timeout_ms)
{
	uint64_t now = clock_mono_ms();
	struct pollfd pfd = {.fd = s->wake, .events = POLLIN};

	if (now >= s->retry_at)
		return 0;
	if ((uint64_t)timeout_ms > s->retry_at - now)
		timeout_ms = (int)(s->retry_at - now);
	if (timeout_ms > 0 && s->replica->threaded)
		(void)poll(&pfd, 1, timeout_ms);
	return -EAGAIN;
}

void sender_turn(struct sender *s, int timeout_ms)
{
	int r;

	if (s->journal_wake < 0) {
		r = journal_watch(s->replica->journal, &s->journal_wake);
		if (r == 0)
			r = watch(s, s->journal_wake);
		if (r < 0)
			log_warning("sender: cannot watch the journal: %s", strerror(-r));
	}
	drain_wakes(s);
	if (s->phase == SENDER_OFFLINE) {
		if (wait_offline(s, timeout_ms) == 0)
			go_online(s);
		return;
	}
	r = round_online(s, timeout_ms);
	if (r == -ECANCELED)
		return; /* dropped, with its reason */
	if (r < 0)
		drop_for(s, r);
}
