/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mount.h"
#include "invalidate.h"
#include "ops.h"
#include "readdir.h"
#include "session_io.h"
#include "replicate/base/cleanup.h"
#include "replicate/base/say.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/signalfd.h>

/*
 * DESIGN: the session's threads are libfuse's; one more thread of ours watches the signals and
 * mount_stop(), and once in a while emits what has been dirty for long.
 *
 * At a signal the mount point is given up first, while the session still answers: unmounting sends
 * requests itself, and libfuse closes its device before it unmounts. A busy mount is detached.
 * After the last request every file that is dirty gets its record: the kernel may drop RELEASEs at
 * the end.
 */

/* In sync modes each waiting call holds a thread; readers must still find one. */
#define THREADS_MAX 4096
#define TIMER_MS 500

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct mount *m = userdata;
	const unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_POSIX_ACL |
			      FUSE_CAP_DONT_MASK | FUSE_CAP_EXPLICIT_INVAL_DATA |
			      FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
			      FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_ASYNC_DIO | FUSE_CAP_EXPIRE_ONLY;
	/* Locks stay in the kernel; it truncates on open by a request of its own; pipes between it
	 * and us do not pay for the sizes that web servers write. */
	const unsigned never = FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE |
			       FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_HANDLE_KILLPRIV |
			       FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_SPLICE_READ |
			       FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE;

	conn->want |= conn->capable & want;
	conn->want &= ~never;
	conn->max_write = 1 << 20;
	conn->max_readahead = 1 << 20;
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	conn->time_gran = 1;
	m->expire = conn->want & FUSE_CAP_EXPIRE_ONLY;
#ifdef FUSE_CAP_HANDLE_KILLPRIV_V2
	conn->want |= conn->capable & FUSE_CAP_HANDLE_KILLPRIV_V2;
	m->killpriv = conn->want & FUSE_CAP_HANDLE_KILLPRIV_V2;
#endif
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
	/* not wanted itself: it came with what is */
	m->direct = conn->capable & FUSE_CAP_DIRECT_IO_ALLOW_MMAP;
#endif
}

const struct fuse_lowlevel_ops mount_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.open = op_open,
	.create = op_create,
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
	.tmpfile = op_tmpfile, /* before it by op_create() */
#endif
	.read = op_read,
	.write_buf = op_write_buf,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
	.fsyncdir = op_fsync,
	.statfs = op_statfs,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
	.fallocate = op_fallocate,
	.copy_file_range = op_copy_file_range,
	.lseek = op_lseek,
};

static void signals(sigset_t *ret)
{
	(void)sigemptyset(ret);
	(void)sigaddset(ret, SIGTERM);
	(void)sigaddset(ret, SIGINT);
	(void)sigaddset(ret, SIGHUP);
}

/* A comma or backslash in a value is escaped for libfuse's option parser. */
static char *option_escape(const char *s)
{
	char *out = malloc(2 * strlen(s) + 1), *p = out;

	if (!out)
		return NULL;
	for (; *s; s++) {
		if (*s == ',' || *s == '\\')
			*p++ = '\\';
		*p++ = *s;
	}
	*p = 0;
	return out;
}

static int session_new(struct mount *m, const struct mount_config *config, char **ret_error)
{
	_cleanup_free_ char *source = option_escape(config->source), *text = NULL;
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int r;

	if (!source ||
		asprintf(&text, "allow_other,default_permissions,subtype=tandemfs,fsname=%s%s%s",
			source, config->options ? "," : "",
			config->options ? config->options : "") < 0)
		return -ENOMEM;
	r = fuse_opt_add_arg(&args, "tandemfs") | fuse_opt_add_arg(&args, "-o") |
	    fuse_opt_add_arg(&args, text);
	if (r == 0 && config->debug)
		r = fuse_opt_add_arg(&args, "-d");
	if (r == 0)
		m->session = fuse_session_new(&args, &mount_ops, sizeof(mount_ops), m);
	fuse_opt_free_args(&args);
	if (r == 0 && !m->session)
		return say(ret_error, -EINVAL, "libfuse does not take the options \"%s\"", text);
	return r < 0 ? -ENOMEM : 0;
}

static int session_mount(struct mount *m, char **ret_error)
{
	errno = 0;
	if (fuse_session_mount(m->session, m->mountpoint) == 0)
		return session_io_install(m);
	return say(ret_error, errno ? -errno : -EIO, "cannot mount on %s: %s", m->mountpoint,
		errno ? strerror(errno) : "see libfuse's message");
}

static int mount_prepare(struct mount *m, const struct mount_config *config, char **ret_error)
{
	int r = inode_table_new(m->root, &m->inodes);

	if (r < 0)
		return say(
			ret_error, r, "the backing directory %s: %s", config->source, strerror(-r));
	r = notifier_new(m, &m->notifier);
	m->mountpoint = strdup(config->mountpoint);
	m->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r < 0 || !m->mountpoint || m->stop_fd < 0)
		return say(ret_error, -ENOMEM, "out of memory or descriptors");
	r = session_new(m, config, ret_error);
	return r < 0 ? r : session_mount(m, ret_error);
}

