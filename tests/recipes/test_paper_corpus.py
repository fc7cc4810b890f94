"""The sounds of the small study and their splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.paper import corpus
from singleout.data.manifest import share_of
from singleout.train.config import UncaptionedConfig
from singleout.train.run import uncaptioned_clips


def write_sound(path: Path, number: int) -> None:
    """A tenth of a second of noise at 32 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng([number]).normal(0, 0.1, 3_200), 32_000)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


PACKAGES = tuple("abcdef")


def sound_row(package: str, group: str, split: str, number: int) -> dict[str, Any]:
    return {
        "path": f"{package}/{number}.flac",
        "seconds": 0.5,
        "caption": f"sound {number}",
        "alternatives": ["another caption"],
        "class": f"kind/{number % 3}",
        "group": group,
        "split": split,
        "license": "CC0-1.0",
        "origin": {"package": package},
    }


def many_rows() -> list[dict[str, Any]]:
    """Of six packages, recordings of two sounds; one recording in six lies in two packages."""
    rows = []
    for number in range(400):
        group = f"g{number // 2}"
        package = PACKAGES[(number // 2 + (number % 12 == 0)) % 4]
        rows.append(sound_row(package, group, "train", number))
    for number in range(400, 440):
        package, split = PACKAGES[4 + number % 2], ("validation", "test")[number % 2]
        rows.append(sound_row(package, f"g{number}", split, number))
    return rows


def test_splits_share_no_recording_and_the_encoder_no_package() -> None:
    rows = many_rows()
    splits = corpus.new_splits(rows)
    assert set(splits) == {
        *("encoder", "train", "validation", "test_in_domain", "test_out_of_domain")
    }
    of_group: dict[str, set[str]] = {}
    for row, split in zip(rows, splits, strict=True):
        of_group.setdefault(row["group"], set()).add(split)
    assert all(len(group) == 1 for group in of_group.values())
    packages = corpus.encoder_packages(rows)
    assert packages
    for row, split in zip(rows, splits, strict=True):
        if corpus.package_of(row) in packages:
            assert split == "encoder"
        if row["split"] == "test":
            assert split == "test_out_of_domain"
    clips = [row for row in rows if row["split"] == "train"]
    encoder_clips = sum(corpus.package_of(row) in packages for row in clips)
    assert encoder_clips <= corpus.ENCODER_SHARE * len(clips)


@given(st.permutations(many_rows()[::4]))
@settings(max_examples=10, deadline=None)
def test_splits_do_not_depend_on_the_order_of_the_rows(rows: list[dict[str, Any]]) -> None:
    def splits(rows: list[dict[str, Any]]) -> dict[str, str]:
        return dict(zip((row["path"] for row in rows), corpus.new_splits(rows), strict=True))

    assert splits(rows) == splits(many_rows()[::4])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(PACKAGES),
            st.integers(0, 300),
            st.sampled_from(["train", "validation", "test"]),
        ),
        max_size=60,
    )
)
@settings(max_examples=30, deadline=None)
def test_more_rows_move_no_recording_between_training_and_its_tests(
    more: list[tuple[str, int, str]],
) -> None:
    """The packages of the encoder may change. A recording that is the extractor's before and after
    keeps its split."""
    rows = many_rows()
    added = [
        sound_row(package, f"new{group}", split, 1_000 + i)
        for i, (package, group, split) in enumerate(more)
    ]
    before, after = corpus.new_splits(rows), corpus.new_splits(rows + added)
    for one, other in zip(before, after, strict=False):
        assert one == other or "encoder" in (one, other)


@given(st.text(max_size=20), st.text(max_size=20))
def test_shares_are_in_range(one: str, other: str) -> None:
    assert 0 <= share_of(one, other) < 1


def test_shares_are_the_same_on_any_machine() -> None:
    assert share_of("held out", "g0") == 0.0941390713970718


def test_held_out_recordings_have_their_shares() -> None:
    drawn = [corpus.held_out(f"group {i}") for i in range(4_000)]
    for split, share in corpus.HELD_OUT_SHARES.items():
        assert drawn.count(split) / len(drawn) == pytest.approx(share, abs=0.02)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 32 kHz sounds, as ``make sounds`` leaves it."""
    folder = tmp_path_factory.mktemp("debian")
    rows: list[dict[str, Any]] = []
    for row in many_rows()[:48] + many_rows()[-4:]:
        write_sound(folder / row["path"], len(rows))
        rows.append({**row, "seconds": 0.1})
    write_lines(folder / "manifest.jsonl", rows)
    return folder / "manifest.jsonl"


def test_only_captioned_sounds_keep_their_captions(sounds: Path, tmp_path: Path) -> None:
    manifest = corpus.prepare(sounds, tmp_path, jobs=1)
    rows = {row["path"]: row for row in read_rows(manifest)}
    captioned, uncaptioned = (
        read_rows(tmp_path / f"{name}.jsonl") for name in ("captioned", "uncaptioned")
    )
    for row in uncaptioned:
        assert not row.keys() & {"caption", "alternatives", "class"}
        assert row["license"] == "CC0-1.0"
    assert all(row == rows[row["path"]] for row in captioned)
    assert {row["split"] for row in captioned} <= {"train", "validation"}
    train = {path for path, row in rows.items() if row["split"] == "train"}
    with_captions = {row["path"] for row in captioned if row["split"] == "train"}
    without = {row["path"] for row in uncaptioned}
    assert with_captions | without == train
    assert not with_captions & without
    assert not {rows[p]["group"] for p in with_captions} & {rows[p]["group"] for p in without}
    for row in rows.values():
        info = soundfile.info(tmp_path / row["path"])
        assert (info.samplerate, info.frames) == (16_000, 1_600)


def test_an_interrupted_conversion_continues(sounds: Path, tmp_path: Path) -> None:
    def stamps() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}

    corpus.prepare(sounds, tmp_path, jobs=1)
    before = stamps()
    lost = sorted(before)[3]
    content = Path(lost).read_bytes()
    Path(lost).unlink()
    corpus.prepare(sounds, tmp_path, jobs=1)
    after = stamps()
    assert before.keys() == after.keys()
    assert [path for path in before if before[path] != after[path]] == [lost]
    assert Path(lost).read_bytes() == content
    assert not list(tmp_path.rglob("*.partial"))


def test_a_larger_share_of_the_uncaptioned_holds_every_smaller_one(
    sounds: Path, tmp_path: Path
) -> None:
    corpus.prepare(sounds, tmp_path, jobs=1)
    manifest = tmp_path / "uncaptioned.jsonl"
    shares = [
        {clip.path for clip in uncaptioned_clips(UncaptionedConfig(manifest=manifest, share=share))}
        for share in (0.25, 0.5, 1.0)
    ]
    assert shares[0] < shares[1] < shares[2]
    assert len(shares[2]) == len(read_rows(manifest))
