# SPDX-License-Identifier: GPL-2.0-or-later
"""What a reader at the peer sees of files while they are written: whole ones, and nothing stale."""

import errno
import hashlib
import mmap
import os
import subprocess
import sys
import time

import pytest

from rig.compare import assert_same
from rig.servers import run, wait_for

# Reads a name over and over until a file says stop; prints what was wrong with any answer.
READER = """
import hashlib, os, sys
path, stop = sys.argv[1:3]
reads = 0
print("begun", flush=True)
while not os.path.exists(stop):
    try:
        with open(path, "rb") as f:
            st = os.fstat(f.fileno())
            data = f.read()
    except FileNotFoundError:
        continue
    reads += 1
    if len(data) != st.st_size:
        print("size", st.st_size, "read", len(data))
    if hashlib.sha256(data[64:]).hexdigest().encode() != data[:64]:
        print("torn: bytes", len(data))
    if (st.st_mode & 0o777, st.st_uid) != (0o644, 0):
        print("attributes", oct(st.st_mode), st.st_uid)
print("reads", reads > 0)
"""


def sealed(size):
    """Bytes that begin with the digest of the rest."""
    data = os.urandom(size)
    return hashlib.sha256(data).hexdigest().encode() + data


@pytest.fixture
def reader(tmp_path):
    started = []

    def start(path):
        stop = tmp_path / f"stop{len(started)}"
        process = subprocess.Popen([sys.executable, "-c", READER, path, stop],
                                   stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "begun\n"

        def finish():
            stop.touch()
            return process.communicate(timeout=60)[0].splitlines()
        return finish

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def write_slowly(path, data, parts=8):
    with open(path, "wb", buffering=0) as f:
        step = len(data) // parts + 1
        for i in range(0, len(data), step):
            f.write(data[i:i + step])
            time.sleep(0.005)


# In sync-write each write is to be seen at once.
@pytest.mark.parametrize("mode", ["async", "sync"])
@pytest.mark.parametrize("size", [3000, 60_000, 2_000_000])
def test_a_new_file_appears_whole(pair, reader, mode, size):
    p = pair(f"mode={mode}")
    finish = reader(p.b.path / "f")
    for i in range(15):
        write_slowly(p.a.path / "f", sealed(size + i))
        if i % 3 == 2:      # also as editors do it
            write_slowly(p.a.path / ".f.new", sealed(size - i))
            os.rename(p.a.path / ".f.new", p.a.path / "f")
        if i % 5 == 4:
            os.unlink(p.a.path / "f")
    write_slowly(p.a.path / "f", sealed(size))
    p.in_sync()
    wait_for("the file is there", (p.b.path / "f").exists)
    time.sleep(0.2)
    assert finish() == ["reads True"]
    assert_same(p.a.backing, p.b.backing)


def test_replaced_again_and_again(pair, reader):
    """Every open finds one version or another, however often a batch replaces the name."""
    p = pair("mode=async")
    (p.a.path / "f").write_bytes(sealed(100))
    p.in_sync()
    finishes = [reader(p.b.path / "f") for _ in range(2)]
    for i in range(2000):
        (p.a.path / f"f{i % 3}").write_bytes(sealed(i % 500))
        os.rename(p.a.path / f"f{i % 3}", p.a.path / "f")
    p.in_sync()
    assert [finish() for finish in finishes] == [["reads True"]] * 2
    assert_same(p.a.backing, p.b.backing)


def test_an_open_file_of_the_peer_keeps_its_bytes(pair):
    """A web server that is in the middle of sending the old file."""
    p = pair("mode=sync")
    old = os.urandom(3 << 20)
    (p.a.path / "f").write_bytes(old)
    with open(p.b.path / "f", "rb") as f, \
            mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert f.read(1000) == old[:1000]
        (p.a.path / "f").write_bytes(b"short")
        assert (p.b.path / "f").read_bytes() == b"short"
        assert f.read() == old[1000:]
        assert mapped[:] == old
        os.unlink(p.a.path / "f")
        assert not (p.b.path / "f").exists()
        f.seek(0)
        assert f.read() == old
    assert_same(p.a.backing, p.b.backing)


def test_open_unlinked(pair):
    """A file without a name stays here, and leaves nothing there."""
    p = pair("mode=sync")
    with open(p.a.path / "f", "w+b") as f:
        f.write(b"x" * 100_000)
        f.flush()
        os.unlink(p.a.path / "f")
        f.write(b"y" * 100_000)
        f.flush()
        os.fsync(f.fileno())
        f.seek(0)
        assert f.read() == b"x" * 100_000 + b"y" * 100_000
        (p.a.path / "f").write_bytes(b"another")
    p.in_sync()
    assert (p.b.path / "f").read_bytes() == b"another"
    assert_same(p.a.backing, p.b.backing)


def test_replaced_while_open_for_writing(pair):
    p = pair("mode=sync")
    (p.a.path / "log").write_bytes(b"")
    with open(p.a.path / "log", "ab", buffering=0) as f:
        f.write(b"one\n")
        os.rename(p.a.path / "log", p.a.path / "log.1")
        (p.a.path / "log").write_bytes(b"new\n")
        f.write(b"two\n")
    p.in_sync()
    assert (p.b.path / "log.1").read_bytes() == b"one\ntwo\n"
    assert (p.b.path / "log").read_bytes() == b"new\n"
    assert_same(p.a.backing, p.b.backing)


def test_stores_through_a_mapping(pair):
    p = pair("mode=sync")
    (p.a.path / "f").write_bytes(bytes(1 << 20))
    with open(p.a.path / "f", "r+b") as f:
        with mmap.mmap(f.fileno(), 0) as m:
            for i in range(0, 1 << 20, 70_000):
                m[i:i + 5] = b"store"
            m.flush()
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert_same(p.b.path, p.b.backing)


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_links_share_their_bytes_there_too(pair, mode):
    p = pair(f"mode={mode}")
    (p.a.path / "d").mkdir()
    (p.a.path / "f").write_bytes(b"a" * 50_000)
    p.in_sync()
    assert_same(p.b.path, p.b.backing)      # now the kernel there knows it by one name
    os.link(p.a.path / "f", p.a.path / "d/g")
    with open(p.a.path / "f", "r+b") as f:
        f.seek(100)
        f.write(b"bbbb")
    os.chmod(p.a.path / "d/g", 0o640)
    p.in_sync()
    assert_same(p.b.path, p.b.backing)
    (p.a.path / "d/g").write_bytes(b"written anew by the other name")
    p.in_sync()
    assert (p.b.path / "f").read_bytes() == b"written anew by the other name"
    assert (p.b.path / "f").stat().st_nlink == 2
    (p.a.path / "d/g").unlink()
    p.in_sync()
    assert (p.b.path / "f").stat().st_nlink == 1
    assert_same(p.a.backing, p.b.backing)
    assert_same(p.b.path, p.b.backing)


def test_ranges_only(pair):
    """Appending and patching a large file sends what is new, in every mode of opening it."""
    p = pair("mode=sync")
    (p.a.path / "big").write_bytes(os.urandom(30 << 20))
    for change in ("append", "patch", "punch", "shrink", "link and patch"):
        before = p.a.peer()["sent_bytes"]
        if change == "append":
            with open(p.a.path / "big", "ab") as f:
                f.write(b"more" * 100)
        elif change == "punch":
            run("fallocate", "-p", "-o", 10 << 20, "-l", 1 << 20, p.a.path / "big")
        elif change == "shrink":
            os.truncate(p.a.path / "big", 25 << 20)
        else:
            if change == "link and patch":
                os.link(p.a.path / "big", p.a.path / "big2")
            with open(p.a.path / "big", "r+b") as f:
                for i in range(10):
                    f.seek(i << 21)
                    f.write(b"patch")
        p.in_sync()
        assert p.a.peer()["sent_bytes"] - before < 500_000, change
        assert_same(p.a.backing, p.b.backing)
    assert_same(p.b.path, p.b.backing)


def test_sparse_files_cost_their_data_only(pair):
    p = pair("mode=sync")
    before = p.a.peer()["sent_bytes"]
    with open(p.a.path / "sparse", "wb") as f:
        f.truncate(1 << 30)
        f.seek(500 << 20)
        f.write(b"in the middle")
    p.in_sync()
    assert p.a.peer()["sent_bytes"] - before < 500_000
    there = (p.b.backing / "sparse").stat()
    assert (there.st_size, there.st_blocks * 512 < 1 << 20) == (1 << 30, True)
    with open(p.b.path / "sparse", "rb") as f:
        assert os.lseek(f.fileno(), 0, os.SEEK_DATA) > 400 << 20
        f.seek(500 << 20)
        assert f.read(13) == b"in the middle"


def test_the_link_breaks_in_the_middle_of_a_large_file(pair, reader):
    p = pair("mode=async", proxy=True)
    (p.a.path / "f").write_bytes(sealed(1000))
    p.in_sync()
    finish = reader(p.b.path / "f")
    p.proxy(p.a).tell("delay", 20)
    for i in range(4):
        (p.a.path / "f").write_bytes(sealed((8 << 20) + i))
        time.sleep(0.1)
        p.proxy(p.a).tell("cut")
    p.proxy(p.a).tell("delay", 0)
    p.connected(60)
    p.in_sync()
    assert finish() == ["reads True"]
    assert_same(p.a.backing, p.b.backing)


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_open_link_whose_known_name_went(pair, mode):
    """Nobody has looked up the name that remains; what is written through the descriptor is its."""
    p = pair(f"mode={mode}")
    (p.a.path / "d" / "e").mkdir(parents=True)
    for name in ("early", "late"):
        (p.a.path / name).write_text("one")
        os.link(p.a.path / name, p.a.path / "d" / "e" / f"other-{name}")
    p.in_sync()
    assert p.a.stop() == 0
    p.a.start()
    p.connected()
    early = os.open(p.a.path / "early", os.O_RDWR)
    os.write(early, b"dirty")
    os.unlink(p.a.path / "early")
    os.write(early, b" again")
    os.close(early)
    late = os.open(p.a.path / "late", os.O_RDWR)
    os.unlink(p.b.path / "late")
    p.in_sync()
    os.pwrite(late, b"two", 1)
    os.fchmod(late, 0o600)
    os.close(late)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert (p.b.path / "d" / "e" / "other-early").read_text() == "dirty again"
    assert (p.b.path / "d" / "e" / "other-late").read_text() == "otwo"


@pytest.mark.parametrize("mode", ["async", "sync", "sync-write"])
def test_file_that_gets_its_name_later(pair, mode):
    """O_TMPFILE and linkat(2): nothing at the peer until there is a name, then all of it."""
    p = pair(f"mode={mode}")
    try:
        fd = os.open(p.a.path, os.O_TMPFILE | os.O_RDWR, 0o640)
    except OSError as e:
        assert e.errno == errno.EOPNOTSUPP
        pytest.skip("this kernel does not hand O_TMPFILE on to FUSE")
    data = os.urandom(200_000)
    os.write(fd, data)
    os.fchown(fd, 1234, 2345)
    os.setxattr(fd, "user.k", b"v")
    os.fsync(fd)
    assert os.listdir(p.b.path) == []
    os.link(f"/proc/self/fd/{fd}", p.a.path / "f", src_dir_fd=fd)
    if mode == "async":
        p.in_sync()
    assert (p.b.path / "f").read_bytes() == data
    os.write(fd, b"more")
    os.close(fd)
    p.in_sync()
    assert (p.b.path / "f").read_bytes() == data + b"more"
    assert_same(p.a.backing, p.b.backing)


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_empty_file_by_mknod(pair, mode):
    """Nobody closes it, and its directory has one time on both."""
    p = pair(f"mode={mode}")
    (p.a.path / "d").mkdir()
    for i in range(20):
        os.mknod(p.a.path / "d" / f"f{i}", 0o100640)
        if mode == "sync":
            assert (p.b.path / "d" / f"f{i}").stat().st_mode == 0o100640
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
