/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The order of a start, and backwards of an end:
 *
 *     locks of the state and the backing directory
 *     replica_open()      journal and identities; nobody is called yet
 *     mount_new()         mounted; requests queue up in the kernel
 *     replica_start()     threads
 *     first contact       a peer that refuses us (wrong key, unknown host key) is a mistake
 *                         to be told to who mounts, a peer that is away is not: 3 s at most
 *     control socket, registry
 *     the report
 *     mount_run()         until the end
 */

#include "serve.h"

#include "control.h"
#include "daemon.h"
#include "mount.h"
#include "mounts.h"
#include "replicate/base/cleanup.h"

#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>

#define CONTACT_MS 3000
#define CONTACT_POLL_MS 20

struct server {
	const struct options *options;
	const struct start *start;
	int lock;
	struct replica *replica;
	struct mount *mount;
	struct control *control;
	bool registered; /* in MOUNTS_REGISTRY, by us */
};

static void mount_options(char **ret, const struct options *o)
{
	/* As mount(8) has it for root; what the options say comes later and counts. */
	const char *defaults = geteuid() == 0 ? "suid,dev" : "";

	if (asprintf(ret, "%s%s%s", defaults, *defaults && o->kernel ? "," : "",
		    o->kernel ? o->kernel : "") < 0)
		*ret = NULL;
}

static int open_replica(struct server *v, char **ret_error)
{
	const struct options *o = v->options;
	const struct replica_config config = {
		.backing = v->start->backing,
		.root = v->start->root,
		.state = v->start->state,
		.node = v->start->node,
		.account = o->account,
		.peers = o->peers,
		.n_peers = o->n_peers,
		.mode = o->mode,
		.on_peer_down = o->on_peer_down,
		.order = o->order,
		.identity = o->identity,
		.password_file = o->password_file,
		.known_hosts = o->known_hosts,
		.streams = o->streams,
		.vault_max = o->vault_max,
		.journal_max = o->journal_max,
		.seed = o->seed,
		.verify = o->verify,
	};

	return replica_open(&config, &v->replica, ret_error);
}

static int open_mount(struct server *v, char **ret_error)
{
	_cleanup_free_ char *options = NULL;
	struct mount_config config = {
		.mountpoint = v->start->mountpoint,
		.source = v->start->backing,
		.root = v->start->root,
		.debug = v->options->debug,
	};

	mount_options(&options, v->options);
	if (!options)
		return -ENOMEM;
	config.options = options;
	return mount_new(&config, v->replica, &v->mount, ret_error);
}

/* Whether every peer has answered or failed to. */
static bool all_contacted(const struct replica_status *s)
{
	for (size_t i = 0; i < s->n_peers; i++)
		if (s->peers[i].state == PEER_CONNECTING && !s->peers[i].error)
			return false;
	return true;
}

static int check_refusal(const struct replica_status *s, char **ret_error)
{
	for (size_t i = 0; i < s->n_peers; i++) {
		const struct peer_status *p = &s->peers[i];

		if (p->state != PEER_REFUSED)
			continue;
		if (asprintf(ret_error, "peer %s: %s", p->url, p->error ? p->error : "refused") < 0)
			*ret_error = NULL;
		return *ret_error ? -EACCES : -ENOMEM;
	}
	return 0;
}

static int first_contact(struct replica *replica, char **ret_error)
{
	const struct timespec pause = {.tv_nsec = CONTACT_POLL_MS * 1000 * 1000};

	for (int waited = 0;; waited += CONTACT_POLL_MS) {
		struct replica_status status;
		bool contacted;
		int r = replica_status(replica, &status);

		if (r < 0)
			return r;
		r = check_refusal(&status, ret_error);
		contacted = all_contacted(&status);
		replica_status_clear(&status);
		if (r < 0 || contacted || waited >= CONTACT_MS)
			return r;
		(void)nanosleep(&pause, NULL);
	}
}

