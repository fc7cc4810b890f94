"""Manifests, their splits and folders of sounds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from singleout.audio import write_wav
from singleout.data import columns, manifest_rows
from singleout.data.clips import Clip
from singleout.data.manifest import (
    Manifest,
    check_splits,
    held_out,
    needing_ffmpeg,
    read_manifest,
    scan_folder,
    share_of,
    total_seconds,
)
from singleout.data.render import read_crop
from singleout.documents import read_lines
from singleout.errors import ManifestError
from tests.data.sounds import RATE, SHORT, clip_of, noise

GOOD: dict[str, Any] = {"path": "a.wav", "seconds": 1.5}


def manifest_of(folder: Path, *rows: dict[str, Any] | str) -> Path:
    path = folder / "manifest.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def with_sound(tmp_path: Path) -> Path:
    (tmp_path / "a.wav").write_bytes(b"")
    return tmp_path


def test_a_full_line_is_read(with_sound: Path) -> None:
    row = {
        **GOOD,
        "caption": "a dog\u2028barking",
        "alternatives": ["a hound"],
        "class": "dog",
        "group": "rex",
        "split": "test",
        "licence": {"any": "thing"},
    }
    (clip,) = read_manifest(manifest_of(with_sound, row), "test")
    assert clip == Clip(
        with_sound / "a.wav", 1.5, "a dog\u2028barking", ("a hound",), "dog", "rex", "test"
    )
    assert clip.captions == ("a dog\u2028barking", "a hound")


def test_missing_keys_have_defaults(with_sound: Path) -> None:
    (clip,) = read_manifest(manifest_of(with_sound, "", GOOD, "  "))
    assert (clip.caption, clip.captions) == (None, ())
    assert clip.label == clip.group == "a.wav"
    assert clip.split == "train"


def test_blank_captions_are_none(with_sound: Path) -> None:
    row = {**GOOD, "caption": " \t", "alternatives": ["", "a hound", " "]}
    (clip,) = read_manifest(manifest_of(with_sound, row))
    assert clip.caption is None
    assert clip.captions == ("a hound",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{}, {"split": "val"}], r"a\.wav has the split 'val'.*call it 'validation'"),
        ([{"split": "Train"}], "call it 'train'"),
        ([{"split": " dev"}], "call it 'validation'"),
        (
            [{"group": "rex"}, {"group": "rex", "split": "test"}],
            r"a\.wav \(train\) and a\.wav \(test\) are of one group, 'rex'",
        ),
        ([{"group": "rex", "split": "validation"}, {"group": "rex"}], "of one group"),
    ],
)
def test_misspelt_and_overlapping_splits_are_refused(
    changes: list[dict[str, str]], message: str, with_sound: Path
) -> None:
    path = manifest_of(with_sound, *({**GOOD, **change} for change in changes))
    with pytest.raises(ManifestError, match=message) as caught:
        check_splits(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_other_names_of_splits_are_accepted_and_held_out(with_sound: Path) -> None:
    splits: list[dict[str, Any]] = [
        {}, {"split": "validation"}, {"split": "test_far"}, {"split": "later"}
    ]  # fmt: skip
    rows = [
        {"path": f"{i}.wav", "seconds": 1, "group": f"g{i}", **row} for i, row in enumerate(splits)
    ]
    (with_sound / "3.wav").symlink_to("a.wav")
    others = [{**rows[3], "split": "test"}, {"path": "b.wav", "seconds": 1, "split": "test"}]
    path = manifest_of(with_sound, *rows, *others)
    check_splits(path)
    files, groups = held_out(path)
    assert groups == {"g1", "g2", "g3"}
    assert files == {(with_sound / name).resolve() for name in ("1.wav", "2.wav", "a.wav", "b.wav")}


@pytest.mark.parametrize(
    ("one", "two", "key"),
    [
        ({"class": "dog"}, {"class": "cat"}, "class"),
        ({"class": "dog"}, {}, "class"),
        ({"group": "rex"}, {"group": "tom"}, "group"),
        ({}, {"group": "rex", "split": "test"}, "group"),
        ({"seconds": 1.5}, {"seconds": 1.4}, "length"),
    ],
)
def test_two_lines_of_one_file_have_to_agree(
    one: dict[str, Any], two: dict[str, Any], key: str, with_sound: Path
) -> None:
    other = {"path": "b.wav", "seconds": 1}
    path = manifest_of(with_sound, other, {**GOOD, **one}, "", other, {**GOOD, **two})
    for reader in (read_manifest, check_splits, held_out):
        with pytest.raises(ManifestError) as caught:
            reader(path)
        assert str(caught.value).startswith(
            f"{path}:5: gives a.wav another {key} than line 2: make both lines agree"
        )


def test_a_file_has_one_name(with_sound: Path) -> None:
    """Its default class and group are the name as it is written, as in recorded runs."""
    full = (with_sound / "a.wav").as_posix()
    rows = [{**GOOD, "path": path, "class": "c", "group": "g"} for path in ("./a.wav", full)]
    clips = read_manifest(manifest_of(with_sound, GOOD | {"class": "c", "group": "g"}, *rows))
    assert clips == [clips[0]] * 3
    with pytest.raises(ManifestError, match=r":2: gives a\.wav another group than line 1"):
        read_manifest(manifest_of(with_sound, rows[0], {**rows[1], "group": "other"}))
    for path in ("./a.wav", full, ".//a.wav"):
        (clip,) = read_manifest(manifest_of(with_sound, {**GOOD, "path": path}))
        assert (clip.path, clip.label, clip.group) == (with_sound / "a.wav", path, path)
        assert not clip.has_class


def test_a_file_may_have_several_lines_of_captions(with_sound: Path) -> None:
    path = manifest_of(with_sound, {**GOOD, "caption": "a dog"}, {**GOOD, "caption": "a hound"})
    assert [clip.caption for clip in read_manifest(path)] == ["a dog", "a hound"]


def test_a_manifest_that_changes_while_it_is_read_is_refused(
    with_sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = manifest_of(with_sound, *[GOOD] * 5)

    def editing(*arguments: Any) -> Iterator[str]:
        yield from read_lines(*arguments)
        path.write_text(path.read_text() + "\n")

    monkeypatch.setattr(manifest_rows, "read_lines", editing)
    with pytest.raises(ManifestError, match=r"was changed while it was read: repeat the command$"):
        read_manifest(path)


def test_one_reading_serves_all(with_sound: Path) -> None:
    rows = [{**GOOD, "split": split, "group": "rex"} for split in ("train", "test")]
    manifest = Manifest.read(manifest_of(with_sound, *rows))
    manifest.path.unlink()
    with pytest.raises(ManifestError, match="are of one group"):
        manifest.check_splits()
    assert manifest.held_out() == ({(with_sound / "a.wav").resolve()}, {"rex"})
    assert manifest.existing("test") == manifest.clips[1:]


def test_very_many_groups_take_little_memory_and_stay_right(
    with_sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that were forgotten come again."""
    monkeypatch.setattr(columns, "MAX_REMEMBERED", 3)
    groups = [f"g{i % 7}" for i in range(50)]
    rows = [
        {"path": f"{i}.wav", "seconds": 1, "group": group, "class": group}
        for i, group in enumerate(groups)
    ]
    clips = Manifest.read(manifest_of(with_sound, *rows)).clips
    assert [clip.group for clip in clips] == [clip.label for clip in clips] == groups
    assert list(clips.names("group")[0]) == groups[:7]
    assert clips.group_codes.tolist() == [i % 7 for i in range(50)]


