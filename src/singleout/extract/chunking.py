"""Long mixtures piece by piece, with the result of the whole.

A separator looks a bounded way to either side (``context_samples``) and sees the same frames from
every multiple of ``stride_samples``. So a chunk is read with that much context, starts at such a
multiple, and its context is thrown away afterwards: nothing is cross-faded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from singleout.separators import Separator


@dataclass(frozen=True)
class Chunk:
    """Positions in the whole, in samples: what is read, and which part of it is kept."""

    read_start: int
    read_stop: int
    keep_start: int
    keep_stop: int


def plan_chunks(
    num_samples: int, chunk_samples: int, context_samples: int, stride_samples: int
) -> Iterator[Chunk]:
    """Chunks that keep each of ``num_samples`` exactly once, in order, of about equal length.

    Args:
        num_samples: of the whole, at least 1.
        chunk_samples: the most that a chunk keeps, rounded up to a stride.
        context_samples: read beyond the kept part on either side, where there is something.
        stride_samples: every chunk is read from a multiple of it.
    """

    def strides(samples: int) -> int:
        return -(-samples // stride_samples) * stride_samples

    num_chunks = -(-num_samples // strides(chunk_samples))
    keep = strides(-(-num_samples // num_chunks))
    for start in range(0, num_samples, keep):
        stop = min(start + keep, num_samples)
        yield Chunk(
            read_start=max(0, start - strides(context_samples)),
            read_stop=min(num_samples, stop + context_samples),
            keep_start=start,
            keep_stop=stop,
        )


def separate(
    separator: Separator,
    mixture: NDArray[np.float32],
    condition: Tensor,
    chunk_samples: int,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float32]:
    """The target in a mixture of any length; its channels share one mask.

    Args:
        separator: in evaluation mode.
        mixture: float32 [channels, samples] at the separator's rate.
        condition: float32 [1, dim], on the separator's device.
        chunk_samples: kept per chunk; bounds the memory.
        progress: called after every chunk with the share that is done, in (0, 1].

    Returns:
        float32 [channels, samples].
    """
    num_samples = mixture.shape[1]
    target = np.empty_like(mixture)
    plan = plan_chunks(
        num_samples, chunk_samples, separator.context_samples, separator.stride_samples
    )
    for chunk in plan:
        piece = torch.tensor(mixture[None, :, chunk.read_start : chunk.read_stop])
        encoded = separator.encode(piece.to(condition.device))
        kept = slice(chunk.keep_start - chunk.read_start, chunk.keep_stop - chunk.read_start)
        found = separator.decode(encoded, condition)[0, :, kept]
        target[:, chunk.keep_start : chunk.keep_stop] = found.cpu().numpy()
        if progress is not None:
            progress(chunk.keep_stop / num_samples)
    return target
