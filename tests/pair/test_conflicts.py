# SPDX-License-Identifier: GPL-2.0-or-later
"""Both servers change one name without having seen the other's change; and what the vault keeps."""

import json
import os
import stat
import time

import pytest

from rig.compare import assert_same
from rig.servers import wait_for

SYNC = "mode=sync,on_peer_down=continue"


class Vault:
    """The versions that one server keeps: path to bytes, by name."""

    def __init__(self, server):
        self.server = server

    def list(self):
        return json.loads(self.server.cli("conflicts", "list", "--json", self.server.path).stdout)

    def read(self, entry):
        out = self.server.top / "shown"
        self.server.cli("conflicts", "show", "-o", out, self.server.path, entry["entry"])
        return out.read_bytes()

    def versions(self):
        """(path, whose, bytes) of each, in no order of time."""
        return sorted((e["path"], e["node"], self.read(e)) for e in self.list())


class Rift:
    """A pair whose link is cut: what is done then neither has seen of the other."""

    def __init__(self, pair, options="mode=async"):
        self.p = pair(options, proxy=True)
        self.a, self.b = self.p.a.path, self.p.b.path

    def cut(self):
        self.p.in_sync()
        for s in self.p.servers:
            self.p.proxy(s).tell("refuse")
        for s in self.p.servers:
            wait_for(f"{s.name} notices", lambda s=s: s.peer()["state"] != "in-sync")

    def heal(self):
        for s in self.p.servers:
            self.p.proxy(s).tell("heal")
        self.p.connected(60)
        self.settle()

    def quiet(self):
        """Nobody has anything to send, twice."""
        for _ in range(2):
            heads = [s.status()["journal_head"] for s in self.p.servers]
            self.p.in_sync()
            if heads != [s.status()["journal_head"] for s in self.p.servers]:
                return False
        return True

    def settle(self):
        wait_for("both are quiet", self.quiet, 60)
        assert_same(self.p.a.backing, self.p.b.backing)
        assert_same(self.p.a.path, self.p.a.backing)
        assert_same(self.p.b.path, self.p.b.backing)
        vaults = [Vault(s).versions() for s in self.p.servers]
        assert vaults[0] == vaults[1]
        self.kept = vaults[0]


def later():
    """The next change is newer for any clock."""
    time.sleep(0.02)


@pytest.fixture(params=["mode=async", SYNC])
def rift(pair, request):
    return Rift(pair, request.param)


@pytest.fixture
def rift_async(pair):
    return Rift(pair)


def test_write_write(rift):
    (rift.a / "f").write_text("before")
    rift.cut()
    (rift.a / "f").write_text("of a")
    later()
    (rift.b / "f").write_text("of b, newer")
    rift.heal()
    assert (rift.a / "f").read_text() == "of b, newer"
    assert rift.kept == [("f", "a", b"of a")]


# ---- the commands ----

def lost(rift, text="of a"):
    """An entry: what a wrote to d/f lost."""
    if not (rift.a / "d").exists():
        (rift.a / "d").mkdir()
    rift.cut()
    (rift.a / "d" / "f").write_text(text)
    os.chown(rift.a / "d" / "f", 1000, 1001)
    os.chmod(rift.a / "d" / "f", 0o640)
    later()
    (rift.b / "d" / "f").write_text("of b, the winner")
    rift.heal()
    assert rift.kept == [("d/f", "a", text.encode())]
    return Vault(rift.p.b).list()[0]


def test_list_and_show(rift_async):
    rift = rift_async
    b = rift.p.b
    assert "no version" in b.cli("conflicts", b.path).stdout
    entry = lost(rift)
    assert entry["mode"] == 0o640 and entry["uid"] == 1000 and entry["gid"] == 1001
    assert entry["winner"] == "b" and entry["size"] == 4 and entry["type"] == "file"
    for command in (["conflicts"], ["conflicts", "list"]):
        lines = b.cli(*command, b.path).stdout.splitlines()
        assert len(lines) == 2 and lines[1].split()[0] == entry["entry"]
        assert lines[1].endswith(" d/f")
    # Its bytes to what is no terminal, by any name of it.
    for name in (entry["entry"], entry["name"], entry["name"][:6], entry["name"][:-1]):
        assert b.cli("conflicts", "show", b.path, name).stdout == "of a"
    file = b.top / "out"
    text = b.cli("conflicts", "show", "-o", file, b.path, entry["entry"]).stdout
    assert file.read_text() == "of a" and "d/f" in text and "0640" in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(b.cli("conflicts", "show", "--json", b.path, entry["entry"]).stdout) == entry
    assert [s.status()["conflicts"] for s in rift.p.servers] == [1, 1]
    assert "1 conflict" in b.cli("status", b.path).stdout
    # Nobody but root sees it, and no mount.
    assert not (b.path / ".tandemfs").exists()
    assert stat.S_IMODE((b.backing / ".tandemfs" / "conflicts").stat().st_mode) == 0o700
    # It survives the daemon.
    b.stop()
    b.start()
    assert Vault(b).list() == [entry]


