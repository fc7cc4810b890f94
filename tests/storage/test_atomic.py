"""Files that appear whole or not at all: one file, several files, folders, errors."""
# ruff: noqa: PT012, SIM117 - files are written before the error

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from singleout.errors import OutputError
from singleout.storage.atomic import is_same_file, replacing, replacing_files, restoring


def contents(folder: Path) -> dict[str, str]:
    """The texts of all files of a folder, hidden ones included."""
    return {path.name: path.read_text() for path in folder.iterdir()}


# One file.


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert partial.parent == tmp_path
        assert partial.name.startswith(".")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"report.txt": "new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_an_error_keeps_the_old_file_and_leaves_no_other(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "report.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as partial:
        partial.write_text("ne")
        raise error
    assert contents(tmp_path) == {"report.txt": "old"}


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    for path in (tmp_path / "missing" / "a.txt", folder):
        with pytest.raises(OutputError, match="cannot be written") as caught, replacing(path) as p:
            p.write_text("new")
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), replacing(tmp_path / "a.txt"):
        pass
    assert contents(tmp_path) == {}


def test_long_names_that_differ_at_their_ends_have_different_temporary_files(
    tmp_path: Path,
) -> None:
    names = ["é" * 120 + end for end in (".a", ".b")]  # 242 bytes
    with replacing(tmp_path / names[0]) as first, replacing(tmp_path / names[1]) as second:
        first.write_text("a")
        second.write_text("b")
    assert contents(tmp_path) == dict(zip(names, "ab", strict=True))


def test_nested_files_appear_together(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    with replacing(first) as a, replacing(second) as b:
        a.write_text("a")
        b.write_text("b")
        assert not first.exists()
        assert not second.exists()
    assert contents(tmp_path) == {"a": "a", "b": "b"}
    with pytest.raises(RuntimeError), replacing(first) as a, replacing(second) as b:
        a.write_text("new")
        b.write_text("new")
        raise RuntimeError
    assert contents(tmp_path) == {"a": "a", "b": "b"}


# Several files.


def test_old_files_come_back_on_any_error(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    with pytest.raises(KeyboardInterrupt), restoring([old, new]):
        assert not old.exists()
        old.write_text("changed")
        new.write_text("new")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"old": "old"}


def test_new_files_stay_if_nothing_fails(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    with restoring([old, new]):
        old.write_text("changed")
        new.write_text("new")
    assert contents(tmp_path) == {"old": "changed", "new": "new"}


def test_an_old_file_that_is_not_replaced_is_gone_at_the_end(tmp_path: Path) -> None:
    """Callers name only files that they replace."""
    old = tmp_path / "old"
    old.write_text("old")
    with restoring([old]):
        pass
    assert contents(tmp_path) == {}


def test_nested_contexts_restore_a_set_of_files(tmp_path: Path) -> None:
    """The second rename fails after the first one has succeeded."""
    target, residual = tmp_path / "target", tmp_path / "residual"
    target.write_text("old target")
    residual.mkdir()
    (residual / "file").touch()
    with pytest.raises(OutputError, match="residual: cannot be written"):
        with restoring([target]), replacing(residual) as b, replacing(target) as a:
            a.write_text("new target")
            b.write_text("new residual")
    assert target.read_text() == "old target"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["residual", "target"]


def test_an_error_of_the_system_names_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("a")
    second.write_text("b")
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path == second:
            raise PermissionError(13, "in use", str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match=r"/b: cannot be written: in use"):
        with restoring([first, second]):
            raise AssertionError("the context must not be entered")
    assert contents(tmp_path) == {"a": "a", "b": "b"}


# A folder of files.


def test_the_files_of_a_folder_appear_together_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "a"
    with replacing_files(folder) as partial:
        (partial / "config.json").write_text("1")
        (partial / "weights").write_text("1")
        assert partial.parent == folder
        assert all(path.name.startswith(".") for path in folder.iterdir())
    (folder / "README.md").write_text("mine")
    with replacing_files(folder) as partial:
        (partial / "config.json").write_text("2")
        (partial / "weights").write_text("2")
        assert (folder / "config.json").read_text() == "1"
    assert contents(folder) == {"README.md": "mine", "config.json": "2", "weights": "2"}


@pytest.mark.parametrize("fails", ["while writing", "while moving"])
def test_a_folder_stays_as_it_was_on_an_error(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("old")
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if fails == "while moving" and path.name == "config.json" and path.parent != tmp_path:
            raise OSError(28, "No space left on device", str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="cannot be written: No space"):
        with replacing_files(tmp_path) as partial:
            (partial / "weights").write_text("new")
            (partial / "config.json").write_text("new")
            if fails == "while writing":
                raise OSError(28, "No space left on device")
    assert contents(tmp_path) == {"config.json": "old"}


@pytest.mark.parametrize(
    "obstacle",
    [lambda folder: folder.write_text("a file"), lambda folder: folder.symlink_to("x/y")],
)
def test_a_folder_that_cannot_be_made_is_one_line(
    obstacle: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    obstacle(folder)
    with pytest.raises(OutputError, match="model: cannot be written") as caught:
        with replacing_files(folder):
            raise AssertionError("the context must not be entered")
    assert "\n" not in str(caught.value)


# One file under two names.


def test_a_file_is_the_same_under_all_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "a.wav", tmp_path / "b.wav"
    for file in (path, other):
        file.touch()
    (tmp_path / "link.wav").symlink_to(path)
    os.link(path, tmp_path / "hard.wav")
    for name in ("a.wav", "link.wav", "hard.wav", "../" + tmp_path.name + "/a.wav"):
        assert is_same_file(path, tmp_path / name)
        assert not is_same_file(other, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert is_same_file(Path("a.wav"), path)


def test_a_missing_file_is_the_same_only_under_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "missing.wav"
    assert is_same_file(path, tmp_path / "missing.wav")
    assert not is_same_file(path, tmp_path / "other.wav")
    (tmp_path / "other.wav").touch()
    assert not is_same_file(path, tmp_path / "other.wav")
