"""Patterns that name many shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from singleout.errors import InputError
from singleout.shards import shard_places
from singleout.storage.locations import Location


def test_files_that_exist_are_found_on_a_disk_and_in_a_store(tmp_path: Path) -> None:
    names = ["a/0.tar", "a/1.tar", "b/2.tar", "b/2.json"]
    for place in (str(tmp_path), f"memory://{tmp_path.name}"):
        for name in names:
            (Location(place) / name).write(b"")
        assert shard_places(f"{place}/a/*.tar") == [f"{place}/{name}" for name in names[:2]]
        assert shard_places(f"{place}/**/*.tar") == [f"{place}/{name}" for name in names[:3]]
        assert shard_places(f"{place}/{{b,a}}/?.tar") == [
            f"{place}/{name}" for name in ("b/2.tar", "a/0.tar", "a/1.tar")
        ]
        assert shard_places(place) == [f"{place}/{name}" for name in names[:3]]


def test_names_that_look_like_patterns_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "sounds [2024]" / "why?"
    shard = folder / "a*.tar"
    folder.mkdir(parents=True)
    shard.touch()
    for name in (shard, folder, folder.parent):
        assert shard_places(str(name)) == [str(shard)]
    (folder / "ab.tar").touch()
    assert shard_places(f"{folder}/a?.tar".replace("[", "[[]").replace("why?", "why[?]")) == [
        str(shard), str(folder / "ab.tar"),
    ]  # fmt: skip


def test_braces_need_no_files() -> None:
    assert shard_places("x-{8..11}.tar") == [f"x-{i}.tar" for i in (8, 9, 10, 11)]
    assert shard_places("s3://b/{000..002}.tar")[2] == "s3://b/002.tar"
    assert shard_places("x.tar") == ["x.tar"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("missing/*.tar", "no such shards"),
        ("file:///missing/*.tar", "is on this machine: give its path"),
        ("{3..1}.tar", "names no shards"),
        ("{0..99999999999}.tar", "or too many"),
        ("{0..999}{0..999}{0..999}.tar", "more than 100,000 shards"),
    ],
)
def test_patterns_of_nothing_or_too_much_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shard_places(pattern)
