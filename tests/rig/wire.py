# SPDX-License-Identifier: GPL-2.0-or-later
"""Speaks to a daemon through its spool, as the sender of another node does (replicate/wire.h and
op_codec.c have the bytes), and says whatever it is told to."""

import ctypes
import os
import struct
import time

from .servers import wait_for

HELLO, ACK, OP, DEFER, VOID, SEEN, REQUEST = range(1, 8)
(CREATE, MKNOD, MKDIR, SYMLINK, LINK, UNLINK, RMDIR, RENAME, SETATTR, SETXATTR, REMOVEXATTR, CONTENT,
 DIRTY, FSYNC, ASK, ANSWER, VAULT) = range(1, 18)
WHOLE, LATE, FORCE, NEW = 1 << 0, 1 << 4, 1 << 7, 1 << 10
MODE, UID, GID, ATIME, MTIME = (1 << k for k in range(5))

xxhash = ctypes.CDLL("libxxhash.so.0")
xxhash.XXH3_64bits_withSeed.restype = ctypes.c_uint64
xxhash.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def u8(v):
    return struct.pack("<B", v)


def u32(v):
    return struct.pack("<I", v)


def u64(v):
    return struct.pack("<Q", v)


def blob(v):
    v = v.encode() if isinstance(v, str) else v
    return u32(len(v)) + v


def checksum_of(kind, payload):
    return xxhash.XXH3_64bits_withSeed(payload, len(payload), kind)


def frame(kind, payload, length=None, checksum=None):
    if checksum is None:
        checksum = checksum_of(kind, payload)
    return u32(len(payload) if length is None else length) + u32(kind) + u64(checksum) + payload


def attrs(mask=MODE | UID | GID | MTIME, mode=0o644, uid=0, gid=0, atime=0, mtime=10 ** 18):
    return u32(mask) + u32(mode) + u32(uid) + u32(gid) + u64(atime) + u64(mtime)


def ranges(*pairs):
    return u32(len(pairs)) + b"".join(u64(a) + u64(b) for a, b in pairs)


def carried(data=b"", size=None, extents=None, data_len=None, stage="", digest="", value=b""):
    """What an op carries of a file; by default all that is right for @data."""
    size = len(data) if size is None else size
    if extents is None:
        extents = [(0, len(data))] if data else []
    data_len = len(data) if data_len is None else data_len
    return (u8(1) + u64(size) + ranges(*extents) + u32(0) + u64(data_len) + blob(stage)
            + blob(digest) + blob(value) + (b"" if stage else data))


def content(*args, **kwargs):
    """The fields of an OP_CONTENT with the flag WHOLE."""
    return attrs() + ranges() + carried(*args, **kwargs)


def op(kind, path, fields=b"", flags=0):
    return u8(kind) + u32(flags) + u64(time.time_ns()) + blob(path) + fields


def missing(body, at):
    """The numbers of a position that are missing (replicate/position.c), and where it ends."""
    n = body[at]
    if n < 255:
        return list(struct.unpack_from(f"<{n}Q", body, at + 1)), at + 1 + 8 * n
    n, = struct.unpack_from("<H", body, at + 1)
    at += 3
    found, seq = [], 0
    for _ in range(n):
        shift = 0
        while body[at] & 0x80:
            seq += (body[at] & 0x7f) << shift
            at, shift = at + 1, shift + 7
        seq += body[at] << shift
        at += 1
        found.append(seq)
    return found, at


class Speaker:
    """The sender of the node @node_id, whose daemon must not run, at @server."""

    def __init__(self, server, node_id, name="a"):
        control = server.backing / ".tandemfs"
        self.spool, self.ack_path = control / "in" / node_id, control / "acks" / node_id
        self.stage = self.spool / "stage"
        self.node_id, self.name = node_id, name
        self.session = self.seq = 0

    def hello(self, version=1, head=1 << 20):
        """Begins a session; the number that the receiver has reached comes into .seq."""
        self.stage.mkdir(parents=True, exist_ok=True)
        self.session = int.from_bytes(os.urandom(8), "little") or 1
        payload = (u32(version) + blob(self.node_id) + blob(self.name) + u64(self.session)
                   + u64(head))
        (self.spool / "hello~").write_bytes(frame(HELLO, payload))
        os.rename(self.spool / "hello~", self.spool / "hello")
        wait_for("an answer to hello", lambda: self.ack()["session"] == self.session, 10)
        self.seq = self.ack()["high"]
        return self.ack()

    def segment(self):
        return self.spool / f"log.{self.session:016x}.{1:016x}"

    def say(self, *frames):
        with open(self.segment(), "ab") as f:
            f.write(b"".join(frames))

    def op(self, body, seq=None, seen=u64(0) + u8(0)):
        """The frame of an op, with the next number."""
        if seq is None:
            self.seq += 1
            seq = self.seq
        return frame(OP, u64(seq) + seen + body)

    def ack(self):
        try:
            data = self.ack_path.read_bytes()
        except FileNotFoundError:
            data = b""
        if len(data) < 16:
            return {"session": 0}
        length, kind, checksum = struct.unpack_from("<IIQ", data)
        body = data[16:16 + length]
        if kind != ACK or checksum_of(kind, body) != checksum:
            return {"session": 0, "high": 0, "missing": [], "restart": 0, "stuck": 0}
        at = 4 + 4 + 32
        found = {}
        for key in ("session", "epoch", "beat", "high"):
            found[key], = struct.unpack_from("<Q", body, at)
            at += 8
        found["missing"], at = missing(body, at)
        at += 16
        found["restart"] = body[at]
        found["stuck"], found["errno"], size = struct.unpack_from("<QiI", body, at + 1)
        at += 1 + 16
        found["problem"] = body[at:at + size].decode(errors="replace")
        found["refused"] = body[at + size]
        return found

    def has(self, seq):
        ack = self.ack()
        return (ack["session"] == self.session and ack["high"] >= seq
                and seq not in ack["missing"])
