"""Files below folders: links, circles, second names, what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from singleout.storage.folders import list_files
from tests.cli.commands import posix


def write_files(folder: Path, *names: str) -> None:
    """Write files of one byte."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names_below(folder: Path) -> list[str]:
    """The files that are listed below a folder, without problems."""
    listing = list_files([folder])
    assert listing.problems == []
    return [path.relative_to(folder).as_posix() for path in listing.files]


def test_files_are_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["B/c", "B/d/e", "a", "b", "c é\n🐕", os.fsdecode(b"d\xff")]
    write_files(tmp_path, *reversed(names), ".hidden", ".folder/x", "B/.y")
    assert names_below(tmp_path) == names
    assert list_files([tmp_path]).num_hidden == 3
    assert names_below(tmp_path / ".folder") == ["x"]


@posix
def test_linked_files_and_folders_are_listed(tmp_path: Path) -> None:
    write_files(tmp_path, "elsewhere/deep/a", "elsewhere/.hidden", "in/z")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert names_below(tmp_path / "in") == ["folder/deep/a", "z"]
    assert names_below(tmp_path / "link") == ["folder/deep/a", "z"]


@posix
def test_circles_end(tmp_path: Path) -> None:
    write_files(tmp_path, "a/b/x", "y")
    for name, target in (("a/up", "."), ("a/b/self", "a/b"), ("one", "two"), ("two", "a")):
        (tmp_path / name).symlink_to(tmp_path / target)
    assert names_below(tmp_path) == ["a/b/x", "y"]


@posix
def test_of_several_names_the_real_one_is_listed(tmp_path: Path) -> None:
    """A link sorts before its file and its folder here."""
    write_files(tmp_path, "x", "z/y")
    (tmp_path / "a").symlink_to("x")
    (tmp_path / "b").symlink_to("z")
    os.link(tmp_path / "x", tmp_path / "z" / "hard")
    assert names_below(tmp_path) == ["x", "z/y"]
    assert list_files([tmp_path]).num_repeated == 2
    listing = list_files(tmp_path.iterdir(), in_folders=False)
    assert (listing.files, listing.num_repeated) == ([tmp_path / "x"], 1)


@posix
def test_what_cannot_be_read_is_a_problem_or_special(tmp_path: Path) -> None:
    write_files(tmp_path, "a")
    (tmp_path / "broken.wav").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe.wav")
    listing = list_files([tmp_path, tmp_path / "missing"])
    assert listing.files == [tmp_path / "a"]
    assert listing.num_special == 1
    assert listing.problems == [
        f"{tmp_path / 'missing'}: cannot be read: No such file or directory",
        f"{tmp_path / 'broken.wav'}: is a link that leads nowhere",
        f"{tmp_path / 'circle'}: is a link that leads nowhere",
    ]


@posix
def test_a_folder_without_permission_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, "a/x", "b/y")
    scandir = os.scandir

    def refuse(path: Path) -> object:  # root may read everything
        if path.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_files([tmp_path])
    assert listing.files == [tmp_path / "b" / "y"]
    assert listing.problems == [f"{tmp_path / 'a'}: cannot be read: Permission denied"]


@posix
def test_a_tree_deeper_than_the_stack_of_python(tmp_path: Path) -> None:
    depth, start = 1_200, Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(depth):
            Path("d").mkdir()
            os.chdir("d")
        listing = list_files([tmp_path])
    finally:
        for _ in range(depth):
            os.chdir("..")
            Path("d").rmdir()
        os.chdir(start)
    assert not listing.files
    assert not listing.problems
