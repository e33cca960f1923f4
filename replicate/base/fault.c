/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fault.h"

#ifdef TANDEMFS_FAULTS

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * DESIGN: the environment is parsed once into a small table; a pass of a label that stands there
 * counts down its entry, and the pass that reaches zero sends SIGKILL to the process: no handler,
 * no flushing, as in a crash. Malformed entries end the program before a test can pass by mistake
 * with no fault in it; this is test code, which is not in a build without TANDEMFS_FAULTS.
 */

#define FAULTS_MAX 16
#define LABEL_MAX 64

static struct {
	char label[LABEL_MAX];
	_Atomic long left;
} faults[FAULTS_MAX]; /* but for left: written once by parse() */
static size_t n_faults;
static pthread_once_t parsed = PTHREAD_ONCE_INIT;
static _Atomic(void (*)(const char *)) fault_hook;

static void parse_one(const char *entry)
{
	long n;
	char end;

	if (n_faults == FAULTS_MAX ||
		sscanf(entry, "%63[^:]:%ld%c", faults[n_faults].label, &n, &end) != 2) {
		fprintf(stderr, "TANDEMFS_FAULT: \"%s\" is not label:n\n", entry);
		abort();
	}
	faults[n_faults++].left = n;
}

static void parse(void)
{
	const char *env = getenv("TANDEMFS_FAULT");
	char *copy = env ? strdup(env) : NULL, *save = NULL;

	for (char *s = copy ? strtok_r(copy, ",", &save) : NULL; s; s = strtok_r(NULL, ",", &save))
		parse_one(s);
	free(copy);
}

void fault_set_hook(void (*hook)(const char *label))
{
	atomic_store(&fault_hook, hook);
}

void fault_point_hit(const char *label)
{
	void (*hook)(const char *) = atomic_load(&fault_hook);

	if (hook) {
		hook(label);
		return;
	}
	(void)pthread_once(&parsed, parse);
	for (size_t i = 0; i < n_faults; i++)
		if (strcmp(faults[i].label, label) == 0 &&
			atomic_fetch_sub(&faults[i].left, 1) == 1)
			(void)kill(getpid(), SIGKILL);
}

#endif
