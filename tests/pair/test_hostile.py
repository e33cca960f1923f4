# SPDX-License-Identifier: GPL-2.0-or-later
"""What a broken or hostile peer may write into the spool: it is refused, log and status say so,
nothing outside the backing directory is touched, the daemon goes on, and so does the good traffic once
the real peer is back."""

import os
import re

import pytest

from rig import wire
from rig.compare import assert_same, tree
from rig.servers import wait_for
from rig.wire import (ANSWER, CONTENT, CREATE, DEFER, FORCE, LATE, LINK, MKDIR, MKNOD, NEW, RENAME,
                      RMDIR, SETATTR, SETXATTR, SYMLINK, UNLINK, VAULT, VOID, WHOLE, Speaker, attrs,
                      blob, carried, content, frame, op, ranges, u8, u32, u64)

BODY = content(b"hostile")
DIR = attrs(mode=0o755)


TRAPS = 80


class Victim:
    """b, with something in its tree and beside it, and links that lead there; a is down, and .speaker
    speaks for it."""

    def __init__(self, p):
        self.p, self.b = p, p.b
        self.outside = p.b.top / "outside"
        self.outside.mkdir()
        (self.outside / "victim").write_text("not to be touched")
        (self.outside / "dir").mkdir()
        p.start()
        (p.a.path / "f").write_text("kept")
        (p.a.path / "d").mkdir()
        for n in range(TRAPS):
            os.symlink(self.outside, p.a.path / f"trap{n}")
        os.symlink(self.outside / "victim", p.a.path / "trap-file")
        p.in_sync()
        node_id = p.a.status()["node_id"]
        assert p.a.stop() == 0
        p.a.stop_sshd()
        self.speaker = Speaker(p.b, node_id)
        self.refusals = 0
        self.look()

    def look(self):
        """What is there now is to stay as it is."""
        self.beside, self.there = tree(self.outside), tree(self.b.backing)
        wait_for("b notes that its tree is not empty", (self.b.state / "filled").exists)
        self.state = sorted(os.listdir(self.b.state))

    def refuses(self, what, *frames):
        """@frames are refused with these words."""
        self.speaker.say(*frames)
        self.told(what)

    def told(self, what):
        wait_for(f"{what}: an answer", lambda: self.speaker.ack().get("restart"), 10)
        self.refusals += 1
        ack, peer = self.speaker.ack(), self.b.peer()
        assert re.search(what, ack["problem"]), (what, ack["problem"])
        assert peer["refusals"] == self.refusals, what
        assert peer["refused"] == ack["problem"], what
        assert ack["problem"] in self.b.log(), what
        self.untouched(what)

    def untouched(self, what):
        assert self.b.alive(), what
        assert tree(self.outside) == self.beside, what
        assert tree(self.b.backing) == self.there, what
        assert sorted(os.listdir(self.b.state)) == self.state, what

    def good_again(self):
        """The real a comes back."""
        p = self.p
        p.a.start_sshd()
        p.a.start()
        p.connected(60)
        (p.a.path / "from-a").write_bytes(os.urandom(200_000))
        (p.b.path / "from-b").write_text("x")
        p.in_sync()
        assert_same(p.a.backing, p.b.backing)
        assert tree(self.outside) == self.beside


@pytest.fixture
def victim(pair):
    """After the test the real peer comes back."""
    p = pair("mode=async", start=False)
    p.b.expect_error("is refused, it is asked to send it again")
    return Victim(p)


BAD_PATHS = {
    "path is not one below the root": ["..", "../f", "d/../../f", "d/..", "/etc/passwd", "/", "d//f",
                                       "./f", "d/.", "d/"],
    "path in .tandemfs": [".tandemfs", ".tandemfs/node", ".tandemfs/in/x"],
    "name too long": ["n" * 256, "d/" + "n" * 300],
    "string too long": ["d/" * 3000 + "f"],
    "NUL in a string": ["f" + chr(0) + "g"],
}
OPS = {
    "content": lambda path: op(CONTENT, path, BODY, WHOLE | NEW),
    "mkdir": lambda path: op(MKDIR, path, DIR),
    "symlink": lambda path: op(SYMLINK, path, blob("x") + attrs()),
    "mknod": lambda path: op(MKNOD, path, attrs(mode=0o020666) + u64(0x103)),
    "unlink": lambda path: op(UNLINK, path),
    "forced unlink": lambda path: op(UNLINK, path, flags=FORCE),
    "rmdir": lambda path: op(RMDIR, path),
    "setattr": lambda path: op(SETATTR, path, attrs(mode=0o777)),
    "setxattr": lambda path: op(SETXATTR, path, blob("user.x") + blob("y")),
    "rename": lambda path: op(RENAME, path, blob("stolen")),
    "rename to": lambda path: op(RENAME, "f", blob(path)),
    "link": lambda path: op(LINK, path, blob("stolen")),
    "link to": lambda path: op(LINK, "f", blob(path)),
}


