# SPDX-License-Identifier: GPL-2.0-or-later
"""A peer that cannot take or apply a change: its disk is full, has no inode left, is read-only, the
directory is locked, the name is too long there. The change waits, status says which and why, others
go on, and it is carried out when the cause is gone.

File systems with a lower limit for names are not to be had everywhere; a symlink's target is bounded
by ext4's block size, with the same errno. Most quotas do not hold root, who applies; those of btrfs do."""

import errno
import os
import signal
import subprocess
import time

import pytest

from rig.compare import assert_same
from rig.disk import Disk, Quota
from rig.servers import run, wait_for

POLICIES = ["async", "continue", "block", "fail"]
MODES = {"async": "mode=async"} | {p: f"mode=sync,on_peer_down={p}" for p in POLICIES[1:]}
LARGE = 3 << 20
LEFT = 20 << 10


class Locked:
    """A directory at b in which nothing can be made."""
    error = "Operation not permitted"

    def __init__(self, p, disk):
        self.path = p.b.backing / "dir"
        run("chattr", "+i", self.path)

    def change(self, root):
        (root / "dir" / "new").write_bytes(b"1" * 1000)

    def later(self, root):
        os.rename(root / "dir" / "new", root / "dir" / "name")

    def end(self):
        run("chattr", "-i", self.path)


class NoInode(Locked):
    error = "No space left on device"

    def __init__(self, p, disk):
        self.disk = disk
        disk.fill_inodes()

    def change(self, root):
        (root / "new-inode").mkdir()

    def later(self, root):
        os.rename(root / "new-inode", root / "inode")

    def end(self):
        self.disk.empty()


class Full(NoInode):
    """Room for the record in the spool, none for the file."""

    def __init__(self, p, disk):
        self.disk = disk
        disk.fill(100_000)

    def change(self, root):
        (root / "new-60k").write_bytes(os.urandom(60_000))

    def later(self, root):
        os.chmod(root / "new-60k", 0o600)


class FullStage(Full):
    """None for what travels by itself."""

    def __init__(self, p, disk):
        self.disk = disk
        disk.fill(1 << 20)

    def change(self, root):
        (root / "new-large").write_bytes(os.urandom(LARGE))

    def later(self, root):
        os.rename(root / "new-large", root / "large")


class TooLarge(FullStage):
    """So large that the peer is asked for room before anything is sent."""

    def change(self, root):
        (root / "new-larger").write_bytes(os.urandom(5 << 20))

    def later(self, root):
        os.rename(root / "new-larger", root / "larger")


class Growing(FullStage):
    """It is sent while it is being written; what is there of it then must not stay and fill the disk."""

    def __init__(self, p, disk):
        self.disk = disk
        disk.fill(3 << 20)

    def change(self, root):
        with open(root / "new-growing", "wb") as f:
            for _ in range(12):
                f.write(os.urandom(1 << 19))
                f.flush()
                time.sleep(0.1)

    def later(self, root):
        wait_for("its half is gone", lambda: self.disk.free() > 2 << 20)
        os.rename(root / "new-growing", root / "growing")


class TooLong(Locked):
    error = "File name too long"

    def __init__(self, p, disk):
        self.root = p.a.path

    def change(self, root):
        os.symlink("x" * 2000, root / "new-link")

    def later(self, root):
        pass

    def end(self):
        wait_for("the caller's server has it", lambda: os.path.lexists(self.root / "new-link"), 5)
        try:
            (self.root / "new-link").unlink()
        except OSError as e:    # by on_peer_down=fail: this too the peer can not do at once
            assert e.errno == errno.EIO


class OverQuota(NoInode):
    """Room for the record in the spool, none for another name."""
    error = "Disk quota exceeded"

    def __init__(self, p, disk):
        self.disk = disk
        disk.fill(LEFT)


CAUSES = [Locked, NoInode, Full, FullStage, TooLong]
MORE = [TooLarge, Growing]


def small_disk(pair, options, make=lambda server: Disk(server, inodes=300), **kwargs):
    p = pair(options, start=False, **kwargs)
    try:
        disk = make(p.b)
    except (subprocess.CalledProcessError, FileNotFoundError) as e:
        pytest.skip(f"no file system can be made here: {getattr(e, 'stderr', e)}")
    p.at_end.append(disk.umount)
    p.start()
    (p.a.path / "dir").mkdir()
    (p.a.path / "other").write_text("x")
    p.in_sync()
    return p, disk


def told(p, cause):
    return cause.error in (p.a.peer()["error"] or "")


def attempt(policy, change):
    """What the caller of @change gets and in how many seconds. With `block` that is not waited for:
    a child process makes the change."""
    start = time.monotonic()
    if policy == "block":
        child = os.fork()
        if child == 0:
            try:
                change()
            finally:
                os._exit(0)
        return child
    try:
        change()
    except OSError as e:
        return e.errno, time.monotonic() - start
    return 0, time.monotonic() - start


