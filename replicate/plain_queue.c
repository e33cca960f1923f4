/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * From the journal to changes at a plain peer.
 *
 * A short queue of ops in the journal's order. Contents are uploaded to temporary names by the bulk
 * threads as soon as they come into the queue, since a temporary name changes nothing there; all
 * else, and the renames into place, is done by the sender's own connection in order. With
 * order=relaxed ops that are not related to it overtake a large content that is not there yet, or
 * one whose file is being written anew.
 *
 * An op that the server refuses stays at the head and is tried again each second; nothing overtakes
 * it.
 */

#include "plain.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "bulk.h"
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <utlist.h>

/* Items in the queue: fewer than a position may name as missing. */
#define WINDOW_MIN 16
#define WINDOW_MAX 56
#define RETRY_MS 1000
#define TRIES_MAX 3

/* ---- items ---- */

struct plain_item *plain_item_new(struct plain *p)
{
	struct plain_item *item = calloc(1, sizeof(*item));

	if (!item)
		return NULL;
	item->started_ms = clock_mono_ms();
	DL_APPEND(p->items, item);
	p->n_items++;
	return item;
}

void plain_item_free(struct plain *p, struct plain_item *item)
{
	DL_DELETE(p->items, item);
	p->n_items--;
	op_clear(&item->op);
	free(item);
}

static unsigned window(const struct plain *p)
{
	unsigned n = WINDOW_MIN + 4 * p->replica->config.streams;

	return n < WINDOW_MAX ? n : WINDOW_MAX;
}

static bool is_settled_op(const struct plain *p, const struct plain_item *item)
{
	return item->settle || item->op.seq <= p->zone_end;
}

/* ---- uploads ---- */

static bool unwanted(const void *ctx)
{
	return bulk_unwanted(ctx);
}

static int put_job(struct bulk_job *job, struct remote *remote, const char *path)
{
	return plain_upload(job->ctx, remote, job->fd, &job->op, path, unwanted, job);
}

int plain_stage(struct plain *p, struct plain_item *item, int *fd)
{
	struct bulk_job *job = calloc(1, sizeof(*job));
	struct op *op = &item->op;
	int r;

	if (!job)
		return -ENOMEM;
	(void)snprintf(item->tmp, sizeof(item->tmp), "u%llx", (unsigned long long)++p->serial);
	(void)snprintf(op->content->stage, sizeof(op->content->stage), "%s", item->tmp);
	job->fd = steal_fd(fd);
	job->put = put_job;
	job->ctx = p;
	job->op = (struct op){.type = OP_CONTENT,
		.flags = OP_WHOLE,
		.mask = op->mask,
		.mode = op->mode,
		.uid = op->uid,
		.gid = op->gid,
		.mtime = op->mtime,
		.path = strdup(op->path),
		.content = steal_pointer(&op->content)};
	r = job->op.path && fstat(job->fd, &job->before) == 0 ? 0 : -ENOMEM;
	if (r == 0)
		r = bulk_submit(p->bulk, job, p->tmp);
	if (r < 0) {
		bulk_job_free(job);
		return r;
	}
	item->state = ITEM_UPLOADING;
	return 0;
}

static bool is_gone(int error)
{
	return error == -ESTALE || error == -ENOENT || error == -ENOTDIR || error == -ELOOP;
}

/* Small files, and those of which most has changed, go as a whole. */
static int describe(struct plain_item *item, int fd, struct stat *ret)
{
	struct op *op = &item->op;
	int r = content_describe(fd, op, ret);

	if (r == 0 && !(op->flags & OP_WHOLE) &&
		(op->content->size <= INLINE_MAX ||
			op->content->data_len > op->content->size / 2)) {
		op->flags |= OP_WHOLE;
		r = content_describe(fd, op, ret);
	}
	item->large = r == 0 && op->content->data_len > INLINE_MAX;
	return r;
}

