# SPDX-License-Identifier: GPL-2.0-or-later
"""Both servers change one name without having seen the other's change; and what the vault keeps."""

import contextlib
import json
import os
import stat
import threading
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


BOTH = ["mode=async", SYNC]
FULL = os.environ.get("TANDEMFS_FULL") == "1"


@pytest.fixture(params=BOTH)
def rift_both(pair, request):
    return Rift(pair, request.param)


@pytest.fixture(params=BOTH if FULL else BOTH[:1])
def rift(pair, request):
    return Rift(pair, request.param)


# ---- the table ----

def both(rift, change_a, change_b):
    """The two changes, neither seen by the other server; the second is the newer."""
    rift.cut()
    change_a(rift.a)
    later()
    change_b(rift.b)
    rift.heal()


def names(rift):
    """All paths below the mount."""
    return sorted(os.path.relpath(os.path.join(base, n), rift.a)
                  for base, dirs, files in os.walk(rift.a) for n in dirs + files)


def make(root, tree):
    """Directories end in a slash; "x -> y" is a link."""
    for name, text in tree.items():
        if name.endswith("/"):
            (root / name).mkdir()
        else:
            (root / name).write_text(text)


@pytest.mark.parametrize("winner", ["a", "b"])
def test_write_write(rift_both, winner):
    rift = rift_both
    (rift.a / "f").write_text("before")
    rift.cut()
    order = [rift.b, rift.a] if winner == "a" else [rift.a, rift.b]
    for root in order:
        (root / "f").write_text("of " + ("a" if root is rift.a else "b"))
        later()
    rift.heal()
    loser = "b" if winner == "a" else "a"
    assert (rift.a / "f").read_text() == "of " + winner
    assert rift.kept == [("f", loser, f"of {loser}".encode())]


@pytest.mark.parametrize("winner", ["a", "b"])
def test_new_on_both_large(rift, winner):
    texts = {"a": b"A" * 3_000_000, "b": b"B" * 2_000_000}
    rift.cut()
    for name in ("b", "a") if winner == "a" else ("a", "b"):
        ({"a": rift.a, "b": rift.b}[name] / "f").write_bytes(texts[name])
        later()
    rift.heal()
    loser = "b" if winner == "a" else "a"
    assert (rift.a / "f").read_bytes() == texts[winner]
    assert rift.kept == [("f", loser, texts[loser])]


@pytest.mark.parametrize("winner", ["a", "b"])
def test_append_append(rift_both, winner):
    rift = rift_both
    (rift.a / "f").write_text("one\n" * 10000)
    rift.cut()
    for name in ("b", "a") if winner == "a" else ("a", "b"):
        with open({"a": rift.a, "b": rift.b}[name] / "f", "a", encoding="ascii") as f:
            f.write(f"by {name}\n")
        later()
    rift.heal()
    loser = "b" if winner == "a" else "a"
    assert (rift.a / "f").read_text() == "one\n" * 10000 + f"by {winner}\n"
    assert rift.kept == [("f", loser, b"one\n" * 10000 + f"by {loser}\n".encode())]


@pytest.mark.parametrize("ranges_win", [False, True])
def test_range_and_whole(rift, ranges_win):
    (rift.a / "f").write_text("0123456789" * 1000)

    def whole(root):
        (root / "f").write_text("anew")

    def ranges(root):
        with open(root / "f", "r+b") as f:
            f.seek(5000)
            f.write(b"in place")

    ranged = bytearray(b"0123456789" * 1000)
    ranged[5000:5008] = b"in place"
    if ranges_win:
        both(rift, whole, ranges)
        assert (rift.a / "f").read_bytes() == ranged
        assert rift.kept == [("f", "a", b"anew")]
    else:
        both(rift, ranges, whole)
        assert (rift.a / "f").read_bytes() == b"anew"
        assert rift.kept == [("f", "a", bytes(ranged))]


