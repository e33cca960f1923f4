# SPDX-License-Identifier: GPL-2.0-or-later
"""Large files travel while they are being written, and nobody sees that before they are closed."""

import os
import random
import threading
import time

import pytest

from rig.compare import assert_same
from rig.servers import wait_for

MB = 1 << 20


def staged(server):
    """Bytes of each upload that has arrived so far."""
    found = []
    for f in server.backing.glob(".tandemfs/in/*/stage/*"):
        try:
            found.append(f.stat().st_size)
        except FileNotFoundError:
            pass
    return found


def arrived(server, size):
    wait_for(f"{size} bytes arrive early", lambda: sum(staged(server)) >= size)


def settled(p):
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    for s in p.servers:
        wait_for("no upload is left over", lambda s=s: not staged(s))


@pytest.fixture
def growing(pair):
    """A pair, and a file of 8 MB that is open and of which most is at the peer already."""
    p = pair("mode=async")
    f = open(p.a.path / "f", "wb", buffering=0)
    f.write(os.urandom(8 * MB))
    arrived(p.b, 7 * MB)
    assert not (p.b.backing / "f").exists()
    yield p, f
    f.close()


def test_only_the_rest_is_sent_at_the_close(growing):
    p, f = growing
    for _ in range(4):
        f.write(os.urandom(3 * MB + 77))
    arrived(p.b, 19 * MB)
    assert staged(p.b) and not (p.b.backing / "f").exists()
    f.close()
    settled(p)


def test_head_rewritten_before_the_close(growing):
    """As archivers and video tools do."""
    p, f = growing
    f.seek(100)
    f.write(b"length")
    f.close()
    settled(p)
    assert (p.b.backing / "f").read_bytes()[100:106] == b"length"


def test_written_again_after_the_close(growing):
    p, f = growing
    f.close()
    with open(p.a.path / "f", "r+b") as again:
        again.write(b"another head")
        again.truncate(5 * MB + 1)
    settled(p)
    with open(p.a.path / "f", "wb") as again:
        again.write(os.urandom(6 * MB))
    settled(p)


@pytest.mark.parametrize("change", ["truncate", "shrink", "unlink", "rename", "link", "replace"])
def test_changed_while_it_grows(growing, change):
    p, f = growing
    path = p.a.path / "f"
    if change == "truncate":
        f.seek(0)
        f.truncate(0)
        f.write(b"short")
    elif change == "shrink":
        f.truncate(6 * MB)
        f.seek(6 * MB)
        f.write(os.urandom(4 * MB))
    elif change == "unlink":
        path.unlink()
    elif change == "rename":
        path.rename(p.a.path / "g")
        f.write(os.urandom(5 * MB))
    elif change == "link":
        os.link(path, p.a.path / "g")
        f.write(os.urandom(5 * MB))
    else:
        (p.a.path / "g").write_bytes(b"in its place")
        (p.a.path / "g").rename(path)
        f.write(os.urandom(5 * MB))
    f.close()
    settled(p)


def random_writer(path, x, end):
    """Mostly appends, sometimes anything else."""
    with open(path, "wb", buffering=0) as f:
        size = 0
        while size < end:
            n = x.randrange(1, MB)
            what = x.random()
            if what < 0.01:
                f.truncate(x.randrange(size + 1))
            elif what < 0.02:
                f.seek(x.randrange(size + MB))
            elif what < 0.03:
                os.posix_fallocate(f.fileno(), size, n)
            else:
                f.seek(size)
            f.write(x.randbytes(n))
            size = os.fstat(f.fileno()).st_size
            if what > 0.9:
                time.sleep(0.01)


@pytest.mark.parametrize("mode,order", [("async", "relaxed"), ("sync", "strict")])
def test_random_writers(pair, mode, order):
    p = pair(f"mode={mode},order={order}")
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    for s in p.servers:
        (s.path / s.name).mkdir()
    threads = []
    for s in p.servers:
        for i in range(2):
            x = random.Random(f"{seed} {s.name} {i}")
            threads.append(threading.Thread(target=lambda s=s, i=i, x=x: [
                random_writer(s.path / s.name / f"f{i}", x, x.randrange(16) * MB)
                for _ in range(3)]))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    settled(p)


@pytest.mark.parametrize("victim", ["writer's daemon", "peer's daemon", "connection"])
def test_killed_while_it_grows(growing, victim):
    p, f = growing
    if victim == "writer's daemon":
        p.a.kill()
        with pytest.raises(OSError):
            f.write(b"more")
        p.a.start()
    elif victim == "peer's daemon":
        p.b.kill()
        f.write(os.urandom(5 * MB))
        p.b.start()
        p.connected()
        f.write(os.urandom(5 * MB))
    else:
        p.b.signal_connections(9)
        f.write(os.urandom(5 * MB))
        p.connected()
        f.write(os.urandom(5 * MB))
    try:
        f.close()
    except OSError:
        assert victim == "writer's daemon"
    settled(p)
