"""Clips as columns: the same clips, in arrays."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout.data import columns
from singleout.data.clips import Clip, Clips, Member
from singleout.data.columns import COLUMNS, TEXT_COLUMNS, Texts

names = st.sampled_from(["a", "b", "a/b", "x/a/b", "é", "\udce9.wav", "./a", "a//b", "/a", "ab"])
members = st.builds(
    Member,
    names,
    st.integers(0, 2**50),
    st.integers(0, 2**50),
    sample_rate=st.integers(1, 400_000),
    num_samples=st.integers(0, 2**40),
)
some_clips = st.builds(
    Clip,
    path=st.lists(names, min_size=1, max_size=3).map(lambda parts: Path(*parts)),
    seconds=st.floats(0.001, 1e7),
    caption=st.none() | st.text(min_size=1),
    alternatives=st.lists(st.text(min_size=1), max_size=2).map(tuple),
    label=names,
    group=names,
    split=st.sampled_from(["train", "test", "x"]),
    has_class=st.booleans(),
    member=st.none() | members,
)
clip_lists = st.lists(some_clips, max_size=6)


def is_partition(codes: NDArray[Any], values: Sequence[str]) -> bool:
    """Whether codes are equal where values are, and are 0, 1, … without gaps."""
    pairs = set(zip(codes.tolist(), values, strict=True))
    numbers = {code for code, _ in pairs}
    return len(pairs) == len(numbers) == len(set(values)) and numbers == set(range(len(numbers)))


def codes_are_right(clips: Clips) -> bool:
    expected = list(clips)
    return (
        is_partition(clips.label_codes, [clip.label for clip in expected])
        and is_partition(clips.group_codes, [clip.group for clip in expected])
        and is_partition(clips.family_codes, [clip.family for clip in expected])
    )


@given(expected=clip_lists)
def test_columns_hold_the_same_clips(expected: list[Clip]) -> None:
    clips = Clips.of(expected)
    assert clips == expected
    assert expected == list(clips)
    assert Clips.of(clips) is clips
    assert clips.seconds.tolist() == [clip.seconds for clip in expected]
    assert codes_are_right(clips)
    assert Clips(clips.columns) == expected
    again = pickle.loads(pickle.dumps(clips))
    assert again == clips
    assert codes_are_right(again)


@given(expected=clip_lists, data=st.data())
def test_a_selection_has_columns_of_its_own_clips(expected: list[Clip], data: Any) -> None:
    indices = data.draw(st.lists(st.sampled_from(range(len(expected))))) if expected else []
    taken = Clips.of(expected).take(np.array(indices, np.int64))
    expected = [expected[i] for i in indices]
    assert taken == expected
    assert codes_are_right(taken)
    assert taken.seconds.tolist() == [clip.seconds for clip in expected]
    assert Clips(taken.columns) == expected
    assert pickle.loads(pickle.dumps(taken)) == expected
    assert taken[1:] == expected[1:]
    assert taken[::-2] == expected[::-2]
    assert taken[1:][::-1] == expected[1:][::-1]
    assert taken.of_split("test") == [clip for clip in expected if clip.split == "test"]


@given(parts=st.lists(clip_lists, max_size=3))
def test_joined_columns_hold_all_clips(parts: list[list[Clip]]) -> None:
    expected = [clip for part in parts for clip in part]
    joined = Clips.joined([Clips.of(part) for part in parts])
    assert joined == expected
    assert codes_are_right(joined)
    for name in ("label", "group", "split"):
        texts = Texts(*(joined.columns[f"{name}_name.{array}"] for array in ("encoded", "offsets")))
        assert len(set(texts)) == len(texts)
    again = [Clips.of(part)[::-1] for part in parts]
    assert Clips.joined(again) == [clip for part in parts for clip in part[::-1]]


def test_every_column_has_its_arrays() -> None:
    arrays = Clips.of([]).columns
    expected = {name for name in COLUMNS if name not in TEXT_COLUMNS}
    expected |= {f"{name}.{part}" for name in TEXT_COLUMNS for part in ("encoded", "offsets")}
    assert set(arrays) == expected


def test_mapped_columns_are_neither_copied_nor_pickled(tmp_path: Path) -> None:
    clips = Clips.of([Clip(Path(f"{i}.wav"), 1.0, "a", (), "b", "c", "test") for i in range(2_000)])
    mapped = {}
    for name, array in clips.columns.items():
        np.save(tmp_path / f"{name}.npy", array)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    on_disk = Clips(mapped)
    assert on_disk == clips
    assert np.shares_memory(on_disk.seconds, mapped["seconds"])
    assert np.shares_memory(on_disk.columns["path.encoded"], mapped["path.encoded"])
    content = pickle.dumps(on_disk)
    assert len(content) < 5_000 < len(pickle.dumps(clips))
    again = pickle.loads(content)
    assert again == clips
    assert isinstance(again.columns["seconds"], np.memmap)
    assert pickle.loads(pickle.dumps(again[5:])) == clips[5:]


def test_indices_are_those_of_a_list() -> None:
    clips = Clips.of([Clip(Path(name), 1.0, None, (), name, name, "train") for name in "abc"])
    assert (clips[-1].label, clips[1].label) == ("c", "b")
    for index in (3, -4):
        with pytest.raises(IndexError):
            clips[index]
    assert clips != [clips[0]]
    assert clips != "abc"
    assert clips.index(clips[1]) == 1


def test_a_default_class_of_a_relative_path_needs_no_name() -> None:
    clips = Clips.of(
        [Clip(Path("/x/a/b.wav"), 1.0, None, (), "a/b.wav", "a/b.wav", "train", has_class=False)]
    )
    assert clips.columns["label"] == clips.columns["group"] == -1
    assert clips[0].path == Path("/x/a/b.wav")
    assert clips[0].label == "a/b.wav"


@given(texts=st.lists(st.sampled_from(["", "\0", "a", "ab", "\0a", "b" * 40, "é"]), max_size=40))
def test_codes_of_texts(texts: list[str]) -> None:
    column = Texts.of(texts)
    assert list(column) == texts
    first = list(dict.fromkeys(texts))
    assert column.codes().tolist() == [first.index(text) for text in texts]


def test_codes_do_not_trust_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "HASH_BASE", 1)  # hashes are sums
    assert Texts.of(["ad", "bc", "da", "bc"]).codes().tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("name", ["BLOCK_TEXTS", "BLOCK_BYTES"])
def test_blocks_make_no_difference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{i % 7}" * (i % 5) for i in range(30)]
    column = Texts.of(texts)
    whole, order = column.codes(), np.arange(30)[::-1]
    monkeypatch.setattr(columns, name, 4)
    assert column.codes().tolist() == whole.tolist()
    assert list(column) == texts
    assert list(column.take(order)) == texts[::-1]