def test_same_bytes(rift):
    both(rift, lambda r: make(r, {"f": "the same"}), lambda r: make(r, {"f": "the same"}))
    assert (rift.a / "f").read_text() == "the same"
    assert rift.kept == []


@pytest.mark.parametrize("remover", ["a", "b"])
def test_delete_write(rift_both, remover):
    rift = rift_both
    (rift.a / "f").write_text("before")

    def remove(root):
        os.unlink(root / "f")

    def write(root):
        (root / "f").write_text("written")

    both(rift, *((remove, write) if remover == "a" else (write, remove)))
    assert (rift.a / "f").read_text() == "written"
    assert rift.kept == []


@pytest.mark.parametrize("remover", ["a", "b"])
def test_delete_append(rift, remover):
    (rift.a / "f").write_text("before, ")

    def remove(root):
        os.unlink(root / "f")

    def append(root):
        with open(root / "f", "a", encoding="ascii") as f:
            f.write("after")

    both(rift, *((remove, append) if remover == "a" else (append, remove)))
    assert (rift.a / "f").read_text() == "before, after"
    assert rift.kept == []


def test_delete_delete(rift):
    (rift.a / "f").write_text("before")
    both(rift, lambda r: os.unlink(r / "f"), lambda r: os.unlink(r / "f"))
    assert names(rift) == [] and rift.kept == []


def test_mkdir_mkdir(rift):
    both(rift, lambda r: make(r, {"d/": 0, "d/a": "a", "d/e/": 0, "d/e/a": "a"}),
         lambda r: make(r, {"d/": 0, "d/b": "b", "d/e/": 0, "d/e/b": "b"}))
    assert names(rift) == ["d", "d/a", "d/b", "d/e", "d/e/a", "d/e/b"]
    assert rift.kept == []


def test_mkdir_mkdir_with_one_name_inside(rift):
    both(rift, lambda r: make(r, {"d/": 0, "d/f": "of a"}), lambda r: make(r, {"d/": 0, "d/f": "of b"}))
    assert (rift.a / "d" / "f").read_text() == "of b"
    assert rift.kept == [("d/f", "a", b"of a")]


@pytest.mark.parametrize("remover", ["a", "b"])
def test_rmdir_create_inside(rift, remover):
    make(rift.a, {"d/": 0, "d/e/": 0})

    def remove(root):
        os.rmdir(root / "d" / "e")
        os.rmdir(root / "d")

    def create(root):
        (root / "d" / "e" / "f").write_text("new")

    both(rift, *((remove, create) if remover == "a" else (create, remove)))
    assert names(rift) == ["d", "d/e", "d/e/f"]
    assert (rift.a / "d" / "e" / "f").read_text() == "new"
    assert rift.kept == []


@pytest.mark.parametrize("renamer", ["a", "b"])
def test_rename_write_to_it(rift, renamer):
    make(rift.a, {"f": "before"})

    def rename(root):
        os.rename(root / "f", root / "g")

    def write(root):
        (root / "f").write_text("written")

    both(rift, *((rename, write) if renamer == "a" else (write, rename)))
    assert names(rift) == ["g"] and (rift.a / "g").read_text() == "written"
    assert rift.kept == []


@pytest.mark.parametrize("renamer", ["a", "b"])
def test_rename_append_to_it(rift, renamer):
    make(rift.a, {"f": "before, "})

    def rename(root):
        os.rename(root / "f", root / "g")

    def append(root):
        with open(root / "f", "a", encoding="ascii") as f:
            f.write("after")

    both(rift, *((rename, append) if renamer == "a" else (append, rename)))
    assert names(rift) == ["g"] and (rift.a / "g").read_text() == "before, after"
    assert rift.kept == []


