"""Writers that are killed at every system call, and several writers at once.

Children are forked and kill themselves before their n-th call, for every n.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import pytest

from singleout.errors import OutputError
from singleout.storage.atomic import replacing, replacing_files, restoring
from singleout.storage.journal import JOURNAL, moving_aside, recover, recover_once

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no locks on Windows"),
    # A child calls nothing but our code before it ends.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

CALLS = {"close", "flock", "fsync", "mkdir", "open", "replace", "rmdir", "truncate", "unlink"}
"""Functions that change the disk or a lock. Opening writes nothing, closing may write."""
TOKEN = "0123456789abcdef"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: the tests wait for the disk many times."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


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


# What is left alone, and what is hostile.


def test_the_files_of_a_living_writer_stay(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first, replacing_files(tmp_path / "b") as second:
        first.write_text("new")
        (second / "c").write_text("new")
        for folder in (tmp_path, tmp_path / "b"):
            before = sorted(folder.iterdir())
            recover(folder)
            assert exit_code(lambda folder=folder: recover(folder)) == 0  # type: ignore[misc]
            assert sorted(folder.iterdir()) == before
    assert (tmp_path / "a").read_text() == (tmp_path / "b" / "c").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    "name",
    [
        "x.partial",
        ".x.partial",
        f".x.{TOKEN}.partial",
        f".x.{TOKEN}-1.part",
        f"x.{TOKEN}-1.partial",
        f".x.{TOKEN.upper()}-1.partial",
        f".x.{TOKEN[1:]}-1.partial",
    ],
)
def test_files_of_others_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    (tmp_path / f".x.{TOKEN}-1.partial").write_text("left")
    (tmp_path / f".x.{TOKEN}-2.partial").mkdir()
    (tmp_path / f".x.{TOKEN}-2.partial" / "x").write_text("left")
    recover(tmp_path)
    assert contents(tmp_path) == {name: "mine"}


@pytest.mark.parametrize(
    "journal",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        "\0" * 1_000,
        json.dumps({"../target": None}),
        json.dumps({"..": None}),
        json.dumps({"": None}),
        json.dumps({"a\0": None}),
        json.dumps({"target": "residual"}),
        json.dumps({"target": f"../.x.{TOKEN}-1.partial"}),
        json.dumps({"target": f".x.{TOKEN}-1.partial", "residual": 3}),
        json.dumps({"target": f".x.{TOKEN}-1.partial"}),  # which is not there
        json.dumps({"target": None})[:-1],  # not whole
        json.dumps({"missing": None}),
    ],
)
def test_a_hostile_journal_changes_no_file(journal: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "target").write_text("mine")
        (place / "residual").write_text("mine")
    (folder / JOURNAL).write_text(journal + "\n")
    recover(folder)
    assert contents(folder) == {"target": "mine", "residual": "mine"}
    assert (tmp_path / "target").read_text() == "mine"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("x")])
def test_what_is_no_journal_is_one_line(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / JOURNAL)
    recover(tmp_path)
    with pytest.raises(OutputError, match="a: cannot be written") as caught:
        write_file(tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


def test_old_files_that_cannot_be_put_back_are_kept(tmp_path: Path) -> None:
    """Someone made a folder in the place of the target."""
    old = tmp_path / f".target.{TOKEN}-1.old.partial"
    old.write_text("the only copy")
    (tmp_path / "target").mkdir()
    (tmp_path / JOURNAL).write_text(json.dumps({"target": old.name}) + "\n")
    recover(tmp_path)
    with pytest.raises(OutputError, match="other: cannot be written"):
        write_file(tmp_path / "other")
    assert old.read_text() == "the only copy"
    (tmp_path / "target").rmdir()
    write_file(tmp_path / "other")
    assert contents(tmp_path) == {"target": "the only copy", "other": "new"}


@pytest.mark.parametrize("place", ["/dev/null", "pipe"])
def test_a_device_or_a_pipe_is_not_replaced(place: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="is a device or a pipe"):
        write_file(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


# Several writers.


def write_file(path: Path, text: str = "new") -> None:
    with replacing(path) as partial:
        partial.write_text(text)


@pytest.mark.parametrize("by", ["threads", "processes"])
def test_writers_of_the_same_names_do_not_mix_their_files(by: str, tmp_path: Path) -> None:
    """Every group is whole after the last writer, and no temporary file is left."""

    def write_often(text: str) -> None:
        for number in range(20):
            write_group(tmp_path, 5_000 * f"{text}{number}")

    if by == "threads":
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(write_often, "abc"))
    else:
        children = []
        for text in "abc":
            child = os.fork()
            if child == 0:
                try:
                    write_often(text)
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
    assert len(set(contents(tmp_path).values())) == 1
    assert contents(tmp_path).keys() == NEW.keys()


def test_renames_wait_for_a_group_of_another_writer(tmp_path: Path) -> None:
    """A file that was renamed in between could otherwise be rolled back."""
    (tmp_path / "target").write_text("old")
    reading, writing = os.pipe()
    with moving_aside(tmp_path, ["target"]):
        child = os.fork()
        if child == 0:
            try:
                os.write(writing, b"1")
                write_file(tmp_path / "target", "of the child")
                os._exit(0)
            finally:
                os._exit(1)
        os.read(reading, 1)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        assert not (tmp_path / "target").exists()
        (tmp_path / "target").write_text("of the parent")
    assert os.waitpid(child, 0)[1] == 0
    assert contents(tmp_path) == {"target": "of the child"}
    os.close(reading)
    os.close(writing)


def test_a_child_of_a_writer_has_locks_of_its_own(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as partial:
        partial.write_text("of the parent")
        assert exit_code(lambda: write_file(tmp_path / "b")) == 0
        assert exit_code(lambda: recover(tmp_path)) == 0
        assert partial.exists()
    assert contents(tmp_path) == {"a": "of the parent", "b": "new"}


def test_files_of_a_killed_writer_do_not_count_as_existing(tmp_path: Path) -> None:
    """Also in a folder that this process has recovered before."""
    write_file(tmp_path / "first")
    for number in range(1, 1_000):
        assert killed_at(number, lambda: write_group(tmp_path))
        if (tmp_path / JOURNAL).exists() and (tmp_path / "target").exists():
            break
        recover(tmp_path)
    recover_once(tmp_path)
    assert contents(tmp_path) == {"first": "new"}