/* For `tandemfs stop`. A mount that is in use stays, unlike with a signal. */
static int unmount(void *ctx)
{
	struct server *v = ctx;

	if (umount2(v->start->mountpoint, UMOUNT_NOFOLLOW) == 0)
		return 0;
	if (errno != EPERM)
		return -errno;
	/* Not root: the session knows how to ask for it. */
	mount_stop(v->mount);
	return 0;
}

static const char *peer_down_name(enum replica_peer_down d)
{
	return d == PEER_DOWN_CONTINUE ? "continue" : d == PEER_DOWN_BLOCK ? "block" : "fail";
}

static int open_control(struct server *v)
{
	const struct control_config config = {
		.state = v->start->state,
		.mountpoint = v->start->mountpoint,
		.on_peer_down = peer_down_name(v->options->on_peer_down),
		.replica = v->replica,
		.unmount = unmount,
		.ctx = v,
	};
	int r = control_start(&config, &v->control);

	if (r < 0)
		return r;
	r = mounts_register(v->start->mountpoint, v->start->state);
	v->registered = r == 0;
	if (r < 0)
		log_warning("%s: the commands find only a default state directory: " MOUNTS_REGISTRY
			    ": %s",
			v->start->mountpoint, strerror(-r));
	return 0;
}

static int begin(struct server *v, char **ret_error)
{
	struct replica_hooks hooks;
	int r = daemon_lock(v->start->state, &v->lock, ret_error);

	if (r == 0)
		r = daemon_lock_backing(v->start->root, v->start->backing, ret_error);
	if (r == 0)
		r = open_replica(v, ret_error);
	if (r == 0)
		r = open_mount(v, ret_error);
	if (r < 0)
		return r;
	if (!v->options->foreground)
		log_to_syslog("tandemfs");
	mount_hooks(v->mount, &hooks);
	r = replica_start(v->replica, &hooks);
	if (r == 0)
		r = first_contact(v->replica, ret_error);
	if (r == 0)
		r = open_control(v);
	return r;
}

static void end(struct server *v)
{
	int r = 0;

	if (v->registered)
		r = mounts_unregister(v->start->mountpoint, v->start->state);
	if (r < 0)
		log_warning("%s: its entry in " MOUNTS_REGISTRY " stays: %s", v->start->mountpoint,
			strerror(-r));
	if (v->control)
		control_stop(v->control);
	/* Its threads use the hooks of the mount. */
	if (v->replica)
		replica_close(v->replica);
	if (v->mount)
		mount_free(v->mount);
	/* The lock goes last: whoever can have it finds everything closed. */
	cleanup_close(&v->lock);
}

/* Serves the mount that begin() made. */
static enum exit_code run(struct server *v)
{
	int r;

	log_notice("%s mounted at %s, node %s, mode %s, %zu peer%s", v->start->backing,
		v->start->mountpoint, v->start->node, replica_mode_name(v->options->mode),
		v->options->n_peers, v->options->n_peers == 1 ? "" : "s");
	r = mount_run(v->mount);
	if (r < 0)
		log_error("%s: serving ended: %s", v->start->mountpoint, strerror(-r));
	else
		log_notice("%s unmounted", v->start->mountpoint);
	return r < 0 ? EXIT_CANNOT : EXIT_DONE;
}

enum exit_code serve(const struct options *o, const struct start *s, serve_report report, void *ctx)
{
	struct server v = {.options = o, .start = s, .lock = -1};
	_cleanup_free_ char *error = NULL;
	enum exit_code code = EXIT_CANNOT;
	int r;

	log_set_level(o->loglevel);
	(void)signal(SIGPIPE, SIG_IGN);
	daemon_raise_limits();
	r = begin(&v, &error);
	if (r < 0) {
		end(&v);
		(void)report(ctx, EXIT_CANNOT, error ? error : strerror(-r));
		return EXIT_CANNOT;
	}
	r = report(ctx, EXIT_DONE, NULL);
	if (r < 0)
		log_error("%s: whoever mounted it is gone: unmounting", s->mountpoint);
	else
		code = run(&v);
	end(&v);
	return code;
}
