#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What calls and transfers cost, side by side, in one run.

    bench.py [--rounds N] [--json FILE]

Calls: on a bare directory, through libfuse's example passthrough_hp (if its source package can be had),
through tandemfs with an active peer, async and sync. Transfers over the same wire and sshd: 5,000 files of
1 KiB and one of 500 MB by rsync, by scp, and by tandemfs; for tandemfs from the first write
through the mount until `tandemfs wait` says that the peer has all, and also alone: written while the
peer's sshd is away, then from the new session's begin until the peer has all.
Everything runs in alternating rounds, on a new ext4 of its own: one in which many files were deleted
a minute ago makes new ones slowly. The figures are medians.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from rig.servers import Pair, in_net, run, umount, wait_for     # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SMALL, SMALL_SIZE, BIG = 5000, 1024, 500 * 1000 * 1000
IMAGE = 12 << 30
WARM = 1 << 30


def build(top):
    run("gcc", "-std=c17", "-O2", "-D_GNU_SOURCE", "-o", top / "calls", HERE / "calls.c")
    r = run(HERE / "get-example", top, check=False, timeout=300)
    if r.returncode:
        print("libfuse's example cannot be had here: " + r.stderr.strip()[-200:])
        return None
    return top / "passthrough_hp"


class Example:
    """passthrough_hp over a directory."""

    def __init__(self, program, top):
        self.path, backing = top / "hp-mnt", top / "hp"
        self.path.mkdir()
        backing.mkdir()
        self.process = subprocess.Popen([program, "--foreground", backing, self.path],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("passthrough_hp", lambda: os.path.ismount(self.path))

    def stop(self):
        umount(self.path, 2)
        self.process.terminate()
        self.process.wait(20)


def measure_calls(program, places, rounds):
    """{call: {place: median}}"""
    samples = {}
    for _ in range(rounds):
        for place, path in places.items():
            for line in run(program, path, 1, timeout=300).stdout.splitlines():
                call, value = line.split("\t")
                samples.setdefault(call, {}).setdefault(place, []).append(float(value))
    return {call: {place: statistics.median(v) for place, v in by.items()}
            for call, by in samples.items()}


def settle_memory():
    """What was written before is on its disk, and there is enough memory that was just in use: what a
    virtual machine's host has taken back is slow to write to at first, and whoever came next would
    pay for it."""
    os.sync()
    block = bytes(1 << 20)
    with tempfile.TemporaryFile() as f:
        for _ in range(WARM // len(block)):
            f.write(block)


def timed(fn):
    settle_memory()
    start = time.monotonic()
    fn()
    return time.monotonic() - start


class Wire:
    """The ways from a to b."""

    def __init__(self, p, top):
        self.p = p
        self.small, self.big = top / "small", top / "big"
        self.small.mkdir()
        for i in range(SMALL):
            (self.small / f"f{i}").write_bytes(os.urandom(SMALL_SIZE))
        with open(self.big, "wb") as f:
            for _ in range(BIG // 1000000):
                f.write(os.urandom(1000000))
        self.ssh = (f"-i {p.a.top}/user -o UserKnownHostsFile={p.a.top}/known_hosts "
                    "-o BatchMode=yes").split()
        self.host = f"root@{p.b.address}"
        self.n = 0

    def target(self):
        self.n += 1
        d = self.p.b.top / f"target{self.n}"
        d.mkdir()
        return d

    def in_a(self, *args):
        run(*in_net(self.p.a.net, *[str(a) for a in args]), timeout=600)

    def rsync(self, source):
        ssh = "ssh -p %d %s" % (self.p.b.port, " ".join(self.ssh))
        self.in_a("rsync", "-a", "-W", "-e", ssh, source, f"{self.host}:{self.target()}/")

    def scp(self, source):
        self.in_a("scp", "-q", "-r", "-P", self.p.b.port, *self.ssh, source,
                  f"{self.host}:{self.target()}/")

    def mount(self, source):
        self.n += 1
        subprocess.run(["cp", "-r", source, self.p.a.path / f"t{self.n}"], check=True)
        self.p.a.wait(600)

    def alone(self, source):
        """Replication by itself: the peer cannot be reached while the files are written."""
        self.p.b.stop_sshd()
        wait_for("the link to be down", lambda: self.p.a.peer()["state"] == "connecting")
        self.n += 1
        subprocess.run(["cp", "-r", source, self.p.a.path / f"t{self.n}"], check=True)
        settle_memory()
        self.p.b.start_sshd()
        wait_for("the session", lambda: self.p.a.peer()["state"] in ("catching-up", "in-sync"))
        start = time.monotonic()
        self.p.a.wait(600)
        return time.monotonic() - start

    def clean(self):
        """The large ones only: see above."""
        for s in self.p.servers:
            for f in s.top.glob("target*/" + self.big.name):
                f.unlink()
        for f in self.p.a.path.iterdir():
            if f.is_file():
                f.unlink()
        self.p.a.wait(600)


def measure_wire(wire, rounds):
    samples = {}

    def add(what, seconds):
        samples.setdefault(what, []).append(seconds)

    for _ in range(rounds):
        add("small rsync", timed(lambda: wire.rsync(wire.small)))
        add("small tandemfs", timed(lambda: wire.mount(wire.small)))
        add("small cp", timed(lambda: shutil.copytree(wire.small, wire.target() / "c")))
        add("small alone", wire.alone(wire.small))
        add("big scp", timed(lambda: wire.scp(wire.big)))
        add("big rsync", timed(lambda: wire.rsync(wire.big)))
        add("big tandemfs", timed(lambda: wire.mount(wire.big)))
        add("big alone", wire.alone(wire.big))
        wire.clean()
    return {k: statistics.median(v) for k, v in samples.items()}


def print_calls(calls, places):
    print("\nµs per call, median" + " " * 8 + "".join(f"{p:>16}" for p in places))
    for call, by in calls.items():
        print(f"{call:<27}" + "".join(f"{by[p]:16.1f}" for p in places))


def print_wire(w):
    print(f"\nseconds, median: {SMALL:,} files of {SMALL_SIZE} B    one file of {BIG // 1000000} MB")
    print(f"  rsync -a                  {w['small rsync']:8.2f} {w['big rsync']:24.2f}")
    print(f"  scp                              - {w['big scp']:24.2f}")
    print(f"  cp -r, then wait          {w['small tandemfs']:8.2f} {w['big tandemfs']:24.2f}")
    print(f"  (cp -r to a bare directory{w['small cp']:8.2f})")
    print(f"  replication alone         {w['small alone']:8.2f} {w['big alone']:24.2f}")


def mark(what, value, limit, at_least=False):
    good = value >= limit if at_least else value <= limit
    print(f"  {'met   ' if good else 'MISSED'}  {what}: {value:.2f} ({'>=' if at_least else '<='} {limit})")


def print_marks(calls, wire):
    print("\nmarks")
    create, stat = calls["create+write+close"], calls["stat"]
    if "passthrough_hp" in create:
        mark("create, async / passthrough_hp", create["async"] / create["passthrough_hp"], 1.5)
    mark("cached stat / bare", stat["async"] / stat["bare"], 1.5)
    mark("500 MB replicated, rate / scp's", wire["big scp"] / wire["big alone"], 0.8, at_least=True)
    mark("500 MB written and replicated, rate / scp's", wire["big scp"] / wire["big tandemfs"], 0.8, True)
    mark("5,000 files replicated / rsync", wire["small alone"] / wire["small rsync"], 1.5)
    mark("5,000 files written and replicated / rsync", wire["small tandemfs"] / wire["small rsync"], 1.5)


@contextlib.contextmanager
def own_file_system():
    """A directory that is a new ext4, in memory where there is enough: no disk is compared."""
    memory = "/dev/shm" if shutil.disk_usage("/dev/shm").free > IMAGE else None
    top = pathlib.Path(tempfile.mkdtemp(prefix="tandemfs-bench.", dir=memory))
    path = top / "fs"
    path.mkdir()
    try:
        with open(top / "image", "wb") as f:
            f.truncate(IMAGE)
        run("mkfs.ext4", "-q", top / "image")
        run("mount", "-o", "loop,discard", top / "image", path)
        path.chmod(0o755)
        yield path
    finally:
        run("umount", path, check=False)
        shutil.rmtree(top, ignore_errors=True)


def measure(top, args):
    made, example = [], None
    try:
        program = build(top)
        (top / "bare").mkdir()
        places = {"bare": top / "bare"}
        if program:
            example = Example(program, top)
            places["passthrough_hp"] = example.path
        for mode in ("async", "sync"):
            made.append(Pair(f"mode={mode}"))
            places[mode] = made[-1].a.path
        calls = measure_calls(top / "calls", places, args.rounds)
        print_calls(calls, places)
        made.pop().remove()
        wire = measure_wire(Wire(made[0], top), args.rounds)
        print_wire(wire)
        print_marks(calls, wire)
        if args.json:
            pathlib.Path(args.json).write_text(json.dumps({"calls": calls, "wire": wire}, indent=1))
    finally:
        if example:
            example.stop()
        for p in made:
            p.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    with own_file_system() as top:
        tempfile.tempdir = str(top)
        measure(top, args)


if __name__ == "__main__":
    main()
