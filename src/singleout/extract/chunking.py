"""Long mixtures piece by piece, with the result of the whole.

A separator looks a bounded way to either side (``context_samples``) and sees the same frames from
every multiple of ``stride_samples``. So a chunk is read with that much context, starts at such a
multiple, and its context is thrown away afterwards. Neighbouring chunks are cross-faded where they
meet: of a separator that keeps its word both say the same there, and of one that computes in
half precision (or looks further than it says) no step can be heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from singleout.manipulations import Members
from singleout.separators import Separator, averaged

FADE_SECONDS = 0.02


def separated(
    separator: Separator,
    blocks: Iterable[NDArray[np.float32]],
    conditions: Sequence[Members],
    chunk_samples: int,
    link_channels: bool = True,
) -> Iterator[NDArray[np.float32]]:
    """The targets in a mixture of any length, as it comes; the mixture is encoded once for all.

    Args:
        separator: in evaluation mode.
        blocks: of the mixture, float32 [channels, samples] at the separator's rate.
        conditions: of every query, [1, members, dim], on the separator's device.
        chunk_samples: the most that a chunk keeps, rounded up to a stride; bounds the memory.
        link_channels: one mask for all channels; without, each channel has its own.

    Yields:
        Float32 [queries, channels, samples], gapless, as many samples in all as came.
    """
    stride, context = separator.stride_samples, separator.context_samples

    def strides(samples: int) -> int:
        return -(-samples // stride) * stride

    keep, before = strides(chunk_samples), strides(context)
    num_fade = min(round(FADE_SECONDS * separator.sample_rate), keep)
    fade = np.sin(np.linspace(0, np.pi / 2, num_fade, dtype=np.float32)) ** 2
    beyond = num_fade + context
    heard: NDArray[np.float32] | None = None
    heard_from = keep_from = 0  # positions in the whole
    tail: NDArray[np.float32] | None = None

    def chunk(heard: NDArray[np.float32], is_last: bool) -> NDArray[np.float32]:
        """What the chunk from ``keep_from`` keeps; its end is faded into the next."""
        nonlocal tail
        start = keep_from - heard_from
        read = heard[:, max(0, start - before) : start + keep + beyond]
        kept_at = min(start, before)
        found = _answers(separator, read, conditions, link_channels)[:, :, kept_at:]
        if tail is not None:
            shared = min(num_fade, found.shape[2])
            weight = fade[:shared]
            found[:, :, :shared] *= weight
            found[:, :, :shared] += tail[:, :, :shared] * (1 - weight)
        tail = None if is_last else found[:, :, keep : keep + num_fade].copy()
        return found[:, :, :keep]

    for block in blocks:
        heard = block if heard is None else np.concatenate([heard, block], axis=1)
        while heard_from + heard.shape[1] > keep_from + keep + beyond:
            yield chunk(heard, is_last=False)
            keep_from += keep
            forgotten = max(0, keep_from - before - heard_from)
            heard = heard[:, forgotten:]
            heard_from += forgotten
    while heard is not None and keep_from < heard_from + heard.shape[1]:
        yield chunk(heard, is_last=keep_from + keep >= heard_from + heard.shape[1])
        keep_from += keep


def _answers(
    separator: Separator,
    mixture: NDArray[np.float32],
    conditions: Sequence[Members],
    link_channels: bool,
) -> NDArray[np.float32]:
    """[queries, channels, samples]: query by query and, unlinked, channel by channel, since a
    batch of them is no faster on a CPU and takes their number times the memory.
    """
    found = np.empty((len(conditions), *mixture.shape), np.float32)
    groups = [slice(None)] if link_channels else [slice(c, c + 1) for c in range(len(mixture))]
    for group in groups:
        piece = torch.tensor(mixture[None, group], device=conditions[0].weights.device)
        encoded = separator.encode(piece)
        for number, condition in enumerate(conditions):
            found[number, group] = averaged(separator, encoded, *condition)[0].cpu().numpy()
    return found
