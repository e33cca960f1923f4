/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "resync_plan.h"

#include "conflict.h"

#include <sys/stat.h>

static enum conflict_kind kind_of(const struct manifest_entry *e)
{
	if (S_ISDIR(e->mode))
		return CONFLICT_DIR;
	return S_ISREG(e->mode) ? CONFLICT_FILE : CONFLICT_OTHER;
}

static struct conflict_side side_of(const struct manifest_entry *e, const struct resync_node *n)
{
	return (struct conflict_side){kind_of(e), e->mtime, n->name, n->id};
}

/* No time says anything of a version that a power failure may have spoilt. */
static void doubt(struct conflict_side *a, const struct manifest_entry *here,
	struct conflict_side *b, const struct manifest_entry *there)
{
	if (a->kind != CONFLICT_FILE || b->kind != CONFLICT_FILE || a->when != b->when)
		return;
	if (here->size < there->size)
		a->when = INT64_MIN;
	else if (there->size < here->size)
		b->when = INT64_MIN;
}

/* Attributes can be set here or there without the bytes, but xattrs travel with the whole. */
static enum resync_act act_of(const struct manifest_entry *here, unsigned differs, bool ours)
{
	const unsigned plain = MANIFEST_MODE | MANIFEST_OWNER | MANIFEST_MTIME;
	bool has_bits = S_ISREG(here->mode) || S_ISDIR(here->mode);

	if (has_bits && !(differs & ~plain))
		return ours ? RESYNC_SEND_ATTRIBUTES : RESYNC_TAKE_ATTRIBUTES;
	if (ours && (differs & MANIFEST_LINKS) && here->link[0])
		return RESYNC_SEND_LINK;
	return ours ? RESYNC_SEND : RESYNC_FETCH;
}

struct resync_plan resync_decide(const struct manifest_entry *here,
	const struct manifest_entry *there, const struct resync_node *us,
	const struct resync_node *them)
{
	const unsigned version = MANIFEST_TYPE | MANIFEST_SIZE | MANIFEST_CONTENT |
				 MANIFEST_TARGET | MANIFEST_DEVICE;
	struct conflict_side a, b;
	struct conflict_verdict v;
	unsigned differs;
	bool ours;

	if (!there)
		return (struct resync_plan){.act = here->link[0] ? RESYNC_SEND_LINK : RESYNC_SEND};
	if (!here)
		return (struct resync_plan){.act = RESYNC_FETCH};
	differs = manifest_differences(here, there);
	if (!differs)
		return (struct resync_plan){.act = RESYNC_NOTHING};
	a = side_of(here, us);
	b = side_of(there, them);
	if (us->lost_power && them->lost_power)
		doubt(&a, here, &b, there);
	else if (us->lost_power)
		a.when = INT64_MIN;
	else if (them->lost_power)
		b.when = INT64_MIN;
	v = conflict_decide(&a, &b, !(differs & version));
	ours = v.winner == CONFLICT_A;
	return (struct resync_plan){.act = act_of(here, differs, ours),
		.keep_ours = v.vault && !ours,
		.keep_theirs = v.vault && ours};
}

const char *resync_describe(const struct resync_plan *p)
{
	switch (p->act) {
	case RESYNC_SEND:
		return p->keep_theirs ? "sent, the other version to the vault" : "sent";
	case RESYNC_FETCH:
		return p->keep_ours ? "fetched, the version here to the vault" : "fetched";
	case RESYNC_SEND_LINK:
		return p->keep_theirs ? "link sent, the other version to the vault" : "link sent";
	case RESYNC_SEND_ATTRIBUTES:
		return "attributes sent";
	case RESYNC_TAKE_ATTRIBUTES:
		return "attributes fetched";
	case RESYNC_REMOVE:
		return "removed there, as it was here";
	case RESYNC_REMOVE_HERE:
		return "removed, as it was there";
	case RESYNC_NOTHING:
		break;
	}
	return "nothing";
}
