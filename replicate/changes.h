/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_CHANGES_H
#define TANDEMFS_CHANGES_H

/*
 * The log of replicated changes, for `tandemfs log`: a line of text each, in STATE/changes.log.
 * When it has grown past 8 MiB it becomes changes.log.1.
 *
 *   2026-11-23 09:10:11.123 sent    web2: content a.jpg  10000000 B  39.54 MB/s  316.3 Mb/s  0.253
 * s 2026-11-23 09:10:11.200 applied web2: rename b to c  0.000 s
 */

#include "op.h"

struct changes;

int changes_open(int state, struct changes **ret);
void changes_close(struct changes *c);

struct change_line {
	const char *verb; /* "sent", "applied" */
	const char *peer; /* name of the other node */
	const char *what; /* op_describe's text, or a path */
	uint64_t bytes;   /* 0: none */
	double seconds;   /* from the first byte to the acknowledgement */
};
void changes_add(struct changes *c, const struct change_line *line);

/* Writes out what was added; called at the end of a round. */
void changes_flush(struct changes *c);

#endif