static int prepare_content(struct plain *p, struct plain_item *item)
{
	struct op *op = &item->op;
	_cleanup_close_ int fd =
		fid_open(p->replica->root, &op->fid, op->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	int r;

	item->state = ITEM_READY;
	if (fd >= 0 && replica_whole_dirty(p->replica, &op->fid)) {
		item->state = ITEM_WRITER;
		return 0;
	}
	r = fd < 0 ? fd : describe(item, fd, &st);
	if (is_gone(r)) {
		item->void_ = true;
		return 0;
	}
	if (r < 0) {
		log_error("%s: cannot read %s to send it: %s", peer_label(p->peer), op->path,
			strerror(-r));
		return r;
	}
	if (!(op->flags & OP_WHOLE) || (st.st_nlink > 1 && p->features & REMOTE_HARDLINK))
		return 0; /* in place, in its turn */
	return plain_stage(p, item, &fd);
}

static bool take_pending(struct plain *p, struct op *op)
{
	bool taken;

	(void)pthread_mutex_lock(&p->replica->lock);
	taken = pending_take(p->peer->pending, op);
	(void)pthread_mutex_unlock(&p->replica->lock);
	return taken;
}

static int prepare(struct plain *p, struct plain_item *item)
{
	bool taken;

	if (item->op.type != OP_CONTENT || item->settle)
		return 0; /* none of these are in the table of pending contents */
	taken = take_pending(p, &item->op);
	if (is_settled_op(p, item))
		return 0;
	if (taken)
		return prepare_content(p, item);
	plain_item_free(p, item); /* went with an earlier one */
	return 0;
}

/* ---- reading the journal ---- */

/* Brings @src to the op in @rec: its encoding, or -ENOENT when there is none. */
static int find_op(const struct journal_record *rec, struct reader *src, uint64_t *ret_logged)
{
	struct local_head head;
	struct remote_record m;
	int r;

	*src = reader_of(rec->data, rec->len);
	*ret_logged = 0;
	switch (rec->kind) {
	case JOURNAL_LOCAL:
		r = local_split(rec->data, rec->len, NULL, &head, src);
		*ret_logged = head.logged;
		return r < 0 ? r : OP_ENCODE_LOCAL;
	case JOURNAL_REMOTE:
		r = remote_record_get(src, &m);
		if (r == 0 &&
			(m.how == REMOTE_DEFER || m.how == REMOTE_VOID || reader_left(src) == 0))
			return -ENOENT;
		return r < 0 ? r : OP_ENCODE_BRIEF;
	case JOURNAL_NOTE:
		return plain_note_take(src) ? OP_ENCODE_BRIEF : -ENOENT;
	default:
		return -ENOENT;
	}
}

static int take_record(struct plain *p, const struct journal_record *rec)
{
	const char *why = "its head is damaged";
	_cleanup_op_ struct op op = {0};
	struct plain_item *item;
	struct reader src;
	uint64_t logged;
	int encoding, r;

	p->passed = rec->seq;
	if (replica_is_aborted(p->replica, rec->seq))
		return 0;
	encoding = find_op(rec, &src, &logged);
	if (encoding == -ENOENT)
		return 0;
	r = encoding < 0 ? encoding : op_decode(&src, (enum op_encoding)encoding, &op, &why);
	if (r < 0) {
		log_error("journal: record %llu cannot be read: %s", (unsigned long long)rec->seq,
			why);
		return r;
	}
	if (!op_is_sent(op.type))
		return 0;
	item = plain_item_new(p);
	if (!item)
		return -ENOMEM;
	item->op = op;
	op = (struct op){0};
	item->op.seq = rec->seq;
	item->logged = logged ? logged : item->op.time;
	/* what no one tells how it was, or what is so already */
	item->settle = rec->kind != JOURNAL_LOCAL || item->op.flags & OP_FORCE ||
		       item->op.type == OP_VAULT;
	return prepare(p, item);
}

int plain_fill(struct plain *p)
{
	struct journal_record rec;
	int r = 0;

	while (r == 0 && p->n_items < window(p)) {
		r = journal_reader_next(p->cursor, &rec);
		if (r == 0) {
			p->at_end = false;
			r = take_record(p, &rec);
		}
	}
	if (r != -EAGAIN)
		return r;
	p->at_end = true;
	return 0;
}

/* ---- doing ---- */

static void drop_tmp(struct plain *p, struct plain_item *item)
{
	_cleanup_free_ char *there = NULL;

	if (!item->tmp[0])
		return;
	if (asprintf(&there, "%s/%s", p->tmp, item->tmp) < 0)
		there = NULL;
	else
		(void)p->remote->ops->remove(p->remote, there); /* else at the next connect */
	item->tmp[0] = '\0';
	item->bytes = 0;
	item->state = ITEM_READY;
}

void plain_stuck(struct plain *p, const struct op *op, int error)
{
	_cleanup_free_ char *text = NULL;

	plain_explain(p, op, error, &text);
	p->retry_at = clock_mono_ms() + RETRY_MS;
	p->catching_up = true;
	p->catch_up_known = false;
	if (p->remote->ops->connected(p->remote))
		peer_set_state(p->peer, PEER_CATCHING_UP, text ?: strerror(-error));
}

void plain_unstuck(struct plain *p)
{
	if (!p->retry_at)
		return;
	p->retry_at = 0;
	peer_set_state(p->peer, PEER_CATCHING_UP, NULL);
}

/* Before anything is done: what may have been begun must be known after a crash. What is settled
 * may be newer than all that was read. */
static int save_attempt(struct plain *p, uint64_t seq, bool settle)
{
	bool known = settle ? p->state.attempted == UINT64_MAX
			    : p->state.attempted != UINT64_MAX && seq <= p->state.attempted;

	if (known)
		return 0;
	p->state.attempted = settle ? UINT64_MAX : p->passed;
	return plain_state_save(p->replica, p->peer->config->url, &p->state, PLAIN_SAVE_FAST);
}

/* Also where nothing was left to do: here the times of the directories have changed. */
static void touch_parents(struct plain *p, const struct op *op)
{
	if (op->type == OP_SETATTR || op->type == OP_SETXATTR || op->type == OP_REMOVEXATTR ||
		op->type == OP_FSYNC || op->type == OP_VAULT || op->path[0] == '\0')
		return;
	plain_touched(p, op->path);
	if (op->type == OP_RENAME || op->type == OP_LINK)
		plain_touched(p, op->path2);
}

static int do_op(struct plain *p, struct plain_item *item)
{
	bool settle = is_settled_op(p, item) && item->op.type != OP_FSYNC;
	int r = save_attempt(p, item->op.seq, settle);

	fault_point("plain.apply.before");
	if (r == 0)
		r = settle ? 1 : plain_apply(p, item);
	if (r == 1) {
		uint64_t head;

		drop_tmp(p, item);
		r = save_attempt(p, item->op.seq, true);
		if (r == 0)
			r = plain_settle(p, &item->op);
		head = journal_head(p->replica->journal);
		if (head > p->zone_end)
			p->zone_end = head;
	}
	if (r == 0)
		touch_parents(p, &item->op);
	fault_point("plain.apply.after");
	return r;
}

static int do_item(struct plain *p, struct plain_item *item)
{
	_cleanup_free_ char *tmp = NULL;

	if (!item->scan)
		return do_op(p, item);
	if (item->void_)
		return 0;
	if (item->state != ITEM_STAGED)
		return plain_settle_path(p, item->op.path, true);
	if (asprintf(&tmp, "%s/%s", p->tmp, item->tmp) < 0) {
		tmp = NULL;
		return -ENOMEM;
	}
	return plain_place(p, tmp, item->op.path);
}

static void finished(struct plain *p, struct plain_item *item)
{
	char text[512];
	struct change_line line = {.verb = "sent",
		.peer = peer_label(p->peer),
		.what = op_describe(&item->op, text, sizeof(text)),
		.seconds = (double)(clock_mono_ms() - item->started_ms) / 1000};

	if (item->op.type != OP_CONTENT || item->state == ITEM_STAGED || item->op.content) {
		line.bytes = item->bytes;
		changes_add(p->replica->changes, &line);
	}
	(void)pthread_mutex_lock(&p->replica->lock);
	p->peer->sent_ops++;
	p->peer->sent_bytes += line.bytes;
	(void)pthread_mutex_unlock(&p->replica->lock);
	if (!item->scan && item->op.seq > p->done)
		p->done = item->op.seq;
	plain_unstuck(p);
	p->unsaved = true;
	p->unflushed++;
	plain_item_free(p, item);
}

/* ---- in which order ---- */

static bool is_related(const struct plain *p, const struct plain_item *item)
{
	const struct plain_item *before;

	DL_FOREACH (p->items, before) {
		if (before == item)
			return false;
		if (op_related(&before->op, &item->op))
			return true;
	}
	return false;
}

static int resume_writer(struct plain *p, struct plain_item *item)
{
	if (item->state != ITEM_WRITER || replica_whole_dirty(p->replica, &item->op.fid))
		return 0;
	if (item->scan && !item->failed) {
		plain_item_free(p, item); /* what changed it has its own op */
		return 1;
	}
	item->failed = false;
	if (item->scan)
		return prepare_content(p, item);
	if (is_settled_op(p, item)) {
		item->state = ITEM_READY;
		return 0;
	}
	(void)take_pending(p, &item->op); /* what the writer changed goes along */
	return prepare_content(p, item);
}

static bool may_be_overtaken(const struct plain *p, const struct plain_item *item)
{
	if (item->scan)
		return true;
	return p->replica->config.order == ORDER_RELAXED &&
	       (item->large || item->state == ITEM_WRITER);
}

/* Whether @item must wait for one of those before it that were overtaken. */
static bool must_wait(const struct plain *p, const struct plain_item *item)
{
	return !item->scan && (is_settled_op(p, item) || is_related(p, item));
}

/* ---- many at once ---- */

#define RUN_MAX 32

struct run {
	struct plain_item *items[RUN_MAX];
	struct remote_call calls[RUN_MAX];
	char *names[2 * RUN_MAX]; /* owned */
	size_t n;
};

static void run_clear(struct run *run)
{
	for (size_t i = 0; i < 2 * run->n; i++)
		free(run->names[i]);
}
#define _cleanup_run_ __attribute__((cleanup(run_clear)))

static bool fits_run(const struct plain *p, const struct run *run, const struct plain_item *item)
{
	if (item->op.type != OP_CONTENT || item->state != ITEM_STAGED || !item->tmp[0] ||
		(!item->scan && is_settled_op(p, item)))
		return false;
	/* one that fails is done again, after the others */
	for (size_t i = 0; i < run->n; i++)
		if (op_related(&run->items[i]->op, &item->op))
			return false;
	return true;
}

static int add_to_run(struct plain *p, struct run *run, struct plain_item *item)
{
	char *to = plain_there(p, item->op.path), *from;

	if (asprintf(&from, "%s/%s", p->tmp, item->tmp) < 0)
		from = NULL;
	if (!to || !from) {
		free(to);
		free(from);
		return -ENOMEM;
	}
	run->names[2 * run->n] = from;
	run->names[2 * run->n + 1] = to;
	run->items[run->n] = item;
	run->calls[run->n++] = (struct remote_call){.what = REMOTE_RENAME, .path = from, .to = to};
	return 0;
}

static int send_run(struct plain *p, struct run *run)
{
	int r = 0;

	for (size_t i = 0; i < run->n && r == 0; i++)
		if (!run->items[i]->scan)
			r = save_attempt(p, run->items[i]->op.seq, false);
	fault_point("plain.apply.before");
	if (r == 0)
		r = p->remote->ops->batch(p->remote, run->calls, run->n);
	fault_point("plain.apply.after");
	return r;
}

/* Renames into place go out together where nothing stands between them. The number of those that
 * were done; what failed stays, and is done alone. */
static int commit_run(struct plain *p, struct plain_item *first)
{
	_cleanup_run_ struct run run = {0};
	struct plain_item *item;
	int done = 0, r = 0;

	if (!(p->features & REMOTE_REPLACES))
		return 0;
	for (item = first; item && run.n < RUN_MAX && r == 0 && fits_run(p, &run, item);
		item = item->next)
		r = add_to_run(p, &run, item);
	if (r == 0 && run.n > 1)
		r = send_run(p, &run);
	for (size_t i = 0; i < run.n && r == 0 && run.n > 1; i++) {
		item = run.items[i];
		if (run.calls[i].result < 0)
			continue;
		item->tmp[0] = '\0';
		paths_drop(&p->skipped, item->op.path);
		plain_touched(p, item->op.path);
		finished(p, item);
		done++;
	}
	return r < 0 ? r : done;
}

int plain_commit(struct plain *p)
{
	struct plain_item *item, *next;
	bool overtaking = false;
	int n = 0;

	if (p->retry_at > clock_mono_ms())
		return 0;
	DL_FOREACH_SAFE (p->items, item, next) {
		int r = resume_writer(p, item);

		if (r < 0)
			return r;
		if (r > 0)
			continue;
		if (item->state == ITEM_UPLOADING || item->state == ITEM_WRITER) {
			if (!may_be_overtaken(p, item))
				break;
			overtaking = true;
			continue;
		}
		if (plain_closing(p) || (overtaking && must_wait(p, item)))
			break;
		r = overtaking ? 0 : commit_run(p, item);
		if (r < 0)
			return r;
		if (r > 0)
			return 1; /* the list has changed */
		r = do_item(p, item);
		if (r < 0) {
			if (!plain_refused(p, r))
				return r;
			plain_stuck(p, &item->op, r);
			break;
		}
		finished(p, item);
		n = 1;
	}
	return n;
}

static struct plain_item *find_item(struct plain *p, const char *tmp)
{
	struct plain_item *item;

	DL_FOREACH (p->items, item)
		if (item->state == ITEM_UPLOADING && strcmp(item->tmp, tmp) == 0)
			return item;
	return NULL;
}

static int take_job(struct plain *p, struct bulk_job *job)
{
	struct plain_item *item = find_item(p, job->op.content->stage);
	bool again;

	if (!item || job->result == -ECANCELED)
		return 0;
	if (job->result < 0 && job->remote_failed)
		return job->result;
	item->state = job->result == 0 ? ITEM_STAGED : ITEM_WRITER;
	item->bytes = job->op.content->data_len;
	item->failed = job->result < 0;
	if (item->failed) {
		plain_stuck(p, &job->op, job->result);
		drop_tmp(p, item); /* a part of it may be what fills the disk there */
		item->state = ITEM_WRITER;
		return 0;
	}
	again = !content_unchanged(&job->before, job->fd) && item->tries++ < TRIES_MAX;
	if (!again && !(!item->scan && replica_torn(p->peer, &item->op.fid, &job->before, job->fd)))
		return 0;
	drop_tmp(p, item);
	item->state = ITEM_WRITER;
	return 0;
}

int plain_collect(struct plain *p)
{
	struct bulk_job *job;
	int r = 0;

	while (r == 0 && (job = bulk_done(p->bulk))) {
		r = take_job(p, job);
		bulk_job_free(job);
	}
	return r;
}

struct position plain_position(const struct plain *p)
{
	struct position pos = {.high = p->passed};
	const struct plain_item *item;

	DL_FOREACH (p->items, item) {
		if (item->op.seq > p->done) {
			pos.high = item->op.seq - 1;
			break;
		}
	}
	DL_FOREACH (p->items, item)
		if (item->op.seq <= pos.high)
			pos.missing[pos.n_missing++] = item->op.seq;
	return pos;
}