@pytest.mark.parametrize("renamer", ["a", "b"])
def test_rename_write_inside(rift, renamer):
    make(rift.a, {"d/": 0, "d/e/": 0, "d/e/f": "before"})

    def rename(root):
        os.rename(root / "d", root / "moved")

    def write(root):
        (root / "d" / "e" / "f").write_text("written")
        (root / "d" / "e" / "new").write_text("new")

    both(rift, *((rename, write) if renamer == "a" else (write, rename)))
    assert names(rift) == ["moved", "moved/e", "moved/e/f", "moved/e/new"]
    assert (rift.a / "moved" / "e" / "f").read_text() == "written"
    assert rift.kept == []


@pytest.mark.parametrize("what", ["file", "directory"])
def test_rename_rename(rift_both, what):
    rift = rift_both
    make(rift.a, {"x": "content"} if what == "file" else {"x/": 0, "x/f": "content"})
    both(rift, lambda r: os.rename(r / "x", r / "of a"), lambda r: os.rename(r / "x", r / "of b"))
    assert names(rift) == (["of b"] if what == "file" else ["of b", "of b/f"])
    assert rift.kept == []


@pytest.mark.parametrize("later_one", ["a", "b"])
def test_rename_cycle(rift, later_one):
    make(rift.a, {"x/": 0, "x/f": "f", "y/": 0, "y/g": "g"})

    def x_into_y(root):
        os.rename(root / "x", root / "y" / "x")

    def y_into_x(root):
        os.rename(root / "y", root / "x" / "y")

    both(rift, *((x_into_y, y_into_x) if later_one == "b" else (y_into_x, x_into_y)))
    assert names(rift) in (["x", "x/f", "x/y", "x/y/g"], ["y", "y/g", "y/x", "y/x/f"])
    assert rift.kept == []


@pytest.mark.parametrize("side", ["a", "b"])
def test_file_directory(rift, side):
    def file(root):
        (root / "x").write_text("a file")

    def directory(root):
        make(root, {"x/": 0, "x/inside": "inside"})

    both(rift, *((file, directory) if side == "a" else (directory, file)))
    assert names(rift) == ["x", "x/inside"]
    assert rift.kept == [("x", side, b"a file")]


def test_symlink_symlink(rift):
    both(rift, lambda r: os.symlink("to a", r / "l"), lambda r: os.symlink("to b", r / "l"))
    assert os.readlink(rift.a / "l") == "to b"
    assert rift.kept == [("l", "a", b"to a")]


@pytest.mark.parametrize("side", ["a", "b"])
def test_symlink_file(rift, side):
    def link(root):
        os.symlink("target", root / "x")

    def file(root):
        (root / "x").write_text("a file")

    both(rift, *((link, file) if side == "a" else (file, link)))
    if side == "a":
        assert (rift.a / "x").read_text() == "a file"
        assert rift.kept == [("x", "a", b"target")]
    else:
        assert os.readlink(rift.a / "x") == "target"
        assert rift.kept == [("x", "a", b"a file")]


def test_symlink_directory(rift):
    both(rift, lambda r: make(r, {"x/": 0, "x/f": "f"}), lambda r: os.symlink("target", r / "x"))
    assert names(rift) == ["x", "x/f"]
    assert rift.kept == [("x", "b", b"target")]


def test_link_and_write(rift):
    make(rift.a, {"f": "before"})
    both(rift, lambda r: os.link(r / "f", r / "g"), lambda r: (r / "f").write_text("written"))
    assert (rift.a / "f").read_text() == (rift.a / "g").read_text() == "written"
    assert (rift.a / "f").stat().st_nlink == 2
    assert rift.kept == []


def test_writes_to_two_names_of_one_file(rift):
    make(rift.a, {"f": "before"})
    os.link(rift.a / "f", rift.a / "g")
    both(rift, lambda r: (r / "f").write_text("of a"), lambda r: (r / "g").write_text("of b"))
    assert (rift.a / "f").read_text() == (rift.a / "g").read_text() == "of b"
    assert (rift.a / "f").stat().st_nlink == 2
    assert {(whose, text) for _, whose, text in rift.kept} == {("a", b"of a")}


