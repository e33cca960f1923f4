/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Each command is a row: its name, the flags that it takes, whether it needs a mount point, the
 * function, and its help. Flags may stand before or after the mount point.
 */

#include "commands.h"

#include "replicate/base/cleanup.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <string.h>

enum { FLAG_JSON = 1, FLAG_FOLLOW = 2, FLAG_TIMEOUT = 4 };

#define TIMEOUT_MAX 1000000

static const struct command {
	const char *name;
	unsigned flags;
	bool needs_mountpoint;
	enum exit_code (*run)(const struct command_line *line);
	const char *usage, *help;
} commands[] = {
	{"status", FLAG_JSON, false, cmd_status, "[--json] [MOUNTPOINT]",
		"state of each peer, lag, conflicts; without MOUNTPOINT of all mounts"},
	{"wait", FLAG_TIMEOUT, true, cmd_wait, "[--timeout SECONDS] MOUNTPOINT",
		"returns once every peer has applied all that was done before"},
	{"verify", FLAG_JSON, true, cmd_verify, "[--json] MOUNTPOINT",
		"compares both trees by digest; 0 when identical, 1 when not"},
	{"log", FLAG_FOLLOW, true, cmd_log, "[-f] MOUNTPOINT",
		"one line per replicated change; -f follows"},
	{"stop", 0, true, cmd_stop, "MOUNTPOINT", "unmounts, and waits until the daemon has ended"},
};

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

bool commands_known(const char *name)
{
	return find(name) != NULL;
}

void commands_help(FILE *f)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		fprintf(f, "  tandemfs %s %s\n      %s\n", commands[i].name, commands[i].usage,
			commands[i].help);
}

static enum exit_code usage_error(const struct command *c, const char *what)
{
	client_complain("%s: %s; it is `tandemfs %s %s`", c->name, what, c->name, c->usage);
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
	} else if (flag == 't' && (c->flags & FLAG_TIMEOUT)) {
		if (!parse_timeout(optarg, &line->timeout))
			return usage_error(c, "the timeout is a number of seconds, 0 to 1000000");
	} else {
		return usage_error(c, "it takes no such flag");
	}
	return EXIT_DONE;
}

enum exit_code commands_run(int argc, char *const *argv)
{
	const struct command *c = find(argv[0]);
	struct command_line line = {.timeout = -1};
	enum exit_code code;
	int flag;

	opterr = 0;
	optind = 0;
	while ((flag = getopt_long(argc, argv, ":fh", long_options, NULL)) != -1) {
		if (flag == 'h') {
			printf("tandemfs %s %s\n    %s\n", c->name, c->usage, c->help);
			return EXIT_DONE;
		}
		code = take_flag(c, flag, &line);
		if (code != EXIT_DONE)
			return code;
	}
	if (argc - optind > 1)
		return usage_error(c, "there is one mount point at most");
	if (argc - optind == 1)
		line.mountpoint = argv[optind];
	if (c->needs_mountpoint && !line.mountpoint)
		return usage_error(c, "the mount point is missing");
	code = c->run(&line);
	if (fflush(stdout) == EOF || ferror(stdout)) {
		client_complain("%s: the output could not be written", c->name);
		return EXIT_CANNOT;
	}
	return code;
}
