/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TANDEMFS_PLAIN_H
#define TANDEMFS_PLAIN_H

/*
 * What the plain_*.c files share: replication to a plain peer, a directory behind any SFTP server.
 *
 *   plain.c          the session: who writes there, the position, the round
 *   plain_state.c    what is remembered here between sessions
 *   plain_queue.c    from the journal to changes there, in order
 *   plain_apply.c    one op, exactly as it was made
 *   plain_settle.c   one path or tree, made as it is here now
 *   plain_scan.c     the comparison of both trees by size and mtime
 *   plain_note.c     what no op of the journal tells
 *   plain_file.c     contents, attributes, names over SFTP
 *   plain_paths.c    sets of paths
 *
 * All belongs to the sender's thread, but for what plain_file.c says of uploads.
 */

#include "impl.h"

/* At the peer, below its .tandemfs. */
#define PLAIN_MARKER "plain" /* who writes there; the line "session" changes with each session */
#define PLAIN_TMP "tmp"      /* what is not yet in its place; emptied on connecting */
#define PLAIN_ASIDE_DIR "replaced"

/* ---- plain_paths.c ---- */

/* A set of paths, each with a number. */
struct path_entry;
struct path_set {
	struct path_entry *table;
};
void paths_clear(struct path_set *s);
size_t paths_count(const struct path_set *s);
/* Adds it, or raises its number. Without memory the set forgets it. */
void paths_put(struct path_set *s, const char *path, uint64_t value);
/* Its number; 0 when it is not there. */
uint64_t paths_get(const struct path_set *s, const char *path);
/* Whether @path or a directory above it is there. */
bool paths_covers(const struct path_set *s, const char *path);
/* Drops @path and all below it. */
void paths_drop(struct path_set *s, const char *path);
/* What was at or below @from is at or below @to; what was there before is dropped. */
void paths_rename(struct path_set *s, const char *from, const char *to);
/* Takes any one path out, the caller frees it; NULL when there is none. */
char *paths_pop(struct path_set *s);

/* ---- plain_state.c ---- */

struct plain_state {
	uint64_t session;   /* of the marker at the peer; 0: never been there */
	uint64_t next;      /* the marker may already have this one */
	uint64_t applied;   /* every op up to here is there */
	uint64_t attempted; /* none above has been begun; UINT64_MAX: any in the journal may be */
	/* While the trees are compared: the first op that may not be in them as they were found
	 * when the comparison began for the first time; 0: they are not being compared. */
	uint64_t scan_from;
	bool synced; /* the trees were compared, and nothing was lost since */
	bool met;    /* they were compared once */
	uint64_t counts[PLAIN_COUNTS];
};

/* Reads the state of @p's peer. A state that cannot be trusted (another boot without a clean end)
 * comes as not synced. 0 with zeros when there is none, or -errno. */
int plain_state_load(struct replica *r, const char *url, struct plain_state *ret);
/* What is saved survives the process; PLAIN_SAVE_SYNC, for the first one of a session, the machine
 * too, so that a clean one from before cannot come back. PLAIN_SAVE_CLEAN: the last one. 0 or
 * -errno. */
enum plain_save { PLAIN_SAVE_FAST, PLAIN_SAVE_SYNC, PLAIN_SAVE_CLEAN };
int plain_state_save(
	struct replica *r, const char *url, const struct plain_state *state, enum plain_save how);
int plain_state_remove(struct replica *r, const char *url);

/* ---- plain.c ---- */

enum plain_item_state {
	ITEM_READY,     /* to be done on the main connection */
	ITEM_WRITER,    /* its file is being written anew here */
	ITEM_UPLOADING, /* on its way to the temporary name */
	ITEM_STAGED,    /* there, to be renamed into place */
};

struct plain_item {
	struct plain_item *next, *prev;
	struct op op;
	enum plain_item_state state;
	uint64_t logged; /* when the change was made, ns */
	uint64_t started_ms;
	uint64_t bytes; /* uploaded */
	bool settle;    /* made as it is here now: a change of another node */
	bool scan;      /* of the comparison; has no place in the order */
	bool large;     /* may be overtaken with order=relaxed */
	bool void_;     /* its inode is gone */
	bool failed;    /* the upload was refused */
	unsigned tries;
	char tmp[40]; /* its temporary name; "": none */
};

