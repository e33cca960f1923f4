/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What calls cost in a directory:   calls DIR ROUNDS
 *
 * Prints one line per call: its name and the median over the rounds of the mean over the round's
 * calls, in microseconds; MB/s for the sequential ones. Leaves the directory as it was.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILES 200
#define ROUNDS_MAX 100
#define BIG (256u << 20)
#define BLOCK (1u << 20)

static char block[BLOCK];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now_us(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static const char *name_of(const char *prefix, int i)
{
	static char name[64];

	(void)snprintf(name, sizeof(name), "%s%03d", prefix, i);
	return name;
}

static void create_one(int i)
{
	int fd = open(name_of("f", i), O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd < 0 || write(fd, block, 4096) != 4096 || close(fd) < 0)
		die("create");
}

static void stat_one(int i)
{
	struct stat st;

	if (stat(name_of("f", i), &st) < 0)
		die("stat");
}

static void absent_one(int i)
{
	struct stat st;

	if (stat(name_of("absent", i), &st) == 0 || errno != ENOENT)
		die("stat of an absent name");
}

static void read_one(int i)
{
	int fd = open(name_of("f", i), O_RDONLY);

	if (fd < 0 || read(fd, block, 4096) != 4096 || close(fd) < 0)
		die("read");
}

static void rename_one(int i)
{
	char to[64];

	(void)snprintf(to, sizeof(to), "g%03d", i);
	if (rename(name_of("f", i), to) < 0)
		die("rename");
}

static void unlink_one(int i)
{
	if (unlink(name_of("g", i)) < 0)
		die("unlink");
}

static double each(void (*fn)(int i))
{
	double start = now_us();

	for (int i = 0; i < FILES; i++)
		fn(i);
	return (now_us() - start) / FILES;
}

static double pwrites(void)
{
	int fd = open("f000", O_WRONLY);
	double start;

	if (fd < 0)
		die("open");
	start = now_us();
	for (int i = 0; i < FILES; i++)
		if (pwrite(fd, block, 4096, (off_t)(i % 8) * 4096) != 4096)
			die("pwrite");
	start = (now_us() - start) / FILES;
	if (close(fd) < 0)
		die("close");
	return start;
}

static double listing(void)
{
	double start = now_us();
	int n = 0;

	for (int k = 0; k < 10; k++) {
		DIR *d = opendir(".");

		if (!d)
			die("opendir");
		while (readdir(d))
			n++;
		(void)closedir(d);
	}
	return (now_us() - start) / n;
}

static double sequential(int flags)
{
	int fd = open("big", flags, 0644);
	double start = now_us();

	if (fd < 0)
		die("big");
	for (unsigned at = 0; at < BIG; at += BLOCK) {
		ssize_t n = flags & O_WRONLY ? write(fd, block, BLOCK) : read(fd, block, BLOCK);

		if (n != BLOCK)
			die("big file");
	}
	if (close(fd) < 0)
		die("close");
	return (double)BIG / (now_us() - start);
}

enum { CREATE, STAT, ABSENT, READ, PWRITE, READDIR, RENAME, UNLINK, WRITE_SEQ, READ_SEQ, KINDS };
static const char *const names[KINDS] = {"create+write+close", "stat", "stat, absent",
	"open+read+close", "pwrite 4 KiB", "readdir, per entry", "rename", "unlink",
	"sequential write MB/s", "sequential read MB/s"};

static void one_round(double result[KINDS])
{
	result[CREATE] = each(create_one);
	(void)each(stat_one); /* into the caches */
	(void)each(absent_one);
	result[STAT] = each(stat_one);
	result[ABSENT] = each(absent_one);
	(void)each(read_one);
	result[READ] = each(read_one);
	result[READDIR] = listing();
	result[PWRITE] = pwrites();
	result[RENAME] = each(rename_one);
	result[UNLINK] = each(unlink_one);
	result[WRITE_SEQ] = sequential(O_WRONLY | O_CREAT | O_TRUNC);
	result[READ_SEQ] = sequential(O_RDONLY);
	if (unlink("big") < 0)
		die("unlink");
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	static double all[ROUNDS_MAX][KINDS];
	int rounds = argc == 3 ? atoi(argv[2]) : 0;

	if (rounds < 1 || rounds > ROUNDS_MAX || chdir(argv[1]) < 0) {
		(void)fprintf(stderr, "usage: calls DIR ROUNDS (1 to %d)\n", ROUNDS_MAX);
		return 2;
	}
	memset(block, 'x', sizeof(block));
	for (int r = 0; r < rounds; r++)
		one_round(all[r]);
	for (int k = 0; k < KINDS; k++) {
		double column[ROUNDS_MAX];

		for (int r = 0; r < rounds; r++)
			column[r] = all[r][k];
		qsort(column, (size_t)rounds, sizeof(column[0]), ascending);
		printf("%s\t%.2f\n", names[k], column[rounds / 2]);
	}
	return 0;
}
