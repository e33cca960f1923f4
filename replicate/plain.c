/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The session with a plain peer: a directory behind an SFTP server on which no tandemfs runs.
 *
 * Nobody there keeps our position, so it is kept here (plain_state.c): `applied`, and `attempted`
 * up to which ops may have been begun. After a crash or a cut the ops between the two are settled
 * (plain_settle.c); beyond them the journal is replayed op by op (plain_apply.c).
 *
 * The marker ROOT/.tandemfs/plain names this node and a number that changes with each session:
 *
 *     tandemfs-plain 1
 *     id HEX           of the node
 *     name NAME
 *     session HEX
 *
 * It tells a directory that is not the copy (a disk that is not mounted there), one that another
 * node writes to, and a state here that is older than the copy. In the last case, and at the first
 * contact, both trees are compared (plain_scan.c). The new number is saved here as `next` before
 * the marker is written, and as `session` after.
 */

#include "plain.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/log.h"
#include "bulk.h"
#include "digest.h"
#include "resync.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

/* So long a directory without a node file is not taken for a plain peer: tandemfs may be about to
 * start there. */
#define GRACE_MS 4000
#define LOOK_MS 2000
/* Ops that may be done before the times of their directories are. */
#define FLUSH_OPS 200

/* ---- making ---- */

int plain_new(struct peer *peer, struct bulk *bulk, struct plain **ret)
{
	struct plain *p = calloc(1, sizeof(*p));
	int r = p ? 0 : -ENOMEM;

	if (!p)
		return r;
	p->peer = peer;
	p->replica = peer->replica;
	p->bulk = bulk;
	(void)pthread_mutex_init(&p->lock, NULL);
	if (asprintf(&p->root, "%s", peer->config->path) < 0)
		p->root = NULL;
	if (asprintf(&p->tmp, "%s/" TANDEMFS_DIR "/" PLAIN_TMP, peer->config->path) < 0)
		p->tmp = NULL;
	if (!p->root || !p->tmp)
		r = -ENOMEM;
	if (r == 0)
		r = plain_state_load(p->replica, peer->config->url, &p->state);
	if (r == -EBADMSG) {
		log_warning("%s: what is remembered of this peer is damaged: the trees will be "
			    "compared",
			peer->config->url);
		r = 0;
	}
	if (r < 0) {
		plain_free(p);
		return r;
	}
	for (unsigned i = 0; i < PLAIN_COUNTS; i++)
		atomic_init(&p->counts[i], p->state.counts[i]);
	peer->is_plain = p->state.session != 0;
	*ret = p;
	return 0;
}

void plain_reset(struct plain *p)
{
	while (p->items)
		plain_item_free(p, p->items);
	plain_scan_free(p);
	if (p->cursor)
		journal_reader_close(p->cursor);
	p->cursor = NULL;
	p->at_end = false;
	p->retry_at = 0;
	paths_clear(&p->fresh);
}

static int save(struct plain *p, enum plain_save how)
{
	for (unsigned i = 0; i < PLAIN_COUNTS; i++)
		p->state.counts[i] = atomic_load(&p->counts[i]);
	p->unsaved = false;
	return plain_state_save(p->replica, p->peer->config->url, &p->state, how);
}

void plain_free(struct plain *p)
{
	int r = 0;

	if (!p)
		return;
	plain_reset(p);
	paths_clear(&p->skipped);
	paths_clear(&p->dirs);
	paths_clear(&p->mixed);
	if (p->state.session && p->peer->is_plain && p->replica->journal) {
		r = journal_sync(p->replica->journal, journal_head(p->replica->journal));
		if (r == 0)
			r = save(p, PLAIN_SAVE_CLEAN);
	}
	if (r < 0)
		log_warning("%s: cannot save the position: %s; the trees will be compared",
			p->peer->config->url, strerror(-r));
	(void)pthread_mutex_destroy(&p->lock);
	free(p->root);
	free(p->tmp);
	free(p);
}

/* ---- the marker ---- */

