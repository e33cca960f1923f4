# SPDX-License-Identifier: GPL-2.0-or-later
"""The rig itself: it finds differences, and its proxy does what it is told."""

import os
import socket
import threading
import time

import pytest

from rig.compare import assert_same, differences
from rig.servers import Proxy, wait_for


def plant(root):
    (root / "d").mkdir(parents=True)
    (root / "d/f").write_bytes(b"x" * 100)
    os.link(root / "d/f", root / "d/g")
    (root / "s").symlink_to("d/f")
    os.mkfifo(root / "p")
    os.setxattr(root / "d", "user.k", b"v")
    times(root)


def times(root):
    for path in ("d/f", "d/g", "s", "p", "d", "."):
        os.utime(root / path, ns=(1, 1_000_000_001), follow_symlinks=False)


def relink(root):
    (root / "d/g").unlink()
    (root / "d/g").write_bytes(b"x" * 100)


def retarget(root):
    (root / "s").unlink()
    (root / "s").symlink_to("d/g")


@pytest.mark.parametrize("change, word", [
    (lambda r: (r / "new").write_text(""), "only in"),
    (lambda r: (r / "p").unlink(), "only in"),
    (lambda r: (r / "d/f").write_bytes(b"y" * 100), "digest"),
    (lambda r: (r / "p").chmod(0o600), "mode"),
    (lambda r: os.chown(r / "p", 1, 0), "owner"),
    (lambda r: os.setxattr(r / "d", "user.k", b"w"), "xattrs"),
    (relink, "links"),
    (retarget, "target"),
])
def test_differences_are_found(tmp_path, change, word):
    one, other = tmp_path / "one", tmp_path / "other"
    plant(one)
    plant(other)
    assert_same(one, other)
    change(other)
    if (other / "p").exists():
        times(other)
    lines = differences(one, other)
    assert any(word in line for line in lines) and not any("mtime" in line for line in lines
                                                           if word != "only in")


def test_a_nanosecond_is_a_difference(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    plant(one)
    plant(other)
    os.utime(other / "p", ns=(1, 1_000_000_000))
    assert any("mtime" in line for line in differences(one, other))


def serve_echo(listener):
    def echo(s):
        with s:
            try:
                while data := s.recv(65536):
                    s.sendall(data)
            except OSError:
                pass

    while True:
        try:
            s, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=echo, args=(s,), daemon=True).start()


@pytest.fixture
def line(tmp_path):
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve_echo, args=(listener,), daemon=True).start()
    proxy = Proxy(tmp_path, None, "127.0.0.1", listener.getsockname()[1])
    sockets = []

    def connect():
        sockets.append(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))
        return sockets[-1]

    yield proxy, connect
    for s in sockets:
        s.close()
    proxy.stop()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def receive(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(65536)
        assert more
        data += more
    return data


def exchange(s, data):
    sender = threading.Thread(target=s.sendall, args=(data,), daemon=True)
    sender.start()
    assert receive(s, len(data)) == data
    sender.join(5)


def lost(connect, s=None):
    """Whether the connection is gone; it may take a moment, as the proxy is told and not asked."""
    def gone():
        try:
            t = s or connect()
            t.sendall(b"?")
            return t.recv(1) == b""
        except ConnectionError:
            return True
    wait_for("the connection is lost", gone, 5)
    return True


def test_proxy_delays_and_keeps_the_order(line):
    proxy, connect = line
    s = connect()
    exchange(s, os.urandom(3_000_000))
    proxy.tell("delay", 100)
    wait_for("it takes 0.2 s there and back", lambda: timed(s) >= 0.2, 5)
    exchange(s, os.urandom(3_000_000))


def timed(s):
    started = time.monotonic()
    exchange(s, b"x")
    return time.monotonic() - started


def test_proxy_swallows_and_heals(line):
    proxy, connect = line
    s = connect()
    exchange(s, b"x")
    proxy.tell("blackhole")
    s.settimeout(0.3)

    def silent():
        s.sendall(b"x")
        try:
            return s.recv(1) == b""
        except TimeoutError:
            return True
    wait_for("nothing comes", silent, 5)
    proxy.tell("heal")
    s.settimeout(5)
    assert receive(s, 1) == b"x"


def test_proxy_cuts_and_refuses(line):
    proxy, connect = line
    s = connect()
    exchange(s, b"x")
    proxy.tell("cut")
    assert lost(connect, s)
    exchange(connect(), b"y")
    proxy.tell("refuse")
    assert lost(connect)
    proxy.tell("heal")
    wait_for("it is up again", lambda: not refused(connect), 5)


def refused(connect):
    try:
        exchange(connect(), b"z")
        return False
    except (ConnectionError, AssertionError):
        return True