def test_paths(victim):
    """Each bad path in one op, and one bad path in each op."""
    s = victim.speaker
    for what, paths in BAD_PATHS.items():
        for path in paths:
            s.hello()
            victim.refuses(what, s.op(op(MKDIR, path, DIR)))
    for make in OPS.values():
        s.hello()
        victim.refuses("path is not one below", s.op(make("../outside/victim")))
    victim.good_again()


BAD_FORMS = {
    "unknown type": op(99, "f"),
    "type that is not sent": op(CREATE, "f", attrs()),
    "flag that the type does not have": op(UNLINK, "f", flags=1 << 31),
    "more bytes than the type has": op(UNLINK, "f") + b"more",
    "string cut short": op(UNLINK, "f")[:-1],
    "empty string": op(SYMLINK, "l", blob("") + attrs()),
    "attributes cut short": op(MKDIR, "x", attrs()[:-3]),
    "unknown attribute": op(MKDIR, "x", attrs(mask=1 << 20)),
    "mode of another kind of file": op(MKDIR, "x", attrs(mode=0o100755)),
    "value too long": op(SETXATTR, "f", blob("user.x") + blob(b"x" * 65537)),
    "value cut short": op(SETXATTR, "f", blob("user.x") + u32(0xffffffff)),
    "ranges cut short": op(CONTENT, "f", attrs() + u32(0xffffffff)),
    "too many ranges": op(CONTENT, "f", attrs() + ranges(*[(n, 1) for n in range(1025)])),
    "ranges not ascending": op(CONTENT, "f", attrs() + ranges((10, 5), (0, 5))),
    "ranges of a whole file": op(CONTENT, "f", attrs() + ranges((0, 1)) + u8(0), WHOLE),
    "xattrs cut short": op(CONTENT, "f", attrs() + ranges() + u8(1) + u64(0) + ranges() + u32(1 << 30),
                           WHOLE),
    "content missing": op(CONTENT, "f", attrs() + ranges() + u8(0), WHOLE),
    "size too large": op(CONTENT, "f", content(size=1 << 63), WHOLE),
    "extent past the end of the file": op(CONTENT, "f", content(b"xy", size=1), WHOLE),
    "extents do not make up the data": op(CONTENT, "f", content(b"xy", extents=[(0, 1)]), WHOLE),
    "data of another length": op(CONTENT, "f", content(b"xy") + b"z", WHOLE),
    "bad digest": op(CONTENT, "f", content(b"xy", digest="sha256"), WHOLE),
    "its bytes are not those meant": op(
        CONTENT, "f", content(b"xy", digest="sha256", value=b"0" * 32), WHOLE),
}
STAGE_NAMES = ["../../acks/x", "/etc/passwd", "a/b", "..", ".", ".x", "x y", "x\n"]


def test_forms(victim):
    """Lengths and values that are not what they should be, and names of staged files."""
    s = victim.speaker
    for what, body in BAD_FORMS.items():
        s.hello()
        victim.refuses(what, s.op(body))
    for name in STAGE_NAMES:
        s.hello()
        body = content(size=1, extents=[(0, 1)], data_len=1, stage=name)
        victim.refuses("bad stage name", s.op(op(CONTENT, "f", body, WHOLE)))
    victim.good_again()


