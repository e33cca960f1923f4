# SPDX-License-Identifier: GPL-2.0-or-later
"""A local-only tandemfs for the tests of one directory tree."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("TANDEMFS", str(ROOT / "build" / "tandemfs"))
SECONDS = 20


class Mount:
    """One mounted file system; .path is the mount point, .backing what lies below it."""

    def __init__(self, options=""):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="tandemfs-posix."))
        self.dir.chmod(0o755)
        self.path = self.dir / "mnt"
        self.backing = self.dir / "backing"
        self.path.mkdir()
        self.backing.mkdir()
        self.options = options
        self.log = open(self.dir / "log", "a+", encoding="utf-8", errors="replace")
        self.process = None

    def start(self):
        options = f"state={self.dir}/state" + (f",{self.options}" if self.options else "")
        self.process = subprocess.Popen(
            [PROGRAM, str(self.backing), str(self.path), "-f", "-o", options],
            stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + SECONDS
        while not os.path.ismount(self.path):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, "not mounted in time: " + self.text()
            time.sleep(0.02)

    def text(self):
        self.log.flush()
        return (self.dir / "log").read_text(errors="replace")

    def stop(self):
        """Unmounts and returns the exit code."""
        if os.path.ismount(self.path):
            subprocess.run(["umount", str(self.path)], check=False, capture_output=True)
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            subprocess.run(["umount", "-l", str(self.path)], check=False)
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            raise

    def remove(self):
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def check_log(text):
    bad = [line for line in text.splitlines()
           if " error: " in line or "Sanitizer" in line or "runtime error" in line]
    assert not bad, "\n".join(bad)


@pytest.fixture(scope="module")
def mount():
    m = Mount()
    m.start()
    try:
        yield m
        assert m.process.poll() is None, "the daemon died: " + m.text()
        assert m.stop() == 0, m.text()
        check_log(m.text())
    finally:
        if m.process.poll() is None:
            subprocess.run(["umount", "-l", str(m.path)], check=False)
            m.process.kill()
            m.process.wait()
        m.remove()


@pytest.fixture
def here(mount, request):
    """An empty directory in the mount, for one test, open to all users."""
    name = "".join(c if c.isalnum() else "_" for c in request.node.name)[:80]
    d = mount.path / name
    d.mkdir()
    d.chmod(0o777)
    return d


@pytest.fixture
def below(mount, here):
    """The same directory in the backing directory."""
    return mount.backing / here.name