def test_link_link(rift):
    make(rift.a, {"f": "f", "g": "g"})
    both(rift, lambda r: os.link(r / "f", r / "x"), lambda r: os.link(r / "g", r / "x"))
    assert (rift.a / "x").read_text() in ("f", "g")
    assert names(rift) == ["f", "g", "x"]


def test_rename_onto_and_write(rift):
    make(rift.a, {"new": "new", "old": "old"})
    both(rift, lambda r: (r / "old").write_text("written by a"),
         lambda r: os.replace(r / "new", r / "old"))
    kept = {text for _, _, text in rift.kept}
    assert names(rift) == ["old"]
    assert kept | {(rift.a / "old").read_bytes()} == {b"written by a", b"new"}


@pytest.mark.parametrize("remover", ["a", "b"])
def test_rename_delete(rift, remover):
    make(rift.a, {"f": "content"})

    def remove(root):
        os.unlink(root / "f")

    def rename(root):
        os.rename(root / "f", root / "g")

    both(rift, *((remove, rename) if remover == "a" else (rename, remove)))
    if names(rift):
        assert names(rift) == ["g"] and (rift.a / "g").read_text() == "content"


def test_chmod_chmod(rift):
    make(rift.a, {"f": "content", "d/": 0})
    both(rift, lambda r: (os.chmod(r / "f", 0o600), os.chmod(r / "d", 0o700)),
         lambda r: (os.chmod(r / "f", 0o640), os.chmod(r / "d", 0o750)))
    assert stat.S_IMODE((rift.a / "f").stat().st_mode) == 0o640
    assert stat.S_IMODE((rift.a / "d").stat().st_mode) == 0o750
    assert rift.kept == []


def test_chmod_chown_go_together(rift):
    make(rift.a, {"f": "content"})
    both(rift, lambda r: os.chmod(r / "f", 0o600), lambda r: os.chown(r / "f", 33, 34))
    st = (rift.a / "f").stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o600, 33, 34)
    assert rift.kept == []


def test_chmod_write(rift):
    make(rift.a, {"f": "content"})
    both(rift, lambda r: os.chmod(r / "f", 0o600), lambda r: (r / "f").write_text("written"))
    assert (rift.a / "f").read_text() == "written"
    assert rift.kept == []


def test_xattr_xattr(rift):
    make(rift.a, {"f": "content"})
    both(rift, lambda r: (os.setxattr(r / "f", "user.k", b"a"), os.setxattr(r / "f", "user.a", b"a")),
         lambda r: (os.setxattr(r / "f", "user.k", b"b"), os.setxattr(r / "f", "user.b", b"b")))
    assert {n: os.getxattr(rift.a / "f", n) for n in os.listxattr(rift.a / "f")} == {
        "user.k": b"b", "user.a": b"a", "user.b": b"b"}
    assert rift.kept == []


def test_many_at_once(rift):
    """Directories full of changes on both sides."""
    for i in range(10):
        make(rift.a, {f"d{i}/": 0, f"d{i}/f": "before", f"d{i}/g": "before"})

    def change_a(root):
        for i in range(10):
            (root / f"d{i}" / "f").write_text(f"a{i}")
            os.rename(root / f"d{i}", root / f"m{i}")

    def change_b(root):
        for i in range(10):
            (root / f"d{i}" / "f").write_text(f"b{i}")
            os.unlink(root / f"d{i}" / "g")

    both(rift, change_a, change_b)
    for i in range(10):
        assert (rift.a / f"m{i}" / "f").read_text() == f"b{i}"
    assert len(names(rift)) == 20
    assert sorted(text for _, _, text in rift.kept) == [b"a%d" % i for i in range(10)]


# ---- open files ----

@pytest.fixture
def joined(pair):
    """A pair with its link up."""
    return Rift(pair)


def replaced_on_b(rift, text):
    (rift.b / "new").write_text(text)
    os.replace(rift.b / "new", rift.b / "f")
    rift.p.in_sync()


