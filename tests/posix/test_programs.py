# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that are choosy about their file system."""

import os
import shutil
import sqlite3
import subprocess
import threading

import pytest


def run(*args, **kwargs):
    return subprocess.run([str(a) for a in args], check=True, capture_output=True, text=True,
                          timeout=120, **kwargs).stdout


def needs(program):
    return pytest.mark.skipif(not shutil.which(program), reason=f"no {program}")


@needs("git")
def test_git(mount, here):
    origin = mount.dir / "origin"
    env = dict(os.environ, GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="a",
               GIT_COMMITTER_EMAIL="a@b", HOME=str(mount.dir))
    run("cp", "-r", "/usr/include/linux", origin)
    run("git", "init", "-q", origin)
    run("git", "-C", origin, "add", "-A")
    run("git", "-C", origin, "commit", "-qm", "one", env=env)
    run("git", "clone", "-q", "--no-local", origin, here / "clone", env=env)
    run("git", "-C", here / "clone", "fsck", "--full", env=env)
    assert run("git", "-C", here / "clone", "status", "--porcelain", env=env) == ""
    for n in range(3):
        (here / "clone" / "new").write_text(str(n))
        run("git", "-C", here / "clone", "add", "new", env=env)
        run("git", "-C", here / "clone", "commit", "-qm", "n", env=env)
    run("git", "-C", here / "clone", "gc", "-q", env=env)
    run("git", "-C", here / "clone", "fsck", "--full", env=env)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_under_load(here, below, journal):
    path = here / "db"
    db = sqlite3.connect(path, timeout=60)
    db.execute(f"pragma journal_mode={journal}")
    db.execute("pragma synchronous=off")
    db.execute("create table t (who int, n int)")
    db.commit()
    failed = []

    def work(who):
        try:
            mine = sqlite3.connect(path, timeout=60)
            for n in range(100):
                with mine:
                    mine.execute("insert into t values (?, ?)", (who, n))
            mine.close()
        except sqlite3.Error as e:
            failed.append(e)

    threads = [threading.Thread(target=work, args=(w,)) for w in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed
    assert db.execute("select count(*) from t").fetchone() == (400,)
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    db.close()
    check = sqlite3.connect(below / "db")
    assert check.execute("pragma integrity_check").fetchone() == ("ok",)
    check.close()


@needs("rsync")
def test_rsync_in_place(mount, here):
    source = mount.dir / "source"
    shutil.copytree("/usr/include/linux", source, symlinks=True)
    run("rsync", "-aHAX", f"{source}/", here / "copy")
    (source / "fs.h").write_text("changed\n" * 1000)
    run("rsync", "-aHAX", "--inplace", f"{source}/", here / "copy")
    assert run("rsync", "-aHAXnic", "--delete", f"{source}/", f"{here}/copy/") == ""


@needs("cc")
def test_compile_and_run(here):
    (here / "p.c").write_text("int main(void) { return 42; }\n")
    run("cc", "-o", here / "p", here / "p.c")
    assert subprocess.run([here / "p"], check=False).returncode == 42
    (here / "p.c").write_text("int main(void) { return 43; }\n")
    run("cc", "-o", here / "p", here / "p.c")
    assert subprocess.run([here / "p"], check=False).returncode == 43
