# SPDX-License-Identifier: GPL-2.0-or-later
"""The program as it is started and stopped: by hand, by mount(8), by fstab, by its commands."""

import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TANDEMFS = pathlib.Path(os.environ.get("TANDEMFS", ROOT / "build/tandemfs")).resolve()

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")


def run(*args, **kwargs):
    return subprocess.run(
        [str(a) for a in args], capture_output=True, text=True, timeout=60, check=False, **kwargs
    )


def eventually(check, what, seconds=15):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Place:
    """A backing directory, a mount point and a state directory."""

    def __init__(self, path):
        self.backing, self.mnt, self.state = path / "back", path / "mnt", path / "state"
        self.backing.mkdir()
        self.mnt.mkdir()
        self.path = path

    def options(self, more=""):
        return f"state={self.state}" + ("," + more if more else "")

    def mount(self, more="", backing=None, mnt=None):
        return run(TANDEMFS, backing or self.backing, mnt or self.mnt, "-o", self.options(more))

    def command(self, name, *args, mnt=None):
        return run(TANDEMFS, name, *args, mnt or self.mnt)

    def pid(self):
        return int((self.state / "lock").read_text())

    def ended(self):
        return run("flock", "--nonblock", "--shared", self.state / "lock", "true").returncode == 0

    def findmnt(self, mnt=None):
        out = run("findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", "-M", mnt or self.mnt).stdout
        return [line.split() for line in out.splitlines()]


@pytest.fixture
def place(tmp_path):
    p = Place(tmp_path)
    yield p
    for where in (p.mnt, p.backing):
        while p.findmnt(where):
            assert run("umount", "-l", where).returncode == 0
    if p.state.exists():
        eventually(p.ended, "the daemon ends")


@pytest.fixture
def sbin(tmp_path):
    """Runs a script where mount(8) finds our helper: in a mount namespace with an overlay on /sbin."""
    over = tmp_path / "over"
    over.mkdir()
    helper = (ROOT / "mount-helpers/mount.tandemfs").read_text()

    def run_script(script):
        sbin_dir = os.path.realpath("/sbin")
        head = f"""
            set -e
            mount -t tmpfs none {over}
            mkdir {over}/upper {over}/work
            mount -t overlay -o lowerdir={sbin_dir},upperdir={over}/upper,workdir={over}/work none {sbin_dir}
            printf %s "$HELPER" > {sbin_dir}/mount.tandemfs
            chmod 755 {sbin_dir}/mount.tandemfs
            cp {TANDEMFS} {sbin_dir}/tandemfs
            export PATH={sbin_dir}:$PATH
        """
        env = dict(os.environ, HELPER=helper.replace("@SBINDIR@", sbin_dir))
        return run("unshare", "-m", "sh", "-c", head + script, env=env)

    return run_script


def test_mount_status_stop(place):
    r = place.mount()
    assert (r.returncode, r.stderr) == (0, "")
    assert place.findmnt()[0][:2] == [str(place.backing), "fuse.tandemfs"]
    (place.mnt / "a").write_text("x")
    assert (place.backing / "a").read_text() == "x"

    mode = (place.state / "control").stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    status = json.loads(place.command("status", "--json").stdout)
    assert status["mountpoint"] == str(place.mnt)
    assert status["pid"] == place.pid()
    assert status["peers"] == []
    assert str(place.mnt) in run(TANDEMFS, "status").stdout
    assert place.command("wait").returncode == 0

    r = place.command("stop")
    assert (r.returncode, r.stderr) == (0, "")
    assert place.findmnt() == [] and place.ended()
    assert not (place.state / "control").exists()


def test_umount_ends_the_daemon_and_mount_follows_at_once(place):
    for _ in range(5):
        assert place.mount().returncode == 0
        assert run("umount", place.mnt).returncode == 0
    eventually(place.ended, "the daemon ends after umount")


def test_twice_is_once(place):
    assert place.mount().returncode == 0
    assert place.mount().returncode == 0
    assert len(place.findmnt()) == 1


