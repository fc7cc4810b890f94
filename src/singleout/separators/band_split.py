"""A band-split network made of convolutions.

It follows "Music source separation with band-split RNN" (Luo and Yu, 2023). The spectrum is cut
into bands that widen with frequency. Each band has its own input and output layers. The blocks
model the bands along time, then across each other. The original has recurrent layers. Ours has
dilated convolutions over time, so that the context is bounded. It has a small network across the
bands. The query enters by FiLM in the second half of the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.config import StrictConfig
from singleout.separators.bounds import (
    Count,
    Counts,
    FrameLength,
    SampleRate,
    Width,
    check_frames,
)
from singleout.separators.separator import Separator, downmix
from singleout.separators.stft import MixtureStft, compressed, for_each_query

MIN_BAND_BINS = 4
"""Smallest width of a band."""


def band_edges(num_bins: int, num_bands: int) -> list[int]:
    """Edges of bands that widen with frequency.

    Returns:
        ``num_bands + 1`` numbers of bins, from 0 to ``num_bins``.

    Example:
        >>> band_edges(num_bins=40, num_bands=4)
        [0, 5, 12, 24, 40]
    """
    narrow = np.arange(num_bands + 1) * MIN_BAND_BINS
    growth = np.linspace(0, 1, num_bands + 1) ** 2.5
    edges = narrow + (num_bins - narrow[-1]) * growth
    return [round(float(edge)) for edge in edges]


class BandBlock(nn.Module):
    """Models features along time, then across the bands. The query scales and shifts its input.

    Args:
        channels: width of each band.
        num_bands: number of bands.
        dilation: dilation of the convolution over time, in frames.
        query_dim: width of the query; None for a block without the query.

    Example:
        >>> import torch
        >>> block = BandBlock(channels=8, num_bands=5, dilation=2, query_dim=4)
        >>> block(torch.randn(1, 8, 5, 20), torch.randn(1, 4)).shape
        torch.Size([1, 8, 5, 20])
    """

    def __init__(self, channels: int, num_bands: int, dilation: int, query_dim: int | None) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.film = nn.Linear(query_dim, 2 * channels) if query_dim else None
        padding = (0, dilation)
        self.time1 = nn.Conv2d(
            channels, channels, (1, 3), padding=padding, dilation=(1, dilation), bias=False
        )
        self.norm2 = nn.BatchNorm2d(channels)
        self.time2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)
        self.bands1 = nn.Linear(num_bands, 2 * num_bands)
        self.bands2 = nn.Linear(2 * num_bands, num_bands)

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        y = self.norm1(x)
        if self.film is not None:
            scale, shift = self.film(query)[:, :, None, None].to(y.dtype).chunk(2, 1)
            y = y * (1 + scale) + shift
        y = self.time2(F.relu(self.norm2(self.time1(F.relu(y)))))
        x = x + y
        z = self.norm3(x).transpose(2, 3)
        z = self.bands2(F.relu(self.bands1(z)))
        return x + z.transpose(2, 3)  # type: ignore[no-any-return]


@dataclass
class EncodedBands:
    """An encoded mixture: all that the network computes without the query.

    Attributes:
        spectrum: complex64 [batch, channels, bins, frames].
        features: float32 [batch, width, bands, frames].
        num_samples: length of the mixture.

    Example:
        >>> import torch
        >>> config = BandSplitConfig(num_bands=8, channels=8, dilations=(1, 2), free_blocks=1)
        >>> config.build(16).encode(torch.randn(1, 2, 8_000)).features.shape
        torch.Size([1, 8, 8, 9])
    """

    spectrum: Tensor
    features: Tensor
    num_samples: int


class BandSplitConfig(StrictConfig):
    """Sizes of ``BandSplit``.

    Args:
        sample_rate: Hz.
        num_fft, hop: frame length and hop of the STFT, in samples.
        num_bands: number of bands.
        channels: width of each band.
        dilations: dilation of each block, in frames.
        free_blocks: number of blocks, from the first, that do not depend on the query.
        query_dim: width of the query inside the network.

    Example:
        >>> config = BandSplitConfig(num_bands=8, channels=8, dilations=(1, 2), free_blocks=1)
        >>> config.build(embedding_dim=16).context_samples
        7168
    """

    type: Literal["band_split"] = "band_split"
    sample_rate: SampleRate = 32_000
    num_fft: FrameLength = 2_048
    hop: FrameLength = 1_024
    num_bands: Count = 48
    channels: Width = 96
    dilations: Counts = (1, 2, 4, 8, 1, 2, 4, 8)
    free_blocks: Annotated[int, Field(ge=0)] = 3
    query_dim: Width = 256

    @model_validator(mode="after")
    def _fits(self) -> BandSplitConfig:
        check_frames(self.num_fft, self.hop)
        if self.num_bands * MIN_BAND_BINS > self.num_fft // 2:
            raise ValueError(f"num_bands: a band has {MIN_BAND_BINS} of num_fft / 2 bins at least")
        if self.free_blocks >= len(self.dilations):
            raise ValueError("free_blocks leaves no block for the query")
        return self

    def build(self, embedding_dim: int) -> BandSplit:
        """Build the network with new weights.

        Args:
            embedding_dim: length of the query embedding.
        """
        return BandSplit(embedding_dim, self)


class BandSplit(Separator):
    """Estimates the target with a complex mask, which it computes from the features of bands.

    Args:
        embedding_dim: length of the query embedding.
        config: sizes, see ``BandSplitConfig``.

    Example:
        >>> import torch
        >>> config = BandSplitConfig(num_bands=8, channels=8, dilations=(1, 2), free_blocks=1)
        >>> config.build(16)(torch.randn(2, 1, 8_000), torch.randn(2, 16)).shape
        torch.Size([2, 1, 8000])
    """

    def __init__(self, embedding_dim: int, config: BandSplitConfig) -> None:
        super().__init__(embedding_dim, config.sample_rate)
        num_fft, hop, num_bands = config.num_fft, config.hop, config.num_bands
        channels, dilations, free_blocks = config.channels, config.dilations, config.free_blocks
        query_dim = config.query_dim
        self.hop, self.num_fft, self.dilations = hop, num_fft, dilations
        self.free_blocks = free_blocks
        self.stft = MixtureStft(num_fft, hop)
        self.edges = band_edges(num_fft // 2, num_bands)
        widths = [b - a for a, b in zip(self.edges, self.edges[1:], strict=False)]
        self.query = nn.Sequential(nn.Linear(embedding_dim, query_dim), nn.SiLU())
        self.inputs = nn.ModuleList(nn.Conv1d(3 * width, channels, 1) for width in widths)
        self.blocks = nn.ModuleList(
            BandBlock(channels, num_bands, dilation, None if i < free_blocks else query_dim)
            for i, dilation in enumerate(dilations)
        )
        self.out_norm = nn.BatchNorm2d(channels)
        self.hidden = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 1) for _ in widths)
        self.outputs = nn.ModuleList(nn.Conv1d(2 * channels, 2 * width, 1) for width in widths)

    @property
    def stride_samples(self) -> int:
        """Chunks start at multiples of this: their frames are then those of the recording."""
        return self.hop

    @property
    def context_samples(self) -> int:
        """How many samples before and after it an output sample may depend on."""
        return sum(self.dilations) * self.hop + 2 * self.num_fft

    @property
    def output_layers(self) -> tuple[nn.Module, ...]:
        return tuple(self.outputs)

    def encode(self, mixture: Tensor) -> EncodedBands:
        """Compute the spectrum and the features of a mixture [batch, channels, samples]."""
        spectrum = self.stft(mixture)
        parts = compressed(downmix(spectrum)[:, :-1])
        bands = [
            layer(parts[:, :, low:high].flatten(1, 2))
            for layer, low, high in zip(self.inputs, self.edges, self.edges[1:], strict=False)
        ]
        x = torch.stack(bands, 2).contiguous(memory_format=torch.channels_last)
        for block in self.blocks[: self.free_blocks]:
            x = block(x)
        return EncodedBands(spectrum, x, mixture.shape[2])

    def decode(self, encoded: EncodedBands, embedding: Tensor) -> Tensor:
        """Estimate the targets in an encoded mixture, see ``Separator.decode``."""
        query = self.query(embedding * self.embedding_dim**0.5)
        x = for_each_query(encoded.features, len(embedding) // len(encoded.features))
        for block in self.blocks[self.free_blocks :]:
            x = block(x, query)
        bands = F.relu(self.out_norm(x)).unbind(2)
        maps = [
            output(F.relu(hidden(band))).float().unflatten(1, (2, -1))
            for band, hidden, output in zip(bands, self.hidden, self.outputs, strict=True)
        ]
        return self.stft.masked(encoded.spectrum, torch.cat(maps, 2), encoded.num_samples)
