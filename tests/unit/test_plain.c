/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What a plain peer's session keeps: sets of paths, and the position between sessions. That it
 * comes to the same tree whatever breaks is the simulation's (tests/sim, --plain). */

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <cmocka.h>

#include "replicate/base/cleanup.h"
#include "replicate/plain.h"

#define URL "sftp://backup@nas/www"

/* ---- sets of paths ---- */

static void test_paths(void **state)
{
	struct path_set s = {0};

	(void)state;
	paths_put(&s, "a", 3);
	paths_put(&s, "a", 2); /* never lower */
	paths_put(&s, "a/b", 5);
	paths_put(&s, "ab", 7);
	assert_int_equal(paths_count(&s), 3);
	assert_int_equal(paths_get(&s, "a"), 3);
	assert_int_equal(paths_get(&s, "absent"), 0);
	assert_true(paths_covers(&s, "a") && paths_covers(&s, "a/c/d"));
	assert_false(paths_covers(&s, "abc") || paths_covers(&s, ""));
	paths_drop(&s, "a");
	assert_int_equal(paths_count(&s), 1);
	assert_int_equal(paths_get(&s, "ab"), 7);
	paths_clear(&s);
	assert_int_equal(paths_count(&s), 0);
}

static void test_paths_follow_renames(void **state)
{
	struct path_set s = {0};

	(void)state;
	paths_put(&s, "d", 1);
	paths_put(&s, "d/f", 2);
	paths_put(&s, "da", 3);
	paths_put(&s, "e/f", 4); /* is replaced */
	paths_rename(&s, "d", "e");
	assert_int_equal(paths_get(&s, "e"), 1);
	assert_int_equal(paths_get(&s, "e/f"), 2);
	assert_int_equal(paths_get(&s, "da"), 3);
	assert_int_equal(paths_get(&s, "d"), 0);
	assert_int_equal(paths_count(&s), 3);
	paths_rename(&s, "absent", "da"); /* what was there before is gone all the same */
	assert_int_equal(paths_count(&s), 2);
	paths_clear(&s);
}

static void test_paths_pop(void **state)
{
	struct path_set s = {0};
	bool seen[2] = {false};

	(void)state;
	paths_put(&s, "0", 1);
	paths_put(&s, "1", 1);
	for (int i = 0; i < 2; i++) {
		_cleanup_free_ char *path = paths_pop(&s);

		assert_non_null(path);
		seen[path[0] - '0'] = true;
	}
	assert_true(seen[0] && seen[1]);
	assert_null(paths_pop(&s));
}

/* ---- the position ---- */

struct fixture {
	struct replica replica; /* only its state directory is used */
	char dir[64], file[128];
};

static const struct plain_state sample = {.session = 11,
	.next = 12,
	.applied = 1000,
	.attempted = UINT64_MAX,
	.scan_from = 900,
	.synced = true,
	.met = true,
	.counts = {1, 2, 3}};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	snprintf(f->dir, sizeof(f->dir), "/tmp/tandemfs-plain-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->replica.state = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->replica.state >= 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(plain_state_remove(&f->replica, URL), 0);
	close(f->replica.state);
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

static void test_state_round_trip(void **state)
{
	struct fixture *f = *state;
	struct plain_state s;

	assert_int_equal(plain_state_load(&f->replica, URL, &s), 0);
	assert_int_equal(s.session, 0);
	assert_false(s.synced);
	for (int how = PLAIN_SAVE_FAST; how <= PLAIN_SAVE_CLEAN; how++) {
		assert_int_equal(
			plain_state_save(&f->replica, URL, &sample, (enum plain_save)how), 0);
		assert_int_equal(plain_state_load(&f->replica, URL, &s), 0);
		assert_memory_equal(&s, &sample, sizeof(s));
	}
	assert_int_equal(plain_state_load(&f->replica, URL "/other", &s), 0);
	assert_int_equal(s.session, 0);
}

/* The only file in the state directory, open. */
static int open_state(const struct fixture *f)
{
	char command[200], name[200] = "";
	FILE *p;
	int fd;

	snprintf(command, sizeof(command), "ls %s/plain-*", f->dir);
	p = popen(command, "r");
	assert_non_null(p);
	assert_non_null(fgets(name, sizeof(name), p));
	pclose(p);
	name[strcspn(name, "\n")] = '\0';
	fd = open(name, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void damage(const struct fixture *f, off_t at)
{
	_cleanup_close_ int fd = open_state(f);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x55;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

/* As if the machine had been started anew since: the id of the boot is behind six bytes, the
 * checksum is the end. */
static void reboot(const struct fixture *f)
{
	_cleanup_close_ int fd = open_state(f);
	uint8_t data[512];
	ssize_t len = pread(fd, data, sizeof(data), 0);
	uint64_t sum;

	assert_true(len > 60);
	data[6] ^= 1;
	sum = htole64(XXH64(data, (size_t)len - 8, 0));
	memcpy(data + len - 8, &sum, 8);
	assert_int_equal(pwrite(fd, data, (size_t)len, 0), len);
}

static void test_state_of_another_boot(void **state)
{
	struct fixture *f = *state;
	struct plain_state s;

	assert_int_equal(plain_state_save(&f->replica, URL, &sample, PLAIN_SAVE_CLEAN), 0);
	reboot(f);
	assert_int_equal(plain_state_load(&f->replica, URL, &s), 0);
	assert_memory_equal(&s, &sample, sizeof(s));
	assert_int_equal(plain_state_save(&f->replica, URL, &sample, PLAIN_SAVE_SYNC), 0);
	reboot(f);
	assert_int_equal(plain_state_load(&f->replica, URL, &s), 0);
	assert_false(s.synced); /* its numbers may be other ops' by now */
	assert_int_equal(s.scan_from, 0);
	assert_int_equal(s.session, sample.session);
	assert_true(s.met);
}

static void test_state_damaged(void **state)
{
	struct fixture *f = *state;
	struct plain_state s;

	for (off_t at = 0; at < 100; at += 7) {
		assert_int_equal(plain_state_save(&f->replica, URL, &sample, PLAIN_SAVE_FAST), 0);
		damage(f, at);
		assert_int_equal(plain_state_load(&f->replica, URL, &s), -EBADMSG);
		assert_int_equal(s.session, 0);
	}
}

int main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_paths_follow_renames),
		cmocka_unit_test(test_paths_pop),
		WITH(test_state_round_trip),
		WITH(test_state_of_another_boot),
		WITH(test_state_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
