/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A thread follows the stage: it opens files that have become large, and keeps a digest of each
 * that follows its growth in steps. When the operation comes that makes the file visible, only the
 * rest has to be read. It sleeps in inotify while nothing grows, and looks every PACE_MS otherwise:
 * an event for each block that arrives would be too many.
 *
 * Bytes are taken for final once the file has grown past them. The sender writes each staged file
 * once, front to back, under a name of its own. Whoever has the account can change them later, or
 * could so far: a descriptor that was opened in time outlives any renaming out of the stage. That
 * gains nothing, since the account may as well send other bytes with their right digest. What
 * the digest is for, damage on the way, it finds as before, for each byte is read back from the
 * file after it came. When a digest of here does not fit, the file is read again as a whole
 * (apply_source.c): a wrong guess here costs time and nothing else.
 *
 * A file is known by its inode. The descriptor that is kept makes sure that the number is not used
 * again.
 */

#include "digest_staged.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/durable.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <utlist.h>

#define STEP (1u << 20)
#define PACE_MS 20
#define IDLE_ROUNDS 50 /* without growth, before it sleeps */
/* Nobody has more under way; whoever fills the stage with more is not followed. */
#define FILES_MAX 64
#define NAMES_MAX 1024

struct file {
	struct file *next;
	ino_t ino;
	int fd;
	struct digest *digest; /* NULL: it cannot be read, or became shorter */
	uint64_t done;
};

struct digest_staged {
	char *name; /* of the digest */
	int stage, notify, stop;
	uint8_t *room; /* STEP bytes, of whoever does the round */
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	/* guarded by lock */
	struct file *files;
	unsigned n_files;
};

static void drop_locked(struct digest_staged *s, struct file *f)
{
	LL_DELETE(s->files, f);
	s->n_files--;
	cleanup_close(&f->fd);
	digest_free(f->digest);
	free(f);
}

static struct file *find_locked(struct digest_staged *s, ino_t ino)
{
	struct file *f;

	LL_FOREACH (s->files, f)
		if (f->ino == ino)
			return f;
	return NULL;
}

/* ---- which files ---- */

static bool is_followed(const struct stat *st)
{
	return S_ISREG(st->st_mode) && st->st_nlink == 1 && st->st_size >= DIGEST_STAGED_MIN;
}

static int add_locked(struct digest_staged *s, const char *name)
{
	_cleanup_close_ int fd =
		openat(s->stage, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct file *f;
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!is_followed(&st) || find_locked(s, st.st_ino))
		return 0;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	r = digest_new(s->name, &f->digest);
	if (r < 0) {
		free(f);
		return r;
	}
	f->ino = st.st_ino;
	f->fd = steal_fd(&fd);
	LL_PREPEND(s->files, f);
	s->n_files++;
	return 0;
}

