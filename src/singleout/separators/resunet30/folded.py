"""``ResUNet30`` folded for inference.

What is constant for a query becomes constant: the second norm of every block and its query term are
folded into the convolution before it, the first norm and its term are one affine map. Layout is
channels-last, which is what the CPU's convolutions want. Items of a batch are taken one by one:
their queries differ, and smaller maps stay in the caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from singleout.separators.resunet30.network import ResidualBlock, ResUNet30

SLOPE = 0.01
"""Of every leaky ReLU."""
TIME_STRIDE = 32
"""Frames per step of the lowest level. The sixth block halves the frequency alone."""


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A norm in evaluation mode as scale and shift, [channels] each."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def activated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Leaky ReLU of an affine map per channel; ``x`` stays as it is."""
    # As a norm of mean 0 and variance 1 it is one vectorised pass over bfloat16 with float32
    # constants; a product and a sum are two.
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    # (torch.batch_norm: some versions of F.batch_norm refuse an epsilon of 0.)
    return F.leaky_relu_(
        torch.batch_norm(x, scale, shift, zero, one, False, 0.0, 0.0, False), SLOPE
    )


@dataclass
class FoldedBlock:
    """A residual block; the query's terms are given with every call."""

    scale1: Tensor
    shift1: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    shortcut: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, block: ResidualBlock, dtype: torch.dtype) -> FoldedBlock:
        """Fold ``block``."""
        scale1, shift1 = affine(block.bn1)
        scale2, shift2 = affine(block.bn2)
        shortcut = None
        if hasattr(block, "shortcut"):
            shortcut = (packed(block.shortcut.weight, dtype), vector(block.shortcut.bias, dtype))
        return cls(
            scale1,
            shift1,
            packed(block.conv1.weight * scale2[:, None, None, None], dtype),
            shift2,
            packed(block.conv2.weight, dtype),
            shortcut,
        )

    def __call__(self, x: Tensor, beta1: Tensor, beta2: Tensor) -> Tensor:
        """Maps [1, channels, frames, bins]; betas [channels]."""
        y = activated(x, self.scale1, self.shift1 + beta1)
        y = F.conv2d(y, self.weight1, (self.bias1 + beta2).to(y.dtype), padding=1)
        y = F.conv2d(F.leaky_relu_(y, SLOPE), self.weight2, padding=1)
        return y.add_(x if self.shortcut is None else F.conv2d(x, *self.shortcut))


def vector(bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A layer's bias in the precision of the maps."""
    assert bias is not None
    return bias.to(dtype)


def packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A kernel in the layout and precision of the maps."""
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


class InferenceNetwork:
    """The folded network of a ``ResUNet30`` in evaluation mode; shares nothing with it.

    Args:
        model: is read once.
        dtype: of maps and kernels.
    """

    def __init__(self, model: ResUNet30, dtype: torch.dtype) -> None:
        base = model.base
        self.dtype = dtype
        self.film: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in model.film.items():
            assert isinstance(layer, nn.Linear)
            self.film[name] = layer.weight.clone(), layer.bias.clone()
        self.scale0, self.shift0 = affine(base.bn0)
        self.pre_conv = packed(base.pre_conv.weight, dtype), vector(base.pre_conv.bias, dtype)
        self.encoders = [
            (name, FoldedBlock.of(block.conv_block1, dtype), pool)
            for name, block, pool in base.encoders()
        ]
        self.decoders = [
            (
                name,
                affine(block.bn1),
                block.conv1.weight.to(dtype),
                block.conv1.stride,
                FoldedBlock.of(block.conv_block2, dtype),
            )
            for name, block in base.decoders()
        ]
        self.after_conv = packed(base.after_conv.weight, dtype), vector(base.after_conv.bias, dtype)

    def maps(self, magnitude: Tensor, embedding: Tensor) -> Tensor:
        """Magnitude [batch, frames, bins] to three maps, float32 [batch, 3, frames, bins - 1]."""
        x = torch.addcmul(self.shift0[:-1], magnitude[..., :-1], self.scale0[:-1]).to(self.dtype)
        return torch.cat([self._maps(x[i], embedding[i]) for i in range(len(x))])

    def _maps(self, x: Tensor, embedding: Tensor) -> Tensor:
        beta = {name: F.linear(embedding, *layer) for name, layer in self.film.items()}
        frames = len(x)
        x = F.pad(x, (0, 0, 0, -frames % TIME_STRIDE))[None, None]
        x = F.conv2d(x.contiguous(memory_format=torch.channels_last), *self.pre_conv)
        skips = []
        for name, block, pool in self.encoders:
            x = block(x, *(beta[f"{name}->conv_block1->beta{i}"] for i in (1, 2)))
            if pool is not None:
                skips.append(x)
                x = F.avg_pool2d(x, pool)
        for name, (scale, shift), weight, stride, block in self.decoders:
            x = activated(x, scale, shift + beta[f"{name}->beta1"])
            x = torch.cat([F.conv_transpose2d(x, weight, stride=stride), skips.pop()], 1)
            x = block(x, *(beta[f"{name}->conv_block2->beta{i}"] for i in (1, 2)))
        return F.conv2d(x, *self.after_conv)[:, :, :frames].float()