@pytest.mark.parametrize("how", ["replace", "truncate"])
def test_written_after_the_peer_replaced_it(joined, how):
    rift = joined
    (rift.a / "f").write_text("before")
    rift.p.in_sync()
    with open(rift.a / "f", "ab", buffering=0) as f:
        if how == "replace":
            replaced_on_b(rift, "of b")
        else:
            (rift.b / "f").write_text("of b")
            rift.p.in_sync()
        assert (rift.a / "f").read_text() == "of b"
        f.write(b", late")
    rift.settle()
    assert (rift.a / "f").read_text() == "of b"
    assert rift.kept == [("f", "a", b"before, late")]
    # The next one who opens it has the new file.
    with open(rift.a / "f", "ab") as f:
        f.write(b", and a")
    rift.settle()
    assert (rift.b / "f").read_text() == "of b, and a"
    assert len(rift.kept) == 1


def test_fsync_after_the_peer_replaced_it(joined):
    """What fsync acknowledged is in the vault, also when the daemon dies."""
    rift = joined
    (rift.a / "f").write_text("before")
    rift.p.in_sync()
    f = open(rift.a / "f", "r+b", buffering=0)
    replaced_on_b(rift, "of b")
    f.write(b"synced")
    os.fsync(f.fileno())
    assert Vault(rift.p.a).versions() == [("f", "a", b"synced")]
    f.write(b" and more")
    os.fsync(f.fileno())
    assert Vault(rift.p.a).versions() == [("f", "a", b"synced and more")]
    rift.p.a.kill()
    with contextlib.suppress(OSError):
        f.close()
    rift.p.a.start()
    rift.p.connected()
    rift.settle()
    assert rift.kept == [("f", "a", b"synced and more")]
    assert (rift.a / "f").read_text() == "of b"


def replaced_while_dirty(rift, mode):
    """What a has open and has changed, b replaces without having seen the change."""
    (rift.a / "f").write_text("0123456789")
    rift.cut()
    f = open(rift.a / "f", mode, buffering=0)
    f.write(b"early")
    later()
    (rift.b / "new").write_text("of b")
    os.replace(rift.b / "new", rift.b / "f")
    for s in rift.p.servers:
        rift.p.proxy(s).tell("heal")
    rift.p.connected(60)
    rift.p.in_sync()
    f.write(b"LATE")
    return f


@pytest.mark.parametrize("mode", ["r+b", "wb"])
def test_written_before_and_after(rift, mode):
    """Dirty when the peer's version arrives, and dirtied again."""
    replaced_while_dirty(rift, mode).close()
    rift.settle()
    early, final = ((b"early56789", b"earlyLATE9") if mode == "r+b" else (b"early", b"earlyLATE"))
    versions = {text for _, _, text in rift.kept} | {(rift.a / "f").read_bytes()}
    # What was sent before the peer's version came is a version too.
    assert versions - {early} == {final, b"of b"}


def test_killed_while_the_replaced_file_is_open(rift):
    f = replaced_while_dirty(rift, "wb")
    rift.p.a.kill()
    with contextlib.suppress(OSError):
        f.close()
    rift.p.a.start()
    rift.p.connected(60)
    rift.settle()
    versions = {text for _, _, text in rift.kept} | {(rift.a / "f").read_bytes()}
    # Without fsync it may have been in a file without a name, which ends with the daemon.
    assert versions in ({b"earlyLATE", b"of b"}, {b"early", b"of b"})


