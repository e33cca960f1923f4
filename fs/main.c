/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The program: a command, or a mount in the foreground or the background. */

#include "commands.h"
#include "daemon.h"
#include "serve.h"

#include "replicate/base/cleanup.h"

#include <string.h>

static void print_help(void)
{
	printf("usage: tandemfs BACKING MOUNTPOINT [-o OPTIONS] [-fds]\n"
	       "       tandemfs COMMAND ...\n\n"
	       "Mounts BACKING at MOUNTPOINT and replicates every change to its peers over SFTP.\n"
	       "  -f  stay in the foreground, log to standard error\n"
	       "  -d  the same with loglevel=debug\n"
	       "  -s  ignore unknown options\n"
	       "  -V  print the version\n\n"
	       "commands:\n");
	commands_help(stdout);
	printf("\noptions, between commas after -o:\n");
	options_help(stdout);
	printf("\nThose of mount(8), such as ro, nosuid, noatime, _netdev and nofail, are taken too.\n"
	       "Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 it could not be done.\n");
}

static int report_to_terminal(void *ctx, enum exit_code code, const char *text)
{
	(void)ctx;
	if (code != EXIT_DONE)
		client_complain("%s", text);
	return 0;
}

static int report_to_parent(void *ctx, enum exit_code code, const char *text)
{
	int r = 0;

	if (code == EXIT_DONE)
		r = daemon_detach();
	return r < 0 ? r : daemon_tell(ctx, code, text);
}

static enum exit_code mount_in_background(const struct options *o, const struct start *s)
{
	_cleanup_report_ struct daemon_report report = {0};
	int pipe_fd, r = daemon_fork(&report, &pipe_fd);

	if (r < 0) {
		client_complain("cannot go to the background: %s", strerror(-r));
		return EXIT_CANNOT;
	}
	if (r == 0)
		return serve(o, s, report_to_parent, &pipe_fd);
	if (report.text)
		client_complain("%s", report.text);
	return report.code;
}

static enum exit_code mount_main(const struct options *o)
{
	_cleanup_start_ struct start s;
	_cleanup_free_ char *error = NULL;
	int r = start_prepare(o, &s, &error);

	if (r < 0) {
		client_complain("%s", error ? error : strerror(-r));
		return EXIT_CANNOT;
	}
	if (s.mounted)
		return EXIT_DONE;
	if (o->foreground)
		return serve(o, &s, report_to_terminal, NULL);
	return mount_in_background(o, &s);
}

static enum exit_code run(const struct options *o)
{
	switch (o->action) {
	case ACTION_MOUNT:
		return mount_main(o);
	case ACTION_HELP:
		print_help();
		return EXIT_DONE;
	case ACTION_MAN:
		options_man(stdout);
		return EXIT_DONE;
	case ACTION_VERSION:
		printf("tandemfs %s\n", TANDEMFS_VERSION);
		return EXIT_DONE;
	}
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	_cleanup_options_ struct options o = {0}; /* the commands end without them */
	_cleanup_free_ char *error = NULL;
	int r;

	if (argc > 1 && commands_known(argv[1]))
		return (int)commands_run(argc - 1, argv + 1);
	r = options_parse(argc, argv, &o, &error);
	if (r < 0) {
		client_complain("%s", error ? error : strerror(-r));
		return r == -EINVAL ? EXIT_USAGE : EXIT_CANNOT;
	}
	return (int)run(&o);
}
