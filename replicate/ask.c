/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Questions: what the peer was asked to restate and has not answered. They follow renames, and are
 * forgotten when the peer's answers have come (replica_answered()).
 */

#include "impl.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

void ask_free_locked(struct replica *r, struct ask *a)
{
	DL_DELETE(r->asks, a);
	free(a->path);
	free(a);
}

static struct ask *ask_add_locked(
	struct replica *r, uint64_t seq, const char *path, bool deep, bool compare)
{
	struct ask *a = calloc(1, sizeof(*a));

	if (!a || !(a->path = strdup(path))) {
		free(a);
		return NULL;
	}
	a->seq = seq;
	a->deep = deep;
	a->compare = compare;
	DL_APPEND(r->asks, a);
	return a;
}

int replica_asked(struct replica *r, uint64_t seq, const char *path, bool deep, bool compare)
{
	return ask_add_locked(r, seq, path, deep, compare) ? 0 : -ENOMEM;
}

static struct ask *begin_ask(
	struct replica *r, const struct op *op, const struct position *again, bool *open)
{
	const char *path = op->path;
	bool deep = op->flags & OP_DEEP;
	struct ask *a;

	*open = false;
	(void)pthread_mutex_lock(&r->lock);
	DL_FOREACH (r->asks, a)
		if ((a->deep || !deep) && !a->moved && strcmp(a->path, path) == 0 &&
			!(again && a->seq && position_has(again, a->seq))) {
			*open = true;
			a->again = a->again || again;
		}
	if (!r->asks)
		for (struct origin *o = r->origins; o; o = o->next)
			o->frozen = o->applied;
	a = *open ? NULL : ask_add_locked(r, 0, path, deep, op->flags & OP_COMPARE);
	(void)pthread_mutex_unlock(&r->lock);
	return a;
}

static int ask(struct replica *r, struct op *op, const struct position *again)
{
	bool open;
	struct ask *a = begin_ask(r, op, again, &open);
	int e;

	if (!a)
		return open ? 0 : -ENOMEM;
	e = replica_say(r, op);
	(void)pthread_mutex_lock(&r->lock);
	if (e == 0)
		a->seq = op->seq;
	else
		ask_free_locked(r, a);
	(void)pthread_mutex_unlock(&r->lock);
	return e;
}

int replica_ask(struct replica *r, const char *path, bool deep, const struct position *again)
{
	struct op op = {.type = OP_ASK, .path = (char *)path, .flags = deep ? OP_DEEP : 0};

	return ask(r, &op, again);
}

int replica_compare(struct replica *r, const char *path, bool deep, uint64_t digest)
{
	struct op op = {.type = OP_ASK,
		.flags = OP_COMPARE | (deep ? OP_DEEP : 0),
		.path = (char *)path,
		.about = digest};

	return ask(r, &op, NULL);
}

bool replica_is_asked(struct replica *r, const char *path)
{
	const struct ask *a;
	bool found = false;

	(void)pthread_mutex_lock(&r->lock);
	DL_FOREACH (r->asks, a)
		found = found || confine_below(path, a->path) || confine_below(a->path, path);
	(void)pthread_mutex_unlock(&r->lock);
	return found;
}

static bool has_ask_locked(const struct replica *r, uint64_t seq, const char *path)
{
	const struct ask *a;

	DL_FOREACH (r->asks, a)
		if (a->seq == seq && strcmp(a->path, path) == 0)
			return true;
	return false;
}

/* The old name stays asked for as well. */
void asks_follow_locked(struct replica *r, const char *from, const char *to)
{
	struct ask *a, *last = r->asks ? r->asks->prev : NULL;

	DL_FOREACH (r->asks, a) {
		_cleanup_free_ char *path = NULL;
		struct ask *moved;

		if (confine_below(a->path, from) && (path = confine_moved(a->path, from, to)) &&
			!has_ask_locked(r, a->seq, path)) {
			moved = ask_add_locked(r, a->seq, path, a->deep, a->compare);
			if (moved)
				moved->moved = true;
			else
				log_warning("no memory to follow a rename");
		}
		if (a == last)
			break;
	}
}

/* One of them, taken off the list of these; NULL: there is none. */
static char *take_again(struct replica *r, uint64_t seq, bool *ret_deep)
{
	struct ask *a;
	char *path = NULL;

	(void)pthread_mutex_lock(&r->lock);
	DL_FOREACH (r->asks, a)
		if (a->seq && a->seq <= seq && a->again)
			break;
	if (a) {
		a->again = false;
		*ret_deep = a->deep;
		path = strdup(a->path);
	}
	(void)pthread_mutex_unlock(&r->lock);
	return path;
}

int replica_ask_again(struct replica *r, uint64_t seq)
{
	const struct position answered = {.high = seq};
	bool deep;
	char *path;
	int e = 0;

	while (e == 0 && (path = take_again(r, seq, &deep))) {
		e = replica_ask(r, path, deep, &answered);
		free(path);
	}
	return e;
}

void replica_answered(struct replica *r, uint64_t seq)
{
	struct ask *a, *next;

	(void)pthread_mutex_lock(&r->lock);
	DL_FOREACH_SAFE (r->asks, a, next)
		if (a->seq && a->seq <= seq) {
			if (!a->compare)
				review_add_locked(r, a->path, a->deep);
			ask_free_locked(r, a);
		}
	(void)pthread_mutex_unlock(&r->lock);
}
