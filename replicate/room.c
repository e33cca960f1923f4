/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * DESIGN: a removal that would make room on a full disk arrives by a log on that disk. So
 * .tandemfs/reserve holds blocks that nobody else can have. Once others have filled the disk they
 * are given up, at first all but a little, and what is applied here does not take them: contents
 * wait as if nothing were left, and what needs a block is made as long as half of the reserve is
 * there. Of the log of a session only what was not read yet keeps its blocks then, and some are
 * taken ahead of its end. When there is room again the reserve is made anew.
 *
 * Those who write to the disk by other ways may be faster; then only what was taken ahead is left.
 */

#include "room.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/log.h"
#include "impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define RESERVE_FILE "reserve"
#define RESERVE (1u << 20)
/* Less than that is full. */
#define SHORT_BELOW (256u << 10)
#define ENOUGH (RESERVE + (512u << 10))
/* What is kept even then, for the hello of another session: that makes the receiver remove what the
 * one before has left in the spool. Less than NOTHING, and it is given up too. */
#define LAST (64u << 10)
#define NOTHING (16u << 10)
#define SMALL 4096

/* What the account can have; UINT64_MAX: nobody knows. */
static uint64_t free_bytes(const struct replica *r)
{
	struct statvfs v;

	if (fstatvfs(r->root, &v) < 0 || v.f_blocks == 0)
		return UINT64_MAX;
	return (uint64_t)v.f_bavail * v.f_frsize;
}

static uint64_t held_bytes(const struct replica *r)
{
	struct stat st;

	return fstat(r->reserve, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

void room_open(struct replica *r)
{
	r->reserve =
		openat(r->control, RESERVE_FILE, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (r->reserve < 0)
		log_warning(TANDEMFS_DIR "/" RESERVE_FILE ": %s; on a full disk removals may not "
					 "arrive",
			strerror(errno));
}

void room_close(struct replica *r)
{
	cleanup_close(&r->reserve);
}

static void give_up(struct replica *r, uint64_t keep)
{
	if (ftruncate(r->reserve, (off_t)keep) < 0)
		log_warning(TANDEMFS_DIR "/" RESERVE_FILE ": %s", strerror(errno));
	if (!atomic_exchange(&r->short_of_room, true))
		log_warning("the disk of %s is full: no contents are taken, what is left is for "
			    "removals",
			r->config.backing);
}

static void make(struct replica *r, uint64_t bytes)
{
	bool made = fallocate(r->reserve, 0, 0, (off_t)bytes) == 0;

	if (!made && errno == EOPNOTSUPP)
		room_close(r); /* nor is there anything to give up */
	else if (!made || bytes < RESERVE)
		return;
	if (atomic_exchange(&r->short_of_room, false))
		log_notice("there is room on the disk of %s again", r->config.backing);
}

void room_look(struct replica *r)
{
	uint64_t left = r->reserve < 0 ? UINT64_MAX : free_bytes(r);
	uint64_t held = left == UINT64_MAX ? 0 : held_bytes(r);

	if (left == UINT64_MAX)
		return;
	if (left < SHORT_BELOW && (held >= RESERVE || !room_is_short(r)))
		give_up(r, LAST);
	else if (left < NOTHING && held >= LAST)
		give_up(r, 0);
	else if (left >= ENOUGH && held < RESERVE)
		make(r, RESERVE);
	else if (left >= 4 * LAST && held < LAST)
		make(r, LAST);
}

bool room_is_short(const struct replica *r)
{
	return atomic_load(&r->short_of_room);
}

static bool needs_block(enum op_type type)
{
	return type == OP_CONTENT || type == OP_MKDIR || type == OP_SYMLINK || type == OP_MKNOD ||
	       type == OP_LINK || type == OP_SETXATTR || type == OP_VAULT;
}

int room_check(struct replica *r, const struct op *op)
{
	if (!room_is_short(r) || !needs_block(op->type))
		return 0;
	if (op->content && op->content->data_len > SMALL)
		return -ENOSPC;
	return free_bytes(r) < RESERVE / 2 ? -ENOSPC : 0;
}

void room_for_log(int fd, off_t done, off_t end)
{
	_cleanup_close_ int log = -1;
	char path[64];
	int e = 0;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd); /* it was opened for reading */
	log = open(path, O_WRONLY | O_CLOEXEC);
	if (log < 0)
		e = -errno;
	else if (done > 0 &&
		 fallocate(log, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, done) < 0)
		e = -errno;
	if (e == 0 && fallocate(log, FALLOC_FL_KEEP_SIZE, end, ROOM_LOG_AHEAD) < 0)
		e = -errno;
	if (e < 0)
		log_debug("no room can be kept for the log: %s", strerror(-e));
}