struct plain_scan;

/* Owners that the server refused; guarded by plain.lock. */
#define PLAIN_REFUSED_MAX 16
struct plain_owner {
	uint32_t uid, gid;
};

struct plain {
	struct peer *peer;
	struct replica *replica;
	struct remote *remote; /* the sender's */
	struct bulk *bulk;     /* the sender's */
	char *root, *tmp;      /* at the peer, absolute */
	atomic_uint features;  /* enum remote_feature; read by uploads too */
	struct plain_state state;
	bool unsaved;
	atomic_uint_fast64_t counts[PLAIN_COUNTS];
	atomic_bool no_digest; /* the server offered one, and knows none that we ask for */
	atomic_bool no_attrs;  /* the server sets no modes or times at all */
	pthread_mutex_t lock;
	struct plain_owner refused[PLAIN_REFUSED_MAX];
	unsigned n_refused;

	struct plain_scan *scan; /* NULL: the trees have been compared */

	struct journal_reader *cursor;
	uint64_t passed; /* every record up to here was read */
	uint64_t done;   /* highest op that was done in this session */
	uint64_t
		zone_end; /* ops up to here are settled, not replayed: what is there may be newer */
	bool at_end;
	bool catching_up, catch_up_known;
	uint64_t catch_up_to;
	struct plain_item *items;
	unsigned n_items;
	unsigned unflushed; /* ops since the times of directories were set */
	uint64_t durable;
	uint64_t retry_at;  /* what could not be done is tried again; 0: nothing */
	uint64_t looked_at; /* when the peer was last asked whether tandemfs runs there */
	uint64_t serial;    /* of temporary names */

	struct path_set skipped; /* contents that were not sent because the path was gone: seq */
	struct path_set fresh;   /* contents sent: journal head before the file was read */
	struct path_set dirs;    /* directories of which names were changed there */
	struct path_set mixed;   /* renamed directories that may hold there what was settled for
				  * another one of their old name */
};

int plain_new(struct peer *p, struct bulk *bulk, struct plain **ret);
void plain_free(struct plain *p);

/* Whether the peer, which has no node file, is taken for a plain one. 0; -EAGAIN: not yet; or
 * -errno. *ret_error as for replica_open, *ret_state what status shall say. */
int plain_decide(struct plain *p, struct remote *remote, uint64_t seen_since_ms, char **ret_error,
	enum peer_state *ret_state);
/* Begins the session on the connected remote. */
int plain_begin(
	struct plain *p, struct remote *remote, char **ret_error, enum peer_state *ret_state);
/* One round; waits at most @timeout_ms, or until @wake_fd is readable. 0 or -errno: the session
 * has ended. */
int plain_turn(struct plain *p, int timeout_ms, int wake_fd);
/* Forgets what belongs to the session. */
void plain_reset(struct plain *p);
/* The peer has a node file now. */
void plain_turned_active(struct plain *p);

/* Whether replication is to stop, for long work. */
static inline bool plain_closing(const struct plain *p)
{
	return atomic_load(&p->replica->closing);
}
static inline void plain_count(struct plain *p, enum plain_count what)
{
	(void)atomic_fetch_add(&p->counts[what], 1);
}

/* ---- plain_queue.c ---- */

int plain_fill(struct plain *p);
/* Does what can be done. 1 when something was done, 0, or -errno (the session ends). */
int plain_commit(struct plain *p);
/* Takes finished uploads. 0 or -errno. */
int plain_collect(struct plain *p);
/* Starts the upload of @item's file from @fd (consumed) to a temporary name. 0 or -errno. */
int plain_stage(struct plain *p, struct plain_item *item, int *fd);
struct plain_item *plain_item_new(struct plain *p);
void plain_item_free(struct plain *p, struct plain_item *item);
/* @op was refused with @error: nothing more is done for a second. */
void plain_stuck(struct plain *p, const struct op *op, int error);
/* Something could be done. */
void plain_unstuck(struct plain *p);
/* What the peer has by now. */
struct position plain_position(const struct plain *p);

/* Whether a JOURNAL_NOTE holds an op; then @src is at it. */
bool plain_note_take(struct reader *src);

