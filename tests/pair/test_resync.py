# SPDX-License-Identifier: GPL-2.0-or-later
"""The reconciler: two trees of which the journals do not say how they came to differ."""

import json
import os
import shutil
import time

import pytest

from rig.compare import assert_same
from rig.servers import run, wait_for

OLD, NEW = 1_600_000_000, 1_700_000_000


def put(path, text, when):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (when, when))


def both_filled(p):
    """Two directories with a history of their own."""
    a, b = p.a.backing, p.b.backing
    put(a / "same", "same", OLD)
    put(b / "same", "same", OLD)
    put(a / "only-a", "a", OLD)
    put(b / "only-b", "b", OLD)
    put(a / "deep" / "a" / "x", "x", OLD)
    put(b / "deep" / "b" / "y" / "z", "z", OLD)
    put(a / "newer-a", "from a", NEW)
    put(b / "newer-a", "from b, older", OLD)
    put(a / "newer-b", "from a, older", OLD)
    put(b / "newer-b", "from b", NEW)
    put(a / "mode", "m", NEW)
    put(b / "mode", "m", OLD)
    (a / "mode").chmod(0o600)
    (b / "mode").chmod(0o644)
    put(a / "owner", "o", OLD)
    put(b / "owner", "o", NEW)
    os.chown(b / "owner", 33, 33)
    put(a / "dir-or-file", "a file", NEW)
    put(b / "dir-or-file" / "inner", "in b", OLD)
    put(a / "file-or-dir" / "inner", "in a", OLD)
    put(b / "file-or-dir", "a file", NEW)
    (a / "link").symlink_to("to-a")
    (b / "link").symlink_to("to-b")
    put(a / "one", "linked", OLD)
    os.link(a / "one", a / "deep" / "two")
    put(b / "three", "linked there", OLD)
    os.link(b / "three", b / "four")
    os.setxattr(b / "only-b", "user.color", b"blue")
    put(a / "xattr", "x", NEW)
    put(b / "xattr", "x", OLD)
    os.setxattr(a / "xattr", "user.color", b"red")
    os.setxattr(b / "xattr", "user.shape", b"round")
    (a / "big").write_bytes(os.urandom(3_000_000))
    (b / "many").mkdir()
    for i in range(1500):
        (b / "many" / f"f{i}").write_text(str(i))


def check_united(p):
    for s in p.servers:
        m = s.path
        assert (m / "same").read_text() == "same"
        assert (m / "only-a").read_text() == "a" and (m / "only-b").read_text() == "b"
        assert (m / "deep/a/x").read_text() == "x" and (m / "deep/b/y/z").read_text() == "z"
        assert (m / "newer-a").read_text() == "from a"
        assert (m / "newer-b").read_text() == "from b"
        assert (m / "mode").stat().st_mode & 0o777 == 0o600
        assert (m / "owner").stat().st_uid == 33
        assert (m / "dir-or-file/inner").read_text() == "in b"
        assert (m / "file-or-dir/inner").read_text() == "in a"
        assert (m / "one").stat().st_ino == (m / "deep/two").stat().st_ino
        assert (m / "three").stat().st_ino == (m / "four").stat().st_ino
        assert os.getxattr(m / "only-b", "user.color") == b"blue"
        assert os.listxattr(m / "xattr") == ["user.color"]
        assert len(os.listdir(m / "many")) == 1500
    assert vault(p.a) == vault(p.b)
    kept = {e["path"]: open(p.a.backing / ".tandemfs/conflicts" / name, "rb").read()
            for name, e in vault(p.a).items()}
    assert kept.pop("link") in (b"to-a", b"to-b")
    assert kept == {"newer-a": b"from b, older", "newer-b": b"from a, older",
                    "dir-or-file": b"a file", "file-or-dir": b"a file"}


def vault(server):
    """Entry by name, without the time at which each server got it."""
    found = {}
    for f in (server.backing / ".tandemfs/conflicts").glob("*.json"):
        found[f.stem] = json.loads(f.read_text())
    return found


