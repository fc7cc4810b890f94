"""A copy of ``ResUNet30`` for inference that gives the same targets in less time.

Norms are constant at inference. So the second norm of every block is folded into the convolution
before it, and the first norm with its query term becomes one affine map. The memory layout is
channels-last, in which the CPU's convolutions are fastest. The items of a batch are computed one by
one, because their queries differ and smaller maps fit into the CPU's caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.separators.resunet30.layers import SLOPE, TIME_STRIDE, ResidualBlock

if TYPE_CHECKING:
    from singleout.separators.resunet30.network import ResUNet30


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A norm in evaluation mode as scale and shift, [channels] each.

    Example:
        >>> from torch import nn
        >>> scale, shift = affine(nn.BatchNorm2d(2, eps=0).requires_grad_(False))
        >>> scale, shift
        (tensor([1., 1.]), tensor([0., 0.]))
    """
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def activated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Leaky ReLU of an affine map of each channel. ``x`` is not changed.

    Example:
        >>> import torch
        >>> x = torch.tensor([[[[1.0, -1.0]]]])
        >>> activated(x, torch.tensor([2.0]), torch.tensor([1.0]))
        tensor([[[[ 3.0000, -0.0100]]]])
    """
    # As a norm of mean 0 and variance 1 this is one pass over bfloat16 with float32 constants. A
    # product and a sum would be two passes.
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    # (torch.batch_norm: some versions of F.batch_norm refuse an epsilon of 0.)
    return F.leaky_relu_(
        torch.batch_norm(x, scale, shift, zero, one, False, 0.0, 0.0, False), SLOPE
    )


@dataclass
class FoldedBlock:
    """A residual block with its norms folded; the terms of the query are given with every call.

    Attributes:
        scale1, shift1: the first norm, [channels].
        weight1, bias1: the first convolution with the second norm.
        weight2: the second convolution.
        shortcut: weight and bias; None if the block does not change the number of channels.

    Example:
        >>> import torch
        >>> from singleout.separators.resunet30.layers import ResidualBlock
        >>> block = ResidualBlock(4, 8).eval().requires_grad_(False)
        >>> x, beta1, beta2 = torch.randn(1, 4, 6, 5), torch.randn(4), torch.randn(8)
        >>> expected = block(x, beta1[None, :, None, None], beta2[None, :, None, None])
        >>> folded = FoldedBlock.of(block, torch.float32)
        >>> torch.allclose(folded(x, beta1, beta2), expected, atol=1e-5)
        True
    """

    scale1: Tensor
    shift1: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    shortcut: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, block: ResidualBlock, dtype: torch.dtype) -> FoldedBlock:
        """Fold a block, with its maps in the precision ``dtype``."""
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
    """The bias of a layer in the precision of the maps.

    Example:
        >>> import torch
        >>> vector(torch.ones(2), torch.bfloat16)
        tensor([1., 1.], dtype=torch.bfloat16)
    """
    assert bias is not None
    return bias.to(dtype)


def packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The kernel of a convolution in the layout and precision of the maps.

    Example:
        >>> import torch
        >>> kernel = packed(torch.ones(8, 4, 3, 3), torch.bfloat16)
        >>> kernel.is_contiguous(memory_format=torch.channels_last)
        True
    """
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


class InferenceNetwork:
    """The folded copy of a ``ResUNet30`` in evaluation mode.

    ``ResUNet30`` makes and uses it. It does not follow later changes of the weights.

    Args:
        model: its weights are copied.
        dtype: of maps and kernels.

    Example:
        >>> import torch
        >>> from singleout.separators import ResUNet30Config
        >>> with torch.device("meta"):  # a real one has 26 million weights
        ...     model = ResUNet30Config(num_fft=256, hop=80).build(embedding_dim=8).eval()
        >>> len(InferenceNetwork(model, torch.bfloat16).encoders)
        7
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
        """The maps of ``ResUNet30.maps``.

        Args:
            magnitude: float32 [batch, frames, bins].
            embedding: float32 [batch, dim].

        Returns:
            float32 [batch, 3, frames, bins - 1].
        """
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
