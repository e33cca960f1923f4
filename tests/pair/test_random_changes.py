# SPDX-License-Identifier: GPL-2.0-or-later
"""Some thousand files copied through one server, and every kind of change at random after that."""

import os
import pathlib
import random
import shutil
import stat
import subprocess

import pytest

from rig.compare import assert_same
from rig.servers import run

FILES_MAX = 3000


def converge(p):
    p.in_sync(120)
    assert_same(p.a.backing, p.b.backing)


def source():
    """Some package's library with a few thousand files."""
    for path in map(pathlib.Path, ("/usr/share/perl", "/usr/lib/python3", "/usr/lib/python3.11",
                                   "/usr/lib/python3.13", "/usr/share/zoneinfo")):
        if path.is_dir() and sum(len(f) for _, _, f in os.walk(path)) >= 500:
            return path
    pytest.skip("there is no tree to copy")


def copy(target):
    """At most FILES_MAX of it, all sorts of names kept."""
    found = source()
    names = [os.path.join(d, f) for d, _, files in os.walk(found) for f in files][:FILES_MAX]
    listed = "\0".join(os.path.relpath(n, found) for n in names)
    packed = subprocess.run(["tar", "-C", found, "--null", "-T", "-", "-c"], check=True,
                            input=os.fsencode(listed), stdout=subprocess.PIPE)
    run("mkdir", target)
    subprocess.run(["tar", "-C", target, "-xp"], input=packed.stdout, check=True)
    return len(names)


