/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The simulation: the replication core of two nodes in one process and one thread.
 *
 *     sim [--shared] [--plain] [--power] [--trace] FIRST COUNT
 *
 * Each seed runs in a child of its own: random changes on both nodes, turns of the senders, uploads
 * and receivers in random order, cuts of the link (a prefix of what was written arrives), crashes
 * at the fault points of the code, restarts. A crash leaves the replica's memory where it is and
 * jumps out; the next start knows only what is in the files. At the end everything is healed and
 * both trees must be the same. With --plain the first node keeps a copy on a third one as well, a
 * plain peer. With --power machines lose what is not on their disks, and the nodes reconcile. A
 * failing seed prints its number and replays exactly with --trace.
 */

#include "sim.h"

#include "replicate/base/cleanup.h"
#include "replicate/base/clock.h"
#include "replicate/base/fault.h"
#include "replicate/base/log.h"
#include "replicate/digest.h"
#include "replicate/sender.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

struct sim sim;

#define STEPS 250
#define STEPS_POWER 500 /* reconciling takes its time */
#define HEAL_TURNS 4000
#define WAITS_MAX 20000

uint64_t sim_random(void)
{
	/* xorshift64*: small, and the same everywhere */
	sim.random ^= sim.random >> 12;
	sim.random ^= sim.random << 25;
	sim.random ^= sim.random >> 27;
	return sim.random * 0x2545F4914F6CDD1Du;
}

unsigned sim_below(unsigned n)
{
	return (unsigned)((sim_random() >> 33) % n);
}

void sim_trace(const char *format, ...)
{
	va_list ap;

	if (!sim.trace)
		return;
	va_start(ap, format);
	(void)fprintf(stderr, "%8.3f ", (double)sim.now_ns / 1e9 - 1e9);
	(void)vfprintf(stderr, format, ap);
	(void)fputc('\n', stderr);
	va_end(ap);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

/* What a seed leaves is large; with --trace it is kept, and comes out the same again. */
static void remove_trees(void)
{
	for (unsigned i = 0; i < NODES && sim.power; i++)
		sim_power_take_away(&sim.nodes[i]);
	if (!sim.trace && sim.top[0])
		(void)nftw(sim.top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void sim_fail(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	(void)printf("seed %llu: ", (unsigned long long)sim.seed);
	(void)vprintf(format, ap);
	(void)putchar('\n');
	va_end(ap);
	(void)fflush(stdout);
	remove_trees();
	_exit(1);
}

static uint64_t sim_clock(void)
{
	sim.now_ns += 1000; /* no two instants are the same */
	return sim.now_ns;
}

static void sim_bytes(void *dst, size_t len)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)dst)[i] = (uint8_t)(sim_random() >> 32);
}

static void fault_hook(const char *label)
{
	if (sim.crash_after == 0 || --sim.crash_after > 0)
		return;
	sim_trace("crash at %s", label);
	longjmp(sim.crash, 1);
}

/* ---- nodes ---- */

static int new_remote(struct replica *r, struct peer *p, struct remote **ret)
{
	return strcmp(p->config->host, "plain") == 0 ? sim_plain_new(ret)
						     : sim_remote_new(r, p, ret);
}

static void others_go_on(void *ctx, unsigned ms);

static void start_node(struct sim_node *n)
{
	struct replica_config config = {
		.backing = n->backing,
		.root = n->root,
		.state = n->state,
		.node = n->index ? "two" : "one",
		.peers = n->peers,
		.n_peers = sim.plain && n->index == 0 ? 2 : 1,
		.order = sim.seed % 3 ? ORDER_RELAXED : ORDER_STRICT,
		.streams = 1,
		.verify = "sha256",
		.stall_ms = 2000,
		.segment_size = sim.seed % 2 ? 16384 : 0, /* small: the journal is trimmed often */
	};
	char *error = NULL;
	int e = replica_open(&config, &n->replica, &error);

	if (e < 0)
		sim_fail("node %u cannot start: %s", n->index, error ?: strerror(-e));
	n->replica->make_remote = new_remote;
	n->replica->make_remote_ctx = n;
	n->replica->pause = sim.power ? others_go_on : NULL;
	n->replica->hooks = (struct replica_hooks){.ctx = n, .applied = sim_applied};
	sim_trace("node %u: started", n->index);
}

