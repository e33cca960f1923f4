/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * One block is with the thread at a time. The caller fills a second one meanwhile: while a block
 * is encrypted and sent its digest is computed on another processor.
 */

#include "digest_async.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct digest_async {
	struct digest *digest; /* the thread's while a block is with it */
	bool threaded;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* guarded by lock */
	const void *data; /* the block that is with the thread; NULL: none */
	size_t len;
	int error;
	bool ending;
};

static void *digest_thread(void *arg)
{
	struct digest_async *d = arg;

	(void)pthread_mutex_lock(&d->lock);
	for (;;) {
		int r;

		while (!d->data && !d->ending)
			(void)pthread_cond_wait(&d->changed, &d->lock);
		if (!d->data)
			break;
		(void)pthread_mutex_unlock(&d->lock);
		r = digest_update(d->digest, d->data, d->len);
		(void)pthread_mutex_lock(&d->lock);
		d->data = NULL;
		if (d->error == 0)
			d->error = r;
		(void)pthread_cond_broadcast(&d->changed);
	}
	(void)pthread_mutex_unlock(&d->lock);
	return NULL;
}

int digest_async_new(const char *name, bool threaded, struct digest_async **ret)
{
	struct digest_async *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	r = digest_new(name, &d->digest);
	if (r < 0) {
		free(d);
		return r;
	}
	(void)pthread_mutex_init(&d->lock, NULL);
	(void)pthread_cond_init(&d->changed, NULL);
	/* without a thread it only takes longer */
	d->threaded = threaded && pthread_create(&d->thread, NULL, digest_thread, d) == 0;
	*ret = d;
	return 0;
}

static int wait_locked(struct digest_async *d)
{
	while (d->data)
		(void)pthread_cond_wait(&d->changed, &d->lock);
	return d->error;
}

int digest_async_feed(struct digest_async *d, const void *data, size_t len)
{
	int r;

	if (len == 0)
		return 0;
	if (!d->threaded)
		return digest_update(d->digest, data, len);
	(void)pthread_mutex_lock(&d->lock);
	r = wait_locked(d);
	if (r == 0) {
		d->data = data;
		d->len = len;
		(void)pthread_cond_broadcast(&d->changed);
	}
	(void)pthread_mutex_unlock(&d->lock);
	return r;
}

int digest_async_finish(struct digest_async *d, uint8_t dst[OP_DIGEST_MAX], uint8_t *ret_len)
{
	int r;

	(void)pthread_mutex_lock(&d->lock);
	r = wait_locked(d);
	(void)pthread_mutex_unlock(&d->lock);
	return r < 0 ? r : digest_final(d->digest, dst, ret_len);
}

void digest_async_free(struct digest_async *d)
{
	if (!d)
		return;
	(void)pthread_mutex_lock(&d->lock);
	d->ending = true;
	(void)pthread_cond_broadcast(&d->changed);
	(void)pthread_mutex_unlock(&d->lock);
	if (d->threaded)
		(void)pthread_join(d->thread, NULL);
	digest_free(d->digest);
	(void)pthread_cond_destroy(&d->changed);
	(void)pthread_mutex_destroy(&d->lock);
	free(d);
}
