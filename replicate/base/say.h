/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_SAY_H
#define TANDEMFS_SAY_H

/* Errors that come with a sentence for people: what failed, on what, and what to do. */

/* Sets *ret_error, which is NULL or an earlier sentence (freed), to the text, which the caller
 * frees; NULL without memory. Returns @error. */
__attribute__((format(printf, 3, 4))) int say(char **ret_error, int error, const char *format, ...);

#endif
