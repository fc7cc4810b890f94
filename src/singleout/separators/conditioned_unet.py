"""The fast default separator: a spectrogram U-Net conditioned by FiLM, with a dilated bottleneck.

It follows Conditioned-U-Net (Meseguer-Brocal and Peeters, 2019). A U-Net masks the spectrogram of
the mixture, and the query enters by feature-wise affine maps. Ours differs from it, so that it is
fast on CPUs and can process a stream:

- Neighbouring bins are folded into channels. The mask keeps its full resolution at an eighth of
  the cost.
- The widest part is a stack of dilated convolutions over time, at 7.8 frames per second.
- The query enters in this stack and after it, so that the encoder runs once for several queries.
- There are no statistics over time. So the context is bounded, and chunks have the same result as
  the whole recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.config import StrictConfig
from singleout.separators.bounds import (
    Count,
    Counts,
    FrameLength,
    SampleRate,
    Width,
    Widths,
    check_frames,
)
from singleout.separators.separator import Separator, downmix
from singleout.separators.stft import MixtureStft, compressed, for_each_query


class ConvBlock(nn.Module):
    """Residual block of two 3x3 convolutions. The query shifts the input of the second.

    The shift is additive FiLM as in AudioSep. A scale would cost another pass over the features.

    Args:
        channels: width of the features.
        query_dim: width of the query; None for a block without the query.

    Example:
        >>> import torch
        >>> ConvBlock(8, query_dim=4)(torch.randn(1, 8, 16, 10), torch.randn(1, 4)).shape
        torch.Size([1, 8, 16, 10])
    """

    def __init__(self, channels: int, query_dim: int | None) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.film = nn.Linear(query_dim, channels) if query_dim else None
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        y = self.norm2(self.conv1(F.relu(self.norm1(x))))
        if self.film is not None:
            y = y + self.film(query)[:, :, None, None].to(y.dtype)
        return x + self.conv2(F.relu(y))  # type: ignore[no-any-return]


class TemporalBlock(nn.Module):
    """Dilated residual convolution over time. The query scales and shifts its input.

    Args:
        channels: width of the features.
        dilation: dilation of the convolution, in frames.
        query_dim: width of the query.

    Example:
        >>> import torch
        >>> block = TemporalBlock(channels=8, dilation=2, query_dim=4)
        >>> block(torch.randn(1, 8, 20), torch.randn(1, 4)).shape
        torch.Size([1, 8, 20])
    """

    def __init__(self, channels: int, dilation: int, query_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm1d(channels, affine=False)
        self.film = nn.Linear(query_dim, 2 * channels)
        self.conv1 = nn.Conv1d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        scale, shift = self.film(query)[:, :, None].to(x.dtype).chunk(2, 1)
        y = self.conv1(F.relu(self.norm1(x) * (1 + scale) + shift))
        return x + self.conv2(F.relu(self.norm2(y)))  # type: ignore[no-any-return]


@dataclass
class EncodedMixture:
    """An encoded mixture: all that the network computes without the query.

    Attributes:
        spectrum: complex64 [batch, channels, bins, frames]. The number of frames is a multiple of
            the network's stride.
        skips: one feature map per level, from the highest resolution to the lowest.
        num_samples: length of the mixture.

    Example:
        >>> import torch
        >>> config = ConditionedUNetConfig(channels=(8, 8), time_strides=(2,), dilations=(1, 2))
        >>> encoded = config.build(16).encode(torch.randn(1, 2, 8_000))
        >>> [list(skip.shape) for skip in encoded.skips]
        [[1, 8, 128, 10], [1, 8, 64, 5]]
    """

    spectrum: Tensor
    skips: list[Tensor]
    num_samples: int


class ConditionedUNetConfig(StrictConfig):
    """Sizes of ``ConditionedUNet``.

    Args:
        sample_rate: Hz.
        num_fft, hop: frame length and hop of the STFT, in samples.
        fold: number of neighbouring bins that share one position of the network.
        channels: width of each level. The number of bins halves from one level to the next.
        time_strides: factors by which the number of frames shrinks from one level to the next.
        bottleneck: width of the dilated stack.
        dilations: dilation of each block of the stack, in frames of the lowest level.
        query_dim: width of the query inside the network.

    Example:
        >>> config = ConditionedUNetConfig(channels=(8, 8), time_strides=(2,), dilations=(1, 2))
        >>> config.build(embedding_dim=16).stride_samples
        2048
    """

    type: Literal["conditioned_unet"] = "conditioned_unet"
    sample_rate: SampleRate = 32_000
    num_fft: FrameLength = 2_048
    hop: FrameLength = 1_024
    fold: Count = 8
    channels: Widths = (32, 64, 128, 160)
    time_strides: Counts = (2, 2, 1)
    bottleneck: Width = 304
    dilations: Counts = (1, 2, 4, 8, 1, 2, 4)
    query_dim: Width = 256

    @model_validator(mode="after")
    def _fits(self) -> ConditionedUNetConfig:
        if len(self.time_strides) != len(self.channels) - 1:
            raise ValueError("time_strides must have one entry less than channels")
        check_frames(self.num_fft, self.hop)
        if (self.num_fft // 2) % (self.fold * 2 ** len(self.time_strides)):
            raise ValueError("num_fft / 2 must be divisible by fold and by 2 per level")
        return self

    def build(self, embedding_dim: int) -> ConditionedUNet:
        """Build the network with new weights.

        Args:
            embedding_dim: length of the query embedding.
        """
        return ConditionedUNet(embedding_dim, self)


class ConditionedUNet(Separator):
    """Estimates the target with a complex mask, which a U-Net computes.

    Args:
        embedding_dim: length of the query embedding.
        config: sizes, see ``ConditionedUNetConfig``.

    Example:
        >>> import torch
        >>> config = ConditionedUNetConfig(channels=(8, 8), time_strides=(2,), dilations=(1, 2))
        >>> config.build(16)(torch.randn(2, 1, 8_000), torch.randn(2, 16)).shape
        torch.Size([2, 1, 8000])
    """

    def __init__(self, embedding_dim: int, config: ConditionedUNetConfig) -> None:
        super().__init__(embedding_dim, config.sample_rate)
        num_fft, hop, fold = config.num_fft, config.hop, config.fold
        channels, time_strides = config.channels, config.time_strides
        bottleneck, dilations, query_dim = config.bottleneck, config.dilations, config.query_dim
        self.num_fft, self.hop, self.fold = num_fft, hop, fold
        self.time_strides, self.dilations = time_strides, dilations
        self.time_stride = 1
        for stride in time_strides:
            self.time_stride *= stride
        self.stft = MixtureStft(num_fft, hop, self.time_stride)

        self.query = nn.Sequential(nn.Linear(embedding_dim, query_dim), nn.SiLU())
        self.stem = nn.Conv2d(3 * fold, channels[0], 3, 1, 1)
        pairs = list(zip(channels, channels[1:], time_strides, strict=False))
        self.down_blocks = nn.ModuleList(ConvBlock(c, None) for c in channels)
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, (2, stride), (2, stride)) for a, b, stride in pairs
        )
        lowest = num_fft // 2 // fold // 2 ** len(pairs)
        self.squeeze = nn.Conv1d(channels[-1] * lowest, bottleneck, 1)
        self.temporal = nn.ModuleList(TemporalBlock(bottleneck, d, query_dim) for d in dilations)
        self.unsqueeze = nn.Conv1d(bottleneck, channels[-1] * lowest, 1)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(b, a, (2, stride), (2, stride)) for a, b, stride in pairs
        )
        self.up_blocks = nn.ModuleList(ConvBlock(c, query_dim) for c in channels)
        self.out_norm = nn.BatchNorm2d(channels[0])
        self.out = nn.Conv2d(channels[0], 2 * fold, 3, 1, 1)

    @property
    def stride_samples(self) -> int:
        """Chunks start at multiples of this: their frames are then those of the recording."""
        return self.hop * self.time_stride

    @property
    def context_samples(self) -> int:
        """How many samples before and after it an output sample may depend on."""
        low_frames = sum(self.dilations)
        stride, frames = 1, 2
        for time_stride in (*self.time_strides, 1):
            frames += 4 * stride
            stride *= time_stride
        frames += (low_frames + 1) * self.time_stride
        return frames * self.hop + self.num_fft

    @property
    def output_layers(self) -> tuple[nn.Module, ...]:
        return (self.out,)

    def features(self, spectrum: Tensor) -> Tensor:
        """Compress a spectrum to about unit variance, and fold its bins into channels.

        Args:
            spectrum: complex64 [batch, bins, frames].

        Returns:
            float32 [batch, 3 * fold, bins / fold, frames].
        """
        parts = compressed(spectrum)
        b, p, bins, frames = parts.shape
        folded = parts.view(b, p, bins // self.fold, self.fold, frames)
        return folded.transpose(2, 3).reshape(b, p * self.fold, bins // self.fold, frames)

    def encode(self, mixture: Tensor) -> EncodedMixture:
        """Compute the spectrum and the features of a mixture [batch, channels, samples]."""
        spectrum = self.stft(mixture)
        features = self.features(downmix(spectrum)[:, :-1])
        x = self.stem(features.contiguous(memory_format=torch.channels_last))
        skips = []
        for i, block in enumerate(self.down_blocks):
            x = block(x)
            skips.append(x)
            if i < len(self.downs):
                x = self.downs[i](x)
        return EncodedMixture(spectrum, skips, mixture.shape[2])

    def decode(self, encoded: EncodedMixture, embedding: Tensor) -> Tensor:
        """Estimate the targets in an encoded mixture, see ``Separator.decode``."""
        query = self.query(embedding * self.embedding_dim**0.5)
        num_queries = len(embedding) // len(encoded.spectrum)
        x = for_each_query(encoded.skips[-1], num_queries)
        b, c, height, frames = x.shape
        y = self.squeeze(x.reshape(b, c * height, frames))
        for block in self.temporal:
            y = block(y, query)
        x = x + self.unsqueeze(y).view(b, c, height, frames)
        x = self.up_blocks[-1](x.contiguous(memory_format=torch.channels_last), query)
        for i in reversed(range(len(self.ups))):
            x = self.ups[i](x) + for_each_query(encoded.skips[i], num_queries)
            x = self.up_blocks[i](x, query)
        return self.mask(encoded, self.out(F.relu(self.out_norm(x))).float())

    def mask(self, encoded: EncodedMixture, maps: Tensor) -> Tensor:
        """Unfold the last feature maps to a complex mask, and apply it to the mixture.

        Args:
            encoded: the result of ``encode``.
            maps: float32 [queries * batch, 2 * fold, bins / fold, frames].

        Returns:
            Targets, [queries * batch, channels, samples].
        """
        b, _, height, frames = maps.shape
        maps = maps.view(b, 2, self.fold, height, frames).transpose(2, 3)
        maps = maps.reshape(b, 2, height * self.fold, frames)
        return self.stft.masked(encoded.spectrum, maps, encoded.num_samples)