def test_a_split_of_null_is_train(with_sound: Path) -> None:
    path = manifest_of(with_sound, {**GOOD, "split": None})
    (clip,) = read_manifest(path, "train")
    assert clip.split == "train"
    check_splits(path)
    assert held_out(path) == (set(), set())


def test_one_split_is_read_in_its_order(with_sound: Path) -> None:
    rows = [{**GOOD, "caption": str(i), "split": "ab"[i % 2]} for i in range(6)]
    path = manifest_of(with_sound, *rows)
    assert [clip.caption for clip in read_manifest(path, "a")] == ["0", "2", "4"]
    assert [clip.caption for clip in read_manifest(path, "b")] == ["1", "3", "5"]
    assert total_seconds(read_manifest(path)) == 9


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not a manifest line"),
        ("[1]", "not a manifest line"),
        ("null", "not a manifest line"),
        ('"text"', "not a manifest line"),
        ({"seconds": 1}, "the key 'path' is missing"),
        ({"path": "a.wav"}, "the key 'seconds' is missing"),
        ({"path": "no.wav", "seconds": 1}, "names a missing file: .*no.wav"),
        ({"path": ".", "seconds": 1}, "names a missing file"),
        ({"path": 5, "seconds": 1}, "not a manifest line"),
        ({**GOOD, "seconds": "long"}, "not a manifest line"),
        ({**GOOD, "seconds": None}, "not a manifest line"),
        ({**GOOD, "seconds": 0}, "seconds is 0"),
        ({**GOOD, "seconds": -1}, "seconds is -1"),
        ({**GOOD, "seconds": math.nan}, "seconds is nan"),
        ({**GOOD, "seconds": math.inf}, "seconds is inf"),
        ({**GOOD, "seconds": 1e308}, "seconds is 1e[+]308"),
        ('{"path": "a.wav", "seconds": 1' + "0" * 400 + "}", "seconds is 10"),
        ('{"path": "a.wav", "seconds": 1' + "0" * 5_000 + "}", "not a manifest line"),
        ('{"path":' + "[" * 100_000, "nested deeper"),
        ({**GOOD, "path": "\0"}, "path is not the name of a file"),
        ({**GOOD, "path": "\0", "split": "test"}, "path is not the name of a file"),
        ('{"path": "\\ud800", "seconds": 1, "split": "test"}', "path is not the name of a file"),
        ({**GOOD, "path": "a" * 100_000}, "names a missing file"),
        ({**GOOD, "class": ["x" * 100_000]}, "class is not text"),
        ({**GOOD, "alternatives": ["x", 5] * 10_000}, "alternatives is not a list"),
        ({**GOOD, "caption": 5}, "caption is not text"),
        ({**GOOD, "class": ["dog"]}, "class is not text"),
        ('{"path": "a.wav", "seconds": 1, "class": "\\ud800"}', "not valid text"),
        ({**GOOD, "group": 5}, "group is not text"),
        ({**GOOD, "alternatives": "a hound"}, "alternatives is not a list"),
        ({**GOOD, "alternatives": [1]}, "alternatives is not a list"),
        ({**GOOD, "caption": "dog " * 300}, "1,200 characters, the limit is 1,000"),
        ('{"path": "a.wav", "seconds": 1, "caption": "a \\ud800"}', "not valid text"),
        ({**GOOD, "path": "a" * 300}, "names a missing file|not a manifest line"),
        ({**GOOD, "path": "a\0b"}, "names a missing file|not a manifest line"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(
    row: dict[str, Any] | str, message: str, with_sound: Path
) -> None:
    path = manifest_of(with_sound, GOOD, "", row)
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(path)
    refusal = str(caught.value)
    assert refusal.startswith(f"{path}:3: ")
    assert "\n" not in refusal
    assert len(refusal) <= 1_000
    if "missing file" not in refusal:  # files of other splits need not exist
        for reader in (check_splits, held_out):
            with pytest.raises(ManifestError) as caught:
                reader(path)
            assert str(caught.value) == refusal


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no sounds"),
        (b"\xff\xfe", "cannot be read"),
        (b"\n{" + b" " * 1_000_000, "line 2 has more than 1,000,000 characters"),
    ],
)
def test_an_unusable_manifest_is_refused_in_one_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(str(path))


