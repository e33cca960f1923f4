/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * From two manifests to a list of what is to be done. A directory that only the peer has is fetched
 * with all that is in it by one question, unless it is so large that the peer would hold its tree
 * locked for long while it answers.
 */

#include "resync.h"

#include "base/cleanup.h"
#include "base/confine.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define DEEP_MAX 1000

/* Numbers for versions that no operation of a node made: they are the same each time, and none that
 * a node gives out. */
#define VERSION_MARK (1ull << 62)

static uint64_t version_of(const struct manifest_entry *e)
{
	uint64_t h = XXH3_64bits_withSeed(e->path, strlen(e->path), (uint64_t)e->mtime);

	h = XXH3_64bits_withSeed(e->content, e->content_len, h);
	h = XXH3_64bits_withSeed(e->target, strlen(e->target), h);
	return (h & (VERSION_MARK - 1)) | VERSION_MARK;
}

static void finding_clear(struct finding *f)
{
	free(f->path);
	free(f->first);
}

void resync_forget(struct resync *y)
{
	for (size_t i = 0; i < y->n; i++)
		finding_clear(&y->list[i]);
	free(y->list);
	y->list = NULL;
	y->n = y->cap = 0;
	removed_free(y->gone_here);
	removed_free(y->gone_there);
	y->gone_here = y->gone_there = NULL;
}

static struct finding *new_finding(struct resync *y)
{
	if (y->n == y->cap) {
		size_t cap = y->cap ? 2 * y->cap : 64;
		struct finding *list = reallocarray(y->list, cap, sizeof(*list));

		if (!list)
			return NULL;
		y->list = list;
		y->cap = cap;
	}
	y->list[y->n] = (struct finding){0};
	return &y->list[y->n];
}

static int add_finding(struct resync *y, const struct manifest_entry *here,
	const struct manifest_entry *there, struct resync_plan plan)
{
	struct finding *f = new_finding(y);

	if (!f)
		return -ENOMEM;
	f->plan = plan;
	f->here = here;
	f->there = there;
	f->path = strdup((here ?: there)->path);
	if (plan.act == RESYNC_SEND_LINK)
		f->first = strdup(here->link);
	if (here) {
		f->mode = here->mode;
		f->size = here->size;
		f->mtime = here->mtime;
		f->our_version = version_of(here);
	}
	if (there) {
		f->dir_there = S_ISDIR(there->mode);
		f->their_mode = there->mode;
		f->their_uid = there->uid;
		f->their_gid = there->gid;
		f->their_mtime = there->mtime;
		f->their_version = version_of(there);
	}
	if (!f->path || (plan.act == RESYNC_SEND_LINK && !f->first)) {
		finding_clear(f);
		return -ENOMEM;
	}
	y->n++;
	return 0;
}

static int visit(void *ctx, const struct manifest_entry *here, const struct manifest_entry *there)
{
	struct resync *y = ctx;
	const struct replica *r = y->survey.replica;
	const struct peer *p = y->survey.peer;
	const struct resync_node us = {r->node.name, r->node.id, y->lost_power_here};
	const struct resync_node them = {p->node.name, p->node.id, y->lost_power_there};
	struct resync_plan plan = resync_decide(here, there, &us, &them);

	return plan.act == RESYNC_NOTHING ? 0 : add_finding(y, here, there, plan);
}

static int merge(void *ctx, struct manifest_reader *here, struct manifest_reader *there)
{
	struct resync *y = ctx;
	int e = resync_removed(y->survey.replica, &y->gone_here);

	if (e == 0)
		e = query_removed(y->survey.peer, y->survey.remote, &y->gone_there);
	return e < 0 ? e : manifest_merge(here, there, visit, ctx);
}

/* ---- names that were removed ---- */

static bool was_removed(const struct resync *y, const struct finding *f)
{
	if (f->here == f->there)
		return false;
	return f->here ? removed_has(y->gone_there, f->path, f->mtime)
		       : removed_has(y->gone_here, f->path, f->their_mtime);
}

/* A directory that was removed goes only with all that is in it. Its findings come after it, so
 * from the end; @stays is the last one that stays. */
static void honour_removals(struct resync *y)
{
	const char *stays = NULL;

	for (size_t i = y->n; i-- > 0;) {
		struct finding *f = &y->list[i];

		if (was_removed(y, f) && !(stays && confine_below(stays, f->path)))
			f->plan.act = f->here ? RESYNC_REMOVE_HERE : RESYNC_REMOVE;
		else
			stays = f->path;
	}
}

/* ---- whole directories ---- */

/* Index behind what is below the directory of finding @i. */
static size_t end_of_dir(const struct resync *y, size_t i)
{
	size_t end = i + 1;

	while (end < y->n && confine_below(y->list[end].path, y->list[i].path))
		end++;
	return end;
}

static bool is_removal(const struct finding *f)
{
	return f->plan.act == RESYNC_REMOVE || f->plan.act == RESYNC_REMOVE_HERE;
}

static bool holds_removals(const struct resync *y, size_t i, size_t end)
{
	while (i < end && !is_removal(&y->list[i]))
		i++;
	return i < end;
}

static void gather_dirs(struct resync *y)
{
	size_t n = 0;

	for (size_t i = 0; i < y->n;) {
		size_t end = i + 1;
		const struct finding *f = &y->list[i];
		bool removed = is_removal(f);

		if (removed || (f->dir_there && !f->here && f->plan.act == RESYNC_FETCH))
			end = end_of_dir(y, i);
		if (!removed && (end - i > DEEP_MAX || holds_removals(y, i, end)))
			end = i + 1;
		y->list[i].deep = end > i + 1;
		y->list[n++] = y->list[i++];
		for (; i < end; i++)
			finding_clear(&y->list[i]);
	}
	y->n = n;
}

int resync_find(struct resync *y, bool without_content)
{
	struct survey_what what = {.path = "", .without_content = without_content, .settle = true};
	int e;

	resync_forget(y);
	e = survey_take(&y->survey, &what, merge, y);
	if (e == 0)
		honour_removals(y);
	if (e == 0 && !y->config.dry_run)
		gather_dirs(y);
	return e;
}
