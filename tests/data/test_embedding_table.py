"""Tables of embeddings as arrays: in memory, mapped, selected and joined."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from singleout.data.clips import Clips
from singleout.data.embedding_table import EmbeddingTable, crop_offsets
from singleout.data.plan import MixtureConfig, num_crops
from singleout.errors import ModelError
from singleout.storage.tensors import write_safetensors
from tests.data.sounds import clip_of

COUNTS = (2, 1, 0, 3)
"""Crops of each clip."""
OFFSETS = (0, 2, 3, 3, 6)
ROWS = torch.arange(24).reshape(6, 4).half() / 8


def write_table(path: Path, rows: Tensor = ROWS, offsets: Tensor | None = None) -> Path:
    offsets = torch.tensor(OFFSETS) if offsets is None else offsets
    write_safetensors({"embeddings": rows, "offsets": offsets}, path)
    return path


@pytest.fixture
def mapped(tmp_path: Path) -> EmbeddingTable:
    return EmbeddingTable.open(write_table(tmp_path / "table.safetensors"))


def assert_same(table: EmbeddingTable, counts: list[int], rows: Tensor) -> None:
    assert table.counts.tolist() == counts
    assert table.offsets.tolist() == [0, *np.cumsum(counts).tolist()]
    assert torch.equal(table.rows(), rows)
    first = 0
    for clip, count in enumerate(counts):
        assert table.count(clip) == count
        for crop in range(count):
            assert table.of(clip, crop).dtype == torch.float32
            assert torch.equal(table.of(clip, crop), rows[first + crop].float())
        first += count


def test_a_mapped_table_has_the_rows_of_its_file(mapped: EmbeddingTable) -> None:
    assert_same(mapped, [*COUNTS], ROWS)
    assert mapped.dim == 4
    kept = mapped.take(np.array([0, 1, 3]))
    assert torch.equal(kept.first_crops(), ROWS[[0, 2, 3]].float())


def test_a_selection_shares_the_embeddings(mapped: EmbeddingTable) -> None:
    some = mapped.take(np.array([3, 0, 3]))
    assert_same(some, [3, 2, 3], ROWS[[3, 4, 5, 0, 1, 3, 4, 5]])
    assert some.embeddings.data_ptr() == mapped.embeddings.data_ptr()
    assert_same(some.take(np.array([1])), [2], ROWS[:2])


def test_tables_are_joined(mapped: EmbeddingTable) -> None:
    parts = [mapped.take(np.array([3])), mapped.take(np.array([0, 1]))]
    assert_same(EmbeddingTable.joined(parts), [3, 2, 1], ROWS[[3, 4, 5, 0, 1, 2]])
    assert EmbeddingTable.joined([mapped]) is mapped


def test_a_pickle_of_a_mapped_table_has_no_embeddings(tmp_path: Path) -> None:
    rows = torch.randn(1_000, 64).half()
    path = write_table(tmp_path / "table.safetensors", rows, torch.arange(1_001))
    table = EmbeddingTable.open(path).take(np.array([7, 3]))
    pickled = pickle.dumps(table)
    assert len(pickled) < 1_000
    assert_same(pickle.loads(pickled), [1, 1], rows[[7, 3]])
    in_memory = EmbeddingTable(ROWS, OFFSETS)
    assert_same(pickle.loads(pickle.dumps(in_memory)), [*COUNTS], ROWS)


def assert_in_memory(table: EmbeddingTable) -> None:
    assert_same(table, [*COUNTS], ROWS)


@pytest.mark.slow
def test_a_spawned_process_gets_a_table_in_memory() -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=assert_in_memory, args=(EmbeddingTable(ROWS, OFFSETS),))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_digest_tells_tables_apart() -> None:
    table = EmbeddingTable(torch.randn(6, 4), (0, 2, 3, 6))
    same = EmbeddingTable(table.embeddings.clone(), table.offsets)
    assert table.digest() == same.digest()
    assert table.digest() != EmbeddingTable(-table.embeddings, table.offsets).digest()
    assert table.digest() != EmbeddingTable(table.embeddings, (0, 1, 3, 6)).digest()


@pytest.mark.parametrize(
    ("rows", "offsets"),
    [
        (ROWS, torch.tensor([0, 2, 5])),
        (ROWS, torch.tensor([1, 6])),
        (ROWS, torch.tensor([0, 4, 3, 6])),
        (ROWS, torch.tensor(OFFSETS, dtype=torch.int32)),
        (ROWS, torch.zeros(0, dtype=torch.int64)),
        (ROWS.int(), torch.tensor(OFFSETS)),
        (ROWS[0], torch.tensor([0, 4])),
    ],
)
def test_what_is_no_table_is_refused(rows: Tensor, offsets: Tensor, tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.safetensors", rows, offsets)
    with pytest.raises(ModelError, match="are no table: make the file again") as caught:
        EmbeddingTable.open(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    other = tmp_path / "other.safetensors"
    write_safetensors({"mean": ROWS}, other)
    for place in (path, other, tmp_path / "missing", tmp_path):
        with pytest.raises(ModelError, match="cannot be read as a table") as caught:
            EmbeddingTable.open(place)
        assert str(caught.value).startswith(f"{place}: ")
        assert "\n" not in str(caught.value)


@given(
    seconds=st.lists(st.floats(0.01, 4_000) | st.integers(1, 40).map(lambda n: n / 4), max_size=9),
    segment=st.sampled_from([0.5, 1.0, 3.0, 4.0]),
    share=st.sampled_from([0.25, 1 / 3, 0.5, 1.0]),
)
def test_crops_are_counted_as_they_are_planned(
    seconds: list[float], segment: float, share: float
) -> None:
    config = MixtureConfig(segment_seconds=segment, crop_hop_seconds=share * segment)
    clips = [clip_of(i, length) for i, length in enumerate(seconds)]
    expected = np.cumsum([0, *(num_crops(clip, config) for clip in clips)])
    assert crop_offsets(clips, config).tolist() == expected.tolist()
    assert crop_offsets(Clips.of(clips), config).tolist() == expected.tolist()
