"""What all manipulations are, and what they learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor

from singleout.config import StrictConfig
from singleout.errors import ConfigError

State = Mapping[str, Tensor]
"""What a manipulation has learnt, by name."""

Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class Examples:
    """Embeddings to fit on, float32, unit norm.

    Attributes:
        audio: [sounds, dim], of audio.
        text: [captions, dim], of captions; none where nothing is captioned.
        pairs: [captions], which sound each caption is of.
    """

    audio: Tensor
    text: Tensor
    pairs: Tensor


class Members(NamedTuple):
    """What stands for each of some embeddings: the estimates of its members are averaged.

    Attributes:
        embeddings: [batch, members, dim].
        weights: [batch, members], of the average; their sum is 1.
    """

    embeddings: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Members:
        """There, if they are not."""
        return Members(self.embeddings.to(device), self.weights.to(device))


def alone(embeddings: Tensor) -> Members:
    """Each of [batch, dim] stands for itself."""
    return Members(embeddings[:, None], torch.ones_like(embeddings[:, :1]))


class Manipulation(StrictConfig):
    """Maps embeddings [batch, dim] to embeddings [batch, dim_out]; this one changes nothing."""

    def dim_out(self, dim: int) -> int:
        """Length of its results.

        Raises:
            ConfigError: it cannot take embeddings of length ``dim``.
        """
        return dim

    def fit(self, examples: Examples) -> dict[str, Tensor]:
        """What there is to learn: the state that ``map`` will be given.

        Raises:
            ConfigError: the examples lack what it learns from.
        """
        return {}

    def extended(self, state: State, examples: Examples) -> State:
        """The state where training goes on with other sounds: as a rule as it was, since the
        separator knows no other."""
        return state

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the state for embeddings of length ``dim``; -1 where any length will do."""
        return {}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        """The deterministic part; ``is_text`` [batch] tells the modality."""
        return embedding

    def corrupt(
        self, embedding: Tensor, generator: Generator, state: State, others: Tensor | None = None
    ) -> Tensor:
        """The random part, in training only.

        Args:
            embedding: [batch, dim].
            generator: of all that is random.
            state: what has been learnt.
            others: [batch, others, dim], of the other sounds of each one's mixture, zeros where
                there are fewer; None where they are not known.
        """
        return embedding

    def members(self, embedding: Tensor, is_text: bool, state: State) -> Members:
        """What stands for each embedding at inference, all of one modality: as a rule its ``map``
        alone."""
        return alone(self.map(embedding, for_all(is_text, embedding), state))


def for_all(is_text: bool | Tensor, embedding: Tensor) -> Tensor:
    """[batch]: of each, where one value may be said for all."""
    if isinstance(is_text, Tensor):
        return is_text
    return torch.full((len(embedding),), is_text, device=embedding.device)


def mean_of(embeddings: Tensor, what: str, who: str) -> Tensor:
    if not len(embeddings):
        raise ConfigError(f"manipulation '{who}': learns from {what}, and there are none")
    return embeddings.mean(0)
