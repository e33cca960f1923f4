# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems of a server's own: a small one below its backing directory, with room beside that to fill it,
and one for all that it keeps, which can lose power."""

import fcntl
import os
import pathlib
import re
import struct
import subprocess

from .servers import run, umount, wait_for, MNT_DETACH

BLOCK = 1024    # on ext4 a symlink's target must fit into one


class Disk:
    """An ext4 in a file. .path is its root; the backing directory of @server is a directory in it, so
    what takes up its room need not stand in the tree."""

    def __init__(self, server, megabytes=32, inodes=300):
        self.server = server
        self.image, self.path = server.top / "image", server.top / "disk"
        self.path.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(megabytes << 20)
        run("mkfs.ext4", "-q", "-F", "-b", BLOCK, "-N", inodes, "-m", 0, "-O", "^has_journal",
            "-e", "remount-ro", self.image)
        self.mount()

    def mount(self):
        run("mount", "-o", "loop,nodelalloc", self.image, self.path)
        www = self.path / "www"
        www.mkdir(exist_ok=True)
        run("mount", "--bind", www, self.server.backing)

    def umount(self):
        for path in (self.server.backing, self.path):
            umount(path, MNT_DETACH)

    def break_down(self):
        """As after an error of the device: from now on it can only be read."""
        source = run("findmnt", "-no", "SOURCE", self.path).stdout.strip()
        error = pathlib.Path("/sys/fs/ext4") / os.path.basename(source) / "trigger_fs_error"
        error.write_text("a test")

    def repair(self):
        self.umount()
        run("e2fsck", "-fy", self.image, check=False)
        self.mount()

    def free(self):
        v = os.statvfs(self.path)
        return v.f_bavail * v.f_frsize

    def fill(self, leave=0):
        """Leaves about so many bytes."""
        with open(self.path / "filler", "ab", buffering=0) as f:
            try:
                while self.free() > leave:
                    f.write(bytes(min(65536, self.free() - leave)))
            except OSError:
                pass

    def fill_inodes(self):
        (self.path / "many").mkdir()
        try:
            for i in range(100000):
                (self.path / "many" / str(i)).touch()
        except OSError:
            pass

    def empty(self):
        (self.path / "filler").unlink(missing_ok=True)
        run("rm", "-rf", self.path / "many")


class Quota(Disk):
    """A btrfs in a file, with a limit for the subvolume in which the backing directory of @server is. It
    holds for root too."""

    def __init__(self, server, megabytes=128):
        self.server = server
        self.image, self.path = server.top / "image", server.top / "disk"
        self.top = server.top / "btrfs"
        self.path.mkdir()
        self.top.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(megabytes << 20)
        run("mkfs.btrfs", "-q", "--mixed", self.image)
        run("mount", "-o", "loop", self.image, self.top)
        try:
            run("btrfs", "subvolume", "create", self.top / "volume")
            run("btrfs", "quota", "enable", self.top)
            run("mount", "--bind", self.top / "volume", self.path)
            (self.path / "www").mkdir()
            run("mount", "--bind", self.path / "www", server.backing)
        except subprocess.CalledProcessError:
            self.umount()
            raise

    def set_limit(self, limit):
        run("btrfs", "qgroup", "limit", limit, self.top / "volume")

    def umount(self):
        super().umount()
        umount(self.top, MNT_DETACH)

    def fill(self, leave=0):
        """From now on so many bytes more. A change takes what it could need at most, which is given back
        later: making a name some tens of KiB for the tree items that it touches."""
        run("sync", "-f", self.path)
        out = run("btrfs", "qgroup", "show", "--raw", self.top).stdout
        self.set_limit(int(re.search(r"^0/256 +(\d+)", out, re.M)[1]) + leave)

    def empty(self):
        self.set_limit("none")


EXT4_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2


class Machine:
    """An ext4 in a file that holds the backing directory and the state of @server. lose_power() leaves
    on it what had reached it."""

    def __init__(self, server, megabytes=256):
        self.server = server
        self.image, self.path = server.top / "image", server.top / "disk"
        self.path.mkdir()
        server.state.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(megabytes << 20)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        self.mount()
        for d in (server.backing, server.state):
            d.chmod(0o755)

    def parts(self):
        return [(self.path / "www", self.server.backing), (self.path / "state", self.server.state)]

    def mount(self):
        run("mount", "-o", "loop", self.image, self.path)
        for part, where in self.parts():
            part.mkdir(exist_ok=True)
            run("mount", "--bind", part, where)
        self.root = os.open(self.path, os.O_RDONLY)

    def lose_power(self):
        """From now on nothing gets to the disk, not even its file system's journal."""
        fcntl.ioctl(self.root, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))

    def umount(self):
        """Once all that had files open there has ended."""
        if self.root is None:
            return
        os.close(self.root)
        self.root = None
        for where in [w for _, w in self.parts()] + [self.path]:
            wait_for(f"{where} is not in use", lambda w=where: umount(w, 0) or not os.path.ismount(w))
        wait_for("the loop device is free", lambda: not run("losetup", "-j", self.image).stdout)

    def come_back(self):
        """Mounted again, and as after another boot."""
        self.umount()
        self.mount()
        running = self.server.state / "running"
        if running.exists():
            running.write_text("another boot")
