# SPDX-License-Identifier: GPL-2.0-or-later
"""A plain peer: a directory behind any SFTP server, one way."""

import os
import time

import pytest

from rig.backup import WithBackup, assert_copied
from rig.servers import wait_for


@pytest.fixture
def backup(request):
    made = []

    def make(options="mode=async", **kwargs):
        made.append(WithBackup(options, **kwargs))
        return made[-1]

    yield make
    passed = False
    try:
        for p in made:
            p.stop()
        passed = getattr(request.node, "passed", False)
    finally:
        for p in made:
            if not passed:
                print(f"---- log of {p.a.name}\n" + p.a.log()[-6000:])
            p.remove()


def fill(root):
    (root / "d" / "e").mkdir(parents=True)
    for i in range(20):
        (root / "d" / f"f{i}").write_bytes(os.urandom(i * 997))
    (root / "d" / "e" / "large").write_bytes(os.urandom(3_000_000))
    os.symlink("d/f1", root / "s")
    os.link(root / "d" / "f2", root / "d" / "g2")
    (root / "d" / "empty").write_bytes(b"")
    with open(root / "sparse", "wb") as f:
        f.seek(1_000_000)
        f.write(b"x")
        f.truncate(2_000_000)
    os.chmod(root / "d" / "f3", 0o600)
    os.utime(root / "d" / "f4", (10**9, 10**9))


def counts(p, i=0):
    return p.a.status()["peers"][i]["plain"]["counts"]


def test_first_contact(backup):
    p = backup(start=False)
    fill(p.a.backing)
    p.start()
    p.in_sync()
    assert_copied(p.a.backing, p.backup.path)
    peer = p.a.peer()
    assert peer["active"] is False
    assert peer["plain"]["check"] == "size"
    assert peer["plain"]["posix_rename"] is True
    assert counts(p)["owners"] > 0 and counts(p)["nanoseconds"] > 0
    assert os.stat(p.backup.path / "d" / "f2").st_ino == os.stat(p.backup.path / "d" / "g2").st_ino
    text = p.a.cli("status", p.a.path).stdout
    assert "plain: one way" in text and "owners that the account" in text


def test_every_kind_of_change(backup):
    p = backup()
    root = p.a.path
    fill(root)
    p.in_sync()
    assert_copied(p.a.backing, p.backup.path)
    os.rename(root / "d" / "f5", root / "d" / "f6")
    os.rename(root / "d", root / "dd")
    (root / "dd" / "f7").unlink()
    with open(root / "dd" / "e" / "large", "r+b") as f:
        f.seek(1_000_000)
        f.write(b"patch")
    with open(root / "dd" / "f8", "ab") as f:
        f.write(b"more")
    os.truncate(root / "dd" / "f9", 100)
    os.chmod(root / "dd" / "f10", 0o640)
    os.link(root / "dd" / "f11", root / "h11")
    (root / "h11").write_bytes(b"through the other name")
    os.unlink(root / "s")
    os.symlink("elsewhere", root / "s")
    os.mkdir(root / "gone")
    os.rmdir(root / "gone")
    os.setxattr(root / "dd" / "f12", "user.k", b"v")
    os.mkfifo(root / "fifo")
    (root / "fifo").unlink()
    os.mkfifo(root / "fifo2")
    p.in_sync()
    assert_copied(p.a.backing, p.backup.path)
    there = p.backup.path
    assert os.stat(there / "dd" / "f11").st_ino == os.stat(there / "h11").st_ino
    assert counts(p)["xattrs"] == 1
    assert counts(p)["specials"] == 2


def test_verify(backup):
    p = backup()
    fill(p.a.path)
    p.in_sync()
    assert p.a.cli("verify", p.a.path).returncode == 0
    (p.backup.path / "foreign").write_text("x")
    (p.backup.path / "d" / "f3").write_text("changed there")
    (p.backup.path / "d" / "f5").unlink()
    r = p.a.cli("verify", p.a.path, check=False)
    assert r.returncode == 1
    for name in ("foreign", "d/f3", "d/f5"):
        assert name in r.stdout