/* ---- plain_apply.c ---- */

/* 0; 1 when the tree there is not as it was here before the op: it must be settled; or -errno. */
int plain_apply(struct plain *p, struct plain_item *item);

/* ---- plain_settle.c ---- */

/* What @op names becomes there as it is here now. Right at any time after the op was made, provided
 * that later ops are settled too until the journal's end was reached. 0 or -errno. */
int plain_settle(struct plain *p, const struct op *op);
/* One path, without what is below it; @force: the content also when size and mtime are the same. */
int plain_settle_path(struct plain *p, const char *path, bool force);
/* Sets the times of all directories in p->dirs. */
int plain_flush_dirs(struct plain *p);
/* Notes that names in the directory of @path were changed. */
void plain_touched(struct plain *p, const char *path);
/* Counts and logs that a directory stays there since it holds what is not here. 0. */
int plain_keep(struct plain *p, const char *path);
/* Makes the directory and those above it as far as they are here. */
int plain_ensure_dir(struct plain *p, const char *path);

/* ---- plain_scan.c ---- */

int plain_scan_start(struct plain *p);
/* Goes on with the comparison as far as the window of uploads allows. 0, 1 when it is finished, or
 * -errno. */
int plain_scan_step(struct plain *p);
void plain_scan_free(struct plain *p);
/* What is being compared, for messages. */
const char *plain_scan_path(const struct plain *p);
/* Entries compared so far. */
uint64_t plain_scan_done(const struct plain *p);

/* ---- plain_file.c ---- */

/* The absolute name there of a path of the tree; NULL without memory. */
char *plain_there(const struct plain *p, const char *path);
/* A new temporary name; the caller frees it. */
char *plain_tmp(struct plain *p);
int plain_lstat(struct plain *p, const char *path, struct stat *ret);
/* Whether @error, of a call on the main connection, is the server's refusal of that call. */
bool plain_refused(const struct plain *p, int error);

enum plain_difference { PLAIN_SAME, PLAIN_ATTRS, PLAIN_DIFFERENT };
/* By type, size, mtime, mode and owner; of symbolic links the target is not looked at. */
enum plain_difference plain_compare(
	struct plain *p, const struct stat *here, const struct stat *there);

/* The attributes that @op's mask names, for the file of @type at @there. What the server does not
 * carry is counted. On any remote, from any thread. */
int plain_set_attrs(struct plain *p, struct remote *remote, const char *there, const struct op *op,
	mode_t type);
/* Finds out whether the server sets modes and times at all. 0 or -errno. */
int plain_probe(struct plain *p);
/* What @st has, as plain_set_attrs takes it. */
void plain_attrs_of(const struct stat *st, struct op *ret);

/* Uploads the whole file @fd, which @op (with content) describes, to @there, with its attributes
 * and checks it. @unwanted is asked between blocks. On any remote, from any thread. */
int plain_upload(struct plain *p, struct remote *remote, int fd, const struct op *op,
	const char *there, bool (*unwanted)(const void *ctx), const void *ctx);
/* Writes what @op's content describes into the file at @there in place. -ENOENT where there is
 * none; 0 or -errno. */
int plain_patch(struct plain *p, int fd, const struct op *op, const char *there);
/* Renames the temporary over @path, making directories that are missing there. */
int plain_place(struct plain *p, const char *tmp, const char *path);
/* Renames one absolute name over another, in two steps where the server cannot in one. */
int plain_replace(struct plain *p, const char *from, const char *to);
int plain_make_link(struct plain *p, const char *target, const char *path, const struct op *attrs);
/* Removes whatever there is at the absolute name, with all below it: for what is ours alone. */
int plain_remove_tree(struct plain *p, const char *there);
/* Moves what stands at @path there into its .tandemfs/replaced; counts and logs it. */
int plain_move_aside(struct plain *p, const char *path, const char *why);
/* @error, of a call that the server refused, or what is behind it: remote_cause(). */
int plain_cause(struct plain *p, int error);
/* The sentence for an op that cannot be done: why as far as can be found out, and what to do. */
void plain_explain(struct plain *p, const struct op *op, int error, char **ret_text);
/* How contents are checked: "size" or the name of a digest. */
const char *plain_check_name(const struct plain *p);

#endif
