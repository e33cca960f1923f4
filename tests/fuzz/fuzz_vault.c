/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Fuzzes the description of a version that a peer sends for the vault (JSON). The first byte:
 * whether the name is a good one; the rest is the description.
 *
 * What is refused leaves nothing behind. What is accepted is one entry, which can be listed, named
 * in short and found by that, told to another node and dropped.
 */

#include "replicate/vault.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/confine.h"
#include "replicate/base/log.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char top[] = "/tmp/tandemfs-fuzz-vault.XXXXXX";
static struct apply_target target = {.root = -1, .stage = -1};
static struct vault *vault;

static void require(bool condition)
{
	if (!condition)
		abort();
}

static void clean_up(void)
{
	(void)unlinkat(target.root, VAULT_DIR, AT_REMOVEDIR);
	(void)unlinkat(target.root, "scratch", AT_REMOVEDIR);
	(void)rmdir(top);
}

static void begin(void)
{
	require(mkdtemp(top) != NULL);
	target.root = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	require(mkdirat(target.root, "scratch", 0700) == 0);
	target.scratch = openat(target.root, "scratch", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	require(target.root >= 0 && target.scratch >= 0);
	require(vault_open(target.root, 0, &vault) == 0);
	log_set_level(LOG_LEVEL_ERROR);
	(void)atexit(clean_up);
}

static void check_entry(const char *name)
{
	char brief[VAULT_NAME_SIZE], found[VAULT_NAME_SIZE];
	struct vault_entry *list;
	struct op op;
	size_t n;

	require(vault_list(vault, &list, &n) == 0 && n == 1);
	require(strcmp(list[0].name, name) == 0);
	vault_short(brief, list, n, &list[0]);
	require(vault_find(vault, brief, found) == 0 && strcmp(found, name) == 0);
	vault_list_free(list, n);
	require(vault_op(vault, name, &op) == 0);
	require(confine_check(op.path, false) == 0);
	op_clear(&op);
	require(vault_drop(vault, name) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char good[] = "0123456789abcdef0123456789abcdef-000000000000002a", bad[] = "../x";
	struct content content = {.data = (uint8_t[]){'x'}, .data_len = 0};
	struct op op = {.type = OP_VAULT, .flags = OP_WHOLE, .path = (char[]){"?"}};
	_cleanup_free_ char *text = NULL;
	int e;

	if (size < 1)
		return -1;
	if (!vault)
		begin();
	text = strndup((const char *)data + 1, size - 1);
	require(text != NULL);
	op.path2 = data[0] & 1 ? good : bad;
	op.content = &content;
	op.value = (uint8_t *)text;
	op.value_len = strlen(text);
	e = vault_take(vault, &target, &op);
	require(e == 0 || e == -EBADMSG);
	require(op.path2 == good || e < 0);
	require(vault_count(vault) == (e == 0));
	if (e == 0)
		check_entry(good);
	return 0;
}