def check_writer(policy, outcome, stuck):
    """What on_peer_down decides for a change that the peer cannot make. @stuck: it cannot yet."""
    if policy == "block":
        if stuck:
            assert os.waitpid(outcome, os.WNOHANG) == (0, 0)
        else:
            wait_for("the writer returns", lambda: os.waitpid(outcome, os.WNOHANG)[0] == outcome)
        return
    error, seconds = outcome
    assert error == (errno.EIO if policy == "fail" else 0)
    assert seconds < 5


def goes_on(p, n):
    """Another path's change, which a sync writer finds at the peer."""
    os.chmod(p.a.path / "other", 0o600 + n)
    wait_for("others go on",
             lambda: (os.stat(p.b.backing / "other").st_mode & 0o777) == 0o600 + n, 5)


@pytest.mark.seconds(90)
@pytest.mark.parametrize("policy", POLICIES)
def test_waits(pair, policy):
    p, disk = small_disk(pair, MODES[policy])
    for n, kind in enumerate(CAUSES + (MORE if policy == "async" else [])):
        cause = kind(p, disk)
        outcome = attempt(policy, lambda cause=cause: cause.change(p.a.path))
        wait_for(f"{kind.__name__}: status tells", lambda cause=cause: told(p, cause), 10)
        if not issubclass(kind, FullStage):
            assert cause.error in p.b.peer()["waiting"]
        assert "new" in p.a.peer()["error"]
        check_writer(policy, outcome, True)
        goes_on(p, 2 * n + 1)
        if policy == "async":
            cause.later(p.a.path)
            goes_on(p, 2 * n + 2)
            assert told(p, cause)
        if policy == "block" and kind is TooLong:
            os.kill(outcome, signal.SIGKILL)    # while it waits the kernel holds the directory
        cause.end()
        p.in_sync(20)
        check_writer(policy, outcome, False)
        assert p.a.peer()["error"] is None and p.b.peer()["waiting"] is None
        assert_same(p.a.backing, p.b.backing)


@pytest.mark.seconds(90)
@pytest.mark.parametrize("policy", POLICIES)
def test_full_to_the_brim(pair, policy):
    """Not even the spool can be written: the peer is away, and the reason is told."""
    p, disk = small_disk(pair, MODES[policy])
    disk.fill()
    outcome = attempt(policy, lambda: (p.a.path / "new").write_bytes(os.urandom(60_000)))
    wait_for("status tells", lambda: "No space left" in (p.a.peer()["error"] or ""), 10)
    check_writer(policy, outcome, True)
    assert (p.a.path / "new").stat().st_size == 60_000
    disk.empty()
    p.connected()
    p.in_sync(20)
    check_writer(policy, outcome, False)
    assert_same(p.a.backing, p.b.backing)


@pytest.mark.seconds(90)
def test_over_reconnects(pair):
    """What waits, and what waits behind it, keep their order in new sessions."""
    p, disk = small_disk(pair, MODES["async"], proxy=True)
    causes = [kind(p, disk) for kind in (Locked, Full, FullStage)]
    for cause in causes:
        cause.change(p.a.path)
    wait_for("status tells", lambda: "cannot" in (p.a.peer()["error"] or ""), 10)
    for cause in causes:
        cause.later(p.a.path)
    for n in range(3):
        p.proxy(p.a).tell("cut")
        goes_on(p, n + 1)
    wait_for("status tells", lambda: "cannot" in (p.a.peer()["error"] or ""), 10)
    for cause in causes:
        cause.end()
    p.in_sync(20)
    assert_same(p.a.backing, p.b.backing)
    assert p.a.status()["conflicts"] == 0 and p.b.status()["conflicts"] == 0


@pytest.mark.seconds(60)
@pytest.mark.parametrize("policy", POLICIES)
def test_quota(pair, policy):
    p, disk = small_disk(pair, MODES[policy], make=Quota)
    cause = OverQuota(p, disk)
    outcome = attempt(policy, lambda: cause.change(p.a.path))
    wait_for("status tells", lambda: told(p, cause), 10)
    assert cause.error in p.b.peer()["waiting"]
    check_writer(policy, outcome, True)
    goes_on(p, 1)
    assert told(p, cause)
    cause.end()
    p.in_sync(20)
    check_writer(policy, outcome, False)
    assert p.a.peer()["error"] is None and p.b.peer()["waiting"] is None
    assert_same(p.a.backing, p.b.backing)


@pytest.mark.seconds(90)
@pytest.mark.parametrize("then", ["", "cut", "restart"])
def test_removals_on_a_full_disk(pair, then):
    """What makes room arrives where there is none, also in a new session and after a start there."""
    p, disk = small_disk(pair, MODES["async"], proxy=True)
    for n in range(40):
        (p.a.path / f"old{n}").write_bytes(os.urandom(200_000))
    (p.a.path / "dir" / "old").mkdir()
    p.in_sync()
    reserve = p.b.backing / ".tandemfs" / "reserve"
    wait_for("the reserve is made", lambda: reserve.stat().st_blocks * 512 >= 1 << 20, 10)
    disk.fill()
    wait_for("the reserve is given up", lambda: reserve.stat().st_size < 1 << 20, 10)
    for n in range(20):
        (p.a.path / f"new{n}").write_bytes(os.urandom(50_000))
        (p.a.path / f"large{n}").write_bytes(os.urandom(100_000))
    wait_for("status tells", lambda: "No space left" in (p.a.peer()["error"] or ""), 10)
    if then == "cut":
        p.proxy(p.a).tell("cut")
    elif then == "restart":
        p.b.kill()
        p.b.start()
    for n in range(1000):
        os.chmod(p.a.path / "other", 0o600 + n % 2)
    os.rmdir(p.a.path / "dir" / "old")
    (p.a.path / "old0").unlink()
    wait_for("removals are made", lambda: not (p.b.backing / "dir" / "old").exists()
             and not (p.b.backing / "old0").exists(), 20)
    for n in range(1, 40):
        (p.a.path / f"old{n}").unlink()
    p.in_sync(40)
    assert_same(p.a.backing, p.b.backing)
    wait_for("the reserve is made again", lambda: reserve.stat().st_blocks * 512 >= 1 << 20, 10)