static void crash_node(struct sim_node *n, bool power)
{
	sim.crashes++;
	sim_remote_cut(n->index);
	if (n->index == 0)
		sim_plain_cut();
	n->replica = NULL; /* its memory stays behind, as a killed process' would */
	sim_forget_open(n);
	memset(n->resync_at, 0, sizeof(n->resync_at));
	if (power)
		sim_power_lose(n);
	n->retry_at = sim.now_ns + (uint64_t)sim_below(3000) * 1000000u;
}

static void turn_of(struct sim_node *n)
{
	struct sender *s = n->replica->peers[sim_below((unsigned)n->replica->n_peers)].sender;

	if (sim.power && !sim.waiting && sim_chance(10))
		resync_turn(n->replica, n->resync_at);
	switch (sim_below(8)) {
	case 0:
	case 1:
	case 2:
		sim_local_change(n);
		break;
	case 3:
	case 4:
		sender_turn(s, 0);
		break;
	case 5:
		for (unsigned k = sim_below(4); bulk_step(s->bulk) && k;)
			k--;
		break;
	default:
		(void)inbound_turn(n->replica->inbound);
	}
}

static void step(struct sim_node *n, bool faults)
{
	if (!n->replica) {
		if (sim.now_ns >= n->retry_at)
			start_node(n);
		return;
	}
	if (faults && sim_chance(2)) {
		unsigned other = sim_below(NODES);

		sim.link_up[other] = !sim.link_up[other];
		sim.cuts++;
		sim_trace("link of node %u %s", other, sim.link_up[other] ? "up" : "cut");
	}
	if (faults && sim.plain && sim_chance(3)) {
		unsigned what = sim_below(4);

		sim.plain_up = what != 0;
		sim.plain_refuses = what == 1;
		sim_trace("plain peer is %s", what == 0 ? "away" : what == 1 ? "full" : "up");
	}
	if (faults && sim.power && sim_chance(1)) {
		crash_node(n, true);
		return;
	}
	sim.crash_after = faults && sim_chance(3) ? 1 + sim_below(12) : 0;
	if (setjmp(sim.crash) == 0)
		turn_of(n);
	else
		crash_node(n, sim.power && sim_chance(50));
	sim.crash_after = 0;
	sim_power_reconciled(n);
}

/* ---- the end ---- */

static bool is_quiet(void)
{
	for (unsigned i = 0; i < NODES; i++) {
		struct replica *r = sim.nodes[i].replica;

		if (!r || r->reviews)
			return false;
		for (size_t k = 0; k < r->n_peers; k++) {
			/* the plain peer gets the other node's changes too */
			uint64_t head = k ? journal_head(r->journal) : replica_head(r);

			if (r->peers[k].state != PEER_IN_SYNC || r->peers[k].resync_needed ||
				position_contiguous(&r->peers[k].applied) < head)
				return false;
		}
	}
	return true;
}

static void heal_turn(void)
{
	for (unsigned i = 0; i < NODES; i++) {
		struct replica *r = sim.nodes[i].replica;

		for (size_t k = 0; k < r->n_peers; k++) {
			sender_turn(r->peers[k].sender, 0);
			(void)bulk_step(r->peers[k].sender->bulk);
		}
		(void)inbound_turn(r->inbound);
	}
	sim.now_ns += 20000000;
}

/* While a node's reconciler waits: no crashes, since what lies on the stack is its own. */
static void others_go_on(void *ctx, unsigned ms)
{
	(void)ctx, (void)ms;
	if (sim.waiting)
		return;
	if (++sim.waits > WAITS_MAX)
		sim_fail("the reconciler comes to no end");
	sim.waiting = true;
	sim.crash_after = 0;
	if (sim.healing) {
		heal_turn();
	} else {
		unsigned other = sim_below(NODES);

		if (sim_chance(1))
			sim.link_up[other] = !sim.link_up[other];
		for (unsigned i = 0; i < 4; i++) {
			step(&sim.nodes[sim_below(NODES)], false);
			sim.now_ns += (uint64_t)sim_below(50) * 1000000u;
		}
	}
	sim.waiting = false;
}

