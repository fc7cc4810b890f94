"""``Separator``: the interface of all networks to training, evaluation and extraction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from singleout.condition import Condition

CANCELLED = 1e-3
"""Channels cancel each other if their sum is below this fraction of their level.

The phase of such a sum is a rounding error."""


class Separator(nn.Module, ABC):
    """Estimates the target in a mixture from an embedding of the query.

    A new separator implements ``encode``, ``decode``, ``stride_samples``, ``context_samples`` and
    ``output_layers``. All other methods follow from these. The channels of a mixture share one
    mask, so that a target keeps its place in the stereo image.

    Args:
        embedding_dim: length of the query embedding; 0 if it is not used.
        sample_rate: sample rate of the mixtures, Hz.

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
        """Chunks start at multiples of this: their frames are then those of the recording."""

    @property
    @abstractmethod
    def context_samples(self) -> int:
        """How many samples before and after it an output sample may depend on."""

    @property
    @abstractmethod
    def output_layers(self) -> tuple[nn.Module, ...]:
        """The last layers, which turn features into masks."""

    @abstractmethod
    def encode(self, mixture: Tensor) -> Any:
        """Compute all that does not depend on the query, once for all queries.

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
        """Estimate the target in a mixture from a query embedding.

        Args:
            mixture: float32 [batch, channels, samples].
            embedding: float32 [queries * batch, dim], see ``decode``.

        Returns:
            Targets, [queries * batch, channels, samples].
        """
        return self.decode(self.encode(mixture), embedding)

    def estimate(self, encoded: Any, condition: Condition) -> Tensor:
        """Estimate the targets of all parts of a condition, and average them by their weights.

        The parts are decoded one after the other, so that they need the memory of one part.

        Args:
            encoded: the result of ``encode``.
            condition: a condition of queries * batch rows.

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
    """Mix the spectra of several channels into one spectrum.

    The magnitude is the root mean square over the channels. So a voice whose polarity is inverted
    in one channel is as loud as any other. The phase is the phase of the sum of the channels. Where
    the channels cancel each other, it is the phase of the loudest channel. The spectrum of a single
    channel is unchanged.

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
