"""Two trainings never write to one folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from singleout.errors import ModelError, OutputError, TrainingError
from singleout.train.config import TrainConfig
from singleout.train.lock import LOCK_NAME, only_training
from singleout.train.run import train

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")

HOLD = """
import os, sys
from pathlib import Path
from singleout.train.lock import only_training
with only_training(Path(sys.argv[1])):
    {more}
    print("holds", flush=True)
    sys.stdin.read()
"""

FORK = """
    begun, begin = os.pipe()
    if not os.fork():
        os.write(begin, b"x")
        sys.stdin.read()
        os._exit(0)
    os.read(begun, 1)
"""


def holder_of(folder: Path, more: str = "pass") -> subprocess.Popen[str]:
    """A process that holds the lock of a folder until its input is closed.

    Args:
        folder: of a run.
        more: what the process does before.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(more=more), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    return process


def test_a_second_training_is_refused_with_the_number_of_the_first(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    with holder_of(tmp_path) as process:
        with pytest.raises(TrainingError, match=rf"\(process {process.pid}\)") as caught:
            train(configure(tmp_path))
        assert str(caught.value).startswith(f"{tmp_path}: another training")
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
        process.communicate()
    train(configure(tmp_path, steps=1))
    assert not (tmp_path / LOCK_NAME).exists()


def test_the_lock_of_a_killed_training_is_free(tmp_path: Path) -> None:
    with holder_of(tmp_path) as process:
        process.kill()
    assert (tmp_path / LOCK_NAME).exists()
    with only_training(tmp_path):
        assert (tmp_path / LOCK_NAME).read_text() == str(os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_a_killed_training_started_does_not_hold_the_lock(tmp_path: Path) -> None:
    """Such as one that renders mixtures, and dies a moment later."""
    with holder_of(tmp_path, FORK) as process:
        process.kill()
        process.wait()
        with only_training(tmp_path):
            assert (tmp_path / LOCK_NAME).read_text() == str(os.getpid())


def test_a_training_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with (
        only_training(tmp_path),
        pytest.raises(TrainingError, match=f"process {os.getpid()}"),
        only_training(tmp_path),
    ):
        pass
    with only_training(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()


def test_a_new_folder_in_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ModelError), only_training(tmp_path / "new"):
        raise ModelError("no such model")
    assert list(tmp_path.iterdir()) == []
    with only_training(tmp_path / "new"):
        (tmp_path / "new" / "config.json").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.json"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reasons = {tmp_path / "file": "is not a folder", tmp_path / "file" / "run": "Not a directory"}
    for folder, reason in reasons.items():
        with pytest.raises(OutputError, match=reason) as caught, only_training(folder):
            pass
        assert "\n" not in str(caught.value)


def test_a_read_only_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int, mode: int = 0) -> int:
        assert flags & os.O_CREAT
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError) as caught, only_training(tmp_path):
        pass
    assert str(caught.value) == f"output: {tmp_path} cannot be written: Read-only file system"
