"""Temporary folders: private, removed, and those of killed processes as well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from singleout.errors import OutputError
from singleout.storage.temporary import temporary_folder
from tests.cli.commands import posix
from tests.recordings import file_names


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_private_and_goes_at_the_end(parent: Path) -> None:
    with temporary_folder() as folder:
        assert folder.parent == parent
        assert os.name != "posix" or folder.stat().st_mode & 0o777 == 0o700
        (folder / "x").touch()
    assert file_names(parent) == []


KILLED = """
import os, signal, tempfile
from singleout.storage.temporary import temporary_folder
tempfile.tempdir = {parent!r}
with temporary_folder() as folder:
    (folder / "audio").write_bytes(b"sound")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
def test_a_folder_of_a_killed_process_is_removed_by_the_next_one(parent: Path) -> None:
    (parent / "singleout-notes.txt").touch()  # not ours
    command = [sys.executable, "-c", KILLED.format(parent=str(parent))]
    assert subprocess.run(command, check=False).returncode == -9
    assert len(file_names(parent)) == 2
    with temporary_folder() as first, temporary_folder() as second:
        assert sorted([first.name, second.name, "singleout-notes.txt"]) == file_names(parent)
    assert file_names(parent) == ["singleout-notes.txt"]


@posix
def test_links_are_not_followed(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "x").touch()
    (parent / "singleout-link").symlink_to(other)
    with temporary_folder():
        pass
    assert file_names(other) == ["x"]
    assert file_names(parent) == ["singleout-link"]


def test_no_place_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    reason = r"no temporary folder can be made: .*set TMPDIR"
    with pytest.raises(OutputError, match=reason), temporary_folder():
        pass
