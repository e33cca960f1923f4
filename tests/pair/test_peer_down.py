# SPDX-License-Identifier: GPL-2.0-or-later
"""A peer that goes away, or that hangs without a word: what sync writers see, and the catch-up."""

import errno
import os
import signal
import threading

import pytest

from rig.compare import assert_same
from rig.servers import signal_all, wait_for

STALL = 30  # seconds: what a sync writer may wait for at most, with a slow machine's margin


class Away:
    """The peer of @server is away, in one of several ways."""

    def __init__(self, p, server, how):
        self.p, self.server, self.how, self.peer = p, server, how, p.other(server)
        if how == "killed":
            self.peer.kill()
        elif how == "sshd stopped":
            self.stopped = [self.peer.sshd.pid] + self.peer.sshd_children()
            for pid in self.stopped:
                os.kill(pid, signal.SIGSTOP)
        elif how == "daemon stopped":
            self.peer.process.send_signal(signal.SIGSTOP)
        else:
            p.proxy(server).tell(how)

    def back(self):
        if self.how == "killed":
            self.peer.start()
        elif self.how == "sshd stopped":
            signal_all(self.stopped, signal.SIGCONT)
        elif self.how == "daemon stopped":
            self.peer.process.send_signal(signal.SIGCONT)
        else:
            self.p.proxy(self.server).tell("heal")


WAYS = ["refuse", "blackhole", "sshd stopped", "killed", "daemon stopped"]


