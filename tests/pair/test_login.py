# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to log in at the peer, and what happens when it does not work out."""

import os
import pwd
import re
import shutil
import subprocess

import pytest

from rig.account import Confinement, User
from rig.compare import assert_same
from rig.servers import run, wait_for

PASSWORD = "correct horse, battery=staple"


def user_of(p, password=None):
    """A user who goes when no session of theirs is left."""
    user = User(password)
    p.at_end.append(user.remove)
    return user


def as_user(server, name):
    """@server logs in at its peer as @name."""
    server.options = server.options.replace("sftp://root@", f"sftp://{name}@")


def without(server, option):
    server.options = re.sub(rf"(^|,){option}=[^,]*", "", server.options).lstrip(",")


def exchange(p):
    """Both ways, small and large, and names."""
    for s in p.servers:
        (s.path / f"dir-{s.name}").mkdir()
        (s.path / f"dir-{s.name}" / "small").write_bytes(b"small")
        (s.path / f"large-{s.name}").write_bytes(os.urandom(3 << 20))
        os.chown(s.path / f"large-{s.name}", 33, 33)
        os.chmod(s.path / f"large-{s.name}", 0o640)
        os.rename(s.path / f"dir-{s.name}" / "small", s.path / f"dir-{s.name}" / "moved")
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    assert len(os.listdir(p.a.path)) == 4


def start_sshds(p):
    for s in p.servers:
        s.start_sshd()


def refused(server, code=3):
    """Mounts as an administrator would: that must end with one clear line and nothing mounted."""
    command = [x for x in server.command() if x != "-f"]
    command[-1] += ",loglevel=notice"
    r = run(*command, check=False, timeout=60, env=dict(os.environ, **server.environment))
    assert r.returncode == code, r.stderr
    assert not server.mounted()
    assert r.stdout == "" and r.stderr.count("\n") == 1, r.stdout + r.stderr
    assert r.stderr.startswith("tandemfs: ")
    return r.stderr


# ---- that works ----

def test_agent(pair):
    p = pair(start=False)
    start_sshds(p)
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", p.top / "agent"], stdout=subprocess.DEVNULL)
    try:
        wait_for("the agent", (p.top / "agent").exists)
        run("ssh-add", p.a.top / "user", env=dict(os.environ, SSH_AUTH_SOCK=str(p.top / "agent")))
        p.a.environment["SSH_AUTH_SOCK"] = str(p.top / "agent")
        without(p.a, "identity")
        for s in p.servers:
            s.start()
        p.connected()
        exchange(p)
    finally:
        agent.terminate()
        agent.wait()


def test_password(pair):
    p = pair(start=False)
    u = user_of(p, PASSWORD)
    p.b.account = u.name
    as_user(p.a, u.name)
    without(p.a, "identity")
    secret = p.a.top / "password"
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o600)
    p.a.options += f",password_file={secret}"
    start_sshds(p)
    for s in p.servers:
        s.start()
    p.connected()
    exchange(p)


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_confined_account(pair, mode):
    p = pair(f"mode={mode}", start=False)
    for s in p.servers:
        u = user_of(p)
        c = Confinement(u, s.backing)
        p.at_end.append(c.remove)
        s.account = u.name
        s.config += c.sshd_config()
        as_user(p.other(s), u.name)
    start_sshds(p)
    for s in p.servers:
        s.start()
    p.connected()
    exchange(p)
    # It goes on after a death.
    p.b.kill()
    (p.a.path / "meanwhile").write_text("x")
    p.b.start()
    p.connected()
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)
    for s in p.servers:     # the account owns nothing but its spool
        uid = pwd.getpwnam(s.account).pw_uid
        own = [os.path.join(d, n) for d, dirs, files in os.walk(s.backing) for n in dirs + files]
        own = [n for n in own if os.lstat(n).st_uid == uid]
        assert own and all(n.startswith(f"{s.backing}/.tandemfs/in") for n in own), own


# ---- that does not ----

def test_wrong_key(pair):
    p = pair(start=False)
    start_sshds(p)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", p.a.top / "stranger")
    p.a.options = p.a.options.replace(f"identity={p.a.top}/user", f"identity={p.a.top}/stranger")
    line = refused(p.a)
    assert p.b.address in line and "root" in line


def test_wrong_password(pair):
    p = pair(start=False)
    start_sshds(p)
    as_user(p.a, user_of(p, PASSWORD).name)
    without(p.a, "identity")
    secret = p.a.top / "password"
    secret.write_text("guessed\n")
    secret.chmod(0o600)
    p.a.options += f",password_file={secret}"
    line = refused(p.a)
    assert p.b.address in line and "the password" in line
    assert "guessed" not in line and "authorized_keys" not in line


def test_password_that_others_can_read(pair):
    p = pair(start=False)
    start_sshds(p)
    secret = p.a.top / "password"
    secret.write_text("x\n")
    secret.chmod(0o644)
    p.a.options += f",password_file={secret}"
    assert str(secret) in refused(p.a)


@pytest.mark.parametrize("known", ["", "nobody.example ssh-ed25519 AAAA\n", None])
def test_unknown_host_key(pair, known):
    p = pair(start=False)
    start_sshds(p)
    if known is None:
        (p.a.top / "known_hosts").unlink()
    else:
        (p.a.top / "known_hosts").write_text(known)
    line = refused(p.a)
    assert "known_hosts" in line
    assert known is None or p.b.address in line
    if known is not None:       # never added
        assert (p.a.top / "known_hosts").read_text() == known


def test_changed_host_key(pair):
    p = pair(start=False)
    for end in ("", ".pub"):
        os.unlink(f"{p.b.top}/host{end}")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", p.b.top / "host")
    start_sshds(p)
    line = refused(p.a)
    assert p.b.address in line and "host key" in line.lower()


def test_host_key_that_changes_later(pair):
    """A running mount stays, says so, and sends nothing to the stranger."""
    p = pair("mode=async")
    p.b.stop_sshd()
    kept = {end: (p.b.top / f"host{end}").read_bytes() for end in ("", ".pub")}
    for end in kept:
        os.unlink(f"{p.b.top}/host{end}")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", p.b.top / "host")
    p.b.start_sshd()
    p.a.expect_error("host key")
    (p.a.path / "f").write_text("x")
    wait_for("a tells", lambda: "host key" in (p.a.peer()["error"] or "").lower())
    assert p.a.peer()["state"] != "in-sync" and p.a.peer()["lag_ops"] > 0
    assert not (p.b.backing / "f").exists()
    p.b.stop_sshd()
    for end, data in kept.items():
        (p.b.top / f"host{end}").write_bytes(data)
    p.b.start_sshd()
    p.connected(60)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)


def test_peer_away_at_start_is_no_error(pair):
    p = pair(start=False)
    p.a.start()
    (p.a.path / "f").write_text("before the peer came")
    assert p.a.peer()["state"] == "connecting"
    start_sshds(p)
    p.b.start()
    p.connected(60)
    p.in_sync()
    assert_same(p.a.backing, p.b.backing)


def test_another_node_in_the_place_of_the_peer(pair):
    p = pair("mode=async")
    (p.a.path / "f").write_text("x")
    p.in_sync()
    p.b.expect_error("paired with another")
    p.a.stop()
    p.b.stop()
    shutil.rmtree(p.b.backing)
    shutil.rmtree(p.b.state)
    p.b.backing.mkdir()
    p.b.start(wait=False)
    wait_for("b is mounted", p.b.mounted)
    line = refused(p.a)
    assert p.b.address in line
    assert not (p.b.backing / "f").exists()