class NoInodes(NoInode):
    """Of many new files in many directories none can be made."""

    def change(self, root):
        for n in range(MANY):
            (root / f"new{n}").mkdir()
            (root / f"new{n}" / "file").write_bytes(b"2" * 500)


class ManyLarge(FullStage):
    """Each travels by itself, and none is taken."""

    def __init__(self, p, disk):
        self.disk = disk
        disk.fill(60_000)

    def change(self, root):
        for n in range(100):
            (root / f"new{n}").write_bytes(os.urandom(100_000))


class ManyLocked(Locked):
    def change(self, root):
        for n in range(MANY):
            (root / "dir" / f"new{n}").write_bytes(b"3" * 500)


MANY = 350


@pytest.mark.seconds(90)
@pytest.mark.parametrize("kind", [NoInodes, ManyLocked, ManyLarge])
def test_hundreds(pair, kind):
    """Hundreds of changes wait, and others about anything else are made at once."""
    p, disk = small_disk(pair, MODES["async"], make=lambda server: Disk(server, inodes=1500))
    for name in ("renamed", "removed", "changed"):
        (p.a.path / name).write_text("before")
    p.in_sync()
    cause = kind(p, disk)
    cause.change(p.a.path)
    wait_for("status tells", lambda: told(p, cause), 20)
    if kind is not ManyLarge:
        wait_for("all wait there", lambda: f"and {MANY - 1} more wait" in
                 (p.b.peer()["waiting"] or "") or f"and {2 * MANY - 1} more wait" in
                 (p.b.peer()["waiting"] or ""), 30)
    goes_on(p, 1)
    os.rename(p.a.path / "renamed", p.a.path / "name")
    (p.a.path / "removed").unlink()
    (p.a.path / "changed").write_text("after")
    wait_for("others are made", lambda: (p.b.backing / "name").exists() and
             not (p.b.backing / "removed").exists() and
             (p.b.backing / "changed").read_text() == "after", 10)
    goes_on(p, 2)
    assert told(p, cause)
    cause.end()
    p.in_sync(30)
    assert p.b.peer()["waiting"] is None
    assert_same(p.a.backing, p.b.backing)
    assert p.a.status()["conflicts"] == 0 and p.b.status()["conflicts"] == 0


@pytest.mark.seconds(180)
def test_too_many(pair):
    """More changes than can wait there: that is told, and a sync writer with `continue` is not held for
    ever."""
    p, disk = small_disk(pair, MODES["async"], make=lambda server: Disk(server, inodes=3000))
    cause = Locked(p, disk)
    for n in range(2100):
        (p.a.path / "dir" / f"new{n}").write_text("x")
    wait_for("it is told", lambda: "no more can" in (p.b.peer()["waiting"] or ""), 60)
    assert "no more can" in p.a.peer()["error"]
    assert told(p, cause)
    p.a.stop()
    p.a.options = p.a.options.replace(MODES["async"], MODES["continue"])
    p.a.start()
    start = time.monotonic()
    (p.a.path / "another").write_text("x")
    assert time.monotonic() - start < 10
    cause.end()
    p.in_sync(60)
    assert_same(p.a.backing, p.b.backing)
    p.connected()
    (p.a.path / "after").write_text("sync again")
    assert (p.b.path / "after").read_text() == "sync again"


@pytest.mark.seconds(90)
@pytest.mark.parametrize("policy", ["continue", "fail"])
def test_read_only(pair, policy):
    """An error of b's disk makes it read-only. Nothing can be said there any more, not even that."""
    p, disk = small_disk(pair, MODES[policy])
    p.b.expect_error("cannot acknowledge|cannot go on")
    os.sync()
    disk.break_down()
    outcome = attempt(policy, lambda: (p.a.path / "new").write_text("x"))
    wait_for("status tells", lambda: any(text in (p.a.peer()["error"] or "") for text in (
        "Read-only file system", "Input/output error")), 10)
    check_writer(policy, outcome, True)
    assert (p.b.path / "other").read_text() == "x"
    assert p.b.stop() == 0
    p.b.stop_sshd()
    disk.repair()
    p.b.start_sshd()
    p.b.start()
    p.connected()
    p.in_sync(20)
    assert_same(p.a.backing, p.b.backing)
