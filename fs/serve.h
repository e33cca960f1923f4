/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SERVE_H
#define TANDEMFS_SERVE_H

/* The daemon of one mount, from the state directory's lock to the end. */

#include "start.h"

/* Called once, when the mount is up (@code EXIT_DONE, @text NULL) or could not be made (@text is a
 * sentence). 0, or -errno when nobody is left to be told: then the daemon ends. */
typedef int (*serve_report)(void *ctx, enum exit_code code, const char *text);

/* Mounts, reports, serves until it is unmounted or a signal comes. */
enum exit_code serve(
	const struct options *o, const struct start *s, serve_report report, void *ctx);

#endif
