"""Bounds of the sizes of separators: far above every known network, far below a machine's memory.

A config comes with a model that somebody else made. Its sizes are checked before a network of
these sizes is built.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from singleout.errors import ConfigError
from singleout.separators.separator import Separator

SampleRate = Annotated[int, Field(ge=1_000, le=1_000_000)]
"""Hz."""
FrameLength = Annotated[int, Field(gt=0, le=65_536)]
"""Length of a frame or a hop of an STFT, in samples."""
Width = Annotated[int, Field(gt=0, le=16_384)]
"""Number of channels of a layer."""
Count = Annotated[int, Field(gt=0, le=1_024)]
"""Number of bands or frames."""
NumBlocks = Annotated[int, Field(gt=0, le=64)]
"""Number of layers of a kind."""
Widths = Annotated[tuple[Width, ...], Field(max_length=64)]
"""Width of each layer."""
Counts = Annotated[tuple[Count, ...], Field(max_length=64)]
"""Dilation or stride of each layer, in frames."""
MAX_OVERLAP = 64
"""Largest number of frames of an STFT that a sample lies in."""
MAX_PARAMETERS = 10**9
"""Largest number of weights. The largest separator here, AudioSep's, has 23 million."""
MAX_STRIDE_SAMPLES = 2**22
"""Largest stride. A mixture is padded to a multiple of it."""
MAX_CONTEXT_SAMPLES = 2**24
"""Largest context."""


def check_frames(num_fft: int, hop: int) -> None:
    """Refuse an STFT that cannot be inverted, or that repeats each sample too often.

    Args:
        num_fft, hop: length of a frame and samples from one frame to the next.

    Raises:
        ValueError: says which.

    Example:
        >>> check_frames(num_fft=2_048, hop=1_024)
        >>> check_frames(num_fft=2_048, hop=1_000)
        Traceback (most recent call last):
        ValueError: num_fft must be a multiple of 2 hops
    """
    if num_fft % (2 * hop):
        raise ValueError("num_fft must be a multiple of 2 hops")
    if num_fft > MAX_OVERLAP * hop:
        raise ValueError(f"num_fft must be at most {MAX_OVERLAP} hops")


def check_size(separator: Separator) -> None:
    """Refuse a separator whose sizes are allowed one by one, but not together.

    Args:
        separator: it may be on the meta device, where it needs no memory.

    Raises:
        ConfigError: it has too many weights, or its stride or context is too long.

    Example:
        >>> import torch
        >>> from singleout.separators import ConditionedUNetConfig
        >>> with torch.device("meta"):
        ...     separator = ConditionedUNetConfig(channels=(16_000,) * 4).build(512)
        >>> check_size(separator)
        Traceback (most recent call last):
        singleout.errors.ConfigError: the separator has 42,166,585,344 weights: the limit is ...
    """
    weights = sum(parameter.numel() for parameter in separator.parameters())
    for size, unit, limit in (
        (weights, "weights", MAX_PARAMETERS),
        (separator.stride_samples, "samples of stride", MAX_STRIDE_SAMPLES),
        (separator.context_samples, "samples of context", MAX_CONTEXT_SAMPLES),
    ):
        if size > limit:
            raise ConfigError(f"the separator has {size:,} {unit}: the limit is {limit:,}")