void sim_wait(unsigned ms)
{
	if (sim.power && ms)
		others_go_on(NULL, ms);
}

static void heal(void)
{
	for (unsigned i = 0; i < NODES; i++)
		sim.link_up[i] = true;
	sim.plain_up = true;
	sim.plain_refuses = sim.plain_faults = false;
	for (unsigned i = 0; i < NODES; i++) {
		if (!sim.nodes[i].replica)
			start_node(&sim.nodes[i]);
		sim_close_all(&sim.nodes[i]);
	}
	sim.healing = true;
	for (unsigned t = 0; t < HEAL_TURNS; t++) {
		heal_turn();
		for (unsigned i = 0; i < NODES && sim.power; i++)
			resync_turn(sim.nodes[i].replica, sim.nodes[i].resync_at);
		if (t > 50 && is_quiet())
			return;
	}
	for (unsigned i = 0; i < NODES + (sim.plain ? 1u : 0u); i++) {
		struct peer *p = &sim.nodes[i % NODES].replica->peers[i / NODES];

		(void)printf("node %u: %s, head %llu, applied %llu, missing %u, %s\n", i,
			peer_state_name(p->state), (unsigned long long)replica_head(p->replica),
			(unsigned long long)p->applied.high, p->applied.n_missing,
			p->error ?: "no error");
	}
	sim_fail("not in sync after healing");
}

static void compare(void)
{
	char command[4096], why[64] = "";
	FILE *f;

	/* every name with type, mode, size, mtime, links, and the bytes */
	(void)snprintf(command, sizeof(command),
		"cd %s && find . -path ./.tandemfs -prune -o -printf '%%P %%y %%m %%s %%T@ %%n %%l\\n' "
		"| sort > %s.list; cd %s && find . -path ./.tandemfs -prune -o -printf "
		"'%%P %%y %%m %%s %%T@ %%n %%l\\n' | sort > %s.list; "
		"diff -u %s.list %s.list >&2 && diff -rq -x .tandemfs %s %s >&2 && echo same",
		sim.nodes[0].backing, sim.nodes[0].backing, sim.nodes[1].backing,
		sim.nodes[1].backing, sim.nodes[0].backing, sim.nodes[1].backing,
		sim.nodes[0].backing, sim.nodes[1].backing);
	f = popen(command, "r");
	if (!f || !fgets(why, sizeof(why), f) || strcmp(why, "same\n") != 0)
		sim_fail("the trees differ");
	(void)pclose(f);
}

static struct sim_versions found;

static int find_in(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	_cleanup_close_ int fd = -1;

	(void)ftw;
	if (flag != FTW_F || !S_ISREG(st->st_mode) || strstr(path, "/.tandemfs/in/"))
		return 0;
	fd = open(path, O_RDONLY | O_NOFOLLOW);
	if (fd >= 0)
		sim_versions_of(fd, &found);
	return 0;
}

void sim_versions_below(const char *backing, struct sim_versions *dst)
{
	found = *dst;
	if (nftw(backing, find_in, 16, FTW_PHYS) < 0)
		sim_fail("cannot look for versions: %m");
	*dst = found;
}

/* Every version that nobody overwrote or removed knowingly is in the tree or in the vault, on both
 * nodes. */
static void find_versions(void)
{
	for (unsigned at = 0; at < NODES; at++) {
		static struct sim_versions there;

		/* a vault is not reconciled */
		if (at == 0 || !sim.failures)
			memset(&there, 0, sizeof(there));
		sim_versions_below(sim.nodes[at].backing, &there);
		if (sim.failures && at + 1 < NODES)
			continue;
		for (unsigned i = 0; i < NODES; i++)
			for (unsigned k = 0; k < SIM_VERSIONS; k++)
				if (sim.live.has[i][k] && !there.has[i][k])
					sim_fail("version %u of node %u is lost on node %u", k, i,
						at);
	}
}

/* ---- one seed ---- */

