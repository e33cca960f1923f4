#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Two servers on this machine, each the other's peer: uploads through one are shown on the other.

    demo.py [--scale N]     files of N, 2N ... 10N MB (default 10)

Prints a table of transfers like that of the script that tandemfs replaces, then repeats its experiment
in which both servers upload at the same moment. Cleans up after itself.
"""

import argparse
import hashlib
import os
import pathlib
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from rig.compare import differences, digest     # noqa: E402
from rig.servers import Pair                    # noqa: E402

MB = 1000 * 1000
# The predecessor's figures on 100 Mb/s-class hardware: seconds to send, for the MD5, Mb/s.
BEFORE = {10: (1.94, .08, 39.54), 20: (3.68, .12, 42.07), 30: (5.71, .13, 41.08),
          40: (7.49, .18, 41.75), 50: (9.54, .24, 40.88), 60: (11.37, .26, 41.28),
          70: (13.09, .30, 41.84), 80: (15.00, .34, 41.73), 90: (17.05, .38, 41.31),
          100: (18.63, .42, 42.00)}


def title(text):
    print(f"\n== {text}", flush=True)


def make_file(path, size):
    block = os.urandom(MB)
    with open(path, "wb") as f:
        for _ in range(size // MB):
            f.write(block)
            block = hashlib.sha256(block).digest() + block[32:]


def first_steps(p):
    title("a page written on server a, read on server b")
    (p.a.path / "index.html").write_text("<h1>Hello from server a</h1>\n")
    p.a.wait()
    print(f"  {p.b.path}/index.html: {(p.b.path / 'index.html').read_text().strip()}")
    (p.b.path / "index.html").rename(p.b.path / "start.html")
    p.b.wait()
    print(f"  renamed on b, listed on a: {', '.join(os.listdir(p.a.path))}")


def transfer(p, source, name):
    """Seconds from the first byte written to the peer having the file, and for both digests."""
    start = time.monotonic()
    with open(source, "rb") as f, open(p.a.path / name, "wb") as t:
        while block := f.read(1 << 20):
            t.write(block)
    p.a.wait(300)
    sent = time.monotonic()
    same = digest(source) == digest(p.b.path / name)
    return sent - start, time.monotonic() - sent, same


def table(p, scale):
    title("transfers, one file each: written on a until it is on b")
    print("     MB   send s   sha256 s   both s     Mb/s   equal  |  before: both s     Mb/s")
    source = p.top / "source"
    total = 0.0
    for n in range(1, 11):
        size = n * scale * MB
        make_file(source, size)
        send, check, same = transfer(p, source, f"file{n}.bin")
        total += send + check
        old = BEFORE.get(n * scale)
        print(f"  {n * scale:5d} {send:8.2f} {check:10.2f} {send + check:8.2f} "
              f"{size * 8 / (send + check) / 1e6:8.1f}   {'yes' if same else 'NO':5}  |  "
              + (f"{old[0] + old[1]:14.2f} {old[2]:8.2f}" if old else "             -        -"),
              flush=True)
    print(f"  in all {total:.2f} s")


def upload(server, scale):
    for n in range(1, 11):
        make_file(server.path / f"{server.name}{n}.bin", n * scale * MB)


def experiment(p, scale):
    title(f"both at once: ten files of {scale} to {10 * scale} MB on each server at the same moment")
    start = time.monotonic()
    threads = [threading.Thread(target=upload, args=(s, scale)) for s in p.servers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    p.in_sync(300)
    seconds = time.monotonic() - start
    names = [f"{s.name}{n}.bin" for s in p.servers for n in range(1, 11)]
    there = [n for n in names if (p.a.path / n).exists() and (p.b.path / n).exists()]
    equal = [n for n in there if digest(p.a.path / n) == digest(p.b.path / n)]
    print(f"  {len(there)} of {len(names)} files are on both, {len(equal)} with equal digests, "
          f"after {seconds:.1f} s (before: 1 of 10)")
    return len(equal) == len(names)


def show(p):
    title("tandemfs status")
    print(p.a.cli("status", p.a.path).stdout.rstrip())
    title("tandemfs log, the last lines")
    print("\n".join(p.a.cli("log", p.a.path).stdout.splitlines()[-6:]))
    title("tandemfs verify")
    r = p.a.cli("verify", p.a.path, check=False, timeout=300)
    print(r.stdout.rstrip() or r.stderr.rstrip())
    return r.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=10, metavar="N",
                        help="files of N to 10 N MB (default 10)")
    scale = parser.parse_args().scale
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    p = Pair("mode=async", start=False)
    try:
        title("two servers: " + ("network namespaces and a wire" if p.network.real
                                 else "on the loopback interface"))
        p.start()
        for s in p.servers:
            print(f"  {s.name}: {s.backing} mounted at {s.path}, peer {s.url}")
        first_steps(p)
        table(p, scale)
        good = experiment(p, scale // 2 or 1)
        good = show(p) and good
        good = not differences(p.a.backing, p.b.backing) and good
        p.stop()
        title("all is well" if good else "SOMETHING DIFFERS: see above")
        return 0 if good else 1
    finally:
        p.remove()


if __name__ == "__main__":
    sys.exit(main())
