"""The layers of ``ResUNet30`` under the names of the published checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.01
"""Negative slope of every leaky ReLU."""
TIME_STRIDE = 32
"""Frames per step of the lowest level. The sixth block halves only the frequency."""
CHANNELS = (32, 64, 128, 256, 384, 384)
"""Width of each of the six encoder blocks. The bottleneck has the width of the last block."""


class ResidualBlock(nn.Module):
    """Residual block of two 3x3 convolutions with norm and activation before each.

    If the widths differ, a 1x1 convolution is the shortcut.

    Args:
        in_channels, out_channels: widths.

    Example:
        >>> import torch
        >>> beta1, beta2 = torch.zeros(1, 4, 1, 1), torch.zeros(1, 8, 1, 1)
        >>> ResidualBlock(4, 8)(torch.randn(1, 4, 10, 6), beta1, beta2).shape
        torch.Size([1, 8, 10, 6])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels, momentum=0.01)
        self.bn2 = nn.BatchNorm2d(out_channels, momentum=0.01)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, beta1: Tensor, beta2: Tensor) -> Tensor:
        """Add the terms of the query before both activations.

        Args:
            x: float32 [batch, in_channels, frames, bins].
            beta1: term of the query, [batch, in_channels, 1, 1].
            beta2: term of the query, [batch, out_channels, 1, 1].

        Returns:
            float32 [batch, out_channels, frames, bins].
        """
        y = self.conv1(F.leaky_relu_(self.bn1(x) + beta1, SLOPE))
        y = self.conv2(F.leaky_relu_(self.bn2(y) + beta2, SLOPE))
        return y + (self.shortcut(x) if hasattr(self, "shortcut") else x)  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Holds a residual block under its published name; ``ResUNet30.maps`` pools after it.

    Args:
        in_channels, out_channels: widths.

    Example:
        >>> [name for name, layer in EncoderBlock(4, 8).named_children()]
        ['conv_block1']
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_block1 = ResidualBlock(in_channels, out_channels)


class DecoderBlock(nn.Module):
    """Holds the layers of a decoder block; ``ResUNet30.maps`` applies them.

    These are a transposed convolution and, after the features of the encoder are joined, a residual
    block. ``bn2`` is in the published checkpoints but is not used.

    Args:
        in_channels, out_channels: widths.
        stride: of the transposed convolution, in (frames, bins).

    Example:
        >>> [name for name, layer in DecoderBlock(8, 4, (2, 2)).named_children()]
        ['conv1', 'bn1', 'conv_block2', 'bn2']
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(in_channels, out_channels, stride, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels, momentum=0.01)
        self.conv_block2 = ResidualBlock(2 * out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(in_channels, momentum=0.01)


class Layers(nn.Module):
    """The layers of the network without its conditioning, under their published names.

    Args:
        num_fft: of the STFT, in samples.

    Example:
        >>> [name for name, block, pooling in Layers(num_fft=128).encoders()][-2:]
        ['encoder_block6', 'conv_block7a']
    """

    def __init__(self, num_fft: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(num_fft // 2 + 1, momentum=0.01)
        self.pre_conv = nn.Conv2d(1, CHANNELS[0], 1)
        down = pairwise((CHANNELS[0], *CHANNELS))
        for i, (a, b) in enumerate(down, 1):
            setattr(self, f"encoder_block{i}", EncoderBlock(a, b))
        self.conv_block7a = EncoderBlock(CHANNELS[-1], CHANNELS[-1])
        up = pairwise((CHANNELS[-1], *reversed(CHANNELS)))
        for i, (a, b) in enumerate(up, 1):
            setattr(self, f"decoder_block{i}", DecoderBlock(a, b, (1, 2) if i == 1 else (2, 2)))
        self.after_conv = nn.Conv2d(CHANNELS[0], 3, 1)

    def encoders(self) -> Iterator[tuple[str, EncoderBlock, tuple[int, int] | None]]:
        """Name, block and the (time, frequency) pooling after it; None after the bottleneck."""
        for i in range(1, 7):
            name = f"encoder_block{i}"
            yield name, getattr(self, name), (1, 2) if i == 6 else (2, 2)
        yield "conv_block7a", self.conv_block7a, None

    def decoders(self) -> Iterator[tuple[str, DecoderBlock]]:
        """Name and block, from the lowest resolution to the highest."""
        for i in range(1, 7):
            name = f"decoder_block{i}"
            yield name, getattr(self, name)


def beta_sizes(base: Layers) -> dict[str, int]:
    """Published names and widths of the 38 linear maps of the query.

    Example:
        >>> len(beta_sizes(Layers(num_fft=128)))
        38
    """
    sizes = {}

    def add(prefix: str, block: nn.Module) -> None:
        for i in (1, 2):
            sizes[f"{prefix}->beta{i}"] = getattr(block, f"bn{i}").num_features

    for name, encoder, _ in base.encoders():
        add(f"{name}->conv_block1", encoder.conv_block1)
    for name, decoder in base.decoders():
        add(name, decoder)  # beta2 is not used, nor is bn2
        add(f"{name}->conv_block2", decoder.conv_block2)
    return sizes
