"""Signals at every moment: one line, the exit code of the signal, nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import posix
from tests.conftest import ACCEPT_SIGNALS

pytestmark = [posix, pytest.mark.slow]

SIGNALS = {
    "SIGINT": (130, "interrupted"),
    "SIGTERM": (143, "terminated"),
    "SIGHUP": (129, "hung up"),
}
"""Exit code and line, by the name of the signal."""

PROBE = """
import os, signal, sys, time
from singleout.cli import main, commands

def send(name):
    os.kill(os.getpid(), getattr(signal, name))

def wait():
    while True:  # a stop that has not arrived is tried again
        time.sleep(0.01)

@commands.app.command()
def probe():
    try:
        {body}
    finally:
        {cleanup}

sys.argv = ["singleout", "probe"]
main()
"""
AT_IMPORT = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Finder())
from singleout.cli import main
main()
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process that reacts to signals, even if this process ignores them."""
    command = [sys.executable, "-c", ACCEPT_SIGNALS + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def probe(body: str, cleanup: str = "print('cleaned')") -> subprocess.CompletedProcess[str]:
    """Run a command that does ``body``."""
    lines = body.replace("\n", "\n        ")
    return python(PROBE.format(body=lines, cleanup=cleanup))


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_in_a_command(name: str) -> None:
    ended = probe(f"send({name!r})\nwait()")
    code, word = SIGNALS[name]
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "cleaned\n", f"{word}\n")


@pytest.mark.parametrize(
    ("module", "name"),
    [("typer", "SIGINT"), ("torch", "SIGTERM"), ("torch.nn", "SIGHUP"), ("soxr", "SIGINT")],
)
def test_a_signal_while_a_module_is_imported(
    tmp_path: Path, street: Path, module: str, name: str
) -> None:
    code = AT_IMPORT.format(module=module, name=name)
    ended = python(code, "extract", street, "a dog", "-o", tmp_path / "out")
    exit_code, word = SIGNALS[name]
    assert (ended.returncode, ended.stdout, ended.stderr) == (exit_code, "", f"{word}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "second", ["SIGINT", "SIGTERM", "SIGHUP"], ids=lambda second: f"then {second}"
)
def test_a_second_signal_does_not_interrupt_the_removal(second: str) -> None:
    ended = probe("send('SIGTERM')\nwait()", f"send({second!r}); time.sleep(0.5); print('cleaned')")
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "cleaned\n", "terminated\n")


@pytest.mark.parametrize(
    "body",
    [
        "try:\n    send('SIGTERM')\n    wait()\nexcept BaseException:\n    pass\nwait()",
        "class Dropped:\n    def __del__(self):\n        send('SIGTERM')\n        wait()\n"
        "Dropped()\nwait()",
        "try:\n    send('SIGTERM')\n    wait()\nexcept BaseException:\n    pass\n"
        "send('SIGINT')\nwait()",
    ],
    ids=["by a library", "by a destructor", "and a second signal comes"],
)
def test_a_stop_that_is_dropped_is_tried_again(body: str) -> None:
    ended = probe(body)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "cleaned\n", "terminated\n")


def test_a_stop_that_becomes_another_error_is_still_a_stop() -> None:
    body = "try:\n    send('SIGTERM')\n    wait()\nexcept BaseException:\n    raise RuntimeError"
    ended = probe(body)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "cleaned\n", "terminated\n")


def test_an_import_in_the_middle_of_the_work_ends_first(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nprint('imported')\n"
    )
    (tmp_path / "worker.py").write_text("def work():\n    import late\n")
    ended = probe(f"sys.path.insert(0, {str(tmp_path)!r})\nimport worker\nworker.work()\nwait()")
    assert ended.stdout == "imported\ncleaned\n"
    assert (ended.returncode, ended.stderr) == (143, "terminated\n")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    body = "send('SIGHUP')\ntime.sleep(0.01)"
    text = PROBE.format(body=body.replace("\n", "\n        "), cleanup="print('cleaned')")
    ended = python(code + text)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "cleaned\n", "")


def test_forked_processes_are_left_to_their_parent() -> None:
    """Such as those that render mixtures: Ctrl-C reaches all processes of a terminal."""
    body = (
        "if not (child := os.fork()):\n"
        "    send('SIGINT'); send('SIGHUP'); os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)"
    )
    ended = probe(body)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "7\ncleaned\n", "")


def test_a_signal_after_the_command_changes_nothing() -> None:
    code = (
        "import atexit, os, signal, sys\n"
        "from singleout.cli import main\n"
        "atexit.register(lambda: [os.kill(os.getpid(), signal.SIGTERM), print('the end')])\n"
        "sys.argv = ['singleout', '--version']\n"
        "main()\n"
    )
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("the end\n")


def test_the_decoder_ends_with_the_command(tmp_path: Path) -> None:
    """Even if the command is killed: its decoder writes into a pipe that nobody reads."""
    code = (
        "import os, signal, sys\n"
        "import numpy as np, soundfile\n"
        "from pathlib import Path\n"
        "from singleout.audio.ffmpeg.decoder import Decoder\n"
        f"path = Path({str(tmp_path / 'long.wav')!r})\n"
        "soundfile.write(path, np.zeros(4_000_000), 48_000)\n"
        "decoder = Decoder(path, 'unknown format')\n"
        "print(decoder._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = python(code)
    assert ended.returncode == -signal.SIGKILL
    decoder = int(ended.stdout)
    for _ in range(1_000):
        if not _is_running(decoder):
            return
        os.sched_yield()
        subprocess.run(["true"], check=True)
    pytest.fail("the decoder is still running")


def _is_running(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
