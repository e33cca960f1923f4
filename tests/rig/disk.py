# SPDX-License-Identifier: GPL-2.0-or-later
"""A small file system of its own below a server's backing directory, with room beside that to fill it."""

import os
import pathlib

from .servers import run, umount, MNT_DETACH

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