def test_wrong_names(rift_async):
    b = rift_async.p.b
    entry = lost(rift_async)

    def code(*args):
        return b.cli("conflicts", *args, check=False).returncode

    assert code() == code("list") == 2
    assert code("show", b.path) == code("restore", b.path) == code("drop", b.path) == 2
    assert code("drop", b.path, entry["entry"], "--all") == 2
    assert code("list", "--all", b.path) == code("show", b.path, "a", "b") == 2
    for name in ("ffff-ffff", "", "..", "../" + entry["name"], "-", entry["name"] + "0"):
        assert code("show", b.path, "--", name) == 3
        assert code("drop", b.path, "--", name) == 3
    assert code("restore", b.path, entry["entry"], "../x") == 2
    assert code("restore", b.path, entry["entry"], "/etc/x") == 2
    assert code("restore", b.path, entry["entry"], ".tandemfs/x") == 2
    assert code("restore", b.path, entry["entry"], "no/such/x") == 3
    assert code("restore", b.path, entry["entry"], "d") == 3
    assert os.listdir(b.path) == ["d"] and os.listdir(b.path / "d") == ["f"]
    assert Vault(b).list() == [entry]


def test_restore_changes_places(rift):
    entry = lost(rift)
    mtime = entry["mtime"]
    b = rift.p.b
    b.cli("conflicts", "restore", b.path, entry["entry"])
    rift.settle()
    for root in (rift.a, rift.b):
        st = os.stat(root / "d" / "f")
        assert (root / "d" / "f").read_text() == "of a"
        assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (1000, 1001, 0o640)
        assert st.st_mtime_ns == mtime
        assert os.listdir(root / "d") == ["f"]
    assert rift.kept == [("d/f", "b", b"of b, the winner")]
    # And back, from the other server.
    a = rift.p.a
    a.cli("conflicts", "restore", a.path, Vault(a).list()[0]["entry"])
    rift.settle()
    assert (rift.b / "d" / "f").read_text() == "of b, the winner"
    assert [(path, text) for path, _, text in rift.kept] == [("d/f", b"of a")]


def test_restore_under_another_name(rift_async):
    entry = lost(rift_async, "x" * 200000)
    b = rift_async.p.b
    b.cli("conflicts", "restore", b.path, entry["entry"], b.path / "d" / "g")
    rift_async.settle()
    assert (rift_async.a / "d" / "g").read_text() == "x" * 200000
    assert (rift_async.a / "d" / "f").read_text() == "of b, the winner"
    assert rift_async.kept == []


def test_restore_a_symlink(rift_async):
    rift = rift_async
    rift.cut()
    os.symlink("to a", rift.a / "l")
    later()
    os.symlink("to b", rift.b / "l")
    rift.heal()
    assert rift.kept == [("l", "a", b"to a")]
    a = rift.p.a
    a.cli("conflicts", "restore", a.path, Vault(a).list()[0]["entry"])
    rift.settle()
    assert os.readlink(rift.b / "l") == "to a"
    assert [(path, text) for path, _, text in rift.kept] == [("l", b"to b")]


def test_drop(rift_async):
    rift = rift_async
    for name in ("f", "g", "h"):
        (rift.a / name).write_text("before")
    rift.cut()
    for name in ("f", "g", "h"):
        (rift.a / name).write_text("of a")
    later()
    for name in ("f", "g", "h"):
        (rift.b / name).write_text("of b")
    rift.heal()
    assert [path for path, _, _ in rift.kept] == ["f", "g", "h"]
    a, b = rift.p.servers
    assert a.cli("conflicts", "show", a.path, a.status()["node_id"][:4], check=False).returncode == 3
    a.cli("conflicts", "drop", a.path, Vault(a).list()[0]["entry"])
    rift.settle()
    assert len(rift.kept) == 2
    b.cli("conflicts", "drop", "--all", b.path)
    rift.settle()
    assert rift.kept == []
    assert os.listdir(a.backing / ".tandemfs" / "conflicts") == []