static void look_at(struct digest_staged *s, const char *name)
{
	struct stat st;
	int r = 0;

	if (fstatat(s->stage, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !is_followed(&st))
		return;
	(void)pthread_mutex_lock(&s->lock);
	if (s->n_files < FILES_MAX && !find_locked(s, st.st_ino))
		r = add_locked(s, name);
	(void)pthread_mutex_unlock(&s->lock);
	if (r < 0 && r != -ENOENT)
		log_debug("stage: %s is not read ahead: %s", name, strerror(-r));
}

static void scan(struct digest_staged *s)
{
	_cleanup_closedir_ DIR *d = NULL;
	struct dirent *e;

	if (confine_opendir(s->stage, "", &d) < 0)
		return;
	for (unsigned n = 0; n < NAMES_MAX && (e = readdir(d)); n++)
		if (e->d_name[0] != '.')
			look_at(s, e->d_name);
}

static void drop_deleted(struct digest_staged *s)
{
	struct file *f, *next;
	struct stat st;

	(void)pthread_mutex_lock(&s->lock);
	LL_FOREACH_SAFE (s->files, f, next)
		if (fstat(f->fd, &st) < 0 || st.st_nlink == 0)
			drop_locked(s, f);
	(void)pthread_mutex_unlock(&s->lock);
}

/* ---- computing ---- */

static struct file *grown_locked(struct digest_staged *s)
{
	struct file *f;
	struct stat st;

	LL_FOREACH (s->files, f)
		if (f->digest && fstat(f->fd, &st) == 0 && (uint64_t)st.st_size >= f->done + STEP)
			return f;
	return NULL;
}

/* The lock is held meanwhile: who takes the digest waits for a step at most. */
static bool do_step(struct digest_staged *s)
{
	struct file *f;
	int r;

	(void)pthread_mutex_lock(&s->lock);
	f = grown_locked(s);
	if (f) {
		r = pread_all(f->fd, s->room, STEP, (off_t)f->done);
		if (r == 0)
			r = digest_update(f->digest, s->room, STEP);
		if (r < 0) {
			digest_free(f->digest);
			f->digest = NULL;
		}
		f->done += STEP;
	}
	(void)pthread_mutex_unlock(&s->lock);
	return f != NULL;
}

bool digest_staged_round(struct digest_staged *s)
{
	bool worked = false;

	drop_deleted(s);
	scan(s);
	while (do_step(s))
		worked = true;
	return worked;
}

bool digest_staged_take(struct digest_staged *s, ino_t ino, const char *name, struct digest **ret,
	uint64_t *ret_done)
{
	struct file *f;
	bool found = false;

	(void)pthread_mutex_lock(&s->lock);
	f = find_locked(s, ino);
	if (f) {
		found = f->digest && f->done > 0 && strcasecmp(name, s->name) == 0;
		if (found) {
			*ret = steal_pointer(&f->digest);
			*ret_done = f->done;
		}
		drop_locked(s, f);
	}
	(void)pthread_mutex_unlock(&s->lock);
	return found;
}

/* ---- the thread ---- */

/* Sleeps for a moment, or until something is written. False when it is time to end. */
static bool rest(struct digest_staged *s, bool moment)
{
	struct pollfd fds[2] = {
		{.fd = s->stop, .events = POLLIN}, {.fd = s->notify, .events = POLLIN}};
	char events[4096];

	if (poll(fds, moment ? 1 : 2, moment ? PACE_MS : -1) < 0 && errno != EINTR) {
		log_warning("stage: poll: %s", strerror(errno));
		return false;
	}
	while (!moment && read(s->notify, events, sizeof(events)) > 0)
		;
	return fds[0].revents == 0;
}

static void *follow(void *arg)
{
	struct digest_staged *s = arg;
	unsigned idle = 0;

	do {
		if (idle > IDLE_ROUNDS || digest_staged_round(s))
			idle = 0; /* woken, or at work */
		else
			idle++;
	} while (rest(s, idle <= IDLE_ROUNDS));
	return NULL;
}

/* ---- making ---- */

static int watch(struct digest_staged *s, int stage)
{
	char path[64];

	s->stage = fcntl(stage, F_DUPFD_CLOEXEC, 0);
	s->notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	s->stop = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (s->stage < 0 || s->notify < 0 || s->stop < 0)
		return -errno;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", s->stage);
	return inotify_add_watch(s->notify, path, IN_MODIFY) < 0 ? -errno : 0;
}

static int check_name(const char *name)
{
	_cleanup_digest_ struct digest *d = NULL;

	return digest_new(name, &d);
}

int digest_staged_new(const char *name, int stage, bool threaded, struct digest_staged **ret)
{
	struct digest_staged *s;
	int r = check_name(name);

	if (r < 0)
		return r;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->stage = s->notify = s->stop = -1;
	(void)pthread_mutex_init(&s->lock, NULL);
	s->name = strdup(name);
	s->room = malloc(STEP);
	r = s->name && s->room ? watch(s, stage) : -ENOMEM;
	if (r == 0 && threaded) {
		r = -pthread_create(&s->thread, NULL, follow, s);
		s->started = r == 0;
	}
	if (r < 0) {
		digest_staged_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void digest_staged_free(struct digest_staged *s)
{
	uint64_t one = 1;

	if (!s)
		return;
	if (s->started) {
		if (write(s->stop, &one, sizeof(one)) < 0)
			log_error("stage: cannot stop: %s", strerror(errno));
		(void)pthread_join(s->thread, NULL);
	}
	while (s->files)
		drop_locked(s, s->files);
	cleanup_close(&s->stage);
	cleanup_close(&s->notify);
	cleanup_close(&s->stop);
	free(s->name);
	free(s->room);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}
