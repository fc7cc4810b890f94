"""A separator that returns the mixture: the reference for everything around a separator."""

from __future__ import annotations

from torch import Tensor, nn


class Identity(nn.Module):
    """Target = mixture, whatever is asked."""

    stride_samples = 1
    context_samples = 0
    output_layers = ()

    def __init__(self, sample_rate: int = 32_000) -> None:
        super().__init__()
        self.sample_rate = sample_rate

    def encode(self, mixture: Tensor) -> Tensor:
        return mixture

    def decode(self, encoded: Tensor, embedding: Tensor) -> Tensor:
        return encoded.repeat(embedding.shape[0] // encoded.shape[0], 1, 1)

    def forward(self, mixture: Tensor, embedding: Tensor) -> Tensor:
        return self.decode(self.encode(mixture), embedding)
