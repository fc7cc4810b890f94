"""A small TF-Locoformer: attention along frequency and along time, with local convolutions.

It follows "TF-Locoformer: Transformer with local modeling by convolution for speech separation and
enhancement" (Saijo et al., 2024). Each block models frequency, then time. For each axis it has a
convolutional SwiGLU, self-attention and another convolutional SwiGLU, with RMS norm before each.

Ours differs from it, to process long recordings on CPUs. Neighbouring bins are folded into
channels. Attention over time works in windows that start at multiples of the stride. So the
context is bounded, and chunks have the same result as the whole recording. The query enters by FiLM
in all blocks but the first ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.config import StrictConfig
from singleout.separators.bounds import (
    Count,
    FrameLength,
    NumBlocks,
    SampleRate,
    Width,
    check_frames,
)
from singleout.separators.separator import Separator, downmix
from singleout.separators.stft import MixtureStft, compressed, for_each_query

KERNEL = 3
"""Size of the convolutions along their axis."""
Axis = Literal["frequency", "time"]
"""The axis along which a layer works."""


class RmsNorm(nn.Module):
    """RMS norm over the channels of [batch, channels, bins, frames] (Zhang and Sennrich, 2019).

    Args:
        channels: width of the features.

    Example:
        >>> import torch
        >>> RmsNorm(4)(torch.full((1, 4, 1, 1), 3.0)).flatten()
        tensor([1.0000, 1.0000, 1.0000, 1.0000], grad_fn=<ViewBackward0>)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x.permute(0, 2, 3, 1).float(), (x.shape[1],), self.gain, 1e-5)
        return y.permute(0, 3, 1, 2).to(x.dtype)