class Writer(threading.Thread):
    """Writes one file and keeps what came of it."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.error, self.returned = path, None, False
        self.start()

    def run(self):
        try:
            self.path.write_bytes(b"written while the peer was away")
        except OSError as e:
            self.error = e.errno
        self.returned = True


def change_all_kinds(root):
    (root / "f").write_bytes(os.urandom(100_000))
    (root / "d").mkdir()
    os.rename(root / "f", root / "d" / "g")
    os.link(root / "d" / "g", root / "h")
    os.symlink("h", root / "s")
    os.chmod(root / "h", 0o600)
    os.setxattr(root / "h", "user.k", b"v")
    (root / "gone").write_text("x")
    (root / "gone").unlink()


def returns(p, away):
    away.back()
    p.connected(90)
    p.in_sync(90)
    assert_same(p.a.backing, p.b.backing)
    assert_same(p.b.path, p.b.backing)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("mode", ["sync", "sync-write"])
def test_continue(pair, mode, how):
    p = pair(f"mode={mode},on_peer_down=continue", proxy=True)
    (p.a.path / "before").write_text("x")
    away = Away(p, p.a, how)
    w = Writer(p.a.path / "meanwhile")
    w.join(STALL)
    assert w.returned and w.error is None
    wait_for("a tells", lambda: p.a.peer()["state"] != "in-sync")
    assert p.a.peer()["lag_ops"] > 0
    # From now on nothing waits: the whole lot in less time than one stall each would take.
    t = threading.Thread(target=change_all_kinds, args=(p.a.path,), daemon=True)
    t.start()
    t.join(STALL)
    assert not t.is_alive()
    assert (p.a.backing / "d" / "g").exists()
    returns(p, away)
    assert p.a.peer()["lag_ops"] == 0
    # And it is synchronous again.
    (p.a.path / "after").write_text("y")
    assert (p.b.path / "after").read_text() == "y"


@pytest.mark.parametrize("how", WAYS)
def test_block(pair, how):
    p = pair("mode=sync,on_peer_down=block", proxy=True)
    away = Away(p, p.a, how)
    w = Writer(p.a.path / "meanwhile")
    w.join(4)
    assert not w.returned
    # Readers of the same server do not wait.
    t = threading.Thread(target=lambda: os.listdir(p.a.path), daemon=True)
    t.start()
    t.join(STALL)
    assert not t.is_alive()
    away.back()
    w.join(90)
    assert w.returned and w.error is None
    assert (p.b.backing / "meanwhile").read_bytes() == b"written while the peer was away"
    p.connected(90)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)


def refused(call, *args):
    try:
        call(*args)
    except OSError as e:
        return e.errno == errno.EIO
    return False


@pytest.mark.parametrize("how", ["refuse", "blackhole", "killed"])
def test_fail(pair, how):
    p = pair("mode=sync,on_peer_down=fail", proxy=True)
    root = p.a.path
    (root / "old").write_text("before")
    (root / "dir").mkdir()
    away = Away(p, p.a, how)
    # The first call after the loss finds it out and may be told so late; its change stays to be sent.
    w = Writer(root / "first")
    w.join(STALL)
    assert w.returned and w.error in (None, errno.EIO)
    wait_for("a tells", lambda: p.a.peer()["state"] != "in-sync")
    before = sorted(os.listdir(root))
    assert refused((root / "new").write_text, "x")
    assert refused(os.mkdir, root / "newdir")
    assert refused(os.rename, root / "old", root / "renamed")
    assert refused(os.unlink, root / "old")
    assert refused(os.rmdir, root / "dir")
    assert refused(os.chmod, root / "old", 0o600)
    assert refused(os.symlink, "x", root / "link")
    assert refused(os.link, root / "old", root / "hard")
    assert refused(os.setxattr, root / "old", "user.k", b"v")
    assert refused(os.truncate, root / "old", 1)
    # Nothing was done, and all can be read.
    assert sorted(os.listdir(root)) == before
    assert (root / "old").read_text() == "before"
    returns(p, away)
    (root / "new").write_text("again")
    assert (p.b.path / "new").read_text() == "again"


def test_async_waits_for_nobody(pair):
    p = pair("mode=async", proxy=True)
    away = Away(p, p.a, "blackhole")
    change_all_kinds(p.a.path)
    for i in range(200):
        (p.a.path / f"n{i}").write_bytes(b"x" * i)
    wait_for("a tells", lambda: p.a.peer()["state"] != "in-sync")
    (p.b.path / "from the other side").write_text("z")
    returns(p, away)


@pytest.mark.parametrize("how", ["daemon stopped", "killed"])
def test_lag_in_bytes(pair, how):
    p = pair("mode=async", proxy=True)
    (p.a.path / "before").write_bytes(os.urandom(300_000))
    p.in_sync()
    assert p.a.peer()["lag_bytes"] == 0
    away = Away(p, p.a, how)
    (p.a.path / "large").write_bytes(os.urandom(1_000_000))
    for i in range(10):
        (p.a.path / f"small{i}").write_bytes(os.urandom(10_000))
    with open(p.a.path / "before", "r+b") as f:
        f.write(os.urandom(1000))
    # However far it has come: what is not acknowledged is not there.
    wait_for("a tells", lambda: p.a.peer()["state"] != "in-sync")
    assert p.a.peer()["lag_bytes"] == 1_101_000
    if how == "killed":
        assert p.a.stop() == 0
        p.a.start()     # it does not know yet how much of it the peer has
        assert p.a.peer()["lag_bytes"] >= 1_101_000
    returns(p, away)
    assert p.a.peer()["lag_bytes"] == 0


def test_wait_tells_that_it_is_too_late(pair):
    p = pair("mode=async", proxy=True)
    assert p.a.cli("wait", "--timeout", "5", p.a.path).returncode == 0
    away = Away(p, p.a, "refuse")
    (p.a.path / "f").write_text("x")
    assert p.a.cli("wait", "--timeout", "1", p.a.path, check=False).returncode == 1
    returns(p, away)


def test_restart_with_a_backlog(pair):
    """What was not sent survives the daemon, however it ends."""
    p = pair("mode=async", proxy=True)
    p.proxy(p.a).tell("refuse")
    change_all_kinds(p.a.path)
    assert p.a.stop() == 0
    p.a.start()
    (p.a.path / "second").write_bytes(os.urandom(200_000))
    p.a.kill()
    p.a.start()
    (p.a.path / "third").write_text("x")
    p.proxy(p.a).tell("heal")
    p.connected(60)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert sorted(os.listdir(p.b.path)) == sorted(os.listdir(p.a.path))
