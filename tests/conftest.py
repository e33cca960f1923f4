# SPDX-License-Identifier: GPL-2.0-or-later
"""For all suites: a test that hangs fails, and a fixture can tell whether its test did."""

import os
import signal

import pytest

SECONDS = int(os.environ.get("TANDEMFS_TEST_SECONDS", "300"))


def pytest_configure(config):
    config.addinivalue_line("markers", "seconds(n): the time limit of a test, else "
                            "TANDEMFS_TEST_SECONDS or 300")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    marker = item.get_closest_marker("seconds")
    seconds = marker.args[0] if marker else SECONDS

    def late(_number, _frame):
        pytest.fail(f"the test took longer than {seconds} s")   # nothing that a test would catch

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.passed = outcome.get_result().passed