struct marker {
	bool there;
	char id[WIRE_ID_LEN + 1], name[65];
	uint64_t session;
};

static int below_control(const struct plain *p, const char *name, char **ret)
{
	return asprintf(ret, "%s/" TANDEMFS_DIR "%s%s", p->root, name[0] ? "/" : "", name) < 0
		       ? -ENOMEM
		       : 0;
}

/* One that is empty was made by hand, to say that this is the place. */
static int read_marker(struct plain *p, struct remote *remote, struct marker *ret)
{
	_cleanup_free_ char *path = NULL, *text = NULL;
	struct marker m = {.there = true};
	unsigned long long session = 0;
	size_t len;
	int r = below_control(p, PLAIN_MARKER, &path);

	if (r == 0)
		r = remote->ops->get(remote, path, 4096, &text, &len);
	if (r == -ENOENT) {
		*ret = (struct marker){0};
		return 0;
	}
	if (r < 0)
		return r;
	if (len > 0 && sscanf(text, "tandemfs-plain 1\nid %32s\nname %64[^\n]\nsession %llx", m.id,
			       m.name, &session) != 3)
		return -EBADMSG;
	m.session = session;
	*ret = m;
	return 0;
}

static int write_marker(struct plain *p, uint64_t session)
{
	_cleanup_free_ char *path = NULL, *text = NULL;
	int r = below_control(p, PLAIN_MARKER, &path);

	if (r == 0 && asprintf(&text, "tandemfs-plain 1\nid %s\nname %s\nsession %llx\n",
			      p->replica->node.id, p->replica->node.name,
			      (unsigned long long)session) < 0) {
		text = NULL;
		r = -ENOMEM;
	}
	return r < 0 ? r : p->remote->ops->put(p->remote, path, text, strlen(text));
}

/* ---- whether it is one ---- */

static bool exists(struct remote *remote, const char *path)
{
	struct stat st;

	return remote->ops->stat(remote, path, &st) == 0;
}

static int decide_without_marker(
	struct plain *p, struct remote *remote, uint64_t since_ms, char **ret_error)
{
	const char *url = p->peer->config->url;
	_cleanup_free_ char *control = NULL;
	int r = below_control(p, "", &control);

	if (r < 0)
		return r;
	if (!exists(remote, p->root))
		return say(ret_error, -EAGAIN, "%s: there is no directory %s there: make it", url,
			p->root);
	if (p->state.session)
		return say(ret_error, -EAGAIN,
			"%s: the plain copy of this node is no longer in %s (no .tandemfs/plain "
			"there): is a disk not mounted there? To make the copy anew, make an empty "
			"file .tandemfs/plain there",
			url, p->root);
	if (p->state.next)
		return 0; /* we were about to begin */
	if (exists(remote, control))
		return say(ret_error, -EAGAIN,
			"%s: there is no .tandemfs/node: start tandemfs there first, over this "
			"backing directory; or, if that is to be a plain copy, make an empty file "
			".tandemfs/plain there",
			url);
	if (clock_mono_ms() - since_ms < GRACE_MS)
		return say(ret_error, -EAGAIN,
			"%s: there is no .tandemfs/node: if tandemfs does not start there now, it "
			"is taken for a plain copy",
			url);
	return 0;
}

int plain_decide(struct plain *p, struct remote *remote, uint64_t since_ms, char **ret_error,
	enum peer_state *ret_state)
{
	const char *url = p->peer->config->url;
	struct marker m;
	int r = read_marker(p, remote, &m);

	if (r == -EBADMSG)
		return say(ret_error, r, "%s: its .tandemfs/plain is damaged: remove it", url);
	if (r < 0)
		return r;
	if (!m.there)
		return decide_without_marker(p, remote, since_ms, ret_error);
	if (m.id[0] && strcmp(m.id, p->replica->node.id) != 0) {
		*ret_state = PEER_REFUSED;
		return say(ret_error, -EBUSY,
			"%s is the plain copy of node %s (%s) already, and one node only may write "
			"to it: use another directory; if that node is gone, make "
			".tandemfs/plain there an empty file",
			url, m.name, m.id);
	}
	return 0;
}