int mount_new(const struct mount_config *config, struct replica *replica, struct mount **ret,
	char **ret_error)
{
	struct mount *m = calloc(1, sizeof(*m));
	sigset_t set;
	int r;

	if (!m)
		return say(ret_error, -ENOMEM, "out of memory");
	m->replica = replica;
	m->tree = replica_tree(replica);
	m->root = config->root;
	m->stop_fd = -1;
	(void)pthread_mutex_init(&m->dirty.lock, NULL);
	kept_init(&m->kept);
	r = mount_prepare(m, config, ret_error);
	if (r < 0) {
		m->unmounted = true;
		mount_free(m);
		return r;
	}
	signals(&set);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	*ret = m;
	return 0;
}

void mount_hooks(struct mount *m, struct replica_hooks *ret)
{
	*ret = (struct replica_hooks){
		.ctx = m,
		.applied = invalidate_applied,
		.settle = invalidate_settle,
		.busy = invalidate_busy,
	};
}

void mount_stop(struct mount *m)
{
	(void)eventfd_write(m->stop_fd, 1); /* fails only when it is readable already */
}

/* Gives the mount point up; the session goes on until its last user has left. */
static void unmount(struct mount *m)
{
	if (umount2(m->mountpoint, UMOUNT_NOFOLLOW) < 0 && errno == EBUSY) {
		log_notice("%s is busy: detached", m->mountpoint);
		if (umount2(m->mountpoint, UMOUNT_NOFOLLOW | MNT_DETACH) < 0)
			log_error("cannot detach %s: %s", m->mountpoint, strerror(errno));
	}
	m->unmounted = true;
}

struct loop {
	struct mount *m;
	pthread_t serving;
	int signal_fd;
	int end_fd; /* readable: the session has ended */
};

static void wake(int sig)
{
	(void)sig;
}

/* Ends the loop of a session whose detached mount is still used: its thread waits for a semaphore,
 * which a signal interrupts. */
static void loop_end(struct loop *l)
{
	struct pollfd p = {.fd = l->end_fd, .events = POLLIN};

	fuse_session_exit(l->m->session);
	while (poll(&p, 1, 50) == 0)
		(void)pthread_kill(l->serving, SIGUSR1);
}

static void *watch(void *ctx)
{
	struct loop *l = ctx;
	struct pollfd p[3] = {
		{.fd = l->signal_fd, .events = POLLIN},
		{.fd = l->m->stop_fd, .events = POLLIN},
		{.fd = l->end_fd, .events = POLLIN},
	};

	for (;;) {
		int n = poll(p, 3, TIMER_MS);

		if (n < 0 && errno != EINTR)
			log_error("waiting for signals: %s", strerror(errno));
		if (n <= 0) {
			content_emit_aged(l->m);
			kept_expire(&l->m->kept);
		} else if (p[2].revents) {
			return NULL;
		} else if (p[0].revents || p[1].revents) {
			break;
		}
	}
	unmount(l->m);
	loop_end(l);
	return NULL;
}

static int serve(struct mount *m)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	int r;

	if (!config)
		return -ENOMEM;
	fuse_loop_cfg_set_clone_fd(config, 0);
	fuse_loop_cfg_set_max_threads(config, THREADS_MAX);
	r = fuse_session_loop_mt(m->session, config);
	fuse_loop_cfg_destroy(config);
	/* A positive number is a signal that libfuse noticed: there is none here. */
	return r < 0 ? r : 0;
}

static int loop_run(struct mount *m, struct loop *l)
{
	struct sigaction action = {.sa_handler = wake};
	pthread_t thread;
	sigset_t set;
	int r;

	signals(&set);
	(void)sigaction(SIGUSR1, &action, NULL);
	l->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	l->end_fd = eventfd(0, EFD_CLOEXEC);
	if (l->signal_fd < 0 || l->end_fd < 0)
		return -errno;
	r = -pthread_create(&thread, NULL, watch, l);
	if (r < 0)
		return r;
	r = serve(m);
	(void)eventfd_write(l->end_fd, 1);
	(void)pthread_join(thread, NULL);
	return r;
}

int mount_run(struct mount *m)
{
	struct loop l = {.m = m, .serving = pthread_self(), .signal_fd = -1, .end_fd = -1};
	int r;

	(void)signal(SIGPIPE, SIG_IGN);
	r = notifier_start(m->notifier);
	if (r < 0)
		return r;
	r = loop_run(m, &l);
	cleanup_close(&l.signal_fd);
	cleanup_close(&l.end_fd);
	content_emit_all(m);
	notifier_stop(m->notifier);
	return r;
}

void mount_free(struct mount *m)
{
	if (m->session) {
		if (!m->unmounted)
			fuse_session_unmount(m->session);
		fuse_session_destroy(m->session);
	}
	notifier_free(m->notifier);
	kept_destroy(&m->kept);
	inode_table_free(m->inodes);
	(void)pthread_mutex_destroy(&m->dirty.lock);
	cleanup_close(&m->stop_fd);
	free(m->mountpoint);
	free(m);
}
