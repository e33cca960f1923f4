# SPDX-License-Identifier: GPL-2.0-or-later
"""The same random calls on the mount and on a plain directory: every result must be the same."""

import errno
import hashlib
import mmap
import os
import random

import pytest

SIZE = 300_000


class Side:
    """One file, one of two that must stay alike."""

    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)

    def reopen(self):
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def map_write(self, offset, data):
        if offset + len(data) > os.fstat(self.fd).st_size:
            return
        with mmap.mmap(self.fd, 0) as m:
            m[offset:offset + len(data)] = data

    def map_read(self, offset, length):
        size = os.fstat(self.fd).st_size
        if size == 0:
            return b""
        with mmap.mmap(self.fd, 0) as m:
            return m[offset:min(offset + length, size)]

    def append(self, data):
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)

    def copy(self, a, b, n):
        if a + n > b and b + n > a:
            return None
        return os.copy_file_range(self.fd, self.fd, n, a, b)

    def punch(self, offset, length):
        from test_calls import KEEP_SIZE, PUNCH_HOLE, fallocate
        fallocate(self.fd, KEEP_SIZE | PUNCH_HOLE, offset, length)

    def rename(self):
        os.rename(self.path, str(self.path) + "~")
        os.rename(str(self.path) + "~", self.path)


def step(rng):
    """A call as a function of a side."""
    offset, n = rng.randrange(SIZE), rng.choice([1, 100, 4096, 5000, 70_000])
    data = rng.randbytes(n)
    other = rng.randrange(SIZE)
    return rng.choice([
        lambda s: os.pwrite(s.fd, data, offset),
        lambda s: os.pwrite(s.fd, data, offset),
        lambda s: os.pread(s.fd, n, offset),
        lambda s: os.pread(s.fd, n, offset),
        lambda s: os.ftruncate(s.fd, offset),
        lambda s: os.truncate(s.path, offset),
        lambda s: s.map_write(offset, data),
        lambda s: s.map_read(offset, n),
        lambda s: s.append(data) if os.fstat(s.fd).st_size < SIZE else None,
        lambda s: s.copy(offset, other, n),
        lambda s: s.punch(offset, n),
        lambda s: os.posix_fallocate(s.fd, offset, n),
        lambda s: os.fstat(s.fd).st_size,
        lambda s: os.stat(s.path).st_size,
        lambda s: s.reopen(),
        lambda s: s.rename(),
        lambda s: os.fsync(s.fd),
        lambda s: hashlib.md5(s.path.read_bytes()).hexdigest(),
    ])


@pytest.mark.parametrize("seed", range(20))
def test_one_file(mount, here, below, seed):
    plain = mount.dir / f"plain{seed}"
    sides = [Side(here / "f"), Side(plain)]
    rng = random.Random(seed)
    for n in range(400):
        call = step(rng)
        results = [call(s) for s in sides]
        assert results[0] == results[1], (seed, n)
    for s in sides:
        os.close(s.fd)
    assert (here / "f").read_bytes() == plain.read_bytes() == (below / "f").read_bytes()
    assert os.stat(here / "f").st_mtime_ns == os.stat(below / "f").st_mtime_ns


def outcome(call):
    try:
        return call()
    except OSError as e:
        return errno.errorcode[e.errno]


def listing(root):
    out = []
    for d, dirs, files in os.walk(root):
        for name in dirs + files:
            p = os.path.join(d, name)
            s = os.lstat(p)
            body = open(p, "rb").read() if os.path.isfile(p) and not os.path.islink(p) else b""
            out.append((os.path.relpath(p, root), oct(s.st_mode), s.st_nlink, s.st_uid, body))
    return sorted(out)


@pytest.mark.parametrize("seed", range(20))
def test_tree(mount, here, below, seed):
    """Names: made, moved, linked, removed, looked at; many of them fail, in the same way."""
    from test_calls import renameat2
    plain = mount.dir / f"tree{seed}"
    plain.mkdir()
    plain.chmod(0o777)
    rng = random.Random(seed)
    names = ["a", "b", "c", "d/a", "d/b", "d/e/a", "d/e/b", "d", "d/e"]
    for n in range(600):
        a, b, flags = rng.choice(names), rng.choice(names), rng.choice([0, 0, 0, 1, 2])
        text = rng.randbytes(rng.choice([0, 10, 5000]))
        mode = rng.choice([0o600, 0o755, 0o2750, 0o4711])
        call = rng.choice([
            lambda r: (r / a).write_bytes(text),
            lambda r: (r / a).write_bytes(text),
            lambda r: (r / a).mkdir(),
            lambda r: (r / a).mkdir(),
            lambda r: os.symlink(b, r / a),
            lambda r: os.mkfifo(r / a),
            lambda r: os.link(r / a, r / b, follow_symlinks=False),
            lambda r: os.unlink(r / a),
            lambda r: os.rmdir(r / a),
            lambda r: os.rename(r / a, r / b),
            lambda r: renameat2(r / a, r / b, flags),
            lambda r: os.chmod(r / a, mode),
            lambda r: (os.lstat(r / a).st_mode, os.lstat(r / a).st_nlink),
            lambda r: sorted(os.listdir(r / a)),
            lambda r: os.readlink(r / a),
            lambda r: os.truncate(r / a, 77) if not os.path.islink(r / a) else None,
            lambda r: os.utime(r / a, ns=(5, 6), follow_symlinks=False),
        ])
        if any(os.path.exists(r / x) and not os.path.isfile(r / x) and not os.path.isdir(r / x)
               for r in (plain,) for x in (a, b)) and call.__code__.co_names[-1:] == ("write_bytes",):
            continue  # opening a FIFO would wait
        results = [outcome(lambda r=r: call(r)) for r in (here, plain)]
        assert results[0] == results[1], (seed, n, a, b, call.__code__.co_names)
        if n % 50 == 0:
            assert listing(here) == listing(plain) == listing(below), (seed, n)
    assert listing(here) == listing(plain) == listing(below)