def test_removed_while_open_fills_no_vault(joined):
    rift = joined
    (rift.a / "f").write_text("before")
    (rift.a / "g").write_text("before")
    (rift.a / "h").write_text("before")
    rift.p.in_sync()
    with open(rift.a / "f", "ab", buffering=0) as f, open(rift.a / "g", "ab", buffering=0) as g, \
            open(rift.a / "h", "ab", buffering=0) as h, open(rift.a / "t", "w+b", buffering=0) as t:
        os.unlink(rift.a / "t")
        os.unlink(rift.a / "f")
        os.unlink(rift.b / "g")
        (rift.a / "new").write_text("new")
        os.replace(rift.a / "new", rift.a / "h")
        rift.p.in_sync()
        for file in (f, g, h, t):
            file.write(b"late")
            os.fsync(file.fileno())
    rift.settle()
    assert names(rift) == ["h"] and rift.kept == []


def test_two_who_write_to_the_replaced_file(joined):
    rift = joined
    (rift.a / "f").write_text("before")
    rift.p.in_sync()
    one, two = (open(rift.a / "f", "ab", buffering=0) for _ in range(2))
    replaced_on_b(rift, "of b")
    one.write(b" one")
    one.close()
    rift.settle()
    assert rift.kept == [("f", "a", b"before one")]
    replaced_on_b(rift, "of b again")
    two.write(b" two")
    two.close()
    rift.settle()
    assert (rift.a / "f").read_text() == "of b again"
    assert rift.kept == [("f", "a", b"before one two")]


# ---- ten files, the same ten names, at the same moment ----

def upload(root, data, errors, barrier):
    try:
        barrier.wait(20)
        for i, text in enumerate(data):
            (root / f"upload{i}").write_bytes(text)
    except OSError as e:
        errors.append(e)


def ten_at_once(p, megabytes):
    data = {s.name: [os.urandom((i + 1) * megabytes << 16) for i in range(10)] for s in p.servers}
    errors, barrier = [], threading.Barrier(2)
    threads = [threading.Thread(target=upload, args=(s.path, data[s.name], errors, barrier))
               for s in p.servers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    return data


def settled(p):
    rift = Rift.__new__(Rift)
    rift.p, rift.a, rift.b = p, p.a.path, p.b.path
    rift.settle()
    return rift


@pytest.mark.parametrize("mode", ["mode=async", SYNC])
def test_ten_names_at_the_same_moment(pair, mode, full):
    p = pair(mode)
    for _ in range(20 if full else 1):
        data = ten_at_once(p, 4 if full else 1)
        rift = settled(p)
        for i in range(10):
            versions = {s.name: data[s.name][i] for s in p.servers}
            winner = (rift.a / f"upload{i}").read_bytes()
            kept = [text for path, _, text in rift.kept if path == f"upload{i}"]
            # The one who wrote second may have seen the first: then nothing is lost.
            assert winner in versions.values()
            assert len(kept) <= 1
            assert all(text in versions.values() and text != winner for text in kept)
        p.a.cli("conflicts", "drop", "--all", p.a.path)
        p.in_sync()
        for i in range(10):
            os.unlink(p.a.path / f"upload{i}")
        p.in_sync()


def test_ten_names_cut_off(rift_both):
    """The same with the link down: every loser is kept."""
    rift = rift_both
    rift.cut()
    data = ten_at_once(rift.p, 1)
    rift.heal()
    for i in range(10):
        versions = {s.name: data[s.name][i] for s in rift.p.servers}
        winner = (rift.a / f"upload{i}").read_bytes()
        kept = [(whose, text) for path, whose, text in rift.kept if path == f"upload{i}"]
        assert winner in versions.values()
        assert kept == [(n, t) for n, t in versions.items() if t != winner]


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


def test_list_and_show(rift):
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


def test_wrong_names(rift):
    b = rift.p.b
    entry = lost(rift)

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


def test_restore_under_another_name(rift):
    entry = lost(rift, "x" * 200000)
    b = rift.p.b
    b.cli("conflicts", "restore", b.path, entry["entry"], b.path / "d" / "g")
    rift.settle()
    assert (rift.a / "d" / "g").read_text() == "x" * 200000
    assert (rift.a / "d" / "f").read_text() == "of b, the winner"
    assert rift.kept == []


def test_restore_a_symlink(rift):
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


def test_drop(rift):
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