def test_busy_mount_point(place):
    other = place.path / "other"
    other.mkdir()
    assert place.mount().returncode == 0
    r = place.mount(backing=other)
    assert r.returncode == 3 and "busy" in r.stderr


def test_one_daemon_per_backing_directory_and_state(place):
    other = place.path / "other"
    other.mkdir()
    assert place.mount().returncode == 0
    r = run(TANDEMFS, place.backing, other, "-o", f"state={place.path}/state2")
    assert r.returncode == 3 and "another tandemfs" in r.stderr
    r = run(TANDEMFS, other, place.path, "-o", f"state={place.state}")
    assert r.returncode == 3
    third = place.path / "third"
    third.mkdir()
    r = run(TANDEMFS, third, other, "-o", f"state={place.state}")
    assert r.returncode == 3 and f"process {place.pid()}" in r.stderr


def test_a_dead_mount_is_mounted_anew(place):
    assert place.mount().returncode == 0
    os.kill(place.pid(), signal.SIGKILL)
    eventually(place.ended, "it is killed")
    r = place.command("status")
    assert r.returncode == 3 and "no daemon answers" in r.stderr
    assert place.mount().returncode == 0
    (place.mnt / "a").write_text("x")


def test_stop_leaves_a_mount_in_use(place):
    assert place.mount().returncode == 0
    (place.mnt / "a").write_text("x")
    with open(place.mnt / "a", encoding="ascii"):
        r = place.command("stop")
        assert r.returncode == 3 and "in use" in r.stderr
        assert (place.mnt / "a").read_text() == "x"
    assert place.command("stop").returncode == 0


def test_sigterm_ends_cleanly(place):
    assert place.mount().returncode == 0
    (place.mnt / "a").write_text("x")
    os.kill(place.pid(), signal.SIGTERM)
    eventually(place.ended, "SIGTERM ends it")
    assert place.findmnt() == []
    assert (place.backing / "a").read_text() == "x"


def test_foreground(place):
    with subprocess.Popen(
        [TANDEMFS, "-f", place.backing, place.mnt, "-o", place.options()],
        stderr=subprocess.PIPE,
        text=True,
    ) as daemon:
        eventually(place.findmnt, "it is mounted")
        daemon.send_signal(signal.SIGTERM)
        log = daemon.communicate(timeout=20)[1]
    assert daemon.returncode == 0 and "mounted at" in log


def test_over_the_backing_directory_itself(place):
    (place.backing / "a").write_text("x")
    assert place.mount(mnt=place.backing).returncode == 0
    assert (place.backing / "a").read_text() == "x"
    assert place.mount(mnt=place.backing).returncode == 0
    r = place.mount("node=other")
    assert r.returncode == 3 and "itself in a tandemfs mount" in r.stderr
    assert place.command("stop", mnt=place.backing).returncode == 0


@pytest.mark.parametrize(
    "options, code, word",
    [
        ("nonsense", 2, "nonsense"),
        ("mode=fast", 2, "async|sync|sync-write"),
        ("streams=0", 2, "1 to 16"),
        ("verify=crc32", 2, "crc32"),
        ("peer=sftp://u:secret@h/x", 2, "password_file"),
        ("identity=/none", 3, "identity"),
        ("known_hosts=/none", 3, "known_hosts"),
        ("account=no-such-user", 3, "no-such-user"),
        ("password_file=/etc/passwd", 3, "chmod 600"),
    ],
)
def test_refused_options(place, options, code, word):
    r = place.mount(options)
    assert r.returncode == code
    assert word in r.stderr and "secret" not in r.stderr
    assert r.stderr.count("\n") == 1
    assert place.findmnt() == [] and not place.state.exists()


def test_refused_directories(place):
    (place.backing / "sub").mkdir()
    (place.path / "file").touch()
    for backing, mnt in [
        (place.path / "none", place.mnt),
        (place.backing, place.path / "none"),
        (place.path / "file", place.mnt),
        (place.backing, place.path / "file"),
        (place.backing, place.backing / "sub"),
        (place.backing / "sub", place.backing),
    ]:
        r = place.mount(backing=backing, mnt=mnt)
        assert r.returncode == 3 and r.stderr.count("\n") == 1, (backing, mnt, r)
    r = run(TANDEMFS, place.backing, place.mnt, "-o", f"state={place.backing}/state")
    assert r.returncode == 3 and "within the backing" in r.stderr