class Changes:
    """Random changes of a tree; the same seed on the same tree does the same."""

    def __init__(self, root, seed):
        self.root, self.random = root, random.Random(seed)
        self.files, self.dirs = [], [root]
        for directory, dirs, files in os.walk(root):
            self.dirs += [os.path.join(directory, d) for d in dirs]
            self.files += [os.path.join(directory, f) for f in files]
        self.files.sort()
        self.serial = 0

    def new_name(self):
        self.serial += 1
        words = ("new", "näme", "with space", "-dash", "100%,a=b", "x" * 200)
        return os.path.join(self.random.choice(self.dirs),
                            f"{self.random.choice(words)}.{self.serial}")

    def some_file(self):
        while True:
            path = self.random.choice(self.files)
            if os.path.lexists(path):
                return path
            self.files.remove(path)

    def regular(self):
        while True:
            path = self.some_file()
            if stat.S_ISREG(os.lstat(path).st_mode):
                return path

    def step(self):
        getattr(self, self.random.choice([n for n in dir(self) if n.startswith("do_")]))()

    def do_write_new(self):
        path = self.new_name()
        with open(path, "wb") as f:
            f.write(self.random.randbytes(self.random.choice((0, 10, 5000, 70_000, 300_000))))
        self.files.append(path)

    def do_rewrite(self):
        with open(self.regular(), "wb") as f:
            f.write(self.random.randbytes(self.random.randrange(20_000)))

    def do_edit(self):
        with open(self.regular(), "r+b") as f:
            size = os.fstat(f.fileno()).st_size
            for _ in range(self.random.randrange(1, 5)):
                f.seek(self.random.randrange(size + 1))
                f.write(self.random.randbytes(self.random.randrange(1, 2000)))

    def do_append(self):
        with open(self.regular(), "ab") as f:
            f.write(self.random.randbytes(500))

    def do_truncate(self):
        path = self.regular()
        os.truncate(path, self.random.randrange(os.stat(path).st_size + 5000))

    def do_rename(self):
        path, to = self.some_file(), self.new_name()
        os.rename(path, to)
        self.files.append(to)

    def do_rename_over(self):
        a, b = self.some_file(), self.some_file()
        os.rename(a, b)

    def do_rename_directory(self):
        path = self.random.choice(self.dirs[1:])
        to = os.path.join(os.path.dirname(path), f"dir.{self.serial}")
        self.serial += 1
        os.rename(path, to)
        moved = (lambda p: to + p[len(path):] if p == path or p.startswith(path + "/") else p)
        self.dirs = [moved(p) for p in self.dirs]
        self.files = [moved(p) for p in self.files]

    def do_link(self):
        path, to = self.some_file(), self.new_name()
        os.link(path, to, follow_symlinks=False)
        self.files.append(to)

    def do_symlink(self):
        to = self.new_name()
        os.symlink(self.random.choice(("nowhere", "../up", self.some_file())), to)
        self.files.append(to)

    def do_special(self):
        to = self.new_name()
        if self.random.random() < 0.5:
            os.mkfifo(to)
        else:
            os.mknod(to, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        self.files.append(to)

    def do_chmod(self):
        os.chmod(self.regular(), self.random.choice((0o600, 0o644, 0o755, 0o4711, 0o2755, 0)))

    def do_chmod_directory(self):
        os.chmod(self.random.choice(self.dirs), self.random.choice((0o700, 0o1777, 0o2775)))

    def do_chown(self):
        os.chown(self.some_file(), self.random.choice((0, 33, 1000)),
                 self.random.choice((0, 33, 1000)), follow_symlinks=False)

    def do_times(self):
        os.utime(self.some_file(), follow_symlinks=False, ns=(
            self.random.randrange(2 * 10**18), self.random.randrange(2 * 10**18)))

    def do_delete(self):
        os.unlink(self.some_file())

    def do_mkdir(self):
        path = self.new_name()
        os.mkdir(path)
        self.dirs.append(path)

    def do_delete_tree(self):
        if self.random.random() < 0.1:
            path = self.random.choice(self.dirs[1:])
            shutil.rmtree(path)
            self.dirs = [d for d in self.dirs if d != path and not d.startswith(path + "/")]

    def do_set_xattr(self):
        path = self.random.choice((self.regular(), self.random.choice(self.dirs)))
        os.setxattr(path, f"user.k{self.random.randrange(3)}", self.random.randbytes(30))

    def do_remove_xattr(self):
        path = self.regular()
        for name in os.listxattr(path):
            if name.startswith("user."):
                os.removexattr(path, name)

    def do_acl(self):
        run("setfacl", "-m", f"u:{self.random.choice((33, 1000))}:r-x", self.regular())

    def do_default_acl(self):
        run("setfacl", "-d", "-m", f"g:{self.random.choice((33, 1000))}:rwx",
            self.random.choice(self.dirs))

    def do_hole(self):
        path = self.new_name()
        with open(path, "wb") as f:
            f.write(b"head")
            f.seek(self.random.randrange(10**6))
            f.write(b"tail")
        self.files.append(path)


@pytest.mark.parametrize("mode, seed", [("async", 1), ("sync", 2)])
def test_random_changes(pair, full, mode, seed):
    changes = 3000 if full else 600
    p = pair(f"mode={mode}")
    files = copy(p.a.path / "tree")
    converge(p)
    assert_same(p.b.path, p.b.backing)
    assert sum(len(f) for _, _, f in os.walk(p.b.path)) == files

    # What the peer's kernel has cached of the tree must not stay.
    random_changes = Changes(str(p.a.path / "tree"), seed)
    for i in range(changes):
        random_changes.step()
        if i % (changes // 3) == 0:
            converge(p)
            assert_same(p.b.path, p.b.backing)
    converge(p)
    assert_same(p.b.path, p.a.path)


def test_a_thousand_files_each_way_then_none(pair):
    p = pair("mode=async")
    for node in p.servers:
        for d in range(10):
            (node.path / f"{node.name}{d}").mkdir()
            for i in range(100):
                (node.path / f"{node.name}{d}" / str(i)).write_bytes(bytes([i]) * i)
    converge(p)
    for node in p.servers:    # each deletes what the other one made
        for d in range(10):
            shutil.rmtree(node.path / f"{p.other(node).name}{d}")
    converge(p)
    assert os.listdir(p.a.path) == os.listdir(p.b.path) == []
