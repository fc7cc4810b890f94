"""The interface of all manipulations, and the embeddings that they learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from singleout.condition import Condition
from singleout.config import StrictConfig
from singleout.errors import ConfigError
from singleout.manipulations.draws import RowDraws

State = Mapping[str, Tensor]
"""Tensors that a manipulation has learned, by name."""


@dataclass(frozen=True, eq=False)
class FitEmbeddings:
    """Embeddings that manipulations learn from: float32, unit norm.

    Attributes:
        audio: [sounds, dim], embeddings of sounds.
        text: [captions, dim], embeddings of captions; empty if no sound has a caption.
        pairs: int64 [captions], the row in ``audio`` of the sound that each caption describes.

    Example:
        >>> import torch
        >>> audio, text = torch.eye(4), torch.eye(4)[:2]
        >>> examples = FitEmbeddings(audio, text, pairs=torch.tensor([0, 3]))
        >>> examples.audio[examples.pairs]  # the sound of each caption
        tensor([[1., 0., 0., 0.],
                [0., 0., 0., 1.]])
    """

    audio: Tensor
    text: Tensor
    pairs: Tensor


class OtherSounds(NamedTuple):
    """The other sounds of each query's mixture: every source but the one that the query names.

    Attributes:
        embeddings: float32 [batch, others, dim].
        mask: bool [batch, others]; False where a mixture has fewer sounds. There the embedding has
            no meaning.

    Example:
        >>> import torch
        >>> others = OtherSounds(torch.eye(3)[None], torch.tensor([[True, True, False]]))
        >>> others.embeddings[others.mask]
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
    """

    embeddings: Tensor
    mask: Tensor


class Manipulation(StrictConfig):
    """Maps embeddings [batch, dim] to embeddings [batch, dim_out]. This base changes nothing.

    A new manipulation overrides what differs and is named in ``chain.AnyManipulation``.

    Example:
        >>> import torch
        >>> class Flip(Manipulation):
        ...     def map(self, embedding, is_text, state):
        ...         return embedding.flip(-1)
        >>> Flip().map(torch.tensor([[1.0, 2.0]]), torch.tensor([False]), {})
        tensor([[2., 1.]])
    """

    def dim_out(self, dim: int) -> int:
        """Length of the results for embeddings of length ``dim``.

        Raises:
            ConfigError: the manipulation cannot take embeddings of this length.
        """
        return dim

    def fit(self, examples: FitEmbeddings) -> dict[str, Tensor]:
        """Learn from examples.

        Returns:
            The state that ``map``, ``corrupt`` and ``condition`` get; empty if there is nothing
            to learn.

        Raises:
            ConfigError: the examples lack what the manipulation learns from.
        """
        return {}

    def extended(self, state: State, examples: FitEmbeddings) -> State:
        """The state with which training continues on other sounds.

        By default it is the old state, because the separator was trained on it.
        """
        return state

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the state's tensors for embeddings of length ``dim``; -1 is any length."""
        return {}

    def map(self, embedding: Tensor, is_text: Tensor, state: State) -> Tensor:
        """The deterministic part, in training and at inference.

        Args:
            embedding: float32 [batch, dim].
            is_text: bool [batch], the modality of each embedding.
            state: the result of ``fit``.

        Returns:
            float32 [batch, dim_out].
        """
        return embedding

    def corrupt(
        self,
        embedding: Tensor,
        draws: RowDraws,
        state: State,
        others: OtherSounds | None = None,
    ) -> Tensor:
        """The random part, in training only.

        Args:
            embedding: float32 [batch, dim_out], the result of ``map``.
            draws: source of all random numbers, one row per embedding.
            state: the result of ``fit``.
            others: the other sounds of each mixture, mapped as well; None where they are unknown.

        Returns:
            float32 [batch, dim_out].
        """
        return embedding

    def condition(self, embedding: Tensor, is_text: bool, state: State) -> Condition:
        """The parts that stand for each embedding at inference; by default one, its ``map``.

        Args:
            embedding: float32 [batch, dim].
            is_text: the modality of all embeddings.
            state: the result of ``fit``.
        """
        return Condition.single(self.map(embedding, for_all(is_text, embedding), state))


def for_all(is_text: bool | Tensor, embedding: Tensor) -> Tensor:
    """The modality of each embedding, bool [batch]; one value is repeated for the batch.

    Example:
        >>> import torch
        >>> for_all(True, torch.randn(3, 8))
        tensor([True, True, True])
    """
    if isinstance(is_text, Tensor):
        return is_text
    return torch.full((len(embedding),), is_text, device=embedding.device)


def mean_of(embeddings: Tensor, kind: str, manipulation: str) -> Tensor:
    """The mean embedding, float32 [dim].

    Args:
        embeddings: float32 [rows, dim].
        kind: what the rows are, for the message.
        manipulation: type of the manipulation that learns from them, for the message.

    Raises:
        ConfigError: there are no rows.

    Example:
        >>> import torch
        >>> mean_of(torch.eye(2), "sounds", "mean_shift")
        tensor([0.5000, 0.5000])
    """
    if not len(embeddings):
        raise ConfigError(f"manipulation '{manipulation}': learns from {kind}, and there are none")
    return embeddings.mean(0)
