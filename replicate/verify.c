/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * `tandemfs verify`: this tree against each active peer's, by manifest, and against each plain
 * peer's by what its server lists (plain_verify.c).
 *
 * Both mounts are in use, so a difference may only be a change on its way. What differs in the
 * first comparison is looked at again, after what was done meanwhile has arrived: only the
 * directories in which something differed, and only what differs every time is reported.
 */

#include "plain_verify.h"
#include "survey.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>

#define ROUNDS 3
/* With more directories than this the whole tree is compared again. */
#define AGAIN_MAX 64
#define SETTLE_MS 5000

struct finding {
	char *path; /* owned */
	char what[32];
};

struct findings {
	struct finding *list; /* owned */
	size_t n, cap;
	bool failed; /* out of memory */
};

struct verify {
	struct survey survey;
	struct findings found;
};

static void findings_clear(struct findings *f)
{
	for (size_t i = 0; i < f->n; i++)
		free(f->list[i].path);
	free(f->list);
	*f = (struct findings){0};
}

static void add_finding(void *ctx, const char *path, const char *what)
{
	struct findings *f = ctx;

	if (f->n == f->cap) {
		size_t cap = f->cap ? 2 * f->cap : 64;
		struct finding *list = realloc(f->list, cap * sizeof(*list));

		f->failed |= !list;
		if (!list)
			return;
		f->list = list;
		f->cap = cap;
	}
	f->list[f->n].path = strdup(path);
	(void)snprintf(f->list[f->n].what, sizeof(f->list[f->n].what), "%s", what);
	f->failed |= !f->list[f->n].path;
	f->n += f->list[f->n].path != NULL;
}

static bool has_finding(const struct findings *f, const struct finding *x)
{
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->list[i].path, x->path) == 0 && strcmp(f->list[i].what, x->what) == 0)
			return true;
	return false;
}

/* ---- one comparison ---- */

static int compare_readers(void *ctx, struct manifest_reader *here, struct manifest_reader *there)
{
	struct findings *f = ctx;
	uint64_t count;
	int e = manifest_compare(here, there, add_finding, f, &count);

	return e == 0 && f->failed ? -ENOMEM : e;
}

static int compare(struct verify *v, const char *path, bool one_level, struct findings *f)
{
	struct survey_what what = {.path = path, .one_level = one_level};

	return survey_take(&v->survey, &what, compare_readers, f);
}

/* ---- looking again ---- */

static void settle(struct verify *v)
{
	struct replica *r = v->survey.replica;

	/* what does not arrive in time shows as a difference, which it is */
	(void)replica_wait_all(r, replica_head(r), SETTLE_MS, NULL, NULL);
}

static bool seen_before(const struct findings *f, size_t at, size_t len)
{
	for (size_t i = 0; i < at; i++)
		if (confine_parent_len(f->list[i].path) == len &&
			strncmp(f->list[i].path, f->list[at].path, len) == 0)
			return true;
	return false;
}

static size_t count_dirs(const struct findings *f)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n && n <= AGAIN_MAX; i++)
		n += !seen_before(f, i, confine_parent_len(f->list[i].path));
	return n;
}

static int compare_dirs(struct verify *v, struct findings *again)
{
	const struct findings *f = &v->found;
	int e = 0;

	for (size_t i = 0; i < f->n && e == 0; i++) {
		size_t len = confine_parent_len(f->list[i].path);
		_cleanup_free_ char *dir = NULL;

		if (seen_before(f, i, len))
			continue;
		dir = strndup(f->list[i].path, len);
		e = dir ? compare(v, dir, true, again) : -ENOMEM;
		if (e == -ENOENT || e == -ENOTDIR) {
			add_finding(again, f->list[i].path, f->list[i].what);
			e = 0;
		}
	}
	return e;
}

static void keep_common(struct findings *f, const struct findings *again)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n; i++) {
		if (has_finding(again, &f->list[i]))
			f->list[n++] = f->list[i];
		else
			free(f->list[i].path);
	}
	f->n = n;
}

