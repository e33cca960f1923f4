/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_TEST_MOUNT_FIXTURE_H
#define TANDEMFS_TEST_MOUNT_FIXTURE_H

/*
 * A real mount over a replica that only takes notes: the facade's functions are defined here, so
 * that the archive's are not linked. Needs root and /dev/fuse.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "fs/mount.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/confine.h"

#define NOTES_MAX 1000
#define WAIT_S 20 /* nothing here takes that long unless it is stuck */

struct note {
	struct op op; /* strings and ranges copied */
	bool open, aborted, cleaned;
};

struct replica {
	struct tree *tree;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* guarded by lock */
	struct note notes[NOTES_MAX + 1]; /* by sequence number, from 1 */
	uint64_t head;
	bool sync; /* replica_waits() */
	bool held; /* replica_wait() does not return */
	unsigned waiting;
	/* the vault: what was put there last */
	bool vault_link; /* it holds a link to whatever it is asked about */
	int vault_error;
	const char *vault_path; /* that is expected */
	char vault[64];
	unsigned vault_puts, forgotten;
};

static struct replica replica;

struct tree *replica_tree(struct replica *r)
{
	return r->tree;
}

int replica_admit(struct replica *r)
{
	(void)r;
	return 0;
}

uint64_t replica_now(struct replica *r)
{
	struct timespec ts;

	(void)r;
	(void)clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int note(struct replica *r, struct op *op, bool open)
{
	struct note *n;

	(void)pthread_mutex_lock(&r->lock);
	assert_true(r->head < NOTES_MAX);
	op->seq = ++r->head;
	n = &r->notes[op->seq];
	*n = (struct note){.op = *op, .open = open};
	n->op.path = strdup(op->path);
	n->op.path2 = op->path2 ? strdup(op->path2) : NULL;
	n->op.xname = op->xname ? strdup(op->xname) : NULL;
	n->op.value = NULL;
	n->op.ranges = NULL;
	if (op->n_ranges) {
		n->op.ranges = calloc(op->n_ranges, sizeof(*op->ranges));
		assert_non_null(n->op.ranges);
		memcpy(n->op.ranges, op->ranges, op->n_ranges * sizeof(*op->ranges));
	}
	(void)pthread_mutex_unlock(&r->lock);
	return 0;
}

int replica_log(struct replica *r, struct op *op)
{
	return note(r, op, true);
}

int replica_note(struct replica *r, struct op *op)
{
	return note(r, op, false);
}

void replica_done(struct replica *r, uint64_t seq, int result)
{
	(void)pthread_mutex_lock(&r->lock);
	assert_true(r->notes[seq].open);
	r->notes[seq].open = false;
	r->notes[seq].aborted = result < 0;
	(void)pthread_mutex_unlock(&r->lock);
}

void replica_touch(struct replica *r, const char *dir, uint64_t time)
{
	(void)r;
	(void)dir;
	(void)time;
}

void replica_clean(struct replica *r, uint64_t seq)
{
	(void)pthread_mutex_lock(&r->lock);
	assert_false(r->notes[seq].cleaned);
	r->notes[seq].cleaned = true;
	(void)pthread_mutex_unlock(&r->lock);
}

void replica_grown(struct replica *r, uint64_t seq, const struct fid *fid, uint64_t front)
{
	(void)r;
	(void)seq;
	(void)fid;
	(void)front;
}

void replica_rewritten(struct replica *r, uint64_t seq)
{
	(void)r;
	(void)seq;
}

bool replica_orphan_kept(struct replica *r, const struct fid *fid)
{
	(void)r;
	(void)fid;
	return r->vault_link;
}

int replica_orphan_changed(struct replica *r, const struct fid *fid, const char *path, int fd)
{
	char text[sizeof(r->vault)] = "";
	char self[32];
	_cleanup_close_ int from = -1;

	(void)fid;
	assert_string_equal(path, r->vault_path);
	(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	from = open(self, O_RDONLY | O_CLOEXEC);
	assert_true(read(from, text, sizeof(text) - 1) >= 0);
	memcpy(r->vault, text, sizeof(text));
	r->vault_puts++;
	return r->vault_error;
}

void replica_orphan_forget(struct replica *r, const struct fid *fid)
{
	(void)fid;
	r->forgotten++;
}

int replica_wait(struct replica *r, uint64_t seq, enum replica_scope scope,
	bool (*interrupted)(void *ctx), void *ctx)
{
	(void)seq;
	(void)scope;
	(void)interrupted;
	(void)ctx;
	(void)pthread_mutex_lock(&r->lock);
	r->waiting++;
	(void)pthread_cond_broadcast(&r->changed);
	while (r->held)
		(void)pthread_cond_wait(&r->changed, &r->lock);
	r->waiting--;
	(void)pthread_mutex_unlock(&r->lock);
	return 0;
}

bool replica_waits(const struct replica *r, enum replica_scope scope)
{
	return r->sync && scope != REPLICA_WRITE;
}

int replica_sync_journal(struct replica *r, uint64_t seq)
{
	(void)r;
	(void)seq;
	return 0;
}

/* ---- the mount ---- */

struct place {
	char base[64], backing[96], mnt[96];
	int root, top; /* descriptors of the backing directory and of the mounted root */
	struct mount *m;
	struct replica_hooks hooks;
	pthread_t thread;
	int left_open; /* descriptor to close when all has ended; 0: none */
};

static void *run_mount(void *ctx)
{
	return (void *)(intptr_t)mount_run(ctx);
}

static void replica_reset(void)
{
	for (uint64_t k = 1; k <= replica.head; k++) {
		free(replica.notes[k].op.path);
		free(replica.notes[k].op.path2);
		free(replica.notes[k].op.xname);
		free(replica.notes[k].op.ranges);
	}
	replica.head = 0;
	replica.sync = replica.held = false;
	replica.vault_link = false;
	replica.vault_error = 0;
	replica.vault_puts = replica.forgotten = 0;
	replica.vault_path = NULL;
	memset(replica.vault, 0, sizeof(replica.vault));
}

static int place_open(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	_cleanup_free_ char *error = NULL;
	struct mount_config config = {.source = "test"};

	assert_non_null(p);
	(void)snprintf(p->base, sizeof(p->base), "/tmp/tandemfs-unit.XXXXXX");
	assert_non_null(mkdtemp(p->base));
	(void)snprintf(p->backing, sizeof(p->backing), "%s/backing", p->base);
	(void)snprintf(p->mnt, sizeof(p->mnt), "%s/mnt", p->base);
	assert_int_equal(mkdir(p->backing, 0755) | mkdir(p->mnt, 0755), 0);
	p->root = open(p->backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(p->root >= 0);
	assert_int_equal(tree_new(&replica.tree), 0);
	config.root = p->root;
	config.mountpoint = p->mnt;
	assert_int_equal(mount_new(&config, &replica, &p->m, &error), 0);
	mount_hooks(p->m, &p->hooks);
	assert_int_equal(pthread_create(&p->thread, NULL, run_mount, p->m), 0);
	p->top = open(p->mnt, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(p->top >= 0);
	*state = p;
	return 0;
}

static int place_close(void **state)
{
	struct place *p = *state;
	char command[128];
	void *result;

	(void)close(p->top);
	mount_stop(p->m);
	assert_int_equal(pthread_join(p->thread, &result), 0);
	assert_null(result);
	mount_free(p->m);
	if (p->left_open)
		(void)close(p->left_open);
	tree_free(replica.tree);
	replica_reset();
	(void)close(p->root);
	(void)snprintf(command, sizeof(command), "rm -rf %s", p->base);
	assert_int_equal(system(command), 0);
	free(p);
	return 0;
}

static bool possible(void)
{
	return geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0;
}

#endif