def test_frames(victim):
    """Lengths and sums of frames, and frames that have no place in a log."""
    s = victim.speaker
    payload = u64(1 << 30) + u64(0) + u8(0) + op(MKDIR, "x", DIR)
    for bad in (frame(wire.OP, payload, checksum=1), frame(wire.OP, payload, length=0xffffffff),
                frame(wire.OP, payload, length=(8 << 20) + 1), frame(0, payload), frame(99, payload),
                frame(wire.OP, payload, length=len(payload) - 1), frame(wire.OP, b"x"), bytes(16),
                b"\xff" * 4096):
        s.hello()
        victim.refuses("is damaged", bad)
    for kind in (wire.HELLO, wire.ACK, wire.REQUEST):
        s.hello()
        victim.refuses("has no place in a log", frame(kind, payload))
    s.hello()
    victim.refuses("its head is damaged", s.op(op(MKDIR, "x", DIR), seen=u64(5) + u8(255)))
    # half a frame is no offence: the rest may follow
    s.hello()
    whole = s.op(op(SETATTR, "d", attrs(mode=0o711)))
    s.say(whole[:20])
    s.say(whole[20:])
    wait_for("the whole frame is applied", lambda: s.has(s.seq))
    assert (victim.b.backing / "d").stat().st_mode & 0o777 == 0o711
    assert victim.b.peer()["refusals"] == victim.refusals
    victim.good_again()


def test_numbers(victim):
    """Replayed, reordered, made up."""
    s = victim.speaker
    s.hello()
    victim.refuses("no such number", s.op(op(MKDIR, "x", DIR), seq=(1 << 64) - 1))
    s.hello()
    victim.refuses("no such number", frame(DEFER, u64(1 << 63)))
    s.hello()
    victim.refuses("never announced", s.op(op(MKDIR, "x", DIR, LATE)))
    s.hello()
    victim.refuses("never announced", frame(VOID, u64(s.seq + 5)))
    s.hello()
    first, second = (s.op(op(SETATTR, "d", attrs(mode=mode))) for mode in (0o700, 0o750))
    s.say(first, second)
    wait_for("both are applied", lambda: s.has(s.seq))
    victim.look()
    victim.refuses("out of order", first)
    s.hello()
    s.say(first, second)    # once more from the beginning, as after a cut: they are known
    third = s.op(op(SETATTR, "d", attrs(mode=0o755)))
    s.say(third)
    wait_for("the third is applied", lambda: s.has(s.seq))
    assert (victim.b.backing / "d").stat().st_mode & 0o777 == 0o755
    victim.look()
    victim.refuses("out of order", third)
    # 2048 numbers may be missing, then the sender waits, and nobody else
    s.hello()
    base = s.seq
    s.say(*[frame(DEFER, u64(base + 1 + n)) for n in range(2100)])
    wait_for("2048 are missing", lambda: len(s.ack()["missing"]) == 2048)
    victim.untouched("announced")
    s.hello()
    s.say(*[frame(VOID, u64(n)) for n in s.ack()["missing"]])
    wait_for("none is missing", lambda: not s.ack()["missing"])
    victim.untouched("given up")
    victim.good_again()


def test_symlink_traps(victim):
    """Links in the tree lead out: what is done to a name behind one is not done there. Each is used
    once, since a conflict with it may take it away."""
    s = victim.speaker
    s.hello()
    trap = (f"trap{n}" for n in range(TRAPS))
    for make in OPS.values():
        for below in ("victim", "new", "dir", "dir/x"):
            s.say(s.op(make(f"{next(trap)}/{below}")))
    for name in ("setattr", "setxattr"):    # the links themselves
        s.say(s.op(OPS[name](next(trap))), s.op(OPS[name]("trap-file")))
    for flags in (0, WHOLE):
        for path in (next(trap), "trap-file"):
            s.say(s.op(op(CONTENT, path, BODY, flags)))
    wait_for("all are settled or wait", lambda: s.ack()["high"] >= s.seq)
    s.hello()
    assert victim.b.alive()
    assert tree(victim.outside) == victim.beside
    victim.good_again()


def staged_traps(v):
    """What makes something of a name in the stage, and the length to say."""
    secret = v.outside / "victim"
    size = secret.stat().st_size
    yield lambda path: os.symlink(secret, path), size
    yield lambda path: os.symlink(v.outside, path), 10
    yield lambda path: os.link(secret, path), size
    yield os.mkfifo, 10
    yield os.mkdir, 10
    yield lambda path: path.write_bytes(b"short"), 10


def test_staged_traps(victim):
    """What lies in the stage is not what it should be."""
    s = victim.speaker
    for n, (make, size) in enumerate(staged_traps(victim)):
        s.hello()
        name = f"{s.session:016x}-{n:016x}"
        make(s.stage / name)
        body = content(stage=name, size=size, extents=[(0, size)], data_len=size)
        s.say(s.op(op(CONTENT, "f", body, WHOLE)))
        wait_for("it is refused", lambda: s.ack()["restart"])
        if (s.stage / name).is_dir() and not (s.stage / name).is_symlink():
            (s.stage / name).rmdir()
        else:
            (s.stage / name).unlink(missing_ok=True)
        victim.told("its bytes are not those meant")
    victim.good_again()


