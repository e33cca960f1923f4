/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs.h"
#include "invalidate.h"

#include <string.h>
#include <unistd.h>
#include <utlist.h>

/*
 * DESIGN: a list of notices in the order in which they were queued. A thread takes the first one
 * that is free: not in a directory or file in which a local call waits for the peers. Such a call
 * may also begin to wait while a notice for its directory is being sent; that thread is then stuck
 * until the peers have answered, and another one is started if no other is left. So the number of
 * threads is one more than that of notices that are stuck at once.
 *
 * Deadlock over two servers is thereby impossible: an acknowledgement waits for notices, these
 * only for local calls that do not wait for acknowledgements.
 *
 * Meanwhile nobody must see the old name: FUSE_NOTIFY_INC_EPOCH (Linux 6.16) makes the kernel look
 * every name up again and takes no lock. It is sent only for this, since it costs a look-up for
 * each cached name.
 */

#define NOTIFY_INC_EPOCH 8
#define THREADS_MAX 256

enum notice_kind { NOTICE_ATTRIBUTES, NOTICE_CONTENT, NOTICE_ENTRY };

struct notice {
	struct notice *next, *prev;
	uint64_t number;
	enum notice_kind kind;
	bool dir;
	bool sending;
	bool excused;        /* the epoch was advanced for it */
	struct inode *inode; /* pinned; the directory for an entry */
	char name[];
};

struct notifier {
	struct mount *m;
	pthread_mutex_t lock;
	pthread_cond_t work, sent;
	/* Guarded by lock. */
	struct notice *list; /* queued and being sent */
	uint64_t last;       /* number of the newest */
	bool stop;
	bool no_epoch;
	unsigned n_threads;
	pthread_t threads[THREADS_MAX];
};

/* Whether the kernel would make it wait for a call that waits for the peers. Lock held. */
static bool notice_blocked(const struct notice *t)
{
	if (t->kind == NOTICE_ATTRIBUTES || t->inode->waiters == 0)
		return false;
	/* A directory's pages are not locked by changes of its names. */
	return t->kind == NOTICE_ENTRY || !S_ISDIR(t->inode->type);
}

static int expire_entry(struct fuse_session *se, fuse_ino_t parent, const char *name, size_t len)
{
#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 16)
	return fuse_lowlevel_notify_expire_entry(se, parent, name, len, FUSE_LL_EXPIRE_ONLY);
#else
	return fuse_lowlevel_notify_expire_entry(se, parent, name, len);
#endif
}

static int notice_send(struct mount *m, const struct notice *t)
{
	size_t len = strlen(t->name);

	if (t->kind == NOTICE_ATTRIBUTES)
		return fuse_lowlevel_notify_inval_inode(m->session, t->inode->id, -1, 0);
	if (t->kind == NOTICE_CONTENT)
		return fuse_lowlevel_notify_inval_inode(m->session, t->inode->id, 0, 0);
	/* Invalidation would detach what is mounted below a directory. */
	if (t->dir && m->expire)
		return expire_entry(m->session, t->inode->id, t->name, len);
	return fuse_lowlevel_notify_inval_entry(m->session, t->inode->id, t->name, len);
}

static struct notice *notifier_pick(struct notifier *n)
{
	struct notice *t;

	DL_FOREACH (n->list, t) {
		if (!t->sending && !notice_blocked(t))
			return t;
	}
	return NULL;
}

static void notice_drop(struct notifier *n, struct notice *t)
{
	DL_DELETE(n->list, t);
	inode_unpin(n->m->inodes, t->inode);
	free(t);
}

static void *notifier_thread(void *ctx)
{
	struct notifier *n = ctx;
	struct notice *t;
	int r;

	(void)pthread_mutex_lock(&n->lock);
	while (!n->stop) {
		t = notifier_pick(n);
		if (!t) {
			(void)pthread_cond_wait(&n->work, &n->lock);
			continue;
		}
		t->sending = true;
		(void)pthread_mutex_unlock(&n->lock);
		r = notice_send(n->m, t);
		/* ENOSYS: the kernel's greeting is still to come, it caches nothing yet */
		if (r < 0 && r != -ENOENT && r != -ENODEV && r != -ENOTCONN && r != -EBADF &&
			r != -ENOSYS)
			log_warning("invalidation of inode %ju %s: %s",
				(uintmax_t)t->inode->key.ino, t->name, strerror(-r));
		(void)pthread_mutex_lock(&n->lock);
		notice_drop(n, t);
		(void)pthread_cond_broadcast(&n->sent);
	}
	(void)pthread_mutex_unlock(&n->lock);
	return NULL;
}

/* Lock held. */
static int notifier_grow(struct notifier *n)
{
	int r;

	if (n->n_threads == THREADS_MAX)
		return -EAGAIN;
	r = -pthread_create(&n->threads[n->n_threads], NULL, notifier_thread, n);
	if (r == 0)
		n->n_threads++;
	return r;
}

int notifier_new(struct mount *m, struct notifier **ret)
{
	struct notifier *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	n->m = m;
	(void)pthread_mutex_init(&n->lock, NULL);
	(void)pthread_cond_init(&n->work, NULL);
	(void)pthread_cond_init(&n->sent, NULL);
	*ret = n;
	return 0;
}

