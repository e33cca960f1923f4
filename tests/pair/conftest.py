# SPDX-License-Identifier: GPL-2.0-or-later
"""Two replicating servers for each test."""

import os
import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from rig.backup import WithBackup    # noqa: E402
from rig.servers import Pair    # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def end_on_signal():
    """SIGTERM ends a run as Ctrl-C does: with its clean-up."""
    def interrupt(_number, _frame):
        raise KeyboardInterrupt
    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


def ended(request, kind):
    """A function that makes servers of the @kind (Pair or one derived); after the test they are
    checked and removed."""
    made = []

    def make(options="mode=async", **kwargs):
        made.append(kind(options, **kwargs))
        return made[-1]

    yield make
    passed = False
    try:
        for p in made:
            p.stop()
        passed = getattr(request.node, "passed", False)
    finally:
        for p in made:
            for s in p.servers if not passed else []:
                print(f"---- log of {s.name}\n" + s.log()[-6000:])
        for p in made:
            p.remove()


@pytest.fixture
def pair(request):
    """Call it: pair("mode=sync", proxy=True). Checks and removes what it made."""
    yield from ended(request, Pair)


@pytest.fixture
def backup(request):
    """The same for one server with a plain peer (rig/backup.py)."""
    yield from ended(request, WithBackup)


@pytest.fixture
def full():
    """Whether the long variant is asked for."""
    return os.environ.get("TANDEMFS_FULL") == "1"
