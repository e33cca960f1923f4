/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SIM_H
#define TANDEMFS_SIM_H

/*
 * Two replicas in one process, one thread, over a transport and a clock that follow a seed. See
 * sim.c.
 */

#include "replicate/impl.h"

#include <setjmp.h>

#define NODES 2

struct sim_open_file {
	char path[128]; /* "" when the peer's version has taken its name */
	int fd;
	struct fid fid;
	uint64_t dirty_seq;
	bool whole;
	uint64_t front; /* of a whole one: bytes, told as growing; 0: not, or no longer */
};

/* Each write has a number of its own, and its text names it. A version lives from the write until a
 * change of the node where it could be seen overwrites or removes it. */
#define SIM_VERSIONS 1024
struct sim_versions {
	bool has[NODES][SIM_VERSIONS];
};
#define SIM_OPEN_MAX 8

struct sim_node {
	unsigned index;
	char disk[200], backing[256], state[256]; /* the first with --power only */
	int root;
	struct replica *replica;                 /* NULL while it is down */
	struct replica_peer_config peers[2];     /* the other node, and of the first a plain one */
	struct sim_open_file open[SIM_OPEN_MAX]; /* written and not closed */
	unsigned n_open;
	unsigned counter;
	uint64_t retry_at; /* when it starts again */
	uint64_t resync_at[2];
	/* Versions that it has lost with its power and the other one has. Until it is reconciled a
	 * change of what is left of the file takes them from the other one too. */
	struct sim_versions adrift;
	bool is_adrift;
};

struct sim {
	uint64_t seed, random, now_ns;
	char top[64]; /* all that the seed leaves is below it */
	struct sim_node nodes[NODES];
	bool link_up[NODES]; /* of the connections that the node opens */
	bool shared_names;   /* both nodes change the same names */
	bool trace;
	/* the crash that is planned for the step under way */
	unsigned crash_after; /* fault points to pass; 0: none */
	jmp_buf crash;
	unsigned crashes, cuts, ops;
	struct sim_versions live;
	struct sim_versions synced;        /* acknowledged as on a disk */
	struct sim_versions parted[NODES]; /* lost one of several names there */
	/* machines lose what is not on their disks */
	bool power;
	bool waiting; /* the reconciler of a node is, and the others go on */
	bool healing;
	unsigned waits, failures;
	/* a third node, of which the first one keeps a copy */
	bool plain;
	char plain_dir[256];
	bool plain_up, plain_refuses, plain_faults;
};

extern struct sim sim;

uint64_t sim_random(void);
/* 0 to @n - 1. */
unsigned sim_below(unsigned n);
static inline bool sim_chance(unsigned percent)
{
	return sim_below(100) < percent;
}
__attribute__((format(printf, 1, 2))) void sim_trace(const char *format, ...);
/* Prints the seed and the message, and ends the process with 1. */
__attribute__((format(printf, 1, 2), noreturn)) void sim_fail(const char *format, ...);

/* ---- sim_remote.c ---- */
int sim_remote_new(struct replica *r, struct peer *p, struct remote **ret);
/* Cuts every connection that @node has open: of what was written a random prefix arrives. */
void sim_remote_cut(unsigned node);

/* ---- sim_plain.c ---- */
int sim_plain_new(struct remote **ret);
void sim_plain_cut(void);
void sim_plain_compare(void);

/* ---- sim_power.c ---- */
/* For all seeds, and when all are done. */
void sim_power_prepare(void);
void sim_power_forget(void);
/* For one. */
void sim_power_own_mounts(void);
void sim_power_set_up(struct sim_node *n);
/* The machine of @n, whose replica has ended. */
void sim_power_lose(struct sim_node *n);
/* @n may have been reconciled. */
void sim_power_reconciled(struct sim_node *n);
/* With --trace what is on the disk is left for whoever looks into it. */
void sim_power_take_away(struct sim_node *n);

/* ---- sim.c ---- */
/* Enters the versions that stand in the tree and the vault. */
void sim_versions_below(const char *backing, struct sim_versions *dst);
/* Somebody waits for something that others bring about. */
void sim_wait(unsigned ms);

/* ---- sim_ops.c ---- */
/* A random change on the node, as the file system would make it. */
void sim_local_change(struct sim_node *n);
/* The hook for a peer's changes. */
void sim_applied(void *ctx, const struct op *op, const struct apply_result *result);
/* Enters the versions that stand in the file. */
void sim_versions_of(int fd, struct sim_versions *dst);
/* Forgets what is open, as a crash does. */
void sim_forget_open(struct sim_node *n);
/* Closes all that is open for writing. */
void sim_close_all(struct sim_node *n);

#endif
