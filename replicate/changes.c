/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "changes.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/durable.h"
#include "base/log.h"
#include "replicate.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define CHANGES_MAX (8u << 20)
#define CHANGES_BUFFER (64u << 10)

struct changes {
	int state;
	pthread_mutex_t lock;
	/* guarded by lock */
	int fd;
	uint64_t size;
	struct buf pending;
	bool failing; /* said once */
};

static int open_log(struct changes *c)
{
	struct stat st;
	int fd = openat(
		c->state, REPLICA_CHANGES_LOG, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0) {
		int e = -errno;

		(void)close(fd);
		return e;
	}
	c->fd = fd;
	c->size = (uint64_t)st.st_size;
	return 0;
}

int changes_open(int state, struct changes **ret)
{
	struct changes *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->state = state;
	r = open_log(c);
	if (r < 0) {
		free(c);
		return r;
	}
	(void)pthread_mutex_init(&c->lock, NULL);
	*ret = c;
	return 0;
}

void changes_close(struct changes *c)
{
	if (!c)
		return;
	changes_flush(c);
	(void)close(c->fd);
	buf_clear(&c->pending);
	(void)pthread_mutex_destroy(&c->lock);
	free(c);
}

static int rotate(struct changes *c)
{
	(void)close(c->fd);
	c->fd = -1;
	if (renameat(c->state, REPLICA_CHANGES_LOG, c->state, REPLICA_CHANGES_LOG ".1") < 0)
		return -errno;
	return open_log(c);
}

static void flush_locked(struct changes *c)
{
	int r = 0;

	if (c->pending.len == 0)
		return;
	if (c->fd < 0)
		r = open_log(c);
	else if (c->size + c->pending.len > CHANGES_MAX)
		r = rotate(c);
	if (r == 0)
		r = write_all(c->fd, c->pending.data, c->pending.len);
	if (r < 0 && !c->failing)
		log_warning("cannot write %s in the state directory: %s; its lines are lost until "
			    "that is mended",
			REPLICA_CHANGES_LOG, strerror(-r));
	c->failing = r < 0;
	c->size += c->pending.len;
	buf_reset(&c->pending);
}

void changes_flush(struct changes *c)
{
	(void)pthread_mutex_lock(&c->lock);
	flush_locked(c);
	(void)pthread_mutex_unlock(&c->lock);
}

static int format_rate(char *dst, size_t size, const struct change_line *l)
{
	double seconds = l->seconds > 1e-6 ? l->seconds : 1e-6;

	if (l->bytes == 0)
		return snprintf(dst, size, "  %.3f s", l->seconds);
	return snprintf(dst, size, "  %llu B  %.2f MB/s  %.1f Mb/s  %.3f s",
		(unsigned long long)l->bytes, (double)l->bytes / seconds / 1e6,
		(double)l->bytes * 8 / seconds / 1e6, l->seconds);
}

void changes_add(struct changes *c, const struct change_line *l)
{
	char stamp[32], rate[96];
	uint64_t now = clock_real_ns();
	time_t second = (time_t)(now / 1000000000u);
	struct tm tm;
	_cleanup_free_ char *text = NULL;
	int len;

	(void)localtime_r(&second, &tm);
	(void)strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &tm);
	(void)format_rate(rate, sizeof(rate), l);
	len = asprintf(&text, "%s.%03u %-7s %s: %s%s\n", stamp, (unsigned)(now / 1000000u % 1000u),
		l->verb, l->peer, l->what, rate);
	if (len < 0) {
		text = NULL;
		return;
	}
	(void)pthread_mutex_lock(&c->lock);
	buf_put(&c->pending, text, (size_t)len);
	if (c->pending.len > CHANGES_BUFFER)
		flush_locked(c);
	(void)pthread_mutex_unlock(&c->lock);
}