/* ---- beginning ---- */

static int make_control(struct plain *p, char **ret_error)
{
	static const char *const names[] = {"", PLAIN_TMP};
	int r = plain_remove_tree(p, p->tmp);

	for (int i = 0; i < 2 && (r == 0 || r == -EEXIST); i++) {
		_cleanup_free_ char *path = NULL;

		r = below_control(p, names[i], &path);
		if (r == 0)
			r = p->remote->ops->mkdir(p->remote, path, 0700);
	}
	if (r == 0 || r == -EEXIST)
		return 0;
	return say(ret_error, r,
		"%s: cannot make %s there: %s: the account that logs in must be allowed to write "
		"in %s, and the file system must not be full or read-only",
		p->peer->config->url, p->tmp, strerror(-r), p->root);
}

static int start_cursor(struct plain *p)
{
	struct position applied = {.high = p->state.applied};
	int r = journal_reader_open(p->replica->journal, p->state.applied + 1, &p->cursor);

	if (r < 0)
		return r;
	p->passed = p->done = p->state.applied;
	(void)pthread_mutex_lock(&p->replica->lock);
	pending_rewind(p->peer->pending, &applied);
	(void)pthread_mutex_unlock(&p->replica->lock);
	return 0;
}

static bool is_kept(const struct plain *p, uint64_t seq)
{
	return seq >= journal_tail(p->replica->journal) &&
	       seq <= journal_head(p->replica->journal) + 1;
}

/* Whether the journal and what is remembered tell what the peer has. */
static bool is_known(const struct plain *p, const struct marker *m)
{
	const struct plain_state *s = &p->state;

	return s->synced && s->session && (m->session == s->session || m->session == s->next) &&
	       is_kept(p, s->applied + 1);
}

/* From where ops are to be settled once the trees were compared: as early as is known, for what was
 * removed here since would else stay there. */
static uint64_t scan_from(const struct plain *p)
{
	const struct plain_state *s = &p->state;

	if (s->scan_from && is_kept(p, s->scan_from))
		return s->scan_from;
	if (s->synced && is_kept(p, s->applied + 1))
		return s->applied + 1;
	return journal_settled(p->replica->journal) + 1;
}

/* Whether somebody asks for a comparison: `tandemfs resync`, or a state of this node that is not to
 * be trusted. */
static bool is_scan_wanted(struct plain *p)
{
	bool wanted;

	(void)pthread_mutex_lock(&p->replica->lock);
	wanted = p->peer->plain_rescan || p->peer->resync_needed;
	(void)pthread_mutex_unlock(&p->replica->lock);
	return wanted;
}

static int take_over(struct plain *p, char **ret_error)
{
	struct marker m;
	uint64_t head = journal_head(p->replica->journal);
	int r = read_marker(p, p->remote, &m);

	if (r == 0)
		r = digest_random(&p->state.next, sizeof(p->state.next));
	if (r < 0)
		return r;
	if (!is_known(p, &m) || is_scan_wanted(p)) {
		p->state.scan_from = scan_from(p);
		p->state.synced = false;
	}
	p->zone_end = p->state.attempted < head ? p->state.attempted : head;
	r = save(p, PLAIN_SAVE_SYNC);
	if (r == 0)
		r = make_control(p, ret_error);
	if (r == 0)
		r = plain_probe(p);
	if (r == 0)
		r = write_marker(p, p->state.next);
	if (r < 0)
		return r;
	p->state.session = p->state.next;
	return save(p, PLAIN_SAVE_FAST);
}

static void tell_kind(struct plain *p)
{
	bool news = !p->peer->is_plain;

	(void)pthread_mutex_lock(&p->replica->lock);
	p->peer->is_plain = true;
	(void)pthread_mutex_unlock(&p->replica->lock);
	if (news)
		log_notice("%s is a plain peer: a copy, one way", p->peer->config->url);
	if (!(p->features & REMOTE_REPLACES))
		log_notice("%s: its server has no posix-rename: a file that is replaced is missing "
			   "there for a moment",
			peer_label(p->peer));
}