def test_first_pairing(pair):
    p = pair("mode=async", start=False)
    both_filled(p)
    p.start()
    r = p.a.cli("resync", p.a.path)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    check_united(p)
    assert p.a.cli("verify", p.a.path, check=False).stdout.count("identical") == 1


def behind_the_mount(p):
    """The same tree on both, then changed below the file system."""
    for i in range(30):
        (p.a.path / f"f{i}").write_text(f"text {i}")
    (p.a.path / "d").mkdir()
    (p.a.path / "d/inner").write_text("inner")
    p.in_sync()
    put(p.b.backing / "f3", "changed in b", NEW + 10**8)
    put(p.b.backing / "new/in/b", "b", OLD)
    (p.b.backing / "f4").unlink()
    (p.a.backing / "f5").unlink()
    shutil.rmtree(p.a.backing / "d")
    (p.b.backing / "f6").chmod(0o600)


def test_dry_run_changes_nothing(pair):
    p = pair("mode=async")
    behind_the_mount(p)
    before = p.a.status()["journal_head"]
    r = p.a.cli("resync", "--dry-run", p.a.path, check=False)
    assert r.returncode == 1
    for name in ("f3", "f4", "f5", "f6", "new/in/b", "d/inner"):
        assert f" {name}\n" in r.stdout
    assert " f7\n" not in r.stdout
    assert p.a.status()["journal_head"] == before
    r = p.a.cli("resync", "--dry-run", "--json", p.a.path, check=False)
    assert {"peer": "b", "path": "f4", "action": "sent"} in json.loads(r.stdout)
    assert not vault(p.a)
    assert not (p.a.backing / "new").exists() and not (p.b.backing / "f4").exists()


def test_command(pair):
    p = pair("mode=async")
    behind_the_mount(p)
    assert p.b.cli("resync", p.b.path).returncode == 0
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert (p.a.path / "f3").read_text() == "changed in b"
    assert (p.a.path / "new/in/b").read_text() == "b"
    assert (p.a.path / "f5").read_text() == "text 5" and (p.b.path / "f4").read_text() == "text 4"
    assert [e["path"] for e in vault(p.a).values()] == ["f3"]
    assert p.a.cli("resync", p.a.path).stdout.strip() == f"{p.a.path}: identical"


def test_needs_a_peer(pair):
    p = pair("mode=async")
    p.b.kill()
    (p.a.path / "x").write_text("x")
    wait_for("b is gone", lambda: p.a.peer()["state"] != "in-sync")
    r = p.a.cli("resync", p.a.path, check=False)
    assert r.returncode == 3 and "not connected in both directions" in r.stderr


def test_power_loss(pair):
    """A start with another boot id than that of the run that did not end."""
    p = pair("mode=async")
    behind_the_mount(p)
    for s in p.servers:
        assert (s.state / "running").read_text()
        s.kill()
        (s.state / "running").write_text("another boot")
    for s in p.servers:
        s.start()
    p.connected()
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert "this machine went down" in p.a.log() and "reconciled with" in p.b.log()
    p.a.stop()
    assert not (p.a.state / "running").exists()
    p.a.start()


def test_interrupted(pair):
    """Killed in the middle of a first pairing, both one after the other, and done in the end."""
    p = pair("mode=async", start=False)
    both_filled(p)
    for i in range(3000):
        put(p.a.backing / f"t{i % 50}" / f"f{i}", f"a {i}", OLD)
        put(p.b.backing / f"t{i % 70}" / f"g{i}", f"b {i}", OLD)
    for s in p.servers:
        s.start_sshd()
    for s in p.servers:
        s.start()
    for s in (p.a, p.b, p.a):
        wait_for("the reconciler", lambda: any("reconciling" in (q.peer()["resync"] or "")
                                               for q in p.servers))
        s.kill()
        s.start()
    p.connected(120)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    check_united(p)