def test_spool_traps(victim):
    """The files of the spool are not what they should be."""
    s, b = victim.speaker, victim.b
    foreign = b.backing / ".tandemfs" / "in" / ("c" * 32)
    beside = b.top / "log-outside"
    s.hello()
    beside.write_bytes(s.op(op(MKDIR, "x", DIR)))
    for make in (lambda path: os.symlink(beside, path), os.mkfifo, os.mkdir):
        s.hello()
        make(s.segment())
        victim.told("damaged")
        if s.segment().is_dir() and not s.segment().is_symlink():
            s.segment().rmdir()
        else:
            s.segment().unlink()
    s.hello()
    session = s.session
    (s.spool / "hello").unlink()
    os.symlink(beside, s.spool / "hello")
    (s.spool / "request").unlink(missing_ok=True)
    os.symlink(victim.outside / "victim", s.spool / "request")
    os.symlink(victim.outside, foreign)
    (b.backing / ".tandemfs" / "in" / "not an id").mkdir()
    s.say(s.op(op(SETATTR, "d", attrs(mode=0o711))))
    wait_for("the session goes on", lambda: s.has(s.seq))
    assert s.ack()["session"] == session
    victim.look()
    victim.untouched("hello")
    b.expect_error("spool c+: Not a directory")
    for link in (s.spool / "hello", s.spool / "request", foreign):
        link.unlink()
    victim.good_again()


def test_strangers(victim):
    """A node that b is not paired with, one that has b's own name, another version."""
    other = Speaker(victim.b, "d" * 32, "stranger")
    ack = other.hello()
    assert ack["refused"] and "paired with another" in ack["problem"]
    other.say(other.op(op(UNLINK, "f"), seq=1))
    own = Speaker(victim.b, victim.b.status()["node_id"], "b")
    assert own.hello()["refused"]
    own.say(own.op(op(UNLINK, "f"), seq=1))
    s = victim.speaker
    ack = s.hello(version=99)
    assert ack["refused"] and "version 99" in ack["problem"]
    s.say(s.op(op(UNLINK, "f")))
    s.hello()
    s.say(s.op(op(SETATTR, "d", attrs(mode=0o711))))
    wait_for("the right one goes on", lambda: s.has(s.seq))
    assert (victim.b.backing / "f").read_text() == "kept"
    for what in ("paired with another", "own identity", "version 99"):
        assert what in victim.b.log()
    victim.good_again()


def test_huge(victim):
    """A file that no file system can hold waits like any other that cannot be made; others go on."""
    s = victim.speaker
    s.hello()
    s.say(s.op(op(CONTENT, "huge", content(size=(1 << 63) - 1), WHOLE | NEW)))
    s.say(s.op(op(SETATTR, "d", attrs(mode=0o711))))
    wait_for("the other is applied", lambda: s.has(s.seq))
    ack = s.ack()
    assert ack["stuck"] == s.seq - 1 and "File too large" in ack["problem"]
    assert "huge" in victim.b.peer()["waiting"]
    victim.look()
    s.say(s.op(op(UNLINK, "huge")))
    wait_for("it is taken back", lambda: not s.ack()["missing"])
    victim.good_again()


def test_vault(victim):
    """Names of entries in the vault, and an answer that nobody asked for."""
    s = victim.speaker
    for name in ("../x", "../../f", "/x", "a/b", ".", "..", "x" * 300):
        s.hello()
        s.say(s.op(op(VAULT, "f", blob(name) + attrs() + blob("{}") + carried(b"x"), WHOLE)))
        wait_for(f"{name} is dealt with",
                 lambda: s.ack()["restart"] or s.ack()["stuck"] or s.has(s.seq), 10)
        victim.untouched(name)
        assert not os.listdir(victim.b.backing / ".tandemfs" / "conflicts")
    s.hello()
    s.say(s.op(op(ANSWER, "", u64(1 << 60))))
    wait_for("the answer is passed over", lambda: s.has(s.seq))
    victim.untouched("answer")
    victim.good_again()
