# SPDX-License-Identifier: GPL-2.0-or-later
"""mode=sync: what returned here is there."""

import os
import subprocess
import sys


def read(path):
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def test_no_stale_answer(pair, full):
    p = pair("mode=sync")
    here, there = p.a.path, p.b.path
    for i in range(1000 if full else 250):
        data = f"round {i} ".encode() * (1 + i % 50 * 100)
        name, moved = f"f{i % 7}", f"g{i % 5}"
        assert (there / name).exists() == (here / name).exists()     # caches the answer there
        (here / name).write_bytes(data)
        assert read(there / name) == data
        assert os.stat(there / name).st_mtime_ns == os.stat(here / name).st_mtime_ns
        os.rename(here / name, here / moved)
        assert read(there / name) is None
        assert read(there / moved) == data
        assert sorted(os.listdir(there)) == sorted(os.listdir(here))
        if i % 3 == 0:
            os.unlink(here / moved)
            assert not (there / moved).exists()
        if i % 4 == 0:
            with open(here / "appended", "ab") as f:
                f.write(b"line %d\n" % i)
            assert read(there / "appended") == read(here / "appended")
        if i % 5 == 0:
            os.mkdir(here / "d")
            assert (there / "d").is_dir()
            os.rmdir(here / "d")
            assert not (there / "d").exists()


HAMMER = """
import os, sys, random
root, tag = sys.argv[1], sys.argv[2]
r = random.Random(tag)
for i in range(int(sys.argv[3])):
    a, b = (f"{root}/{tag}{r.randrange(5)}" for _ in range(2))
    try:
        k = r.randrange(4)
        if k < 2:
            open(a, "w").write(f"{tag} {i}")
        elif k == 2:
            os.rename(a, b)
        else:
            os.unlink(a)
    except FileNotFoundError:
        pass
"""


def test_one_directory_from_both_sides(pair, full):
    p = pair("mode=sync")
    rounds = "1500" if full else "300"
    workers = [subprocess.Popen([sys.executable, "-c", HAMMER, str(s.path), f"{s.name}{k}-", rounds])
               for s in p.servers for k in range(3)]
    try:
        for w in workers:
            assert w.wait(240) == 0
    finally:
        for w in workers:
            w.kill()
            w.wait()
    p.in_sync()
    from rig.compare import assert_same
    assert_same(p.a.backing, p.b.backing)
    assert_same(p.a.path, p.b.path)


def test_sync_write(pair):
    p = pair("mode=sync-write")
    with open(p.a.path / "f", "wb", buffering=0) as f:
        for i in range(50):
            f.write(b"%03d" % i)
            assert (p.b.path / "f").read_bytes()[-3:] == b"%03d" % i


def test_fsync(pair):
    p = pair("mode=sync")
    with open(p.a.path / "f", "wb") as f:
        for i in range(20):
            f.write(b"x" * 1000)
            f.flush()
            os.fsync(f.fileno())
            assert (p.b.backing / "f").stat().st_size == 1000 * (i + 1)


def test_shell_redirection_is_whole(pair):
    """A shell closes a duplicate before it writes: nobody may see the file empty."""
    p = pair("mode=sync")
    target = p.a.path / "f"
    target.write_text("before")
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys\nseen=set()\nwhile True:\n"
         " t=open(sys.argv[1]).read()\n seen.add(t)\n"
         " if t=='end\\n': break\nprint(sorted(len(s) for s in seen))", str(p.b.path / "f")],
        stdout=subprocess.PIPE, text=True)
    for _ in range(100):
        subprocess.run(["sh", "-c", f"echo some-text > {target}"], check=True)
    subprocess.run(["sh", "-c", f"echo end > {target}"], check=True)
    lengths = eval(reader.communicate(timeout=60)[0])
    assert 0 not in lengths