static int look_again(struct verify *v)
{
	struct findings again = {0};
	int e;

	settle(v);
	if (count_dirs(&v->found) > AGAIN_MAX)
		e = compare(v, "", false, &again);
	else
		e = compare_dirs(v, &again);
	if (e == 0)
		keep_common(&v->found, &again);
	findings_clear(&again);
	return e;
}

/* ---- a plain peer ---- */

static void take_finding(void *ctx, const char *path, const char *what)
{
	struct verify *v = ctx;

	add_finding(&v->found, path, what);
}

static int go_on_plain(void *ctx, uint64_t done)
{
	struct verify *v = ctx;

	return done % 64 ? 0 : survey_go_on(&v->survey, done, 0);
}

/* What differs may be on its way: each path is looked at once more. */
static int verify_plain(struct verify *v)
{
	struct plain_verify p = {.root = v->survey.replica->root,
		.remote = v->survey.remote,
		.there = v->survey.peer->config->path,
		.found = take_finding,
		.go_on = go_on_plain,
		.ctx = v};
	size_t n = 0;
	int e;

	settle(v);
	e = plain_verify_tree(&p);
	if (e == 0 && v->found.failed)
		e = -ENOMEM;
	if (e == 0 && v->found.n)
		settle(v);
	for (size_t i = 0; i < v->found.n && e == 0; i++) {
		struct finding *f = &v->found.list[i];
		const char *what;

		e = plain_verify_path(&p, f->path, &what);
		if (e == 0 && !what) {
			free(f->path);
			f->path = NULL;
		}
	}
	for (size_t i = 0; i < v->found.n; i++)
		if (v->found.list[i].path)
			v->found.list[n++] = v->found.list[i];
	v->found.n = n;
	return e < 0 ? e : survey_go_on(&v->survey, p.done, p.done);
}

/* ---- one peer ---- */

static int verify_connected(struct verify *v)
{
	uint64_t total;
	int e;

	settle(v);
	e = compare(v, "", false, &v->found);
	total = v->survey.entries;
	for (unsigned round = 1; round < ROUNDS && e == 0 && v->found.n > 0; round++)
		e = look_again(v);
	return e < 0 ? e : survey_go_on(&v->survey, total, total);
}

static int verify_peer(struct verify *v, char **ret_error)
{
	struct peer *p = v->survey.peer;
	bool plain;
	int e;

	(void)pthread_mutex_lock(&p->replica->lock);
	plain = p->is_plain;
	(void)pthread_mutex_unlock(&p->replica->lock);
	e = survey_begin(&v->survey, ret_error);
	if (e < 0)
		return e;
	e = plain ? verify_plain(v) : verify_connected(v);
	if (e < 0)
		(void)say(ret_error, e, "comparing with %s: %s%s", p->config->url, strerror(-e),
			e == -ETIMEDOUT && !plain ? " (does tandemfs run there?)" : "");
	survey_end(&v->survey);
	return e;
}

static void report_all(
	struct verify *v, void (*report)(void *ctx, const struct replica_difference *d))
{
	for (size_t i = 0; i < v->found.n; i++) {
		struct replica_difference d = {.peer = peer_label(v->survey.peer),
			.path = v->found.list[i].path,
			.what = v->found.list[i].what};

		report(v->survey.ctx, &d);
	}
}

int replica_verify(struct replica *r, void (*report)(void *ctx, const struct replica_difference *d),
	bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, char **ret_error)
{
	int differences = 0;

	*ret_error = NULL;
	for (size_t i = 0; i < r->n_peers; i++) {
		struct verify v = {.survey = {.replica = r,
					   .peer = &r->peers[i],
					   .progress = progress,
					   .ctx = ctx}};
		int e = verify_peer(&v, ret_error);

		if (e == 0) {
			report_all(&v, report);
			differences += (int)v.found.n;
		}
		findings_clear(&v.found);
		if (e < 0) {
			if (!*ret_error)
				(void)say(ret_error, e, "%s", strerror(-e));
			return e;
		}
	}
	return differences;
}
