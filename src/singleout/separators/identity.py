"""A separator that returns the mixture: the reference in tests of everything around it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from singleout.config import StrictConfig
from singleout.separators.bounds import SampleRate
from singleout.separators.separator import Separator


class IdentityConfig(StrictConfig):
    """Settings of ``Identity``.

    Args:
        sample_rate: sample rate of the mixtures, Hz.

    Example:
        >>> IdentityConfig(sample_rate=16_000).build(embedding_dim=8).sample_rate
        16000
    """

    type: Literal["identity"] = "identity"
    sample_rate: SampleRate = 32_000

    def build(self, embedding_dim: int) -> Identity:
        """Build the separator. It does not use the embedding."""
        return Identity(self)


class Identity(Separator):
    """Returns the mixture as the target of every query.

    Args:
        config: settings, see ``IdentityConfig``.

    Example:
        >>> import torch
        >>> from singleout.separators import IdentityConfig
        >>> mixture = torch.randn(1, 1, 100)
        >>> torch.equal(IdentityConfig().build(8)(mixture, torch.randn(1, 8)), mixture)
        True
    """

    stride_samples = 1
    context_samples = 0
    output_layers = ()

    def __init__(self, config: IdentityConfig) -> None:
        super().__init__(0, config.sample_rate)

    def encode(self, mixture: Tensor) -> Tensor:
        """Return the mixture."""
        return mixture

    def decode(self, encoded: Tensor, embedding: Tensor) -> Tensor:
        """Return the mixture once for every query."""
        return encoded.repeat(embedding.shape[0] // encoded.shape[0], 1, 1)