def test_missing_manifests_and_empty_splits_are_refused(with_sound: Path) -> None:
    for path in (with_sound / "no.jsonl", with_sound):
        with pytest.raises(ManifestError, match="cannot be read as a manifest"):
            read_manifest(path)
    path = manifest_of(with_sound, GOOD)
    with pytest.raises(
        ManifestError, match="holds no sounds of the split 'validation', but 1 of 'train'"
    ):
        read_manifest(path, "validation")
    assert read_manifest(path, "validation", may_be_empty=True) == []


def test_a_folder_is_scanned_with_its_subfolders_in_order(
    five_sounds: Path, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.WAV").write_bytes((five_sounds / "0.wav").read_bytes())
    (tmp_path / "a.wav").write_bytes((five_sounds / "2.wav").read_bytes())
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "deep" / "._b.wav").write_bytes(b"left by macOS")
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "c.wav").write_bytes(b"")
    clips = scan_folder(tmp_path)
    assert [clip.label for clip in clips] == ["a.wav", "deep/b.WAV"]
    assert [clip.seconds for clip in clips] == pytest.approx([1.2, 0.2])
    assert {clip.caption for clip in clips} == {None}


@pytest.mark.skipif(os.name != "posix", reason="file names are text on this system")
def test_names_of_files_may_have_any_bytes(five_sounds: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    (tmp_path / name).write_bytes((five_sounds / "2.wav").read_bytes())
    (clip,) = scan_folder(tmp_path)
    assert clip.label == name
    assert len(read_crop(clip, 0, SHORT, RATE)) == round(0.7 * RATE)
    assert 0 <= share_of(clip.group) < 1


def test_unusable_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not a folder"):
        scan_folder(tmp_path / "no")
    with pytest.raises(ManifestError, match="holds no audio"):
        scan_folder(tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(ManifestError, match=r"broken\.wav: cannot be read as audio") as caught:
        scan_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_media_that_need_ffmpeg_are_listed_and_not_scanned(
    five_sounds: Path, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "film.MP4").touch()
    (tmp_path / ".hidden.mp4").touch()
    (tmp_path / "a.wav").write_bytes((five_sounds / "0.wav").read_bytes())
    assert needing_ffmpeg(tmp_path) == [tmp_path / "deep" / "film.MP4"]
    assert [clip.label for clip in scan_folder(tmp_path)] == ["a.wav"]


def test_a_clip_without_a_class_is_a_family_of_one(tmp_path: Path) -> None:
    """Its path may look like ``family/kind``."""
    (tmp_path / "folder").mkdir()
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / "folder" / name, noise()[None], RATE)
    assert [clip.family for clip in scan_folder(tmp_path)] == ["folder/a.wav", "folder/b.wav"]


def test_a_family_is_the_first_part_of_a_class() -> None:
    assert [clip_of(0, 1, label, "g").family for label in ("animal/dog", "animal", "a/b/c")] == [
        "animal",
        "animal",
        "a",
    ]


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_linked_folders_are_scanned_once(five_sounds: Path, tmp_path: Path) -> None:
    """Pipes, which a reader would wait for, and links to nothing are left out."""
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "circle").symlink_to(tmp_path)
    (tmp_path / "sounds" / "five").symlink_to(five_sounds)
    (tmp_path / "sounds" / "twice.wav").symlink_to(five_sounds / "0.wav")
    (tmp_path / "sounds" / "gone.wav").symlink_to(tmp_path / "gone.wav")
    os.mkfifo(tmp_path / "sounds" / "pipe.wav")
    labels = [clip.label for clip in scan_folder(tmp_path / "sounds")]
    assert labels == [f"five/{i}.wav" for i in range(5)]
