# SPDX-License-Identifier: GPL-2.0-or-later
"""Large directories, listed while they change; what the mount hides; how it ends."""

import ctypes
import errno
import os
import subprocess
import threading

import pytest

from test_calls import fails

libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
libc.readdir64.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long


def test_large_directory_while_changing(here, below):
    count = 100_000
    for n in range(count):  # below the mount: it is the listing that is tested
        os.close(os.open(below / f"f{n:06}", os.O_CREAT | os.O_WRONLY))
    os.rename(below, below.parent / "moved")
    os.rename(below.parent / "moved", below)
    stop = threading.Event()

    def change():
        n = 0
        while not stop.is_set():
            p = here / f"t{n % 50}"
            p.write_text("x")
            p.unlink()
            n += 1

    t = threading.Thread(target=change)
    t.start()
    try:
        for _ in range(3):
            names = [e.name for e in os.scandir(here)]
            kept = [x for x in names if x[0] == "f"]
            assert len(kept) == count
            assert len(set(kept)) == count
    finally:
        stop.set()
        t.join()
    names = os.listdir(here)
    assert sorted(names) == sorted(os.listdir(below))


def test_remove_while_listing(here):
    for n in range(3000):
        (here / f"f{n}").write_text("")
    seen = 0
    for e in os.scandir(here):
        os.unlink(e.path)
        seen += 1
    assert seen == 3000
    assert os.listdir(here) == []


def test_cached_listing_follows_own_changes(here):
    for n in range(50):
        (here / f"f{n}").write_text("")
        assert len(os.listdir(here)) == n + 1
        assert len(os.listdir(here)) == n + 1
    os.rename(here / "f0", here / "g0")
    assert "g0" in os.listdir(here) and "f0" not in os.listdir(here)
    for n in range(1, 50):
        (here / f"f{n}").unlink()
        assert len(os.listdir(here)) == 50 - n


def test_telldir_seekdir(here):
    for n in range(500):
        (here / f"f{n}").write_text("")
    d = libc.opendir(os.fsencode(here))
    places = []

    def name(e):
        return ctypes.string_at(e + 19)

    while True:
        at = libc.telldir(ctypes.c_void_p(d))
        e = libc.readdir64(ctypes.c_void_p(d))
        if not e:
            break
        places.append((at, name(e)))
    assert len(places) == 502
    for at, expected in places[::37][::-1]:
        libc.seekdir(ctypes.c_void_p(d), ctypes.c_long(at))
        assert name(libc.readdir64(ctypes.c_void_p(d))) == expected
    libc.closedir(ctypes.c_void_p(d))


def test_own_directory_is_hidden(mount):
    hidden = mount.path / ".tandemfs"
    assert (mount.backing / ".tandemfs").is_dir()
    assert ".tandemfs" not in os.listdir(mount.path)
    fails(errno.ENOENT, os.stat, hidden)
    fails(errno.ENOENT, os.stat, hidden / "node")
    for call in (lambda: os.mkdir(hidden), lambda: os.symlink("x", hidden), lambda: os.mknod(hidden),
                 lambda: os.open(hidden, os.O_CREAT | os.O_WRONLY)):
        with pytest.raises(OSError) as e:
            call()
        assert e.value.errno in (errno.EPERM, errno.EACCES, errno.EEXIST)
    (mount.path / "x").write_text("x")
    fails(errno.EPERM, os.rename, mount.path / "x", hidden)
    fails(errno.EPERM, os.link, mount.path / "x", hidden)
    fails(errno.ENOENT, os.rename, hidden, mount.path / "y")
    (mount.path / "sub").mkdir()
    (mount.path / "sub" / ".tandemfs").mkdir()  # only the root's is ours
    assert os.listdir(mount.path / "sub") == [".tandemfs"]


def test_symlinks_do_not_lead_out(mount, here, below):
    outside = mount.dir / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    (here / "d").mkdir()
    (here / "d" / "f").write_text("x")
    os.stat(here / "d" / "f")
    # Somebody replaces a directory that the kernel has cached by a link, behind the mount.
    os.rename(below / "d", mount.dir / "away")
    os.symlink(outside, below / "d")
    try:
        (here / "d" / "new").write_text("x")
    except OSError:
        pass
    assert os.listdir(outside) == ["secret"]
    os.unlink(below / "d")
    os.rename(mount.dir / "away", below / "d")


def test_descriptors_do_not_grow(mount, here, below):
    fds = f"/proc/{mount.process.pid}/fd"
    before = len(os.listdir(fds))
    for n in range(2000):
        (below / f"f{n}").write_text("")
    for n in range(2000):
        os.stat(here / f"f{n}")
    assert len(os.listdir(fds)) < before + 20


def test_find_and_tar(mount, here):
    subprocess.run(["tar", "-C", "/usr/include", "-cf", here / "t.tar", "linux"], check=True)
    subprocess.run(["tar", "-C", here, "-xf", here / "t.tar"], check=True)
    subprocess.run(["diff", "-r", "/usr/include/linux", here / "linux"], check=True)
    subprocess.run(["rm", "-r", here / "linux"], check=True)
