"""Long mixtures piece by piece, with the result of the whole.

A separator looks a bounded way to either side (``context_samples``) and sees the same frames from
every multiple of ``stride_samples``. So a chunk is read with that much context, starts at such a
multiple, and its context is thrown away afterwards. Neighbouring chunks are cross-faded where they
meet: of a separator that keeps its word both say the same there, and of one that computes in
half precision (or looks further than it says) no step can be heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from singleout.separators import Separator, averaged

FADE_SECONDS = 0.02


class Chunk(NamedTuple):
    """What a chunk keeps.

    Attributes:
        targets: float32 [queries, channels, samples].
        presence: logits [queries, frames], one per stride; None of a separator that does not tell.
    """

    targets: NDArray[np.float32]
    presence: NDArray[np.float32] | None


def separated(
    separator: Separator,
    blocks: Iterable[NDArray[np.float32]],
    conditions: Sequence[Tensor],
    chunk_samples: int,
    link_channels: bool = True,
) -> Iterator[Chunk]:
    """The targets in a mixture of any length, as it comes; the mixture is encoded once for all.

    Args:
        separator: in evaluation mode.
        blocks: of the mixture, float32 [channels, samples] at the separator's rate.
        conditions: of every query, float32 [1, members, dim], on the separator's device.
        chunk_samples: the most that a chunk keeps, rounded up to a stride; bounds the memory.
        link_channels: one mask for all channels; without, each channel has its own.

    Yields:
        Gapless, as many samples in all as came.
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

    def chunk(heard: NDArray[np.float32], is_last: bool) -> Chunk:
        """What the chunk from ``keep_from`` keeps; its end is faded into the next."""
        nonlocal tail
        start = keep_from - heard_from
        read = heard[:, max(0, start - before) : start + keep + beyond]
        kept_at = min(start, before)
        found, presence = _answers(separator, read, conditions, link_channels)
        found = found[:, :, kept_at:]
        if tail is not None:
            shared = min(num_fade, found.shape[2])
            weight = fade[:shared]
            found[:, :, :shared] *= weight
            found[:, :, :shared] += tail[:, :, :shared] * (1 - weight)
        tail = None if is_last else found[:, :, keep : keep + num_fade].copy()
        kept = found[:, :, :keep]
        if presence is not None:
            first = kept_at // stride
            presence = presence[:, first : first - (-kept.shape[2] // stride)]
        return Chunk(kept, presence)

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
    conditions: Sequence[Tensor],
    link_channels: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """[queries, channels, samples]: query by query and, unlinked, channel by channel, since a
    batch of them is no faster on a CPU and takes their number times the memory.

    And [queries, frames]: present is what is present in any channel.
    """
    found = np.empty((len(conditions), *mixture.shape), np.float32)
    told: dict[int, NDArray[np.float32]] = {}
    groups = [slice(None)] if link_channels else [slice(c, c + 1) for c in range(len(mixture))]
    for group in groups:
        piece = torch.tensor(mixture[None, group], device=conditions[0].device)
        encoded = separator.encode(piece)
        for number, condition in enumerate(conditions):
            answer = averaged(separator, encoded, condition)
            found[number, group] = answer.target[0].cpu().numpy()
            if answer.presence is not None:
                logits = answer.presence[0].cpu().numpy()
                told[number] = np.maximum(told[number], logits) if number in told else logits
    return found, np.stack([told[number] for number in sorted(told)]) if told else None
