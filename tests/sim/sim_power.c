/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Machines that lose power. Each node has an ext4 of its own in a file, with its backing directory
 * and its state on it. When power fails that file system is shut down as it is: what stands in the
 * image is what had reached the disk, in the order and with the gaps that ext4 leaves. A copy of
 * the image is mounted in its place, and the node starts on that as after another boot; what its
 * former life still has open belongs to the dead file system.
 *
 * From then on those versions count that the peer has, and those that an fsync had acknowledged:
 * these are in what came back. Others are there by chance, and the peer's may take their place.
 * What the peer alone has counts again once the node was reconciled.
 *
 * The mounts are in a name space of the seed's own process and end with it.
 */

#include "sim.h"

#include "replicate/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#define EXT4_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#define NOLOGFLUSH 2u

/* An empty file system, made once for all seeds. */
static char template[] = "/dev/shm/tandemfs-sim-disk-XXXXXX";

__attribute__((format(printf, 1, 2))) static void command(const char *format, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	if (system(text) != 0) {
		perror(text);
		_exit(3);
	}
}

void sim_power_prepare(void)
{
	int fd = mkstemp(template);

	if (fd < 0 || ftruncate(fd, 128 << 20) < 0)
		sim_fail("%s: %s", template, strerror(errno));
	(void)close(fd);
	command("mkfs.ext4 -q -F -N 4096 -m 0 -J size=4 -E lazy_itable_init=0,nodiscard %s",
		template);
}

void sim_power_forget(void)
{
	(void)unlink(template);
}

void sim_power_own_mounts(void)
{
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		sim_fail("a name space for mounts: %s", strerror(errno));
}

static void attach(struct sim_node *n)
{
	/* what is not synced stays away from the disk while a seed runs */
	command("mount -o loop,commit=300 %s.image %s", n->disk, n->disk);
}

void sim_power_set_up(struct sim_node *n)
{
	command("cp --sparse=always %s %s.image && mkdir %s", template, n->disk, n->disk);
	attach(n);
	command("mkdir -m 755 %s %s && sync -f %s", n->backing, n->state, n->backing);
}

/* ---- the failure ---- */

static void come_back(struct sim_node *n)
{
	char running[sizeof(n->state) + 16];
	uint32_t how = NOLOGFLUSH;

	if (ioctl(n->root, EXT4_IOC_SHUTDOWN, &how) < 0)
		sim_fail("shutdown: %s", strerror(errno));
	command("cp --sparse=always %s.image %s.next && umount -l %s && mv %s.next %s.image",
		n->disk, n->disk, n->disk, n->disk, n->disk);
	attach(n);
	n->root = open(n->backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (n->root < 0)
		sim_fail("%s: %s", n->backing, strerror(errno));
	(void)snprintf(running, sizeof(running), "%s/running", n->state);
	if (access(running, F_OK) == 0)
		command("echo another boot > %s && sync %s", running, running);
}

static void forget_what_is_gone(struct sim_node *n)
{
	static struct sim_versions found;

	static struct sim_versions elsewhere;

	memset(&elsewhere, 0, sizeof(elsewhere));
	sim_versions_below(sim.nodes[1 - n->index].backing, &elsewhere);
	memset(&found, 0, sizeof(found));
	sim_versions_below(n->backing, &found);
	n->is_adrift = true;
	for (unsigned i = 0; i < NODES; i++)
		for (unsigned k = 0; k < SIM_VERSIONS; k++) {
			if (!sim.live.has[i][k] ||
				(found.has[i][k] && (elsewhere.has[i][k] || sim.synced.has[i][k])))
				continue;
			if (elsewhere.has[i][k]) {
				n->adrift.has[i][k] = true;
				sim.live.has[i][k] = false;
				continue;
			}
			if (sim.synced.has[i][k])
				sim_fail("version %u of node %u was synced, and gone when node %u "
					 "lost power",
					k, i, n->index);
			sim_trace("version %u of node %u may go", k, i);
			sim.live.has[i][k] = false;
		}
}

void sim_power_reconciled(struct sim_node *n)
{
	static struct sim_versions here;

	if (!n->is_adrift || !n->replica || n->replica->peers[0].resync_needed)
		return;
	memset(&here, 0, sizeof(here));
	sim_versions_below(n->backing, &here);
	for (unsigned i = 0; i < NODES; i++)
		for (unsigned k = 0; k < SIM_VERSIONS; k++)
			if (n->adrift.has[i][k] && here.has[i][k])
				sim.live.has[i][k] = true;
	memset(&n->adrift, 0, sizeof(n->adrift));
	n->is_adrift = false;
}

void sim_power_lose(struct sim_node *n)
{
	sim.failures++;
	sim_trace("node %u: power fails", n->index);
	for (unsigned i = 0; i < NODES; i++)
		sim_remote_cut(i);
	come_back(n);
	forget_what_is_gone(n);
}

void sim_power_take_away(struct sim_node *n)
{
	if (!n->disk[0])
		return;
	if (sim.trace)
		command("cp -a %s %s.kept", n->disk, n->disk);
	command("umount -l %s", n->disk);
}