@pytest.mark.parametrize("fstype", ["tandemfs", "fuse.tandemfs"])
def test_fstab(place, sbin, fstype):
    fstab = place.path / "fstab"
    fstab.write_text(
        f"{place.backing} {place.mnt} {fstype} "
        f"{place.options('_netdev,nofail,ro,nosuid,noatime,x-systemd.requires=foo.mount')} 0 0\n"
    )
    r = sbin(
        f"""
        mount -T {fstab} -a
        mount -T {fstab} -a
        findmnt -n -o SOURCE,FSTYPE,OPTIONS -M {place.mnt}
        umount {place.mnt}
        mount -T {fstab} {place.mnt}
        umount {place.mnt}
        """
    )
    assert r.returncode == 0, r
    lines = [line.split() for line in r.stdout.splitlines()]
    assert len(lines) == 1 and lines[0][:2] == [str(place.backing), "fuse.tandemfs"]
    assert {"ro", "nosuid", "noatime"} <= set(lines[0][2].split(","))


def test_mount_reports_what_the_program_says(place, sbin):
    r = sbin(f"mount -t tandemfs {place.backing} {place.mnt} -o nonsense")
    assert r.returncode == 2 and "nonsense" in r.stderr
    r = sbin(f"mount -t tandemfs {place.path}/none {place.mnt}")
    assert r.returncode == 3 and "none" in r.stderr
    r = sbin(
        f"mount -s -t tandemfs {place.backing} {place.mnt} -o nonsense,{place.options()}"
        f" && umount {place.mnt}"
    )
    assert r.returncode == 0, r


def test_commands_say_how_they_are_used(place):
    for args in (["wait"], ["wait", "--timeout", "x", place.mnt], ["stop", "-f", place.mnt], ["log"]):
        r = run(TANDEMFS, *args)
        assert r.returncode == 2 and "it is `tandemfs" in r.stderr
    r = place.command("status")
    assert r.returncode == 3 and "no mount point of tandemfs" in r.stderr


def test_log_follows_a_rotation(place):
    assert place.mount().returncode == 0
    log = place.state / "changes.log"
    log.write_text("one\n")
    with subprocess.Popen(
        [TANDEMFS, "log", "-f", place.mnt], stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout.readline() == "one\n"
        with open(log, "a", encoding="ascii") as f:
            f.write("two\n")
        assert follower.stdout.readline() == "two\n"
        log.rename(place.state / "changes.log.1")
        log.write_text("three\n")
        assert follower.stdout.readline() == "three\n"
        follower.terminate()


def test_install_and_uninstall(tmp_path):
    make = ["make", "-C", ROOT, f"BUILD={TANDEMFS.parent.relative_to(ROOT)}", f"DESTDIR={tmp_path}"]
    r = run(*make, "install")
    assert r.returncode == 0, r.stderr
    helper = tmp_path / "sbin/mount.tandemfs"
    assert os.access(helper, os.X_OK) and "/usr/local/sbin/tandemfs" in helper.read_text()
    man = (tmp_path / "usr/local/share/man/man8/tandemfs.8").read_text()
    assert ".It Cm on_peer_down" in man and "@OPTIONS@" not in man
    assert run(tmp_path / "usr/local/sbin/tandemfs", "--version").returncode == 0
    r = run(*make, "uninstall")
    assert r.returncode == 0, r.stderr
    assert [p for p in tmp_path.rglob("*") if not p.is_dir()] == []


def test_every_option_is_in_the_help():
    r = run(TANDEMFS, "--help")
    assert r.returncode == 0
    table = (ROOT / "fs/options.def").read_text()
    for line in table.splitlines():
        if line.startswith("OPTION("):
            assert re.search(rf"^  {line.split(chr(34))[1]}(=|$)", r.stdout, re.M), line
