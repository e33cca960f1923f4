/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_BULK_IMPL_H
#define TANDEMFS_BULK_IMPL_H

/* What bulk.c (jobs) and bulk_early.c (files that are still being written) share. */

#include "bulk.h"
#include "digest_async.h"

struct worker {
	struct bulk *bulk;
	pthread_t thread;
	struct remote *remote;
	bool connected;
};

struct bulk {
	struct peer *peer;
	int wake;
	unsigned streams;
	struct worker *workers;
	struct worker early_worker;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_cond_t early_changed; /* something for the early worker */
	/* guarded by lock */
	struct bulk_job *waiting, *finished;
	char *stage; /* directory at the peer */
	unsigned running, started;
	bool early_started;
	struct early *early;
	unsigned n_early;
	uint64_t generation;
	uint64_t bytes;
	bool ending;
};

/* Whether the session with that generation has ended. */
bool bulk_is_stale(struct bulk *b, uint64_t generation);
int worker_connect(struct worker *w);
void worker_disconnect(struct worker *w);
/* The end of a job: it becomes a finished one, or is freed if its session is over. Takes the lock.
 */
void bulk_finish(struct bulk *b, struct bulk_job *job);

/* One file's data on their way: read once, digested beside the encryption, written. */
struct upload {
	int fd;                        /* the backing file; not owned */
	const struct content *content; /* what of it is the data */
	struct remote *remote;
	struct remote_file *file;
	struct digest_async *digest; /* NULL: none */
	uint8_t *blocks;
	uint64_t at;        /* bytes of the data that were sent */
	bool remote_failed; /* an error is the connection's */
};
/* Makes the file @path at the peer; @len is about how much will come. 0 or -errno. */
int upload_open(struct upload *u, const struct bulk *b, const char *path, uint64_t len);
/* Sends the next block of what there is up to @end. 0 or -errno. */
int upload_block(struct upload *u, uint64_t end);
/* Completes the digest into @c. 0 or -errno. */
int upload_digest(struct upload *u, const struct bulk *b, struct content *c);
/* Closes and frees what is open; NULLs. 0, or what went wrong at the peer. */
int upload_close(struct upload *u);

/* After @job failed at the peer: if it was the server that would not take it, finds out why and
 * removes what there is of it at @path, which may be what fills the disk. */
void upload_refused(struct remote *remote, struct bulk_job *job, const char *path);

#define BULK_BLOCK (512u << 10)

/* ---- bulk_early.c ---- */

/* Does the next thing there is to do. False when there was none. */
bool early_step(struct bulk *b);
/* Nobody else is there any more. */
void early_free_all(struct bulk *b);

#endif
