/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The spools of this node: a thread watches .tandemfs/in for new ones and starts a receiver thread
 * for each, which sleeps until inotify says that something was written there. A look once a second
 * makes up for events that were lost.
 */

#include "filled.h"
#include "receiver.h"
#include "room.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <utlist.h>

#define SPOOLS_MAX 16

struct spool {
	struct spool *next;
	struct inbound *inbound;
	char id[WIRE_ID_LEN + 1];
	struct receiver *receiver;
	int notify;
	pthread_t thread;
	bool started;
};

struct inbound {
	struct replica *replica;
	struct spool *spools; /* touched by the inbound thread, and after it has ended */
	unsigned n_spools;
	int notify;
	int stop; /* eventfd, stays readable once written: ends all threads */
	pthread_t thread;
	bool started;
};

int inbound_new(struct replica *r, struct inbound **ret)
{
	struct inbound *in = calloc(1, sizeof(*in));
	int e = 0;

	if (!in)
		return -ENOMEM;
	in->replica = r;
	in->notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	in->stop = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (in->notify < 0 || in->stop < 0)
		e = -errno;
	if (e < 0) {
		inbound_free(in);
		return e;
	}
	*ret = in;
	return 0;
}

/* Follows a directory by its descriptor: names above it may change. */
static int watch_dir(int notify, int dir, uint32_t mask)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", dir);
	return inotify_add_watch(notify, path, mask) < 0 ? -errno : 0;
}

/* Waits for an event, the stop or a second, and throws the events away: a turn looks at everything.
 * False when it is time to end. */
static bool wait_for_events(int notify, int stop, int timeout_ms)
{
	struct pollfd fds[2] = {{.fd = notify, .events = POLLIN}, {.fd = stop, .events = POLLIN}};
	char events[4096];

	if (poll(fds, 2, timeout_ms) < 0 && errno != EINTR)
		log_warning("inotify: poll: %s", strerror(errno));
	if (fds[1].revents)
		return false;
	while (read(notify, events, sizeof(events)) > 0)
		;
	return true;
}

static void *spool_thread(void *arg)
{
	struct spool *s = arg;

	do {
		while (receiver_turn(s->receiver) && !atomic_load(&s->inbound->replica->closing))
			;
	} while (wait_for_events(s->notify, s->inbound->stop, s->receiver->parked ? 200 : 1000));
	return NULL;
}

static void free_spool(struct spool *s)
{
	if (s->started)
		(void)pthread_join(s->thread, NULL);
	receiver_free(s->receiver);
	cleanup_close(&s->notify);
	free(s);
}

static int start_spool(struct spool *s)
{
	int e;

	s->notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (s->notify < 0)
		return -errno;
	e = watch_dir(s->notify, s->receiver->dir, IN_MODIFY | IN_CREATE | IN_MOVED_TO);
	if (e < 0 || !s->inbound->replica->threaded)
		return e;
	e = -pthread_create(&s->thread, NULL, spool_thread, s);
	s->started = e == 0;
	return e;
}

static int add_spool(struct inbound *in, const char *id)
{
	struct spool *s;
	int e, dir = openat(
		       in->replica->spool, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (dir < 0)
		return -errno;
	s = calloc(1, sizeof(*s));
	if (!s) {
		(void)close(dir);
		return -ENOMEM;
	}
	s->inbound = in;
	s->notify = -1;
	memcpy(s->id, id, WIRE_ID_LEN); /* the caller has looked at the length */
	e = receiver_new(in->replica, id, dir, &s->receiver);
	if (e < 0)
		(void)close(dir);
	else
		e = start_spool(s);
	if (e < 0) {
		free_spool(s);
		return e;
	}
	LL_PREPEND(in->spools, s);
	in->n_spools++;
	return 0;
}

static bool has_spool(const struct inbound *in, const char *id)
{
	const struct spool *s;

	LL_FOREACH (in->spools, s)
		if (strcmp(s->id, id) == 0)
			return true;
	return false;
}

static void scan(struct inbound *in)
{
	_cleanup_closedir_ DIR *d = NULL;
	int opened = confine_opendir(in->replica->spool, "", &d);
	struct dirent *e;

	if (opened < 0) {
		log_error("cannot read .tandemfs/in: %s", strerror(-opened));
		return;
	}
	while ((e = readdir(d))) {
		int r;

		if (strlen(e->d_name) != WIRE_ID_LEN ||
			strspn(e->d_name, "0123456789abcdef") != WIRE_ID_LEN ||
			has_spool(in, e->d_name))
			continue;
		if (in->n_spools == SPOOLS_MAX) {
			log_warning("more than %d nodes write here; %s is not heard", SPOOLS_MAX,
				e->d_name);
			return;
		}
		r = add_spool(in, e->d_name);
		if (r < 0)
			log_error("spool %s: %s", e->d_name, strerror(-r));
	}
}

static void *inbound_thread(void *arg)
{
	struct inbound *in = arg;

	do {
		scan(in);
		filled_look(in->replica);
		room_look(in->replica);
	} while (wait_for_events(in->notify, in->stop, 1000));
	return NULL;
}

int inbound_start(struct inbound *in)
{
	int e = watch_dir(in->notify, in->replica->spool, IN_CREATE | IN_MOVED_TO);

	if (e == 0)
		e = -pthread_create(&in->thread, NULL, inbound_thread, in);
	in->started = e == 0;
	return e;
}

void inbound_stop(struct inbound *in)
{
	uint64_t one = 1;

	if (write(in->stop, &one, sizeof(one)) < 0)
		log_error("inbound: cannot stop: %s", strerror(errno));
	if (in->started)
		(void)pthread_join(in->thread, NULL);
	in->started = false;
}

void inbound_free(struct inbound *in)
{
	struct spool *s, *next;

	if (!in)
		return;
	LL_FOREACH_SAFE (in->spools, s, next)
		free_spool(s);
	cleanup_close(&in->notify);
	cleanup_close(&in->stop);
	free(in);
}

bool inbound_turn(struct inbound *in)
{
	struct spool *s;
	bool done = false;

	scan(in);
	LL_FOREACH (in->spools, s)
		done |= receiver_turn(s->receiver);
	return done;
}