def test_in_use(pair):
    """Both mounts are written to meanwhile."""
    p = pair("mode=async", start=False)
    both_filled(p)
    for i in range(500):
        put(p.a.backing / "t" / f"f{i}", f"a {i}", OLD)
        put(p.b.backing / "t" / f"f{i}", f"b {i}", OLD + i % 2)
    for s in p.servers:
        s.start_sshd()
    for s in p.servers:
        s.start()
    for s in p.servers:
        (s.path / "live").mkdir(exist_ok=True)
    n = 0
    while any(s.peer()["state"] != "in-sync" for s in p.servers) and n < 2000:
        for s in p.servers:
            (s.path / "live" / f"{s.name}-{n % 7}").write_text(f"live {n}")
            (s.path / "t" / f"f{n % 500}").write_text(f"live in {s.name} {n}")
            os.rename(s.path / "live" / f"{s.name}-{n % 7}",
                      s.path / "live" / f"moved-{s.name}-{n % 5}")
            time.sleep(0.005)
        n += 1
    p.connected(60)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    for i in range(n, 500):
        assert (p.a.path / "t" / f"f{i}").read_text() in (f"a {i}", f"b {i}")
    kept = [e["path"] for e in vault(p.a).values()]
    assert all(f"t/f{i}" in kept for i in range(n, 500))


def save(server):
    shutil.rmtree(server.top / "saved", ignore_errors=True)
    for d in ("www", "state"):
        shutil.copytree(server.top / d, server.top / "saved" / d, symlinks=True,
                        copy_function=shutil.copy2)


def put_back(server):
    for d in ("www", "state"):
        shutil.rmtree(server.top / d)
        shutil.move(server.top / "saved" / d, server.top / d)


def test_restored_backup(pair):
    p = pair("mode=async")
    for i in range(20):
        (p.a.path / f"f{i}").write_text(f"before {i}")
    p.in_sync()
    assert p.a.stop() == 0
    save(p.a)
    p.a.start()
    for i in range(20):
        (p.a.path / f"f{i}").write_text(f"after {i}")
        (p.b.path / f"g{i}").write_text(f"of b {i}")
    (p.a.path / "f0").unlink()
    p.in_sync()
    assert p.a.stop() == 0
    put_back(p.a)
    p.a.start()
    p.connected(60)
    (p.a.path / "again").write_text("again")
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    for i in range(1, 20):
        assert (p.a.path / f"f{i}").read_text() == f"after {i}"
        assert (p.a.path / f"g{i}").read_text() == f"of b {i}"
    assert (p.b.path / "again").read_text() == "again"
    assert (p.b.path / "f0").read_text() == "before 0"  # nobody knows that it was removed
    assert "older than that (a restored backup?)" in p.a.log()


def test_peers_backup_restored(pair):
    """Of a node that never wrote: its peer finds it out."""
    p = pair("mode=async")
    (p.a.path / "f").write_text("before")
    p.in_sync()
    assert p.b.stop() == 0
    save(p.b)
    p.b.start()
    for i in range(20):
        (p.a.path / f"f{i}").write_text("x" * i)
    p.in_sync()
    assert p.b.stop() == 0
    put_back(p.b)
    p.b.start()
    wait_for("what was forgotten", lambda: (p.b.backing / "f19").exists())
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert (p.b.path / "f19").read_text() == "x" * 19


def refused_then_seeded(p, *said):
    """b's backing directory is not taken as it is, and @said why; -o seed fills it."""
    p.b.start(wait=False)
    assert p.b.process.wait(20) != 0
    for text in said + ("-o seed",):
        assert text in p.b.log()
    assert len(os.listdir(p.a.path)) == 20
    options = p.b.options
    p.b.options += ",seed"
    p.b.start()
    p.connected(60)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert (p.b.path / "f3").read_text() == "text 3"
    p.b.options = options


def test_empty_backing_is_refused_and_seeded(pair):
    p = pair("mode=async")
    for i in range(20):
        (p.a.path / f"f{i}").write_text(f"text {i}")
    p.in_sync()
    assert p.b.stop() == 0
    shutil.rmtree(p.b.backing)
    p.b.backing.mkdir()
    p.b.backing.chmod(0o755)
    refused_then_seeded(p, "is its disk mounted?")


