/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What is counted of a plain peer, in words. */

#include "replicate.h"

static const struct {
	const char *name, *text;
} plain_counts[] = {
	[PLAIN_XATTRS] = {"xattrs", "changes of extended attributes or ACLs"},
	[PLAIN_OWNERS] = {"owners", "owners that the account there may not set"},
	[PLAIN_REFUSED] = {"attributes", "modes or times that the account there may not set"},
	[PLAIN_NANOSECONDS] = {"nanoseconds", "times cut to whole seconds"},
	[PLAIN_SPECIALS] = {"specials", "devices, FIFOs or sockets"},
	[PLAIN_HARD_LINKS] = {"hard_links", "hard links that are files of their own there"},
	[PLAIN_LINK_ATTRS] = {"link_attributes", "owners or times of symbolic links"},
	[PLAIN_TWO_STEPS] = {"two_steps", "replaced in two steps, missing there for a moment"},
	[PLAIN_ONLY_THERE] = {"only_there", "found there and not here, kept"},
	[PLAIN_ASIDE] = {"aside", "moved aside to .tandemfs/replaced there"},
};

const char *plain_count_name(enum plain_count what)
{
	return plain_counts[what].name;
}

const char *plain_count_text(enum plain_count what)
{
	return plain_counts[what].text;
}
