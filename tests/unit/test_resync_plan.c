/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What the reconciler decides; above all that both nodes would decide the same. */

#include "replicate/resync_plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static const struct resync_node a = {"a", "1", false}, b = {"b", "0", false};

static struct manifest_entry entry(uint32_t mode, int64_t mtime, const char *bytes)
{
	struct manifest_entry e = {.path = "name",
		.mode = mode,
		.mtime = mtime,
		.size = S_ISREG(mode) ? strlen(bytes) : 0,
		.target = S_ISLNK(mode) ? (char *)bytes : "",
		.link = ""};

	if (S_ISREG(mode)) {
		e.content_len = 4;
		memcpy(e.content, bytes, 4);
	}
	return e;
}

static void check(const struct manifest_entry *here, const struct manifest_entry *there,
	enum resync_act act, bool keep_ours, bool keep_theirs)
{
	struct resync_plan p = resync_decide(here, there, &a, &b);

	assert_int_equal(p.act, act);
	assert_int_equal(p.keep_ours, keep_ours);
	assert_int_equal(p.keep_theirs, keep_theirs);
}

static void names_on_one_side(void **state)
{
	struct manifest_entry f = entry(S_IFREG | 0644, 1, "text");

	(void)state;
	check(&f, NULL, RESYNC_SEND, false, false);
	check(NULL, &f, RESYNC_FETCH, false, false);
	check(&f, &f, RESYNC_NOTHING, false, false);
	f.link = "first";
	check(&f, NULL, RESYNC_SEND_LINK, false, false);
	check(NULL, &f, RESYNC_FETCH, false, false);
}

static void versions(void **state)
{
	struct manifest_entry old = entry(S_IFREG | 0644, 1, "text");
	struct manifest_entry new = entry(S_IFREG | 0644, 2, "else");
	struct manifest_entry dir = entry(S_IFDIR | 0755, 0, "");
	struct manifest_entry link = entry(S_IFLNK | 0777, 3, "to");

	(void)state;
	check(&new, &old, RESYNC_SEND, false, true);
	check(&old, &new, RESYNC_FETCH, true, false);
	check(&dir, &new, RESYNC_SEND, false, true);
	check(&new, &dir, RESYNC_FETCH, true, false);
	check(&new, &link, RESYNC_FETCH, true, false);
}

static void attributes(void **state)
{
	struct manifest_entry old = entry(S_IFREG | 0644, 1, "text");
	struct manifest_entry new = entry(S_IFREG | 0600, 2, "text");
	struct manifest_entry dir = entry(S_IFDIR | 0755, 1, "");
	struct manifest_entry dir_new = entry(S_IFDIR | 0700, 2, "");
	struct manifest_entry link = entry(S_IFLNK | 0777, 1, "to");
	struct manifest_entry link_new = entry(S_IFLNK | 0777, 2, "to");

	(void)state;
	check(&new, &old, RESYNC_SEND_ATTRIBUTES, false, false);
	check(&old, &new, RESYNC_TAKE_ATTRIBUTES, false, false);
	check(&dir, &dir_new, RESYNC_TAKE_ATTRIBUTES, false, false);
	check(&link, &link_new, RESYNC_FETCH, false, false);
	new.xattrs_len = 1;
	check(&new, &old, RESYNC_SEND, false, false);
	check(&old, &new, RESYNC_FETCH, false, false);
}

/* The mirror image of an act. */
static enum resync_act mirror(enum resync_act act)
{
	switch (act) {
	case RESYNC_SEND:
	case RESYNC_SEND_LINK:
		return RESYNC_FETCH;
	case RESYNC_SEND_ATTRIBUTES:
		return RESYNC_TAKE_ATTRIBUTES;
	case RESYNC_TAKE_ATTRIBUTES:
		return RESYNC_SEND_ATTRIBUTES;
	default:
		return act;
	}
}

static void after_a_power_failure(void **state)
{
	const struct resync_node failed = {"b", "0", true}, failed_too = {"a", "1", true};
	struct manifest_entry old = entry(S_IFREG | 0644, 1, "text"),
			      new = entry(S_IFREG | 0644, 2, "none"),
			      empty = entry(S_IFREG | 0644, 1, "\0\0\0");
	struct resync_plan p = resync_decide(&old, &new, &a, &failed);

	(void)state;
	assert_int_equal(p.act, RESYNC_SEND);
	assert_true(p.keep_theirs);
	p = resync_decide(&new, &old, &failed, &a);
	assert_int_equal(p.act, RESYNC_FETCH);
	assert_true(p.keep_ours);
	p = resync_decide(&old, &new, &failed_too, &failed);
	assert_int_equal(p.act, RESYNC_FETCH);
	p = resync_decide(&old, &empty, &failed_too, &failed);
	assert_int_equal(p.act, RESYNC_SEND);
	p = resync_decide(&empty, &old, &failed, &failed_too);
	assert_int_equal(p.act, RESYNC_FETCH);
}

static void both_nodes_decide_alike(void **state)
{
	static const uint32_t modes[] = {
		S_IFREG | 0644, S_IFREG | 0600, S_IFDIR | 0755, S_IFLNK | 0777, S_IFIFO | 0600};
	struct manifest_entry all[5 * 2 * 2];
	size_t n = 0;

	(void)state;
	for (size_t m = 0; m < 5; m++)
		for (int64_t t = 1; t <= 2; t++)
			for (int c = 0; c < 2; c++)
				all[n++] = entry(modes[m], t, c ? "text" : "else");
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < n; k++) {
			struct resync_plan p = resync_decide(&all[i], &all[k], &a, &b);
			struct resync_plan q = resync_decide(&all[k], &all[i], &b, &a);

			if (q.act == RESYNC_FETCH)
				assert_int_equal(mirror(p.act), q.act);
			else
				assert_int_equal(p.act, mirror(q.act));
			assert_int_equal(p.keep_ours, q.keep_theirs);
			assert_int_equal(p.keep_theirs, q.keep_ours);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_on_one_side),
		cmocka_unit_test(versions),
		cmocka_unit_test(attributes),
		cmocka_unit_test(after_a_power_failure),
		cmocka_unit_test(both_nodes_decide_alike),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
