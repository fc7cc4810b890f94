"""Writers that are killed at every system call, and several writers at once.

Children are forked and kill themselves before their n-th call, for every n.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from singleout.storage.atomic import replacing, replacing_files, restoring
from singleout.storage.journal import JOURNAL, recover

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no locks on Windows"),
    # A child calls nothing but our code before it ends.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

CALLS = {"close", "flock", "fsync", "mkdir", "open", "replace", "rmdir", "truncate", "unlink"}
"""Functions that change the disk or a lock. Opening writes nothing, closing may write."""
TOKEN = "0123456789abcdef"


def contents(folder: Path) -> dict[str, str]:
    """The texts of all files of a folder, hidden ones included."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def exit_code(work: Callable[[], object]) -> int:
    """The exit code of a forked child that does ``work``; negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Whether a child that does ``work`` was killed before its call of that number."""

    def until_killed() -> None:
        count = 0

        def profile(frame: FrameType, event: str, function: Any) -> None:
            nonlocal count
            if event == "c_call" and function.__name__ in (*CALLS, "write"):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(profile)
        work()
        sys.setprofile(None)

    code = exit_code(until_killed)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def kills(tmp_path: Path, work: Callable[[Path], object]) -> Iterator[Path]:
    """Folders with two old files, in each of which ``work`` was killed at another call."""
    for number in range(1, 1_000):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("target", "residual"):
            (folder / name).write_text("old")
        if not killed_at(number, lambda folder=folder: work(folder)):  # type: ignore[misc]
            assert number > 10
            return
        yield folder
    raise AssertionError("the work has no end")


OLD = {"target": "old", "residual": "old"}
NEW = {"target": "new", "residual": "new", "picture": "new"}


def write_group(folder: Path, text: str = "new") -> None:
    """Write three files as an extraction does: all are complete before the first appears."""
    with ExitStack() as before, ExitStack() as files:
        for name in NEW:
            files.enter_context(replacing(folder / name)).write_text(text)
        before.enter_context(restoring([folder / name for name in NEW]))
        files.pop_all().close()


def write_folder(folder: Path) -> None:
    with replacing_files(folder) as partial:
        for name in NEW:
            (partial / name).write_text("new")


@pytest.mark.parametrize("write", [write_group, write_folder])
def test_a_killed_writer_leaves_all_old_files_or_all_new_ones(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    results = []
    for folder in kills(tmp_path, write):
        recover(folder)
        results.append(contents(folder))
        assert results[-1] in (OLD, NEW)
    first_new = results.index(NEW)
    assert first_new > 10
    assert results[:first_new] == [OLD] * first_new
    assert results[first_new:] == [NEW] * (len(results) - first_new)


@pytest.mark.parametrize("write", [write_group, write_folder])
def test_a_rerun_after_a_kill_leaves_only_its_files(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    for folder in kills(tmp_path, write):
        write(folder)
        assert contents(folder) == NEW


def test_a_killed_writer_of_one_file_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        with replacing(folder / "target") as partial:
            partial.write_text("new")

    for folder in kills(tmp_path, write):
        recover(folder)
        assert contents(folder) in (OLD, {**OLD, "target": "new"})


def test_a_recovery_that_is_killed_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    hot = [f for f in kills(tmp_path / "a", write_group) if (f / JOURNAL).exists()]
    assert len(hot) > 5
    last = {p.name: p.read_bytes() for p in hot[-4].iterdir()}
    assert last[JOURNAL]
    for number in range(1, 1_000):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, content in last.items():
            (folder / name).write_bytes(content)
        killed = killed_at(number, lambda folder=folder: recover(folder))  # type: ignore[misc]
        recover(folder)
        assert contents(folder) == OLD
        if not killed:
            break
    assert number > 5
