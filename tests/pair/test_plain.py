# SPDX-License-Identifier: GPL-2.0-or-later
"""A plain peer: a directory behind any SFTP server, one way."""

import contextlib
import errno
import os
import random
import shutil
import subprocess
import time

import pytest

from rig.backup import Backup, assert_copied, plain_differences
from rig.compare import assert_same
from rig.servers import FAULTS, run, wait_for


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


@contextlib.contextmanager
def immutable(path):
    """Nothing is written below a dead mount."""
    subprocess.run(["chattr", "+i", str(path)], check=False)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=False)


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


def test_sync_mode(backup):
    """close() and each change of a name return when the plain peer has it."""
    p = backup("mode=sync,on_peer_down=block")
    root, there = p.a.path, p.backup.path
    for i in range(20):
        data = os.urandom(10_000 * i)
        (root / "f").write_bytes(data)
        assert (there / "f").read_bytes() == data
    os.rename(root / "f", root / "g")
    assert sorted(n for n in os.listdir(there) if n != ".tandemfs") == ["g"]
    fd = os.open(root / "g", os.O_WRONLY)
    os.pwrite(fd, b"synced", 0)
    os.fsync(fd)
    assert (there / "g").read_bytes().startswith(b"synced")
    os.close(fd)
    (root / "g").unlink()
    assert os.listdir(there) == [".tandemfs"]


class Changes:
    """Random changes of a few names, as a seed has it."""

    def __init__(self, root, seed):
        self.root, self.r = root, random.Random(seed)

    def name(self):
        return self.root / self.r.choice(["", "d1/", "d2/", "d1/e/"]) / f"n{self.r.randrange(8)}"

    def write(self):
        self.name().write_bytes(os.urandom(self.r.choice([0, 10, 5_000, 200_000, 900_000])))

    def patch(self):
        with open(self.name(), "r+b") as f:
            f.seek(self.r.randrange(100_000))
            f.write(os.urandom(self.r.randrange(20_000)))

    def rename(self):
        os.rename(self.name(), self.name())

    def unlink(self):
        self.name().unlink()

    def link(self):
        os.link(self.name(), self.name())

    def symlink(self):
        os.symlink("target", self.name())

    def chmod(self):
        os.chmod(self.name(), self.r.choice([0o600, 0o644, 0o755]), follow_symlinks=True)

    def move_dir(self):
        a, b = self.root / "d1", self.root / f"moved{self.r.randrange(3)}"
        os.rename(a, b)
        (self.root / "d1" / "e").mkdir(parents=True)

    def make_dirs(self):
        for d in ("d1/e", "d2"):
            (self.root / d).mkdir(parents=True, exist_ok=True)

    def step(self):
        steps = [self.write] * 5 + [self.patch, self.rename, self.rename, self.unlink, self.link,
                                    self.symlink, self.chmod]
        if self.r.random() < 0.03:
            steps = [self.move_dir]
        try:
            self.r.choice(steps)()
        except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
            pass
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.ELOOP):
                raise


def in_step(p, seconds=90):
    p.connected(seconds)
    p.in_sync(seconds)
    assert_copied(p.a.backing, p.backup.path)


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random(backup, seed):
    p = backup()
    r = random.Random(f"kill{seed}")
    for cycle in range(5):
        c = Changes(p.a.path, f"{seed} {cycle}")
        c.make_dirs()
        for _ in range(r.randrange(20, 120)):
            c.step()
        p.restart()
    in_step(p)


@pytest.mark.parametrize("label", ["plain.apply.before", "plain.apply.after",
                                   "plain.patch.before_attrs"])
def test_killed_at_label(backup, label):
    if not os.path.exists(FAULTS):
        pytest.skip("needs the program with fault points: make FAULTS=1")
    p = backup(start=False)
    with immutable(p.a.path):
        p.start()
        fill(p.a.path)
        p.in_sync()
        p.restart(fault=f"{label}:4")
        c = Changes(p.a.path, label)
        for _ in range(200):
            try:
                c.make_dirs()
                c.step()
                c.patch()
            except OSError:
                if not p.a.alive():
                    break
        p.restart()
        in_step(p)
        p.a.stop()


