/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * DESIGN: STATE/filled is an empty file. It is there while the root has entries, and goes once a
 * change that came through here leaves none; whatever else empties the root leaves it. It is looked
 * at every few seconds and at the end, so a crash right after the last name was removed is taken
 * for a loss, too: that asks for a word by somebody, the opposite could cost the tree.
 */

#include "filled.h"

#include "base/confine.h"
#include "base/durable.h"
#include "base/log.h"
#include "base/say.h"
#include "impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define FILLED_FILE "filled"

/* What a file system is made with is nothing. */
static int is_entry(void *ctx, const char *path)
{
	(void)ctx;
	return strcmp(path, TANDEMFS_DIR) != 0 && strcmp(path, "lost+found") != 0;
}

/* 1, 0 or -errno. */
static int has_entries(struct replica *r)
{
	return confine_each(r->root, "", is_entry, NULL);
}

static int set_filled(struct replica *r, bool filled)
{
	if (filled)
		return durable_replace(r->state, FILLED_FILE, "", 0, 0600, 1);
	if (unlinkat(r->state, FILLED_FILE, 0) < 0 && errno != ENOENT)
		return -errno;
	return fsync(r->state) < 0 ? -errno : 0;
}

int filled_check(struct replica *r, bool seed, bool *ret_seed, char **ret_error)
{
	int entries = has_entries(r);

	if (entries < 0)
		return say(ret_error, entries, "the backing directory cannot be read: %s",
			strerror(-entries));
	r->filled = faccessat(r->state, FILLED_FILE, F_OK, 0) == 0;
	if (entries || !r->filled)
		return 0;
	if (!seed)
		return say(ret_error, -ESTALE,
			"the backing directory is empty, and it was not when tandemfs last ran: is "
			"its disk mounted? To fill it from the peer mount once with -o seed; if "
			"all of it is to be removed, on the peer too, remove %s/" FILLED_FILE,
			r->config.state);
	r->filled = false;
	*ret_seed = true;
	return set_filled(r, false);
}

void filled_touched(struct replica *r)
{
	atomic_store(&r->root_touched, true);
}

void filled_look(struct replica *r)
{
	bool touched = atomic_exchange(&r->root_touched, false);
	int entries, e;

	if (r->filled && !touched)
		return;
	entries = has_entries(r);
	if (entries < 0 || (bool)entries == r->filled)
		return;
	e = set_filled(r, entries);
	if (e == 0) {
		r->filled = entries;
		return;
	}
	log_warning("state directory %s: " FILLED_FILE ": %s", r->config.state, strerror(-e));
	filled_touched(r);
}
