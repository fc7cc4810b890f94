"""Data sets whose embeddings tell what they stand for, and examples of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from singleout.data.clips import Clip
from singleout.data.dataset import MixtureDataset, TrainingExample
from singleout.data.embeddings import EmbeddingTable, build_table
from singleout.data.plan import MixtureConfig
from singleout.data.query_plan import QueriesConfig
from tests.data.sounds import RATE, SHORT

ALL_KINDS = QueriesConfig(absent_share=0.3, removal_share=0.25, contrast_share=0.25)
SIDES = (
    ("audio_embedding", "has_positive"),
    ("text_embedding", "has_text"),
    ("negative_audio_embedding", "has_negative"),
    ("negative_text_embedding", "has_negative_text"),
)
SEED = 5


def coded_row(clip: int, number: int, num_clips: int) -> Tensor:
    """An embedding that tells its clip and a number. Rows of different clips are not alike."""
    row = torch.zeros(num_clips + 1)
    row[clip], row[-1] = 1.0, 0.01 * number
    return row


def coded_table(clips: Sequence[Clip]) -> EmbeddingTable:
    """Each embedding tells its clip and its crop."""
    return build_table(clips, SHORT, lambda clip, crop: coded_row(clip, crop, len(clips)))


def coded_captions(counts: Sequence[int]) -> EmbeddingTable:
    """Captions of each clip, whose embeddings tell their clip and their number from 1."""
    rows = [
        coded_row(clip, number + 1, len(counts))
        for clip, count in enumerate(counts)
        for number in range(count)
    ]
    return EmbeddingTable(torch.stack(rows), tuple(np.cumsum([0, *counts]).tolist()))


def decoded(embeddings: Tensor, mask: Tensor) -> list[tuple[int, int] | None]:
    """Clip and number of each row; None where the mask is False, and the row then is zeros."""
    assert mask.dtype == torch.bool
    assert not embeddings[~mask].any()
    return [
        (int(row[:-1].argmax()), round(float(row[-1]) * 100)) if has_row else None
        for row, has_row in zip(embeddings, mask.tolist(), strict=True)
    ]


def sides_of(example: TrainingExample) -> list[list[tuple[int, int] | None]]:
    """Sounds, captions, negative sounds and negative captions of the queries of an example."""
    return [decoded(example[name], example[mask]) for name, mask in SIDES]  # type: ignore[literal-required]


def dataset_of(
    clips: Sequence[Clip],
    first: int = 0,
    length: int = 4,
    captions: EmbeddingTable | None = None,
    config: MixtureConfig = SHORT,
    table: EmbeddingTable | None = None,
    rate: int = RATE,
    **options: Any,
) -> MixtureDataset:
    table = coded_table(clips) if table is None else table
    return MixtureDataset(clips, config, rate, table, captions, SEED, first, length, **options)


def examples_of(
    clips: list[Clip], first: int = 0, length: int = 4, *args: Any, **options: Any
) -> list[TrainingExample]:
    """All examples of a ``dataset_of`` these arguments."""
    dataset = dataset_of(clips, first, length, *args, **options)
    return [dataset[i] for i in range(length)]


def assert_equal(one: TrainingExample, other: TrainingExample, *keys: str) -> None:
    assert one.keys() == other.keys()
    for key in keys or one.keys():
        assert torch.equal(one[key], other[key]), key  # type: ignore[literal-required]