int plain_begin(
	struct plain *p, struct remote *remote, char **ret_error, enum peer_state *ret_state)
{
	int r;

	p->remote = remote;
	p->features = remote->ops->features(remote);
	(void)pthread_mutex_lock(&p->lock);
	p->n_refused = 0;
	(void)pthread_mutex_unlock(&p->lock);
	p->retry_at = 0;
	p->looked_at = clock_mono_ms();
	*ret_state = PEER_CONNECTING;
	r = take_over(p, ret_error);
	if (r < 0)
		return r;
	tell_kind(p);
	p->catching_up = true;
	p->catch_up_known = false;
	r = p->state.synced ? start_cursor(p) : plain_scan_start(p);
	if (r == 0)
		peer_set_state(p->peer, PEER_CATCHING_UP, NULL);
	return r;
}

void plain_turned_active(struct plain *p)
{
	int r = plain_state_remove(p->replica, p->peer->config->url);

	if (r < 0)
		log_warning(
			"%s: cannot forget the position: %s", p->peer->config->url, strerror(-r));
	p->state = (struct plain_state){0};
	(void)pthread_mutex_lock(&p->replica->lock);
	p->peer->is_plain = false;
	(void)pthread_mutex_unlock(&p->replica->lock);
	log_notice("%s was a plain peer; tandemfs runs there now", p->peer->config->url);
}

/* ---- the round ---- */

static int end_scan(struct plain *p)
{
	int r = plain_flush_dirs(p);

	if (r < 0)
		return r;
	log_notice("%s: compared %llu names; %llu are only there", peer_label(p->peer),
		(unsigned long long)plain_scan_done(p),
		(unsigned long long)atomic_load(&p->counts[PLAIN_ONLY_THERE]));
	plain_scan_free(p);
	p->state.synced = p->state.met = true;
	p->state.applied = p->state.scan_from - 1;
	p->state.scan_from = 0;
	p->state.attempted = UINT64_MAX;
	p->zone_end = journal_head(p->replica->journal);
	r = save(p, PLAIN_SAVE_FAST);
	if (r == 0)
		r = start_cursor(p);
	if (r < 0)
		return r;
	(void)pthread_mutex_lock(&p->replica->lock);
	p->peer->plain_rescan = false;
	(void)pthread_mutex_unlock(&p->replica->lock);
	resync_is_done(p->peer);
	return 0;
}

static int scan_turn(struct plain *p)
{
	int r;

	if (p->retry_at > clock_mono_ms())
		return 0;
	r = plain_scan_step(p);
	if (r == 1) {
		r = end_scan(p);
		return r < 0 ? r : 1;
	}
	if (r == 0) {
		plain_unstuck(p);
		return p->n_items == 0;
	}
	if (!plain_refused(p, r))
		return r;
	plain_stuck(p, &(struct op){.type = OP_CONTENT, .path = (char *)plain_scan_path(p)}, r);
	return 0;
}

static int work(struct plain *p)
{
	int r = plain_collect(p), did = 0;

	if (r == 0 && !p->scan)
		r = plain_fill(p);
	if (r == 0)
		r = did = plain_commit(p);
	if (r >= 0 && p->scan) {
		r = scan_turn(p);
		did |= r > 0;
	}
	return r < 0 ? r : did;
}

static int flush(struct plain *p)
{
	int r = 0;

	if (p->scan || !p->dirs.table || (p->n_items && p->unflushed < FLUSH_OPS))
		return 0;
	r = plain_flush_dirs(p);
	p->unflushed = 0;
	return r < 0 && !plain_refused(p, r) ? r : 0;
}

static int save_position(struct plain *p, const struct position *pos)
{
	uint64_t applied = position_contiguous(pos);

	/* what is saved as done has the times of its directories */
	if (p->dirs.table || applied == p->state.applied)
		return p->unsaved && !p->items ? save(p, PLAIN_SAVE_FAST) : 0;
	p->state.applied = applied;
	return save(p, PLAIN_SAVE_FAST);
}