class ConvSwiGlu(nn.Module):
    """Feed-forward network whose layers are convolutions along one axis.

    Args:
        channels: width of the features.
        hidden: width inside the network.
        axis: axis of the convolutions.

    Example:
        >>> import torch
        >>> ConvSwiGlu(8, hidden=12, axis="time")(torch.randn(1, 8, 4, 6)).shape
        torch.Size([1, 8, 4, 6])
    """

    def __init__(self, channels: int, hidden: int, axis: Axis) -> None:
        super().__init__()
        kernel, padding = ((KERNEL, 1), (1, 0)) if axis == "frequency" else ((1, KERNEL), (0, 1))
        self.norm = RmsNorm(channels)
        self.conv1 = nn.Conv2d(channels, 2 * hidden, kernel, padding=padding)
        self.conv2 = nn.Conv2d(hidden, channels, kernel, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.conv1(self.norm(x)).chunk(2, 1)
        return x + self.conv2(F.silu(gate) * value)  # type: ignore[no-any-return]


class AxisAttention(nn.Module):
    """Self-attention along frequency, or along time within windows.

    Args:
        channels: width of the features.
        heads: number of attention heads.
        length: number of bins, or number of frames in a window.
        axis: axis of the attention.

    Example:
        >>> import torch
        >>> attention = AxisAttention(8, heads=2, length=3, axis="time")
        >>> attention(torch.randn(1, 8, 4, 6)).shape  # two windows of 3 frames
        torch.Size([1, 8, 4, 6])
    """

    def __init__(self, channels: int, heads: int, length: int, axis: Axis) -> None:
        super().__init__()
        self.axis, self.heads, self.length = axis, heads, length
        self.norm = RmsNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        # Not randn, which imports torch._dynamo on the meta device: that takes seconds.
        self.place = nn.Parameter(torch.empty(length, 2, channels).normal_() * 0.02)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.axis == "frequency":
            y = y.permute(0, 3, 2, 1)  # [batch, frames, bins, channels]
        else:
            y = y.permute(0, 2, 3, 1)  # [batch, bins, frames, channels]
            y = y.reshape(*y.shape[:2], -1, self.length, y.shape[3])
        shape = y.shape
        rows = y.reshape(-1, self.length, shape[-1])
        query, key, value = self.qkv(rows).chunk(3, -1)
        query, key = query + self.place[:, 0].to(y.dtype), key + self.place[:, 1].to(y.dtype)
        heads = (len(rows), self.length, self.heads, -1)
        split = [t.reshape(heads).transpose(1, 2) for t in (query, key, value)]
        z = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        z = self.out(z).view(shape)
        z = (
            z.permute(0, 3, 2, 1)
            if self.axis == "frequency"
            else z.flatten(2, 3).permute(0, 3, 1, 2)
        )
        return x + z.contiguous(memory_format=torch.channels_last)  # type: ignore[no-any-return]


class LocoformerBlock(nn.Module):
    """Models frequency, then time. The query scales and shifts the input.

    Args:
        channels: width of the features.
        hidden: width inside the feed-forward networks.
        heads: number of attention heads.
        bins: number of positions along frequency.
        window: number of frames in a window of attention.
        query_dim: width of the query; None for a block without the query.

    Example:
        >>> import torch
        >>> block = LocoformerBlock(8, hidden=12, heads=2, bins=4, window=3, query_dim=5)
        >>> block(torch.randn(1, 8, 4, 6), torch.randn(1, 5)).shape
        torch.Size([1, 8, 4, 6])
    """

    def __init__(
        self, channels: int, hidden: int, heads: int, bins: int, window: int, query_dim: int | None
    ) -> None:
        super().__init__()
        self.film = nn.Linear(query_dim, 2 * channels) if query_dim else None
        layers: list[nn.Module] = []
        axes: tuple[tuple[Axis, int], ...] = (("frequency", bins), ("time", window))
        for axis, length in axes:
            layers.append(ConvSwiGlu(channels, hidden, axis))
            layers.append(AxisAttention(channels, heads, length, axis))
            layers.append(ConvSwiGlu(channels, hidden, axis))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        if self.film is not None:
            scale, shift = self.film(query)[:, :, None, None].to(x.dtype).chunk(2, 1)
            x = x * (1 + scale) + shift
        return self.layers(x)  # type: ignore[no-any-return]


@dataclass
class EncodedGrid:
    """An encoded mixture: all that the network computes without the query.

    Attributes:
        spectrum: complex64 [batch, channels, bins, frames].
        features: float32 [batch, width, bins / fold, frames].
        num_samples: length of the mixture.

    Example:
        >>> import torch
        >>> config = LocoformerConfig(channels=8, hidden=8, heads=2, num_blocks=2, window=4)
        >>> config.build(16).encode(torch.randn(1, 2, 8_000)).features.shape
        torch.Size([1, 8, 64, 12])
    """

    spectrum: Tensor
    features: Tensor
    num_samples: int


class LocoformerConfig(StrictConfig):
    """Sizes of ``Locoformer``.

    Args:
        sample_rate: Hz.
        num_fft, hop: frame length and hop of the STFT, in samples.
        fold: number of neighbouring bins that share one position of the network.
        channels: width of each position.
        hidden: width inside the feed-forward networks.
        heads: number of attention heads.
        num_blocks: number of blocks.
        free_blocks: number of blocks, from the first, that do not depend on the query.
        window: number of frames in a window of attention.
        query_dim: width of the query inside the network.

    Example:
        >>> config = LocoformerConfig(channels=8, hidden=8, heads=2, num_blocks=2, window=4)
        >>> config.build(embedding_dim=16).stride_samples
        4096
    """

    type: Literal["locoformer"] = "locoformer"
    sample_rate: SampleRate = 32_000
    num_fft: FrameLength = 2_048
    hop: FrameLength = 1_024
    fold: Count = 16
    channels: Width = 96
    hidden: Width = 128
    heads: Width = 4
    num_blocks: NumBlocks = 4
    free_blocks: Annotated[int, Field(ge=0)] = 1
    window: Count = 32
    query_dim: Width = 256

    @model_validator(mode="after")
    def _fits(self) -> LocoformerConfig:
        check_frames(self.num_fft, self.hop)
        if (self.num_fft // 2) % self.fold:
            raise ValueError("num_fft / 2 must be divisible by fold")
        if self.channels % self.heads:
            raise ValueError("channels must be divisible by heads")
        if self.free_blocks >= self.num_blocks:
            raise ValueError("free_blocks leaves no block for the query")
        return self

    def build(self, embedding_dim: int) -> Locoformer:
        """Build the network with new weights.

        Args:
            embedding_dim: length of the query embedding.
        """
        return Locoformer(embedding_dim, self)


class Locoformer(Separator):
    """Estimates the target with a complex mask, which blocks of attention compute.

    Args:
        embedding_dim: length of the query embedding.
        config: sizes, see ``LocoformerConfig``.

    Example:
        >>> import torch
        >>> config = LocoformerConfig(channels=8, hidden=8, heads=2, num_blocks=2, window=4)
        >>> config.build(16)(torch.randn(2, 1, 8_000), torch.randn(2, 16)).shape
        torch.Size([2, 1, 8000])
    """

    def __init__(self, embedding_dim: int, config: LocoformerConfig) -> None:
        super().__init__(embedding_dim, config.sample_rate)
        num_fft, hop, fold, window = config.num_fft, config.hop, config.fold, config.window
        channels, hidden, heads = config.channels, config.hidden, config.heads
        num_blocks, free_blocks = config.num_blocks, config.free_blocks
        query_dim = config.query_dim
        self.hop, self.num_fft, self.fold, self.window = hop, num_fft, fold, window
        self.free_blocks = free_blocks
        self.stft = MixtureStft(num_fft, hop, window)
        self.query = nn.Sequential(nn.Linear(embedding_dim, query_dim), nn.SiLU())
        self.stem = nn.Conv2d(3 * fold, channels, 3, padding=1)
        bins = num_fft // 2 // fold
        self.blocks = nn.ModuleList(
            LocoformerBlock(
                channels, hidden, heads, bins, window, None if i < free_blocks else query_dim
            )
            for i in range(num_blocks)
        )
        self.out_norm = RmsNorm(channels)
        self.out = nn.Conv2d(channels, 2 * fold, 3, padding=1)

    @property
    def stride_samples(self) -> int:
        """Chunks start at multiples of this: their windows are then those of the recording."""
        return self.hop * self.window

    @property
    def context_samples(self) -> int:
        """How many samples before and after it an output sample may depend on.

        Every block adds its window and the convolutions around it.
        """
        frames = len(self.blocks) * (self.window + 4 * (KERNEL // 2)) + 4
        return frames * self.hop + self.num_fft

    @property
    def output_layers(self) -> tuple[nn.Module, ...]:
        return (self.out,)

    def encode(self, mixture: Tensor) -> EncodedGrid:
        """Compute the spectrum and the features of a mixture [batch, channels, samples]."""
        spectrum = self.stft(mixture)
        parts = compressed(downmix(spectrum)[:, :-1])
        b, _, _, frames = parts.shape
        folded = parts.view(b, 3, -1, self.fold, frames).transpose(2, 3).flatten(1, 2)
        x = self.stem(folded.contiguous(memory_format=torch.channels_last))
        for block in self.blocks[: self.free_blocks]:
            x = block(x)
        return EncodedGrid(spectrum, x, mixture.shape[2])

    def decode(self, encoded: EncodedGrid, embedding: Tensor) -> Tensor:
        """Estimate the targets in an encoded mixture, see ``Separator.decode``."""
        query = self.query(embedding * self.embedding_dim**0.5)
        x = for_each_query(encoded.features, len(embedding) // len(encoded.features))
        for block in self.blocks[self.free_blocks :]:
            x = block(x, query)
        maps = self.out(self.out_norm(x)).float()
        b, _, height, frames = maps.shape
        maps = maps.view(b, 2, self.fold, height, frames).transpose(2, 3).flatten(2, 3)
        return self.stft.masked(encoded.spectrum, maps, encoded.num_samples)
