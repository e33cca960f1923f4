/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_COMMANDS_H
#define TANDEMFS_COMMANDS_H

/* `tandemfs COMMAND ...`: the table of commands, and their arguments. */

#include "client.h"

/* Whether @name is a command; else it is the backing directory of a mount. */
bool commands_known(const char *name);

/* Runs argv[0], a command, with its arguments. */
enum exit_code commands_run(int argc, char *const *argv);

/* A line or two per command. */
void commands_help(FILE *f);

#endif
