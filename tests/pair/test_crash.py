# SPDX-License-Identifier: GPL-2.0-or-later
"""Writers on both servers while daemons are killed and the link is cut: nothing is lost."""

import os
import pathlib
import random
import signal
import subprocess
import threading
import time

import pytest

from rig.compare import assert_same
from rig.servers import FAULTS, ROOT, signal_all, wait_for

CYCLES = int(os.environ.get("TANDEMFS_CYCLES", "10"))
SOAK_SECONDS = int(os.environ.get("SOAK_SECONDS", "0"))     # in all; 0: CYCLES decides
SETTLE_SECONDS = 120 + SOAK_SECONDS // 4    # what was held up meanwhile is made up for
STORMS = [("async", False), ("sync", False)]
if SOAK_SECONDS or os.environ.get("TANDEMFS_FULL") == "1":     # thousands of conflicts each
    STORMS += [("sync", True), ("async", True)]


def labels():
    out = subprocess.run(["grep", "-rhoE", r'fault_point\("[a-z_.]+"\)', str(ROOT / "replicate")],
                         capture_output=True, text=True, check=True).stdout
    return sorted({line.split('"')[1] for line in out.splitlines()})


class Writer(threading.Thread):
    """Changes names of its own on one server; knows what was acknowledged. With @shared all
    writers change the same names, and nobody knows."""

    def __init__(self, server, number, seed, shared=False):
        super().__init__()
        self.server = server
        self.tag = f"{server.name}{number}-"
        self.prefix = "" if shared else self.tag
        self.r = random.Random(f"{seed}{self.tag}")
        self.acked = {}
        self.ending = False
        self.done = 0

    def name(self):
        return self.r.choice(["", "d1/", "d2/", "d1/e/"]) + self.prefix + str(self.r.randrange(6))

    def write(self, root, x):
        data = f"{self.tag} {self.done} ".encode() * self.r.choice([1, 10, 2000, 20000])
        self.acked.pop(x, None)
        with open(root / x, "wb") as f:
            f.write(data)
        self.acked[x] = data

    def patch(self, root, x):
        with open(root / x, "r+b") as f:
            self.acked.pop(x, None)
            f.seek(3)
            f.write(b"patch")

    def rename(self, root, x):
        y = self.name()
        if x == y:
            return
        data = self.acked.pop(x, None)
        self.acked.pop(y, None)
        os.rename(root / x, root / y)
        if data is not None:
            self.acked[y] = data

    def unlink(self, root, x):
        self.acked.pop(x, None)
        os.unlink(root / x)

    def chmod(self, root, x):
        os.chmod(root / x, self.r.choice([0o600, 0o644, 0o755]))

    def run(self):
        steps = [self.write] * 4 + [self.patch, self.rename, self.unlink, self.chmod]
        while not self.ending:
            try:
                self.r.choice(steps)(self.server.path, self.name())
                self.done += 1
            except FileNotFoundError:
                pass
            except OSError:     # the daemon is dead, or the peer made something else of it
                time.sleep(0.02)


def stop_for_a_while(p, s, r):
    """The daemon of @s, or what serves its peer there, or both stand still, and perhaps the link is cut
    meanwhile. No process is started before they go on: it would close what writers have open on the
    mount, and wait for the daemon."""
    sessions = s.sshd_children()
    pids = r.choice([[s.process.pid], sessions, sessions + [s.process.pid]])
    seconds = r.uniform(1, 10 if SOAK_SECONDS else 4)
    try:
        signal_all(pids, signal.SIGSTOP)
        time.sleep(seconds / 2)
        if r.random() < 0.3:
            p.proxy(r.choice(p.servers)).tell("cut")
        time.sleep(seconds / 2)
    finally:
        signal_all(pids, signal.SIGCONT)


def hit(p, r):
    """One misfortune."""
    s = r.choice(p.servers)
    kind = r.random()
    if kind < 0.25:
        s.kill()
        s.start()
    elif kind < 0.5:
        stop_for_a_while(p, s, r)
    elif kind < 0.7:
        s.kill()
        s.start(fault=f"{r.choice(labels())}:{r.randrange(1, 60)}")
    elif kind < 0.85:
        p.proxy(s).tell("cut")
    else:
        p.proxy(s).tell("blackhole")
        time.sleep(2.5)
        p.proxy(s).tell("heal")
    for t in p.servers:
        if not t.alive():
            t.kill()
            t.start()


def misfortunes():
    end = time.monotonic() + SOAK_SECONDS / len(STORMS)
    done = 0
    while time.monotonic() < end if SOAK_SECONDS else done < CYCLES:
        yield done
        done += 1


def storm(p, seed, shared):
    r = random.Random(seed)
    writers = [Writer(s, k, seed, shared) for s in p.servers for k in range(2)]
    for w in writers:
        w.start()
    try:
        for _ in misfortunes():
            time.sleep(r.uniform(0.2, 1))
            hit(p, r)
    finally:
        for w in writers:
            w.ending = True
        for w in writers:
            w.join(60)
    for s in p.servers:
        s.kill()
        s.start()
    p.connected(SETTLE_SECONDS)
    p.in_sync(SETTLE_SECONDS)
    return writers


def vault(server):
    """The versions that lost: name and bytes."""
    top = server.backing / ".tandemfs" / "conflicts"
    return {f.name: f.read_bytes() for f in top.iterdir() if f.suffix != ".json"}


@pytest.mark.seconds(300 + SOAK_SECONDS // 4 + 2 * SETTLE_SECONDS)
@pytest.mark.parametrize("mode,shared", STORMS,
                         ids=[m + ("-same-names" if s else "") for m, s in STORMS])
def test_storm(pair, mode, shared):
    if not pathlib.Path(FAULTS).exists():
        pytest.skip("needs the program with fault points: make FAULTS=1")
    p = pair(f"mode={mode}", proxy=True, start=False)
    for s in p.servers:     # nothing is written below a dead mount
        subprocess.run(["chattr", "+i", str(s.path)], check=False)
    try:
        p.start()
        for d in ("d1", "d2", "d1/e"):
            (p.a.path / d).mkdir()
        p.in_sync()
        writers = storm(p, f"seed-{mode}", shared)
        assert sum(w.done for w in writers) > 100
        assert_same(p.a.backing, p.b.backing)
        assert vault(p.a) == vault(p.b)
        for w in writers if not shared else []:
            for name, data in w.acked.items():
                for s in p.servers:
                    assert (s.backing / name).read_bytes() == data, f"{name} at {s.name}"
    finally:
        for s in p.servers:
            s.kill()
            subprocess.run(["chattr", "-i", str(s.path)], check=False)


@pytest.mark.parametrize("label", labels())
def test_label(pair, label):
    """A crash at each labelled point, on either side, in the middle of each kind of change."""
    if not pathlib.Path(FAULTS).exists():
        pytest.skip("needs the program with fault points: make FAULTS=1")
    p = pair("mode=async")
    for s in p.servers:
        s.kill()
        s.start(fault=f"{label}:3")
        w = Writer(s, 0, label)
        for _ in range(60):
            try:
                w.r.choice([w.write, w.write, w.patch, w.rename, w.unlink])(s.path, w.tag + "f")
                w.write(s.path, w.tag + "g")
                w.rename(s.path, w.tag + "g")
            except OSError:
                if not s.alive() or not p.other(s).alive():
                    break
        time.sleep(0.3)
        for t in p.servers:
            t.kill()
            t.start()
        p.connected()
        p.in_sync()
        assert_same(p.a.backing, p.b.backing)