@pytest.mark.parametrize("sftp", ["internal-sftp", "internal-sftp -P posix-rename"])
def test_cuts(backup, sftp):
    p = backup(proxy=True, sftp=sftp)
    c = Changes(p.a.path, sftp)
    c.make_dirs()
    for _ in range(8):
        for _ in range(40):
            c.step()
        p.proxy(p.a).tell("cut")
    in_step(p)
    assert p.a.peer()["plain"]["posix_rename"] is (sftp == "internal-sftp")
    assert (counts(p)["two_steps"] > 0) is (sftp != "internal-sftp")


def test_away_for_long(backup):
    """Contents travel once, and a tree that was renamed meanwhile arrives under its last name."""
    p = backup(proxy=True)
    fill(p.a.path)
    p.in_sync()
    p.proxy(p.a).tell("refuse")
    root = p.a.path
    for i in range(50):
        (root / "tmp").write_bytes(b"%d" % i)
        os.rename(root / "tmp", root / "final")
    os.rename(root / "d", root / "elsewhere")
    (root / "elsewhere" / "new").write_text("x")
    (root / "d").mkdir()
    (root / "d" / "f1").write_text("another")
    p.restart()
    p.proxy(p.a).tell("heal")
    in_step(p)


def test_disk_full_there(backup):
    p = backup(start=False)
    run("mount", "-t", "tmpfs", "-o", "size=2m,mode=0777", "none", p.backup.path)
    p.start()
    root = p.a.path
    (root / "before").write_text("x")
    (root / "big").write_bytes(os.urandom(3_000_000))
    (root / "after").write_text("y")
    wait_for("status tells", lambda: "No space left" in (p.a.peer()["error"] or ""))
    assert "big" in p.a.peer()["error"] and "make room there" in p.a.peer()["error"]
    assert p.a.peer()["state"] == "catching-up"
    run("mount", "-o", "remount,size=20m", p.backup.path)
    in_step(p)
    assert p.a.peer()["error"] is None


def test_read_only_there(backup):
    p = backup(start=False)
    (p.backup.path / ".tandemfs").mkdir()       # root's, so that the account cannot write there
    (p.backup.path / ".tandemfs" / "plain").touch()
    p.b.start_sshd()
    p.a.start()
    wait_for("status tells", lambda: "must be allowed to write" in (p.a.peer()["error"] or ""))
    (p.a.path / "f").write_text("x")
    for name in (".tandemfs", ".tandemfs/plain"):
        shutil.chown(p.backup.path / name, p.backup.name)
    in_step(p)


def test_no_permission_in_a_directory(backup):
    p = backup()
    (p.a.path / "d").mkdir()
    p.in_sync()
    os.chown(p.backup.path / "d", 0, 0)
    (p.a.path / "d" / "f").write_text("x")
    wait_for("status tells", lambda: "Permission denied" in (p.a.peer()["error"] or ""))
    assert "d/f" in p.a.peer()["error"]
    shutil.chown(p.backup.path / "d", p.backup.name)
    in_step(p)


def test_disk_not_mounted_there(backup):
    """A copy that is gone is not made anew somewhere else."""
    p = backup()
    fill(p.a.path)
    p.in_sync()
    p.a.stop()
    os.rename(p.backup.path, p.backup.chroot / "real")
    p.backup.path.mkdir()
    shutil.chown(p.backup.path, p.backup.name)
    p.a.start()
    wait_for("status tells", lambda: "disk not mounted" in (p.a.peer()["error"] or ""))
    assert os.listdir(p.backup.path) == []
    p.backup.path.rmdir()
    os.rename(p.backup.chroot / "real", p.backup.path)
    in_step(p)


