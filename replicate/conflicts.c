/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What people do with the vault. Both nodes have the same entries: what is dropped or added here is
 * journaled and so done at the peers.
 */

#include "impl.h"

#include "base/confine.h"

#include <errno.h>

int replica_conflicts(struct replica *r, struct vault_entry **ret, size_t *ret_n)
{
	return vault_list(r->vault, ret, ret_n);
}

int replica_conflict_find(struct replica *r, const char *text, char ret[VAULT_NAME_SIZE])
{
	return vault_find(r->vault, text, ret);
}

int replica_conflict_open(struct replica *r, const char *name)
{
	return vault_read(r->vault, name, NULL);
}

int replica_conflict_drop(struct replica *r, const char *name)
{
	struct op op;
	int e = vault_op(r->vault, name, &op);

	if (e < 0)
		return e;
	op.flags = OP_GONE;
	e = vault_drop(r->vault, name);
	if (e == 0)
		e = replica_say(r, &op);
	op_clear(&op);
	return e;
}

int replica_conflict_keep(struct replica *r, const char *path)
{
	struct stat st;
	struct keep k = {.path = path, .winner = r->node.name};
	int e = confine_check(path, false);

	if (e == 0)
		e = confine_stat(r->root, path, &st);
	if (e == 0 && S_ISDIR(st.st_mode))
		e = -EISDIR;
	if (e == 0)
		e = keep_new_number(r, &k.seq);
	return e < 0 ? e : keep_version(r, &k);
}
