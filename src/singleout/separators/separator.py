"""``Separator``: what every network offers to training, evaluation and extraction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from singleout.condition import Condition

CANCELLED = 1e-3
"""Channels whose sum is this far below their level cancel each other: its phase is rounding."""


class Separator(nn.Module, ABC):
    """Estimates the target in a mixture from an embedding of the query.

    A new separator implements ``encode``, ``decode``, ``stride_samples``, ``context_samples`` and
    ``output_layers``. All other methods follow from these. The channels of a mixture share one
    mask, so that a target stays where it was between them.

    Args:
        embedding_dim: length of the query embedding; 0 if it is not used.
        sample_rate: of the mixtures, Hz.

    Example:
        >>> import torch
        >>> from singleout.separators import ConditionedUNetConfig
        >>> separator = ConditionedUNetConfig(channels=(8, 8), time_strides=(2,)).build(16).eval()
        >>> mixture = torch.randn(1, 2, 32_000)  # one second of stereo
        >>> with torch.inference_mode():
        ...     separator(mixture, torch.randn(1, 16)).shape
        torch.Size([1, 2, 32000])
    """

    def __init__(self, embedding_dim: int, sample_rate: int) -> None:
        super().__init__()
        self.embedding_dim, self.sample_rate = embedding_dim, sample_rate

    @property
    @abstractmethod
    def stride_samples(self) -> int:
        """A chunk that starts at a multiple of this has the same frames as the whole."""

    @property
    @abstractmethod
    def context_samples(self) -> int:
        """Samples to either side that an output sample may depend on."""

    @property
    @abstractmethod
    def output_layers(self) -> tuple[nn.Module, ...]:
        """The last layers, which turn features into masks."""

    @abstractmethod
    def encode(self, mixture: Tensor) -> Any:
        """Compute what does not depend on the query, once for all queries.

        Args:
            mixture: float32 [batch, channels, samples].

        Returns:
            The input of ``decode``.
        """

    @abstractmethod
    def decode(self, encoded: Any, embedding: Tensor) -> Tensor:
        """Estimate the targets in an encoded mixture.

        Args:
            encoded: the result of ``encode``.
            embedding: float32 [queries * batch, dim]: the first query of every mixture, then the
                second of every mixture, and so on.

        Returns:
            Targets, [queries * batch, channels, samples].
        """

    def forward(self, mixture: Tensor, embedding: Tensor) -> Tensor:
        """``decode(encode(mixture), embedding)``."""
        return self.decode(self.encode(mixture), embedding)

    def estimate(self, encoded: Any, condition: Condition) -> Tensor:
        """The weighted mean of the targets of all parts of a condition.

        Parts are decoded one after the other, in the memory of one.

        Args:
            encoded: the result of ``encode``.
            condition: of queries * batch.

        Returns:
            Targets, [queries * batch, channels, samples].
        """
        parts, weights = condition.embeddings.unbind(1), condition.weights.unbind(1)
        if len(parts) == 1:  # of weight 1
            return self.decode(encoded, parts[0])
        estimates = (
            weight[:, None, None] * self.decode(encoded, part)
            for part, weight in zip(parts, weights, strict=True)
        )
        total = next(estimates)
        for estimate in estimates:
            total = total + estimate
        return total


def downmix(spectrum: Tensor) -> Tensor:
    """The spectrum of one channel from the spectra of several channels.

    Magnitude: root mean square over the channels, so that nothing cancels (a singer with inverted
    polarity on one side is as loud as without). Phase: that of the sum of the channels, or that of
    the loudest channel where the channels cancel. A single channel is unchanged.

    Args:
        spectrum: complex64 [batch, channels, bins, frames].

    Returns:
        complex64 [batch, bins, frames].

    Example:
        >>> import torch
        >>> downmix(torch.ones(1, 2, 3, 4, dtype=torch.complex64)).shape
        torch.Size([1, 3, 4])
    """
    if spectrum.shape[1] == 1:
        return spectrum[:, 0]
    magnitude = spectrum.abs()
    level = magnitude.square().mean(1).sqrt()
    total = spectrum.sum(1)
    loudest = spectrum.gather(1, magnitude.argmax(1, keepdim=True))[:, 0]
    direction = torch.where(total.abs() > CANCELLED * level, total, loudest)
    return level * (direction / direction.abs().clamp_min(torch.finfo(level.dtype).tiny))