def test_one_writer_only(backup):
    p = backup(proxy=True)
    marker = p.backup.path / ".tandemfs" / "plain"
    text = marker.read_text().splitlines()
    text[1] = "id " + "f" * 32
    marker.write_text("\n".join(text) + "\n")
    p.proxy(p.a).tell("cut")
    wait_for("status tells", lambda: p.a.peer()["state"] == "refused")
    assert "one node only may write" in p.a.peer()["error"]


def test_with_content_there(backup):
    """The first contact keeps what is only there, and what is younger there."""
    p = backup(start=False)
    fill(p.a.backing)
    there = p.backup.path
    (there / "d").mkdir()
    shutil.chown(there / "d", p.backup.name)
    (there / "d" / "f4").write_text("younger")      # ours is of 2001
    (there / "only").write_text("kept")
    (there / "s").write_text("a file where we have a link")
    p.start()
    p.in_sync()
    assert counts(p)["only_there"] == 1 and counts(p)["aside"] == 1
    assert (there / "only").read_text() == "kept"
    aside = list((there / ".tandemfs" / "replaced").iterdir())
    assert len(aside) == 1 and aside[0].read_text() == "younger"
    (there / "only").unlink()
    in_step(p)


def test_active_and_plain(pair):
    """One active peer and one plain one: what either server changes comes to the copy."""
    p = pair(start=False)
    b = Backup(p.b)
    p.at_end.append(b.remove)
    url = b.url(p.b.address, p.b.port)
    p.a.options = f"peer={url}," + p.a.options
    with open(p.a.top / "known_hosts", encoding="ascii") as f:
        assert f.read()
    for s in p.servers:
        s.start_sshd()
    for s in p.servers:
        s.start()

    def all_in_sync():
        return all(peer["state"] == "in-sync" for s in p.servers for peer in s.status()["peers"])

    wait_for("all are in sync", all_in_sync, 60)
    fill(p.a.path)
    p.in_sync()
    for i in range(30):
        (p.b.path / f"of-b{i}").write_bytes(os.urandom(i * 1000))
        (p.a.path / f"of-a{i}").write_bytes(os.urandom(i * 1000))
    p.in_sync()
    os.rename(p.b.path / "d", p.b.path / "dd")
    with open(p.b.path / "dd" / "e" / "large", "r+b") as f:
        f.write(b"patched by b")
    (p.b.path / "of-a3").unlink()
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    wait_for("the copy has it all", lambda: not plain_differences(p.a.backing, b.path), 30)
    assert [peer["active"] for peer in p.a.status()["peers"]] == [False, True]


def test_once_active_never_plain(pair):
    p = pair()
    p.b.kill()
    p.a.kill()
    shutil.move(p.b.backing / ".tandemfs" / "node", p.b.top / "node")
    p.a.start()
    wait_for("status tells", lambda: "was there" in (p.a.peer()["error"] or ""))
    time.sleep(8)
    assert p.a.peer()["state"] == "connecting"
    assert not (p.b.backing / ".tandemfs" / "plain").exists()
    assert p.a.peer()["active"] is True
    shutil.move(p.b.top / "node", p.b.backing / ".tandemfs" / "node")
    p.b.start()
    p.connected()


def test_resync(backup):
    """What was changed there by others is put right; what is only there stays."""
    p = backup()
    fill(p.a.path)
    p.in_sync()
    there = p.backup.path
    (there / "d" / "f3").write_text("changed there")
    (there / "d" / "f5").unlink()
    (there / "only").write_text("kept")
    r = p.a.cli("resync", "--dry-run", p.a.path, check=False)
    assert "d/f3" in r.stdout and "d/f5" in r.stdout and "kept there" in r.stdout
    assert (there / "d" / "f3").read_text() == "changed there"
    p.a.cli("resync", p.a.path, check=False)
    assert (there / "only").read_text() == "kept"
    (there / "only").unlink()
    in_step(p)
