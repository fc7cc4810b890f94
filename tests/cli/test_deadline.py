"""The end of a process that cannot react to a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from singleout.cli.deadline import ending_in_time
from tests.conftest import ACCEPT_SIGNALS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

BUSY = """
import hashlib, signal
import singleout.cli.deadline as deadline
deadline.GRACE_SECONDS = 0.1
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None)  # the main thread may be shortly before its work
with deadline.ending_in_time("try again"):
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes outside of Python
"""


@pytest.mark.parametrize(
    ("number", "line"),
    [(signal.SIGTERM, "terminated: try again\n"), (signal.SIGINT, "interrupted: try again\n")],
)
def test_a_process_that_is_busy_outside_of_python_ends(number: signal.Signals, line: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ACCEPT_SIGNALS + BUSY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stderr == line


def interrupted() -> None:
    with ending_in_time("try again"):
        os.kill(os.getpid(), signal.SIGUSR1)
        raise KeyboardInterrupt


def test_the_usual_way_out_ends_the_watch() -> None:
    """And a signal that stops nothing does not start it."""
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert signal.set_wakeup_fd(-1) == -1
