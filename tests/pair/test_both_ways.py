# SPDX-License-Identifier: GPL-2.0-or-later
"""The experiment that the predecessor failed: both servers send ten files at the same moment."""

import os
import threading
import time

import pytest

from rig.compare import assert_same
from rig.servers import wait_for


def upload(server, megabytes, errors):
    try:
        for i in range(1, 11):
            data = os.urandom(1 << 20)
            with open(server.path / f"{server.name}{i}.bin", "wb") as f:
                for _ in range(i * megabytes):
                    f.write(data)
    except OSError as e:
        errors.append(e)


def upload_both(p, megabytes, meanwhile=lambda: None):
    errors = []
    threads = [threading.Thread(target=upload, args=(s, megabytes, errors)) for s in p.servers]
    for t in threads:
        t.start()
    meanwhile()
    for t in threads:
        t.join()
    assert not errors


def all_arrived(p):
    p.in_sync(180)
    assert len(os.listdir(p.a.path)) == len(os.listdir(p.b.path)) == 20
    assert_same(p.a.backing, p.b.backing)
    assert_same(p.a.path, p.b.path)


@pytest.fixture
def megabytes(full):
    return 10 if full else 1


def test_at_the_same_moment(pair, megabytes):
    p = pair("mode=async")
    upload_both(p, megabytes)
    all_arrived(p)


def test_strict_order(pair, megabytes):
    p = pair("mode=async,order=strict")
    upload_both(p, megabytes)
    all_arrived(p)


def test_link_away_in_the_middle(pair, megabytes):
    p = pair("mode=async", proxy=True)

    def break_it():
        time.sleep(0.3)
        for proxy in p.proxies.values():
            proxy.tell("refuse")
        time.sleep(1)
        for proxy in p.proxies.values():
            proxy.tell("heal")

    upload_both(p, megabytes, break_it)
    p.connected()
    all_arrived(p)


def test_peer_dies_in_the_middle(pair, megabytes):
    p = pair("mode=async")
    errors = []
    t = threading.Thread(target=upload, args=(p.a, megabytes, errors))
    t.start()
    time.sleep(0.3)
    p.b.kill()
    time.sleep(1)
    p.b.start()
    upload(p.b, megabytes, errors)
    t.join()
    assert not errors
    p.connected()
    all_arrived(p)


def test_no_echo(pair):
    p = pair("mode=async")
    for s in p.servers:
        for i in range(20):
            (s.path / f"{s.name}{i}").write_text("x")
    p.in_sync()
    before = [(s.peer()["sent_ops"], s.peer()["applied_ops"]) for s in p.servers]
    time.sleep(2)
    assert [(s.peer()["sent_ops"], s.peer()["applied_ops"]) for s in p.servers] == before


def test_only_what_changed_travels(pair):
    p = pair("mode=async")
    with open(p.a.path / "big", "wb") as f:
        f.write(os.urandom(20 << 20))
    p.in_sync()
    before = p.a.peer()["sent_bytes"]
    with open(p.a.path / "big", "r+b") as f:
        f.seek(10 << 20)
        f.write(b"a few bytes")
    p.in_sync()
    assert p.a.peer()["sent_bytes"] - before < 100000
    assert_same(p.a.backing, p.b.backing)


def test_written_often_travels_once(pair):
    p = pair("mode=async", proxy=True)
    p.proxy(p.a).tell("refuse")
    wait_for("a notices", lambda: p.a.peer()["state"] != "in-sync")
    for i in range(100):
        (p.a.path / "often").write_bytes(os.urandom(50000))
    (p.a.path / "gone").write_text("x")
    (p.a.path / "gone").unlink()
    before = p.a.peer()["sent_bytes"]
    p.proxy(p.a).tell("heal")
    p.connected()
    p.in_sync()
    assert p.a.peer()["sent_bytes"] - before < 200000
    assert_same(p.a.backing, p.b.backing)