int notifier_start(struct notifier *n)
{
	int r;

	(void)pthread_mutex_lock(&n->lock);
	r = notifier_grow(n);
	(void)pthread_mutex_unlock(&n->lock);
	return r;
}

void notifier_stop(struct notifier *n)
{
	(void)pthread_mutex_lock(&n->lock);
	n->stop = true;
	(void)pthread_cond_broadcast(&n->work);
	(void)pthread_cond_broadcast(&n->sent);
	(void)pthread_mutex_unlock(&n->lock);
	/* Once `stop` is set the number of threads no longer changes. */
	for (unsigned k = 0; k < n->n_threads; k++)
		(void)pthread_join(n->threads[k], NULL);
	n->n_threads = 0;
}

void notifier_free(struct notifier *n)
{
	if (!n)
		return;
	while (n->list)
		notice_drop(n, n->list);
	(void)pthread_cond_destroy(&n->sent);
	(void)pthread_cond_destroy(&n->work);
	(void)pthread_mutex_destroy(&n->lock);
	free(n);
}

/* Whether the same is queued already and will be sent after now. Only the newest few are looked at:
 * the case is a directory in which many names change. */
static bool notice_queued(struct notifier *n, enum notice_kind kind, const struct inode *i)
{
	struct notice *t = n->list ? n->list->prev : NULL;

	for (int k = 0; t && k < 4; k++, t = t->prev) {
		if (!t->sending && t->kind == kind && t->inode == i)
			return true;
		if (t == n->list)
			break;
	}
	return false;
}

static void notifier_queue(
	struct notifier *n, enum notice_kind kind, struct inode *i, const char *name, bool dir)
{
	size_t len = strlen(name);
	struct notice *t;

	(void)pthread_mutex_lock(&n->lock);
	if (n->stop || (kind != NOTICE_ENTRY && notice_queued(n, kind, i))) {
		(void)pthread_mutex_unlock(&n->lock);
		return;
	}
	t = calloc(1, sizeof(*t) + len + 1);
	if (t) {
		t->kind = kind;
		t->dir = dir;
		t->inode = i;
		memcpy(t->name, name, len);
		inode_pin(n->m->inodes, i);
		t->number = ++n->last;
		DL_APPEND(n->list, t);
		(void)pthread_cond_signal(&n->work);
	}
	(void)pthread_mutex_unlock(&n->lock);
	if (!t)
		log_error("no memory to invalidate inode %ju", (uintmax_t)i->key.ino);
}

void notifier_attributes(struct notifier *n, struct inode *i)
{
	notifier_queue(n, NOTICE_ATTRIBUTES, i, "", false);
}

void notifier_content(struct notifier *n, struct inode *i)
{
	notifier_queue(n, NOTICE_CONTENT, i, "", false);
}

void notifier_entry(struct notifier *n, struct inode *parent, const char *name, bool dir)
{
	notifier_queue(n, NOTICE_ENTRY, parent, name, dir);
}

/* Makes the kernel look all names up again. Lock held; takes no lock in the kernel. */
static void epoch_advance(struct notifier *n)
{
	struct {
		uint32_t len;
		int32_t code;
		uint64_t unique;
	} out = {.len = sizeof(out), .code = NOTIFY_INC_EPOCH};

	if (n->no_epoch)
		return;
	if (write(fuse_session_fd(n->m->session), &out, sizeof(out)) < 0 && errno == EINVAL)
		n->no_epoch = true; /* before Linux 6.16 */
}

/* Whether a notice up to @number must still be waited for. Excuses those that cannot. Lock held. */
static bool notifier_pending(struct notifier *n, uint64_t number)
{
	bool pending = false, advance = false;
	struct notice *t;

	DL_FOREACH (n->list, t) {
		if (t->number > number)
			break;
		if (!notice_blocked(t)) {
			pending = true;
		} else if (t->kind == NOTICE_ENTRY && !t->excused) {
			t->excused = true;
			advance = true;
		}
	}
	if (advance)
		epoch_advance(n);
	return pending;
}

void notifier_settle(struct notifier *n)
{
	uint64_t number;

	(void)pthread_mutex_lock(&n->lock);
	number = n->last;
	while (!n->stop && notifier_pending(n, number))
		(void)pthread_cond_wait(&n->sent, &n->lock);
	(void)pthread_mutex_unlock(&n->lock);
}

/* A thread that can take the next notice. Lock held. */
static void notifier_ensure(struct notifier *n)
{
	unsigned stuck = 0;
	struct notice *t;
	int r;

	DL_FOREACH (n->list, t) {
		stuck += t->sending && notice_blocked(t);
	}
	if (stuck == 0 || stuck < n->n_threads || n->stop)
		return;
	r = notifier_grow(n);
	if (r < 0)
		log_error("no further thread for invalidations: %s", strerror(-r));
}

void notifier_wait_begin(struct notifier *n, struct inode *i)
{
	if (!i)
		return;
	(void)pthread_mutex_lock(&n->lock);
	i->waiters++;
	notifier_ensure(n);
	(void)pthread_cond_broadcast(&n->sent); /* settle need not wait for it now */
	(void)pthread_mutex_unlock(&n->lock);
}

void notifier_wait_end(struct notifier *n, struct inode *i)
{
	if (!i)
		return;
	(void)pthread_mutex_lock(&n->lock);
	i->waiters--;
	(void)pthread_cond_broadcast(&n->work);
	(void)pthread_mutex_unlock(&n->lock);
}
