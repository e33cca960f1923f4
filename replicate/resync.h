/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_RESYNC_H
#define TANDEMFS_RESYNC_H

/* The reconciler's parts. */

#include "impl.h"

#include "resync_plan.h"
#include "survey.h"

/* A name that is not the same here and there. */
struct finding {
	char *path;  /* owned */
	char *first; /* owned; for RESYNC_SEND_LINK */
	struct resync_plan plan;
	bool here, there, dir_there, deep;
	/* what stood here when it was looked at */
	uint32_t mode;
	uint64_t size;
	int64_t mtime;
	/* what stood there */
	uint32_t their_mode, their_uid, their_gid;
	int64_t their_mtime;
	uint64_t our_version, their_version; /* numbers for the vault */
};

struct resync_config {
	bool dry_run;
	/* as for replica_resync() */
	void (*report)(void *ctx, const struct replica_repair *d);
	bool (*progress)(void *ctx, const char *phase, uint64_t done, uint64_t total);
	void *ctx;
};

/* One run with one peer. */
struct resync {
	struct survey survey;
	struct resync_config config;
	struct finding *list; /* owned; in the order of a manifest */
	size_t n, cap;
	struct removed *gone_here, *gone_there; /* in this round; owned */
	bool lost_power_here, lost_power_there; /* see resync_plan.h; as a round began */
	size_t skipped;                         /* changed meanwhile, in this round */
	unsigned asked; /* questions since the last time that all were answered */
};

/* ---- resync.c ---- */
/* Reconciles with one peer, one run at a time. The number of differences found, -EBUSY, or -errno;
 * *ret_error as for replica_open. */
int resync_run(
	struct replica *r, struct peer *p, const struct resync_config *config, char **ret_error);

/* Whether the peer is there, in both directions. */
bool resync_can_run(struct peer *p);

/* ---- resync_need.c ---- */
/* The trees have been made equal by other means: no reason is left. */
void resync_is_done(struct peer *p);

/* ---- plain_resync.c ---- */
/* As resync_run, for a plain peer. */
int plain_resync(struct peer *p, const struct resync_config *config, char **ret_error);

/* ---- resync_find.c ---- */
/* Compares both trees into the list. 0 or -errno. */
int resync_find(struct resync *y, bool without_content);
void resync_forget(struct resync *y);

/* ---- resync_act.c ---- */
/* Does what is planned for one finding, unless it was changed since: 1; 0 when it was; or -errno.
 */
int resync_act(struct resync *y, const struct finding *f);

#endif
