# SPDX-License-Identifier: GPL-2.0-or-later
"""`tandemfs verify` finds what was changed behind the mounts, and only that."""


def test_verify_finds(pair):
    p = pair("mode=async")
    (p.a.path / "d").mkdir()
    for i in range(20):
        (p.a.path / "d" / f"f{i}").write_text(f"text {i}")
    p.in_sync()
    assert p.a.cli("verify", p.a.path).returncode == 0
    # behind the mount
    (p.b.backing / "d" / "f3").write_text("else 3")
    (p.b.backing / "d" / "f4").unlink()
    (p.b.backing / "d" / "more").write_text("x")
    r = p.a.cli("verify", p.a.path, check=False)
    assert r.returncode == 1
    assert "d/f3" in r.stdout and "d/f4" in r.stdout and "d/more" in r.stdout
    assert "d/f5" not in r.stdout