def empty(backing):
    """As a disk that has lost all but the identity."""
    for entry in os.listdir(backing):
        if entry != ".tandemfs":
            run("rm", "-rf", backing / entry)


@pytest.mark.parametrize("crash", [False, True])
def test_emptied_backing_is_refused_and_seeded(pair, crash):
    p = pair("mode=async")
    for i in range(20):
        (p.a.path / f"f{i}").write_text(f"text {i}")
    p.in_sync()
    if crash:
        wait_for("that is noted", (p.b.state / "filled").exists, 10)
        p.b.kill()
    else:
        assert p.b.stop() == 0
    empty(p.b.backing)
    refused_then_seeded(p, "is empty, and it was not")
    assert p.b.stop() == 0
    p.b.start()
    p.connected()


def test_tree_of_which_all_was_removed_is_not_refused(pair):
    p = pair("mode=async")
    (p.a.path / "d").mkdir()
    (p.a.path / "d" / "f").write_text("x")
    p.in_sync()
    for s in p.servers:
        assert s.stop() == 0
        s.start()
    p.connected()
    run("rm", "-r", p.a.path / "d")
    p.in_sync()
    for s in p.servers:
        assert s.stop() == 0
        assert not (s.state / "filled").exists()
        s.start()
    p.connected()
    assert os.listdir(p.b.path) == []


def test_lost_state_is_seeded(pair):
    p = pair("mode=async")
    for i in range(20):
        (p.a.path / f"f{i}").write_text(f"text {i}")
        (p.b.path / f"g{i}").write_text(f"text {i}")
    p.in_sync()
    assert p.b.stop() == 0
    shutil.rmtree(p.b.state)
    p.b.start(wait=False)
    assert p.b.process.wait(20) != 0
    assert "-o seed" in p.b.log()
    p.b.options += ",seed"
    p.b.start()
    p.connected(60)
    (p.b.path / "after").write_text("after")
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert (p.a.path / "after").read_text() == "after"


def test_journal_past_its_bound(pair):
    """Both go on without each other until the journal of one is too long."""
    p = pair("mode=async,journal_max=1M", proxy=True)
    a, b = p.a.path, p.b.path
    for i in range(20):
        (a / f"f{i}").write_text(f"text {i}")
    for d in ("gone", "moved"):
        (a / d / "in").mkdir(parents=True)
        (a / d / "in" / "x").write_text(f"in {d}")
    p.in_sync()
    for proxy in p.proxies.values():
        proxy.tell("refuse")
    shutil.rmtree(a / "gone")
    os.rename(a / "moved", a / "elsewhere")
    (a / "f0").unlink()
    (b / "f1").unlink()
    (a / "f2").write_text("changed in a")
    (b / "f2").write_text("changed in b, later")
    (b / "f3").write_text("changed in b")
    (b / "gone" / "new").write_text("in a directory that is gone")
    for i in range(8000):
        (a / f"n{i % 200}").write_text(f"round {i}")
    wait_for("the journal is cut", lambda: "the journal no longer has" in p.a.log())
    wait_for("it is short", lambda: p.a.status()["journal_bytes"] < 2**20)
    assert (p.a.state / "removed").stat().st_size > 25 * 4
    for i in range(200):
        (a / f"n{i}").write_text("last")
    p.a.kill()
    p.a.start()
    assert "the journal no longer has" in p.a.peer()["resync"]
    for proxy in p.proxies.values():
        proxy.tell("heal")
    p.connected(60)
    p.in_sync()
    wait_for("the reconciler", lambda: p.a.peer()["resync"] is None)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    for m in (a, b):
        assert not (m / "f0").exists() and not (m / "f1").exists()
        assert (m / "f2").read_text() == "changed in b, later"
        assert (m / "f3").read_text() == "changed in b"
        assert os.listdir(m / "gone") == ["new"] and not (m / "moved").exists()
        assert (m / "elsewhere/in/x").read_text() == "in moved"
        assert (m / "n199").read_text() == "last"
    assert not (p.a.state / "removed").exists()
