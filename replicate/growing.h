/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_GROWING_H
#define TANDEMFS_GROWING_H

/* Files that are being written anew, front to back, and are large already: the peers can be sent
 * what is there before they are closed. See growing.c. */

#include "impl.h"

struct growing {
	struct growing *next;
	uint64_t id;  /* ascending, from 1 */
	uint64_t seq; /* of the mark that it is dirty */
	struct fid fid;
	atomic_uint_fast64_t front; /* bytes that are there and stay as they are */
	atomic_bool closed;         /* its OP_CONTENT is journaled: front is its size */
	atomic_bool spoiled;        /* bytes before front may have changed, or it is gone */
	unsigned users;             /* guarded by replica.lock */
};

/* The first one after @id that is still being written, to be given back with growing_put(); NULL
 * for none. */
struct growing *growing_next(struct replica *r, uint64_t id);
void growing_put(struct replica *r, struct growing *g);

/* ---- for replica.c ---- */

/* @op was journaled: an OP_CONTENT ends the growth, anything that marks the file as dirty again
 * spoils it. */
void growing_journaled(struct replica *r, const struct op *op);
/* The mark @seq is settled without an OP_CONTENT, or after it. */
void growing_settled(struct replica *r, uint64_t seq);
/* Something else has changed the bytes of the inode. */
void growing_changed(struct replica *r, const struct fid *fid);
void growing_free_all(struct replica *r);

#endif
