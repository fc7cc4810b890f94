"""Separators and their configs. A new one: its module, its config here, its name in the union."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import nn

from singleout.config import StrictConfig
from singleout.separators.band_split import MIN_BAND_BINS, BandSplit
from singleout.separators.conditioned_unet import ConditionedUNet
from singleout.separators.identity import Identity
from singleout.separators.locoformer import Locoformer
from singleout.separators.resunet30.network import ResUNet30
from singleout.separators.separator import Separator, averaged

__all__ = [
    "AnySeparator",
    "BandSplit",
    "ConditionedUNet",
    "Identity",
    "Locoformer",
    "ResUNet30",
    "Separator",
    "averaged",
]

Positive = Annotated[int, Field(gt=0)]


class ConditionedUNetConfig(StrictConfig):
    """See ``ConditionedUNet`` for what the fields mean."""

    type: Literal["conditioned_unet"] = "conditioned_unet"
    sample_rate: Positive = 32_000
    num_fft: Positive = 2_048
    hop: Positive = 1_024
    fold: Positive = 8
    channels: tuple[Positive, ...] = (32, 64, 128, 160)
    time_strides: tuple[Positive, ...] = (2, 2, 1)
    bottleneck: Positive = 304
    dilations: tuple[Positive, ...] = (1, 2, 4, 8, 1, 2, 4)
    query_dim: Positive = 256

    @model_validator(mode="after")
    def _fits(self) -> ConditionedUNetConfig:
        if len(self.time_strides) != len(self.channels) - 1:
            raise ValueError("time_strides has one entry less than channels")
        if self.num_fft % (2 * self.hop):
            raise ValueError("num_fft must be a multiple of 2 hops")
        if (self.num_fft // 2) % (self.fold * 2 ** len(self.time_strides)):
            raise ValueError("num_fft / 2 must be divisible by fold and by 2 per level")
        return self

    def build(self, embedding_dim: int) -> nn.Module:
        return ConditionedUNet(embedding_dim, **self.model_dump(exclude={"type"}))


class BandSplitConfig(StrictConfig):
    """See ``BandSplit`` for what the fields mean."""

    type: Literal["band_split"] = "band_split"
    sample_rate: Positive = 32_000
    num_fft: Positive = 2_048
    hop: Positive = 1_024
    num_bands: Positive = 48
    channels: Positive = 96
    dilations: tuple[Positive, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    free_blocks: Annotated[int, Field(ge=0)] = 3
    query_dim: Positive = 256

    @model_validator(mode="after")
    def _fits(self) -> BandSplitConfig:
        if self.num_fft % (2 * self.hop):
            raise ValueError("num_fft must be a multiple of 2 hops")
        if self.num_bands * MIN_BAND_BINS > self.num_fft // 2:
            raise ValueError(f"num_bands: a band has {MIN_BAND_BINS} of num_fft / 2 bins at least")
        if self.free_blocks >= len(self.dilations):
            raise ValueError("free_blocks leaves no block to the query")
        return self

    def build(self, embedding_dim: int) -> nn.Module:
        return BandSplit(embedding_dim, **self.model_dump(exclude={"type"}))


class LocoformerConfig(StrictConfig):
    """See ``Locoformer`` for what the fields mean."""

    type: Literal["locoformer"] = "locoformer"
    sample_rate: Positive = 32_000
    num_fft: Positive = 2_048
    hop: Positive = 1_024
    fold: Positive = 16
    channels: Positive = 96
    hidden: Positive = 128
    heads: Positive = 4
    num_blocks: Positive = 4
    free_blocks: Annotated[int, Field(ge=0)] = 1
    window: Positive = 32
    query_dim: Positive = 256

    @model_validator(mode="after")
    def _fits(self) -> LocoformerConfig:
        if self.num_fft % (2 * self.hop):
            raise ValueError("num_fft must be a multiple of 2 hops")
        if (self.num_fft // 2) % self.fold:
            raise ValueError("num_fft / 2 must be divisible by fold")
        if self.channels % self.heads:
            raise ValueError("channels must be divisible by heads")
        if self.free_blocks >= self.num_blocks:
            raise ValueError("free_blocks leaves no block to the query")
        return self

    def build(self, embedding_dim: int) -> nn.Module:
        return Locoformer(embedding_dim, **self.model_dump(exclude={"type"}))


class ResUNet30Config(StrictConfig):
    """See ``ResUNet30`` for what the fields mean."""

    type: Literal["resunet30"] = "resunet30"
    sample_rate: Positive = 32_000
    num_fft: Positive = 2_048
    hop: Positive = 320
    inference_precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @model_validator(mode="after")
    def _fits(self) -> ResUNet30Config:
        if self.num_fft % 128 or self.hop > self.num_fft // 2:
            raise ValueError("num_fft must be a multiple of 128, and hop at most half of it")
        return self

    def build(self, embedding_dim: int) -> nn.Module:
        return ResUNet30(embedding_dim, **self.model_dump(exclude={"type"}))


class IdentityConfig(StrictConfig):
    """The mixture itself."""

    type: Literal["identity"] = "identity"
    sample_rate: Positive = 32_000

    def build(self, embedding_dim: int) -> nn.Module:
        return Identity(self.sample_rate)


AnySeparator = Annotated[
    ConditionedUNetConfig | BandSplitConfig | LocoformerConfig | ResUNet30Config | IdentityConfig,
    Field(discriminator="type"),
]
