"""What all manipulations are, and what they learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from singleout.condition import Condition
from singleout.config import StrictConfig
from singleout.errors import ConfigError

State = Mapping[str, Tensor]
"""What a manipulation has learnt, by name."""


@dataclass(frozen=True)
class FitEmbeddings:
    """Embeddings to fit on, float32, unit norm.

    Attributes:
        audio: [sounds, dim], of audio.
        text: [captions, dim], of captions; none where nothing is captioned.
        pairs: [captions], which sound each caption is of.
    """

    audio: Tensor
    text: Tensor
    pairs: Tensor


class Manipulation(StrictConfig):
    """Maps embeddings [batch, dim] to embeddings [batch, dim_out]; this one changes nothing."""

    def dim_out(self, dim: int) -> int:
        """Length of its results.

        Raises:
            ConfigError: it cannot take embeddings of length ``dim``.
        """
        return dim

    def fit(self, examples: FitEmbeddings) -> dict[str, Tensor]:
        """What there is to learn: the state that ``map`` will be given.

        Raises:
            ConfigError: the examples lack what it learns from.
        """
        return {}

    def extended(self, state: State, examples: FitEmbeddings) -> State:
        """The state where training goes on with other sounds: as a rule as it was, since the
        separator knows no other."""
        return state

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the state for embeddings of length ``dim``; -1 where any length will do."""
        return {}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        """The deterministic part; ``is_text`` [batch] tells the modality."""
        return embedding

    def corrupt(self, embedding: Tensor, generator: Generator, state: State) -> Tensor:
        """The random part, in training only."""
        return embedding

    def condition(self, embedding: Tensor, is_text: bool, state: State) -> Condition:
        """What stands for each embedding at inference, all of one modality: as a rule its ``map``
        alone."""
        return Condition.single(self.map(embedding, for_all(is_text, embedding), state))


def for_all(is_text: bool | Tensor, embedding: Tensor) -> Tensor:
    """[batch]: of each, where one value may be said for all."""
    if isinstance(is_text, Tensor):
        return is_text
    return torch.full((len(embedding),), is_text, device=embedding.device)


def mean_of(embeddings: Tensor, what: str, who: str) -> Tensor:
    if not len(embeddings):
        raise ConfigError(f"manipulation '{who}': learns from {what}, and there are none")
    return embeddings.mean(0)
