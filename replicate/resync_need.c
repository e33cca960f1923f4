/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Why and when the reconciler runs by itself. STATE/resync remembers it until it is done: a line
 * for each peer, "URL REASON[,REASON]". STATE/running holds the boot id of the start that has not
 * ended in order: when another one is found there, the machine went down under us.
 *
 *     pairing   the node with the smaller id, at the first contact with a peer
 *     power     whoever was cut off
 *     restored  whoever was restored from a backup: finds that its peer has changes of it which its
 *               own journal does not know. A number must not mean two things, so the journal's
 *               numbers go on above them.
 *     forgotten whose peer has gone back to what it was, which only the peer's own changes show it
 *     seed      whoever was started with -o seed
 *     journal   whose journal has dropped what a peer lacks
 */

#include "resync.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/durable.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

#define NEED_FILE "resync"
#define RUNNING_FILE "running"
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define FILE_MAX (1u << 20)
#define LOOK_MS 1000
#define RETRY_MS 5000

static const struct reason {
	unsigned bit;
	const char *name, *text;
} reasons[] = {
	{RESYNC_PAIRING, "pairing", "first pairing"},
	{RESYNC_POWER, "power", "this machine went down while mounted"},
	{RESYNC_RESTORED, "restored", "this node's state is older than what the peer has of it"},
	{RESYNC_FORGOTTEN, "forgotten", "the peer has forgotten what it had"},
	{RESYNC_SEED, "seed", "this backing directory is to be filled from the peer"},
	{RESYNC_JOURNAL, "journal", "the journal no longer has what the peer lacks"},
};
#define N_REASONS (sizeof(reasons) / sizeof(*reasons))

/* ---- the file ---- */

static void print_reasons(FILE *f, unsigned needed)
{
	const char *comma = "";

	for (size_t i = 0; i < N_REASONS; i++) {
		if (!(needed & reasons[i].bit))
			continue;
		(void)fprintf(f, "%s%s", comma, reasons[i].name);
		comma = ",";
	}
}

static int write_needs_locked(struct replica *r)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return -ENOMEM;
	for (size_t i = 0; i < r->n_peers; i++) {
		if (!r->peers[i].resync_needed)
			continue;
		(void)fprintf(f, "%s ", r->peers[i].config->url);
		print_reasons(f, r->peers[i].resync_needed);
		(void)fputc('\n', f);
	}
	if (fclose(f) != 0)
		return -ENOMEM;
	return durable_replace(r->state, NEED_FILE, text, len, 0600, 1);
}

static void take_line(struct replica *r, char *line)
{
	char *save = NULL, *url = strtok_r(line, " ", &save), *name;
	unsigned needed = 0;

	while (url && (name = strtok_r(NULL, ",", &save)))
		for (size_t i = 0; i < N_REASONS; i++)
			if (strcmp(name, reasons[i].name) == 0)
				needed |= reasons[i].bit;
	for (size_t i = 0; url && i < r->n_peers; i++)
		if (strcmp(r->peers[i].config->url, url) == 0)
			r->peers[i].resync_needed |= needed;
}

static int read_needs(struct replica *r)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL;
	size_t len;
	int e = durable_read(r->state, NEED_FILE, FILE_MAX, &text, &len);

	if (e < 0)
		return e == -ENOENT ? 0 : e;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		take_line(r, line);
	return 0;
}

static int set_needs(struct peer *p, unsigned set, unsigned clear)
{
	struct replica *r = p->replica;
	unsigned before;
	int e = 0;

	(void)pthread_mutex_lock(&r->lock);
	before = p->resync_needed;
	p->resync_needed = (before & ~clear) | set;
	if (clear & RESYNC_JOURNAL)
		p->ignorant_after = 0;
	if (p->resync_needed != before)
		e = write_needs_locked(r);
	(void)pthread_cond_broadcast(&r->changed);
	(void)pthread_mutex_unlock(&r->lock);
	return e;
}

void resync_is_done(struct peer *p)
{
	int e = set_needs(p, 0, ~0u);

	if (e < 0)
		log_warning("state directory: cannot note that nothing is left to reconcile: %s",
			strerror(-e));
}

bool resync_lost_power(struct replica *r, const char *id)
{
	bool lost = false;

	(void)pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < r->n_peers; i++)
		if (strcmp(r->peers[i].node.id, id) == 0)
			lost = r->peers[i].resync_needed & RESYNC_POWER;
	(void)pthread_mutex_unlock(&r->lock);
	return lost;
}

int resync_need(struct peer *p, unsigned reason)
{
	int e = set_needs(p, reason, 0);

	for (size_t i = 0; i < N_REASONS; i++)
		if (reason & reasons[i].bit)
			log_notice(
				"%s is to be reconciled with: %s", peer_label(p), reasons[i].text);
	if (e < 0)
		log_error(
			"state directory: cannot note what is to be reconciled: %s", strerror(-e));
	return e;
}

static int need_all(struct replica *r, unsigned reason)
{
	int e = 0;

	for (size_t i = 0; i < r->n_peers && e == 0; i++)
		e = resync_need(&r->peers[i], reason);
	return e;
}

int resync_restored(struct peer *p, uint64_t high)
{
	struct replica *r = p->replica;
	uint64_t head = journal_head(r->journal);
	int e;

	log_warning(
		"%s has this node's changes up to %llu, the journal here ends at %llu: it is older "
		"than that (a restored backup?), and goes on above",
		peer_label(p), (unsigned long long)high, (unsigned long long)head);
	e = need_all(r, RESYNC_RESTORED);
	if (e == 0)
		e = journal_skip(r->journal, high + 1);
	if (e < 0)
		log_error("journal: cannot go on at %llu: %s", (unsigned long long)high + 1,
			strerror(-e));
	return e;
}

