"""What every separator offers to training, evaluation and extraction."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

CANCELLED = 1e-3
"""Channels whose sum is this far below their level cancel each other: its phase is rounding."""


class Separator(Protocol):
    """A mixture and a query embedding to the target.

    ``encode`` does what does not depend on the query, once for several queries; ``decode`` the
    rest. ``forward(mixture, embedding)`` is ``decode(encode(mixture), embedding)``.

    The channels of a mixture share one mask, so that a target stays where it was between them.

    Attributes:
        sample_rate: Hz.
        stride_samples: a chunk that starts at a multiple of it sees the same frames as the whole.
        context_samples: how far an output sample may look to either side.
        output_layers: the last, which make masks of features.
    """

    sample_rate: int

    @property
    def stride_samples(self) -> int: ...

    @property
    def context_samples(self) -> int: ...

    @property
    def output_layers(self) -> tuple[nn.Module, ...]: ...

    def encode(self, mixture: Tensor) -> Any:
        """Mixture [batch, channels, samples] to whatever ``decode`` takes."""

    def decode(self, encoded: Any, embedding: Tensor) -> Tensor:
        """Embedding [queries * batch, dim] to targets [queries * batch, channels, samples].

        The first query of every mixture comes first, then the second of every mixture, and so on.
        """

    def __call__(self, mixture: Tensor, embedding: Tensor) -> Tensor:
        """Mixture [batch, channels, samples], embedding [queries * batch, dim] to the targets."""


def averaged(separator: Separator, encoded: Any, members: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of what a separator answers to every member of a query.

    Args:
        separator: in evaluation mode.
        encoded: by it.
        members: embeddings [queries * batch, members, dim], decoded one after the other, in the
            memory of one.
        weights: [queries * batch, members].

    Returns:
        [queries * batch, channels, samples].
    """
    answers = (
        weight[:, None, None] * separator.decode(encoded, member)
        for member, weight in zip(members.unbind(1), weights.unbind(1), strict=True)
    )
    total = next(answers)
    for answer in answers:
        total = total + answer
    return total


def downmix(spectrum: Tensor) -> Tensor:
    """What a network hears of several channels: [batch, channels, bins, frames] to [batch, …].

    Magnitude: root mean square over the channels, so that nothing cancels (a singer with inverted
    polarity on one side is as loud as without). Phase: that of the sum, or, where the channels
    cancel, of the loudest. One channel is heard as it is.
    """
    if spectrum.shape[1] == 1:
        return spectrum[:, 0]
    magnitude = spectrum.abs()
    level = magnitude.square().mean(1).sqrt()
    total = spectrum.sum(1)
    loudest = spectrum.gather(1, magnitude.argmax(1, keepdim=True))[:, 0]
    direction = torch.where(total.abs() > CANCELLED * level, total, loudest)
    return level * (direction / direction.abs().clamp_min(torch.finfo(level.dtype).tiny))
