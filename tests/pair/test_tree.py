# SPDX-License-Identifier: GPL-2.0-or-later
"""A real tree, changed in every way: the other server has the same in all respects."""

import os
import random
import shutil
import struct
import subprocess
import sysconfig

import pytest

from rig.compare import assert_same
from rig.servers import run

ACL = "u:daemon:rw"


def some_files(root):
    return [os.path.join(base, f) for base, _, files in os.walk(root) for f in files]


def some_dirs(root):
    return [os.path.join(base, d) for base, dirs, _ in os.walk(root) for d in dirs]


def edit(r, path):
    with open(path, "r+b") as f:
        f.seek(r.randrange(max(1, os.path.getsize(path))))
        f.write(os.urandom(r.randrange(1, 5000)))


def sparse(path):
    with open(path, "wb") as f:
        f.seek(3 << 20)
        f.write(b"in the middle")
        f.truncate(8 << 20)


def change(r, root, i):
    files, dirs = some_files(root), some_dirs(root)
    path, other = r.choice(files), os.path.join(r.choice(dirs), f"new{i}")
    regular = not os.path.islink(path)
    kind = r.randrange(17)
    if kind == 0:
        os.rename(path, other)
    elif kind == 1 and regular:
        edit(r, path)
    elif kind == 2 and regular:
        os.truncate(path, r.randrange(1000))
    elif kind == 3 and regular:
        os.link(path, other)
    elif kind == 4:
        os.symlink(r.choice(["nowhere", "../up", path]), other)
    elif kind == 5 and regular:
        os.chmod(path, r.choice([0o600, 0o640, 0o755, 0o4755, 0o2711]))
    elif kind == 6:
        os.chown(path, r.randrange(2000), r.randrange(2000), follow_symlinks=False)
    elif kind == 7:
        os.unlink(path)
    elif kind == 8 and regular:
        os.setxattr(path, f"user.k{r.randrange(3)}", os.urandom(r.randrange(200)))
    elif kind == 9 and regular:
        subprocess.run(["setfacl", "-m", ACL, path], check=True)
    elif kind == 10:
        os.utime(path, ns=(r.randrange(10**18), r.randrange(10**18)), follow_symlinks=False)
    elif kind == 11:
        os.mkdir(other, 0o750)
        subprocess.run(["setfacl", "-d", "-m", ACL, other], check=True)
        os.mkdir(os.path.join(other, "inherits"))
        with open(os.path.join(other, "file"), "w", encoding="utf-8") as f:
            f.write("inherits too")
    elif kind == 12:
        os.rename(r.choice(dirs), other)
    elif kind == 13:
        victim = r.choice(dirs)
        if len(some_files(victim)) < 4:
            shutil.rmtree(victim)
    elif kind == 16:
        with open(other, "wb") as f:
            f.write(os.urandom(r.choice([0, 10, 3000, 200000])))
    elif kind == 14:
        os.mkfifo(other) if i % 2 else os.mknod(other, 0o600 | 0o020000, os.makedev(1, 3))
    else:
        sparse(other)


def apply_changes(root, seed, count):
    r = random.Random(seed)
    done = 0
    for i in range(count):
        try:
            change(r, root, i)
            done += 1
        except OSError:     # a directory into itself, a name that is gone with its directory, ...
            pass
    assert done > count / 2


def library():
    return sysconfig.get_paths()["stdlib"]


def copy_tree(source, target):
    subprocess.run(["cp", "-r", "--preserve=timestamps,links,mode", source, target], check=True)


def test_tree(pair, full):
    p = pair("mode=async")
    copy_tree(library() if full else os.path.join(library(), "json"), p.a.path / "tree")
    if not full:
        copy_tree(os.path.join(library(), "asyncio"), p.a.path / "tree" / "asyncio")
        copy_tree(os.path.join(library(), "email"), p.a.path / "tree" / "email")
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    apply_changes(p.a.path / "tree", 1, 1500 if full else 400)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert_same(p.a.path, p.b.path)
    # and back from the other side
    apply_changes(p.b.path / "tree", 2, 300)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert_same(p.a.path, p.b.path)
    out = p.a.cli("verify", p.a.path).stdout
    assert "identical" in out


def test_holes_stay(pair):
    p = pair("mode=async")
    sparse(p.a.path / "sparse")
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert (p.b.backing / "sparse").stat().st_blocks * 512 < 1 << 20
    with open(p.a.path / "sparse", "r+b") as f:
        subprocess.run(["fallocate", "-p", "-o", str(3 << 20), "-l", "4096", f.name], check=True)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)


CAP_NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.mark.parametrize("how", ["printf x >> {}", "printf x 1<> {}", "truncate -s 5 {}",
                                 ": > {}", "fallocate -l 200 {}"])
@pytest.mark.parametrize("user", [0, 1000])
def test_privileges_go_with_a_change(pair, how, user):
    """setuid, setgid and capabilities of a changed file: as on a bare directory, and there too."""
    p = pair("mode=async")
    bare = p.top / "bare"
    bare.mkdir()
    for root in (p.a.path, bare):
        for name, mode in (("f", 0o6777), ("g", 0o2777)):
            (root / name).write_bytes(b"x" * 100)
            os.chmod(root / name, mode)
            os.setxattr(root / name, "security.capability", CAP_NET_RAW)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    for root in (p.a.path, bare):
        for name in ("f", "g"):
            run("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "sh", "-c",
                how.format(root / name))
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    for name in ("f", "g"):
        assert os.stat(p.b.backing / name).st_mode == os.stat(bare / name).st_mode
        assert os.stat(p.a.path / name).st_mode == os.stat(bare / name).st_mode
        assert os.listxattr(p.b.backing / name) == os.listxattr(bare / name) == []
