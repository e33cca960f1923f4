/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_BULK_H
#define TANDEMFS_BULK_H

/* Uploads of large contents into the peer's stage, each thread with a connection of its own. */

#include "impl.h"

struct bulk;

struct bulk_job {
	struct bulk_job *next; /* of the queues */
	struct op op;          /* with content described; its stage name and digest are filled in */
	int fd;                /* the backing file; owned */
	struct local_head head;
	struct stat before; /* of the file, when it was described */
	uint64_t started_ms;
	int result;         /* 0 or -errno */
	bool remote_failed; /* the connection is to blame, not the file */
	bool refused;       /* the server is, and @result the cause; the connection is well */
	/* NULL: the data goes into the file as a stream. Else this puts it there, and owns all of
	 * the work at @path; it asks now and then whether that is still wanted. */
	int (*put)(struct bulk_job *job, struct remote *remote, const char *path);
	void *ctx; /* for put */
	struct bulk *bulk;
	uint64_t generation;
};
void bulk_job_free(struct bulk_job *job);

/* @wake is written to (eventfd) when a job is done. */
int bulk_new(struct peer *p, unsigned streams, int wake, struct bulk **ret);
void bulk_free(struct bulk *b);

/* Hands the job over; it goes to the directory @stage (absolute at the peer). */
int bulk_submit(struct bulk *b, struct bulk_job *job, const char *stage);

/* A finished job, now the caller's; NULL when there is none. */
struct bulk_job *bulk_done(struct bulk *b);

/* Drops all that waits or is finished; what runs gives up soon and is dropped then. */
void bulk_cancel(struct bulk *b);

/* Runs one waiting job in the caller, for a replica without threads. False when there is nothing to
 * do. */
bool bulk_step(struct bulk *b);

/* Whether the session that wanted @job has ended. From any thread. */
bool bulk_unwanted(const struct bulk_job *job);

/*
 * A file that is still being written: its bytes go to @path below @stage as they come. @g is given
 * back when that ends: by a job that takes it over, by bulk_early_drop(), with the session, or when
 * the file is spoiled. 0, -EBUSY when as many as are useful are under way, or -ENOMEM; then @g is
 * still the caller's.
 */
struct growing;
int bulk_early(struct bulk *b, struct growing *g, const char *stage, const char *name);

/* @job is the whole of a file that was sent in part already: the rest follows, and the job is
 * finished like a submitted one. False when it is not, or what was sent is not what the job names;
 * that is then thrown away and @job stays the caller's. To be asked for each OP_CONTENT, after it
 * and all that it covers were taken from what is pending. */
bool bulk_early_take(struct bulk *b, struct bulk_job *job);
/* The same for one that needs no job: it is gone, or small. */
void bulk_early_drop(struct bulk *b, const struct fid *fid);

/* Some file has grown or is spoiled. From any thread. */
void bulk_early_wake(struct bulk *b);

/* Bytes of jobs that are not finished. */
uint64_t bulk_bytes(struct bulk *b);

#endif