static void set_places(struct sim_node *n, const char *top)
{
	if (!sim.power) {
		(void)snprintf(n->backing, sizeof(n->backing), "%s/%u", top, n->index);
		(void)snprintf(n->state, sizeof(n->state), "%s/state%u", top, n->index);
		if (mkdir(n->backing, 0755) < 0)
			sim_fail("mkdir: %m");
		return;
	}
	(void)snprintf(n->disk, sizeof(n->disk), "%s/%u", top, n->index);
	(void)snprintf(n->backing, sizeof(n->backing), "%s/www", n->disk);
	(void)snprintf(n->state, sizeof(n->state), "%s/state", n->disk);
	sim_power_set_up(n);
}

static void set_up(const char *top)
{
	(void)snprintf(sim.plain_dir, sizeof(sim.plain_dir), "%s/plain", top);
	if (sim.plain && mkdir(sim.plain_dir, 0755) < 0)
		sim_fail("mkdir: %m");
	sim.plain_up = sim.plain_faults = true;
	for (unsigned i = 0; i < NODES; i++) {
		struct sim_node *n = &sim.nodes[i];

		n->index = i;
		set_places(n, top);
		n->root = open(n->backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (apply_touch(n->root, "", sim.now_ns, true) < 0)
			sim_fail("utimensat");
		sim.link_up[i] = true;
	}
	for (unsigned i = 0; i < NODES; i++) {
		struct sim_node *n = &sim.nodes[i];

		n->peers[0] = (struct replica_peer_config){.url = i ? "sim://one" : "sim://two",
			.host = i ? "one" : "two",
			.port = 22,
			.path = sim.nodes[1 - i].backing};
		n->peers[1] = (struct replica_peer_config){
			.url = "sim://plain", .host = "plain", .port = 22, .path = sim.plain_dir};
		start_node(n);
	}
}

static void run(uint64_t seed)
{
	char top[] = "/dev/shm/tandemfs-sim-XXXXXX";

	sim.seed = seed;
	sim.random = seed * 0x9E3779B97F4A7C15u + 1;
	sim.now_ns = 1000000000000000000u;
	if (!mkdtemp(top))
		sim_fail("mkdtemp: %m");
	(void)snprintf(sim.top, sizeof(sim.top), "%s", top);
	if (sim.power)
		sim_power_own_mounts();
	clock_set_source(sim_clock);
	digest_set_random(sim_bytes);
	set_up(top);
	fault_set_hook(fault_hook);
	for (unsigned i = 0; i < (sim.power ? STEPS_POWER : STEPS); i++) {
		step(&sim.nodes[sim_below(NODES)], true);
		sim.now_ns += (uint64_t)sim_below(50) * 1000000u;
	}
	heal();
	compare();
	find_versions();
	if (sim.plain)
		sim_plain_compare();
	sim_trace("%u changes, %u crashes, %u power failures, %u cuts", sim.ops, sim.crashes,
		sim.failures, sim.cuts);
	sim.trace = false; /* there is nothing to be looked into */
	remove_trees();
	_exit(0);
}

static unsigned long number(const char *text)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*end || end == text) {
		(void)fprintf(stderr,
			"usage: sim [--shared] [--plain] [--power] [--trace] FIRST COUNT\n");
		exit(2);
	}
	return v;
}

int main(int argc, char **argv)
{
	unsigned long first, count, failed = 0;

	for (; argc > 3; argc--, argv++) {
		sim.shared_names |= strcmp(argv[1], "--shared") == 0;
		sim.plain |= strcmp(argv[1], "--plain") == 0;
		sim.power |= strcmp(argv[1], "--power") == 0;
		sim.trace |= strcmp(argv[1], "--trace") == 0;
	}
	if (argc != 3)
		number("");
	first = number(argv[1]);
	count = number(argv[2]);
	log_set_level(sim.trace ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	if (sim.power)
		sim_power_prepare();
	for (unsigned long i = 0; i < count; i++) {
		int status;
		pid_t pid = fork();

		if (pid == 0)
			run(first + i);
		if (pid < 0 || waitpid(pid, &status, 0) != pid) {
			perror("sim");
			return 3;
		}
		if (WIFSIGNALED(status))
			printf("seed %lu: ended by signal %d\n", first + i, WTERMSIG(status));
		failed += status != 0;
	}
	if (sim.power)
		sim_power_forget();
	printf("simulation: %lu passed, %lu failed\n", count - failed, failed);
	return failed ? 1 : 0;
}