static void fill_status(struct plain *p, struct plain_status *ret)
{
	*ret = (struct plain_status){
		.comparing = p->scan != NULL,
		.compared = plain_scan_done(p),
		.replaces = p->features & REMOTE_REPLACES,
		.hard_links = p->features & REMOTE_HARDLINK,
		.link_attrs = p->features & REMOTE_LSETATTR,
		.fsync = p->features & REMOTE_FSYNC,
		.check = plain_check_name(p),
	};
	for (unsigned i = 0; i < PLAIN_COUNTS; i++)
		ret->counts[i] = atomic_load(&p->counts[i]);
}

static bool caught_up(struct plain *p, const struct position *pos)
{
	if (p->scan || !p->catching_up)
		return false;
	if (p->at_end && !p->catch_up_known) {
		p->catch_up_to = p->passed;
		p->catch_up_known = true;
	}
	if (!p->catch_up_known || position_contiguous(pos) < p->catch_up_to || p->retry_at)
		return false;
	p->catching_up = false;
	return true;
}

/* With plain peers only there is nobody whose changes could meet ours. */
static void drop_unseen_locked(struct replica *r, uint64_t upto)
{
	for (size_t i = 0; i < r->n_peers; i++)
		if (!r->peers[i].is_plain)
			return;
	unseen_drop(r->unseen, upto);
}

static int publish(struct plain *p)
{
	struct peer *peer = p->peer;
	struct position pos = p->scan ? peer->applied : plain_position(p);
	bool moved, in_sync = caught_up(p, &pos);
	int r = p->scan ? 0 : save_position(p, &pos);

	if (r < 0)
		return r;
	(void)pthread_mutex_lock(&p->replica->lock);
	moved = pos.high != peer->applied.high || pos.n_missing != peer->applied.n_missing ||
		p->durable != peer->durable;
	peer->applied = pos;
	pending_acked(peer->pending, &pos);
	drop_unseen_locked(p->replica, position_contiguous(&pos));
	peer->durable = p->durable;
	if (position_contiguous(&pos) >= replica_head(p->replica))
		peer->oldest_time = 0;
	else if (p->items)
		peer->oldest_time = p->items->logged;
	fill_status(p, &peer->plain);
	if (moved)
		(void)pthread_cond_broadcast(&p->replica->changed);
	(void)pthread_mutex_unlock(&p->replica->lock);
	if (in_sync) {
		paths_clear(&p->fresh);
		paths_clear(&p->mixed);
		peer_set_state(peer, PEER_IN_SYNC, NULL);
	}
	if (moved) {
		changes_flush(p->replica->changes);
		replica_trim(p->replica);
	}
	return 0;
}

/* Somebody may start tandemfs there, or ask for a comparison. */
static int look_for_node(struct plain *p)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;
	int r;

	if (clock_mono_ms() < p->looked_at + LOOK_MS)
		return 0;
	p->looked_at = clock_mono_ms();
	r = below_control(p, "node", &path);
	if (r == 0)
		r = p->remote->ops->stat(p->remote, path, &st);
	if (r == 0)
		return -ERESTART;
	if (!p->scan && is_scan_wanted(p))
		return -ERESTART;
	return plain_refused(p, r) ? 0 : r;
}

static int time_to_wait(const struct plain *p, int timeout_ms)
{
	uint64_t now = clock_mono_ms();

	if (p->retry_at && p->retry_at < now + (uint64_t)timeout_ms)
		return p->retry_at > now ? (int)(p->retry_at - now) : 0;
	return timeout_ms;
}

int plain_turn(struct plain *p, int timeout_ms, int wake_fd)
{
	int did = work(p), r;

	r = did < 0 ? did : flush(p);
	if (r == 0)
		r = publish(p);
	if (r == 0)
		r = look_for_node(p);
	return r < 0 ? r
		     : p->remote->ops->turn(
			       p->remote, did ? 0 : time_to_wait(p, timeout_ms), wake_fd);
}