bool resync_is_due(struct peer *p)
{
	struct replica *r = p->replica;
	const struct origin *o;
	bool due;

	(void)pthread_mutex_lock(&r->lock);
	o = p->known ? origin_find_locked(r, p->node.id) : NULL;
	due = (r->threaded || r->pause) && p->resync_needed && p->known && !p->is_plain &&
	      ((o && o->seen) || pairings_has(&r->pairings, true, p->node.id));
	(void)pthread_mutex_unlock(&r->lock);
	return due;
}

char *resync_text_locked(const struct peer *p)
{
	_cleanup_free_ char *text = NULL;
	char *ret = NULL;
	size_t len = 0;
	FILE *f;

	if (p->is_plain || (!p->resync_phase && !p->resync_needed))
		return NULL;
	f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	if (p->resync_phase)
		(void)fprintf(f, "%s, %llu of %llu", p->resync_phase,
			(unsigned long long)p->resync_done, (unsigned long long)p->resync_total);
	else
		(void)fputs("waits for a connection in both directions", f);
	for (size_t i = 0; i < N_REASONS; i++)
		if (p->resync_needed & reasons[i].bit)
			(void)fprintf(f, " (%s)", reasons[i].text);
	if (fclose(f) == 0)
		ret = steal_pointer(&text);
	return ret;
}

/* ---- how the last run ended ---- */

static int read_boot_id(char dst[64])
{
	_cleanup_close_ int fd = open(BOOT_ID, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, dst, 63);

	if (n < 0)
		return -errno;
	dst[n] = '\0';
	return 0;
}

int resync_look_back(struct replica *r)
{
	_cleanup_free_ char *last = NULL;
	char now[64];
	size_t len;
	int e = read_boot_id(now);

	if (e == 0)
		e = durable_read(r->state, RUNNING_FILE, sizeof(now), &last, &len);
	r->lost_power = e == 0 && strcmp(last, now) != 0;
	return e == -ENOENT ? 0 : e;
}

int resync_open(struct replica *r, bool seeded)
{
	uint64_t leapt = 0;
	char now[64];
	int e = read_needs(r);

	if (e == 0)
		e = read_boot_id(now);
	if (e == 0 && r->lost_power)
		e = need_all(r, RESYNC_POWER);
	if (e == 0 && seeded)
		e = need_all(r, RESYNC_SEED);
	/* The next start must not find less of the journal, nor give out the same numbers. */
	if (e == 0 && r->lost_power)
		e = journal_append(r->journal, JOURNAL_NOTE, false, NULL, 0, NULL, 0, &leapt);
	if (e == 0 && r->lost_power)
		e = journal_sync(r->journal, leapt);
	if (e == 0)
		e = durable_replace(r->state, RUNNING_FILE, now, strlen(now), 0600, 1);
	return e;
}

void resync_close(struct replica *r)
{
	if (unlinkat(r->state, RUNNING_FILE, 0) < 0 && errno != ENOENT)
		log_warning("state directory: cannot note the end: %s", strerror(errno));
}

/* ---- the thread ---- */

static void wait_a_moment(struct replica *r)
{
	struct timespec until;

	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LOOK_MS % 1000 * 1000000;
	until.tv_sec += LOOK_MS / 1000 + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	(void)pthread_mutex_lock(&r->lock);
	if (!atomic_load(&r->closing))
		(void)pthread_cond_timedwait(&r->changed, &r->lock, &until);
	(void)pthread_mutex_unlock(&r->lock);
}

/* False: it could not be done now. */
static bool run_for(struct peer *p, unsigned reason)
{
	static const struct resync_config config = {0};
	_cleanup_free_ char *error = NULL;
	int e = resync_run(p->replica, p, &config, &error);

	if (e < 0) {
		if (!atomic_load(&p->replica->closing))
			log_notice("%s; it is tried again", error ?: strerror(-e));
		return false;
	}
	(void)set_needs(p, 0, reason); /* else it is done once more after the next start */
	if (reason & RESYNC_JOURNAL)
		resync_forget_removed(p->replica);
	sender_wake(p->sender);
	return true;
}

static void look_at(struct peer *p, uint64_t *retry_ms)
{
	struct replica *r = p->replica;
	unsigned reason;
	bool plain;

	if (clock_mono_ms() < *retry_ms)
		return;
	(void)pthread_mutex_lock(&r->lock);
	reason = p->resync_needed;
	plain = p->is_plain && p->state == PEER_IN_SYNC;
	(void)pthread_mutex_unlock(&r->lock);
	if (reason && plain) { /* it was compared, in its own way */
		(void)set_needs(p, 0, reason);
		resync_forget_removed(r);
		return;
	}
	if (reason && resync_can_run(p) && !run_for(p, reason))
		*retry_ms = clock_mono_ms() + RETRY_MS;
}

void resync_turn(struct replica *r, uint64_t *retry_ms)
{
	for (size_t i = 0; i < r->n_peers; i++)
		look_at(&r->peers[i], &retry_ms[i]);
}

void *resync_thread(void *replica)
{
	struct replica *r = replica;
	uint64_t *retry_ms = calloc(r->n_peers + 1, sizeof(*retry_ms));

	while (retry_ms && !atomic_load(&r->closing)) {
		resync_turn(r, retry_ms);
		resync_bound_journal(r);
		wait_a_moment(r);
	}
	free(retry_ms);
	return NULL;
}
