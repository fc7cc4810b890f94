"""Mixtures with their queries, ready for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from singleout.data.embeddings import EmbeddingTable
from singleout.data.manifest import Clip
from singleout.data.plan import MixtureConfig, Planner
from singleout.data.render import render

NUM_QUERIES = 2
"""Each mixture is asked for two of its sounds: the same input with two answers cannot be solved
without listening to the query, and the encoder's half of the work serves both."""


class Example(TypedDict):
    """One mixture; a batch has one more dimension in front.

    Attributes:
        mixture: [1, samples].
        targets: [queries, 1, samples].
        audio: [queries, dim], embeddings of the crops that are the targets.
        text: [queries, dim], of the targets' captions; zeros where there is no caption.
        clips: [queries], index of each target's clip.
    """

    mixture: Tensor
    targets: Tensor
    audio: Tensor
    text: Tensor
    clips: Tensor


class MixtureDataset(Dataset[Example]):
    """Mixtures number ``first``, ``first + 1``, … of an endless epoch.

    Args:
        clips: what to mix.
        config: how to mix.
        sample_rate: Hz.
        table: embeddings of the clips' crops.
        texts: [clips, dim] embeddings of captions, or None.
        seed: of the plans.
        first, length: which mixtures.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        config: MixtureConfig,
        sample_rate: int,
        table: EmbeddingTable,
        texts: Tensor | None,
        seed: int,
        first: int,
        length: int,
    ) -> None:
        self.clips, self.config, self.sample_rate = clips, config, sample_rate
        self.table, self.texts = table, texts
        self.planner = Planner(clips, config, seed)
        self.first, self.length = first, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.length:
            raise IndexError(index)
        spec = self.planner.plan(0, self.first + index)
        rendered = render(spec, self.clips, self.config, self.sample_rate)
        asked = spec.sources[:NUM_QUERIES]
        audio = torch.stack([self.table.of(source.clip, source.crop) for source in asked])
        clips = torch.tensor([source.clip for source in asked])
        return Example(
            mixture=torch.from_numpy(rendered.mixture)[None],
            targets=torch.from_numpy(rendered.sources[:NUM_QUERIES])[:, None],
            audio=audio,
            text=torch.zeros_like(audio) if self.texts is None else self.texts[clips],
            clips=clips,
        )
