/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Each command is a row: its name, the flags that it takes, how many operands, the function, and
 * its help. The first operand is the mount point. Flags may stand before or after operands. A name
 * of two words is a command that does several things; the first row of the name is what it does
 * when no second word says so.
 */

#include "commands.h"

#include "replicate/base/cleanup.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <string.h>

enum {
	FLAG_JSON = 1,
	FLAG_FOLLOW = 2,
	FLAG_TIMEOUT = 4,
	FLAG_OUTPUT = 8,
	FLAG_ALL = 16,
	FLAG_DRY_RUN = 32
};

#define TIMEOUT_MAX 1000000

static const struct command {
	const char *name;
	const char *action; /* the second word; NULL: there is none */
	unsigned flags;
	int least, most; /* operands */
	enum exit_code (*run)(const struct command_line *line);
	const char *usage, *help;
} commands[] = {
	{"status", NULL, FLAG_JSON, 0, 1, cmd_status, "[--json] [MOUNTPOINT]",
		"state of each peer, lag, conflicts; without MOUNTPOINT of all mounts"},
	{"wait", NULL, FLAG_TIMEOUT, 1, 1, cmd_wait, "[--timeout SECONDS] MOUNTPOINT",
		"returns once every peer has applied all that was done before"},
	{"verify", NULL, FLAG_JSON, 1, 1, cmd_verify, "[--json] MOUNTPOINT",
		"compares both trees by digest; 0 when identical, 1 when not"},
	{"resync", NULL, FLAG_JSON | FLAG_DRY_RUN, 1, 1, cmd_resync,
		"[--dry-run] [--json] MOUNTPOINT",
		"makes both trees equal again; --dry-run only says what would be done"},
	{"conflicts", "list", FLAG_JSON, 1, 1, cmd_conflicts_list, "[--json] MOUNTPOINT",
		"the versions that lost a conflict and are kept in the vault"},
	{"conflicts", "show", FLAG_JSON | FLAG_OUTPUT, 2, 2, cmd_conflicts_show,
		"[--json] [-o FILE] MOUNTPOINT ENTRY",
		"describes one; its bytes go to FILE, or to what is no terminal"},
	{"conflicts", "restore", 0, 2, 3, cmd_conflicts_restore, "MOUNTPOINT ENTRY [NEWPATH]",
		"puts one back, under its name or NEWPATH; what stands there goes to the vault"},
	{"conflicts", "drop", FLAG_ALL, 1, 2, cmd_conflicts_drop, "MOUNTPOINT ENTRY|--all",
		"forgets one, or all, on both servers"},
	{"log", NULL, FLAG_FOLLOW, 1, 1, cmd_log, "[-f] MOUNTPOINT",
		"one line per replicated change; -f follows"},
	{"stop", NULL, 0, 1, 1, cmd_stop, "MOUNTPOINT",
		"unmounts, and waits until the daemon has ended"},
};

#define N_COMMANDS (sizeof(commands) / sizeof(*commands))

/* The row for @name, and for @action when it is one; NULL: there is no such command. */
static const struct command *find(const char *name, const char *action)
{
	const struct command *first = NULL;

	for (size_t i = 0; i < N_COMMANDS; i++) {
		const struct command *c = &commands[i];

		if (strcmp(c->name, name) != 0)
			continue;
		if (action && c->action && strcmp(c->action, action) == 0)
			return c;
		first = first ? first : c;
	}
	return first;
}

/* "conflicts list" */
static struct command_title {
	char text[40];
} title(const struct command *c)
{
	struct command_title t;

	(void)snprintf(t.text, sizeof(t.text), "%s%s%s", c->name, c->action ? " " : "",
		c->action ? c->action : "");
	return t;
}

bool commands_known(const char *name)
{
	return find(name, NULL) != NULL;
}

void commands_help(FILE *f)
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		fprintf(f, "  tandemfs %s %s\n      %s\n", title(&commands[i]).text,
			commands[i].usage, commands[i].help);
}

static enum exit_code usage_error(const struct command *c, const char *what)
{
	client_complain("%s: %s; it is `tandemfs %s %s`", c->name, what, title(c).text, c->usage);
	return EXIT_USAGE;
}

static bool parse_timeout(const char *text, double *ret)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !isfinite(seconds) || seconds < 0 || seconds > TIMEOUT_MAX)
		return false;
	*ret = seconds;
	return true;
}

static const struct option long_options[] = {
	{"json", no_argument, NULL, 'j'},
	{"follow", no_argument, NULL, 'f'},
	{"timeout", required_argument, NULL, 't'},
	{"output", required_argument, NULL, 'o'},
	{"all", no_argument, NULL, 'a'},
	{"dry-run", no_argument, NULL, 'n'},
	{"help", no_argument, NULL, 'h'},
	{0},
};

static enum exit_code take_flag(const struct command *c, int flag, struct command_line *line)
{
	if (flag == ':')
		return usage_error(c, "a flag needs a value");
	if (flag == 'j' && (c->flags & FLAG_JSON)) {
		line->json = true;
	} else if (flag == 'f' && (c->flags & FLAG_FOLLOW)) {
		line->follow = true;
	} else if (flag == 'n' && (c->flags & FLAG_DRY_RUN)) {
		line->dry_run = true;
	} else if (flag == 't' && (c->flags & FLAG_TIMEOUT)) {
		if (!parse_timeout(optarg, &line->timeout))
			return usage_error(c, "the timeout is a number of seconds, 0 to 1000000");
	} else if (flag == 'o' && (c->flags & FLAG_OUTPUT)) {
		line->output = optarg;
	} else if (flag == 'a' && (c->flags & FLAG_ALL)) {
		line->all = true;
	} else {
		return usage_error(c, "it takes no such flag");
	}
	return EXIT_DONE;
}

static enum exit_code take_operands(
	const struct command *c, int n, char *const *operands, struct command_line *line)
{
	if (n > c->most)
		return usage_error(c, c->most == 1 ? "there is one mount point at most"
						   : "there are too many arguments");
	if (n < c->least)
		return usage_error(c, n == 0 ? "the mount point is missing"
					     : "the name of the conflict is missing");
	line->mountpoint = n > 0 ? operands[0] : NULL;
	line->entry = n > 1 ? operands[1] : NULL;
	line->newpath = n > 2 ? operands[2] : NULL;
	if ((c->flags & FLAG_ALL) && line->all == (line->entry != NULL))
		return usage_error(c, "it is either one or --all");
	return EXIT_DONE;
}

enum exit_code commands_run(int argc, char *const *argv)
{
	const struct command *c = find(argv[0], argc > 1 ? argv[1] : NULL);
	struct command_line line = {.timeout = -1};
	enum exit_code code;
	int flag;

	if (argc > 1 && c->action && strcmp(c->action, argv[1]) == 0) {
		argc--;
		argv++;
	}
	opterr = 0;
	optind = 0;
	while ((flag = getopt_long(argc, argv, ":fo:h", long_options, NULL)) != -1) {
		if (flag == 'h') {
			printf("tandemfs %s %s\n    %s\n", title(c).text, c->usage, c->help);
			return EXIT_DONE;
		}
		code = take_flag(c, flag, &line);
		if (code != EXIT_DONE)
			return code;
	}
	code = take_operands(c, argc - optind, argv + optind, &line);
	if (code == EXIT_DONE)
		code = c->run(&line);
	if (fflush(stdout) == EOF || ferror(stdout)) {
		client_complain("%s: the output could not be written", c->name);
		return EXIT_CANNOT;
	}
	return code;
}
