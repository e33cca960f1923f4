# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that people run on a web root, on a pair that replicates."""

import os
import shutil
import sqlite3
import subprocess
import threading

import pytest

from rig.compare import assert_same
from rig.servers import run

GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main",
       "-c", "safe.directory=*", "-c", "gc.auto=0"]

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
needs_rsync = pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed")


@pytest.fixture(params=["async", "sync"])
def replicating(pair, request):
    p = pair(f"mode={request.param}")
    yield p
    p.in_sync(120)
    assert_same(p.a.backing, p.b.backing)
    assert_same(p.b.path, p.b.backing)
    assert_same(p.a.path, p.a.backing)


def git(where, *args):
    # Nobody's own configuration has a say.
    env = dict(os.environ, HOME=str(where), GIT_CONFIG_NOSYSTEM="1")
    return run(*GIT, "-C", where, *args, env=env).stdout


def populate(root, count):
    for i in range(count):
        d = root / f"dir{i % 17}" / f"sub{i % 5}"
        d.mkdir(parents=True, exist_ok=True)
        (d / f"file{i}").write_bytes(f"text {i}\n".encode() * (i % 300))
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    if not (root / "link").is_symlink():
        (root / "link").symlink_to("dir1/sub1")
    # rsync takes a time of the same second for the same; nothing it makes has one of these.
    for n, path in enumerate(sorted(root.rglob("*")) + [root]):
        os.utime(path, ns=(n, 1_600_000_000_123_456_789 + n), follow_symlinks=False)


@needs_git
def test_git(replicating, tmp_path):
    p = replicating
    origin = tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "-q")
    for n in (100, 200, 300):
        populate(origin, n)
        git(origin, "add", "-A")
        git(origin, "commit", "-q", "-m", f"{n} files")
    git(p.a.path, "clone", "-q", origin, "site")
    site = p.a.path / "site"
    git(site, "fsck", "--strict")
    git(site, "checkout", "-q", "HEAD~2")
    git(site, "checkout", "-q", "main")
    (site / "dir1/sub1/file1").write_text("changed")
    git(site, "commit", "-q", "-a", "-m", "a change")
    git(site, "gc", "-q")
    p.in_sync()
    there = p.b.path / "site"
    git(there, "fsck", "--strict")
    assert git(there, "status", "--porcelain") == ""
    assert git(there, "log", "--oneline").count("\n") == 4
    # The next one works on the other server.
    (there / "new").write_text("from the other server")
    git(there, "add", "-A")
    git(there, "commit", "-q", "-m", "there")
    p.in_sync()
    git(site, "fsck", "--strict")
    assert git(site, "log", "--oneline").count("\n") == 5
    assert git(site, "status", "--porcelain") == ""


@pytest.mark.parametrize("journal", ["delete", "truncate", "wal"])
def test_sqlite(pair, journal):
    p = pair("mode=async")
    path = p.a.path / "data.db"
    db = sqlite3.connect(path)
    db.execute(f"pragma journal_mode={journal}")
    db.execute("create table t (id integer primary key, who text, value blob)")
    db.commit()
    errors = []

    def work(who):
        try:
            mine = sqlite3.connect(path, timeout=60)
            for i in range(40):
                with mine:
                    mine.execute("insert into t (who, value) values (?, ?)", (who, os.urandom(2000)))
                    if i % 7 == 0:
                        mine.execute("delete from t where who = ? and id % 3 = 0", (who,))
            mine.close()
        except sqlite3.Error as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(f"w{k}",)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    rows = db.execute("select * from t order by id").fetchall()
    db.execute("vacuum")
    db.close()
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    other = sqlite3.connect(p.b.path / "data.db")
    assert other.execute("pragma integrity_check").fetchone() == ("ok",)
    assert other.execute("select * from t order by id").fetchall() == rows
    other.close()
    p.in_sync()


def test_tar(replicating, tmp_path):
    p = replicating
    tree = tmp_path / "tree"
    tree.mkdir()
    populate(tree, 400)
    os.link(tree / "dir1/sub1/file1", tree / "hard")
    os.chown(tree / "run.sh", 33, 33)
    run("tar", "-C", tmp_path, "--format=posix", "-czf", p.a.path / "tree.tgz", "tree")
    p.in_sync()
    # Unpacked at the other one than the one that it was put on.
    run("tar", "-C", p.b.path, "-xpzf", p.b.path / "tree.tgz")
    assert_same(tree, p.b.path / "tree")
    p.in_sync()
    assert_same(tree, p.a.path / "tree")
    run("tar", "-C", p.a.path, "-df", "tree.tgz", cwd=p.a.path)


@needs_rsync
@pytest.mark.parametrize("options", [["--inplace"], ["--inplace", "--no-whole-file"], [],
                                     ["--delete", "--delay-updates"]])
def test_rsync(replicating, tmp_path, options):
    p = replicating
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(2 << 20))
    populate(source, 150)
    rsync = ["rsync", "-aHAX", *options, f"{source}/", f"{p.a.path}/site/"]
    run(*rsync)
    p.in_sync()
    assert_same(source, p.b.path / "site")
    with open(source / "big", "r+b") as f:
        f.seek(1 << 20)
        f.write(b"a few bytes")
    for i in range(0, 150, 10):
        (source / f"dir{i % 17}" / f"sub{i % 5}" / f"file{i}").write_text(f"version 2 of {i}")
    if "--delete" in options:
        shutil.rmtree(source / "dir2")
        os.utime(source, ns=(1, 1_500_000_000_123_456_789))
    run(*rsync)
    p.in_sync()
    assert_same(source, p.b.path / "site")
    run("rsync", "-aHAX", "--checksum", "--dry-run", "--itemize-changes", f"{source}/",
        f"{p.b.path}/site/")


def test_shell_commands(replicating):
    """What deployment scripts do."""
    p = replicating
    (p.a.path / "releases").mkdir()
    for n in range(5):
        script = f"""
            set -e
            mkdir releases/{n}
            echo 'version {n}' > releases/{n}/index.html
            printf 'one\\ntwo\\n' >> releases/{n}/log
            sed -i s/one/1/ releases/{n}/log
            cp -a releases/{n} releases/{n}.copy
            ln -sfn releases/{n} current.new
            mv -T current.new current
            install -m 600 -o 33 releases/{n}/log secret
            touch -d '2001-02-03 04:05:06.789' releases/{n}/index.html
            chmod -R g+w releases/{n}
            find releases -name '*.copy' -prune -exec rm -r {{}} +
            dd if=/dev/zero of=zeros bs=1000 count=100 conv=notrunc status=none
        """
        subprocess.run(["sh", "-c", script], cwd=p.a.path, check=True, timeout=120)
        p.in_sync()
        assert (p.b.path / "current" / "index.html").read_text() == f"version {n}\n"
        assert (p.b.path / "secret").read_text() == "1\ntwo\n"
