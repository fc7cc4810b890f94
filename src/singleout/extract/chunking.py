"""Separation of mixtures of any length, chunk by chunk, with the result of the whole.

``ExtractOptions.chunk_seconds`` sets the length of the chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from singleout.condition import Condition
from singleout.errors import Cancelled, ModelError
from singleout.separators import Separator

FADE_SECONDS = 0.02
"""Length of the cross-fade between neighbouring chunks."""


class Block(NamedTuple):
    """A stretch of a mixture with the targets in it, sample by sample.

    Attributes:
        mixture: [channels, samples]; float32, or float64 where the samples of a file need it.
        targets: float32 [queries, channels, samples].

    Example:
        >>> import numpy as np
        >>> Block(np.zeros((2, 100)), np.zeros((3, 2, 100), np.float32)).targets.shape
        (3, 2, 100)
    """

    mixture: NDArray[Any]
    targets: NDArray[np.float32]


class ChunkedSeparator:
    """The stage of the pipeline that separates; see ``Stage`` for its methods.

    A separator depends on a bounded context to either side (``context_samples``), and has the same
    frames from every multiple of ``stride_samples``. A chunk is read with that context, starts at
    such a multiple, and its context is dropped afterwards. Neighbouring chunks are cross-faded
    where they meet. Both have the same samples there, unless the separator computes in half
    precision or depends on more context than it declares.

    Args:
        separator: in evaluation mode.
        conditions: one per query, [1, parts, dim], on the separator's device.
        chunk_samples: the most that a chunk keeps, rounded up to a stride; bounds the memory.
        link_channels: one mask for all channels. False: one for each channel.
        name: of the recording, for messages.
        cancel: stops the work before the next chunk.

    Raises:
        ModelError: from ``push`` or ``finish``: the output is not finite.
        Cancelled: from ``push`` or ``finish``: ``cancel`` is set.

    Example:
        >>> import numpy as np, torch
        >>> from singleout.separators import IdentityConfig
        >>> stage = ChunkedSeparator(
        ...     IdentityConfig().build(8), [Condition.single(torch.ones(1, 8))], chunk_samples=1_000
        ... )
        >>> chunks = stage.push(np.zeros((1, 2_500), np.float32)) + stage.finish()
        >>> [chunk.targets.shape for chunk in chunks]
        [(1, 1, 1000), (1, 1, 1000), (1, 1, 500)]
    """

    def __init__(
        self,
        separator: Separator,
        conditions: Sequence[Condition],
        chunk_samples: int,
        link_channels: bool = True,
        name: str = "audio",
        cancel: Event | None = None,
    ) -> None:
        self._separator, self._conditions = separator, conditions
        self._link_channels, self._name, self._cancel = link_channels, name, cancel
        stride = separator.stride_samples
        self._keep, self._before = (
            -(-samples // stride) * stride for samples in (chunk_samples, separator.context_samples)
        )
        num_fade = min(round(FADE_SECONDS * separator.sample_rate), self._keep)
        self._fade = np.sin(np.linspace(0, np.pi / 2, num_fade, dtype=np.float32)) ** 2
        self._mixture: NDArray[np.float32] | None = None
        self._new: list[NDArray[np.float32]] = []  # joined to the mixture when a chunk is due
        self._end = 0
        self._start = self._position = 0  # of the buffered mixture, and of the next chunk
        self._tail: NDArray[np.float32] | None = None

    @property
    def look_ahead_samples(self) -> int:
        """Context after a sample, and the cross-fade."""
        return len(self._fade) + self._separator.context_samples

    @property
    def latency_samples(self) -> int:
        """A chunk with the context after it."""
        return self._keep + self.look_ahead_samples

    def push(self, block: NDArray[np.float32]) -> list[Block]:
        """Append a block, float32 [channels, samples]; the chunks that it completes."""
        self._new.append(block)
        self._end += block.shape[1]
        chunks = []
        while self._end > self._position + self.latency_samples:
            chunks.append(self._next_chunk(is_last=False))
        return chunks

    def finish(self) -> list[Block]:
        """The chunks of the rest."""
        chunks = []
        while self._position < self._end:
            chunks.append(self._next_chunk(is_last=self._position + self._keep >= self._end))
        return chunks

    def _next_chunk(self, is_last: bool) -> Block:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled(f"{self._name}: cancelled")
        keep, mixture = self._keep, self._buffered()
        start = self._position - self._start
        first = max(0, start - self._before)
        piece = mixture[:, first : start + self.latency_samples]
        targets = self._estimate(piece)[:, :, start - first :]
        if self._tail is not None:
            shared = min(len(self._fade), targets.shape[2])
            weight = self._fade[:shared]
            targets[:, :, :shared] *= weight
            targets[:, :, :shared] += self._tail[:, :, :shared] * (1 - weight)
        self._tail = None if is_last else targets[:, :, keep : keep + len(self._fade)].copy()
        self._position += keep
        return Block(mixture[:, start : start + keep], targets[:, :, :keep])

    def _buffered(self) -> NDArray[np.float32]:
        """The mixture from the context before the next chunk on; older samples are dropped."""
        dropped = max(0, self._position - self._before - self._start)
        if self._new:
            kept = [] if self._mixture is None else [self._mixture]
            self._mixture = np.concatenate([*kept, *self._new], axis=1)
            self._new = []
        assert self._mixture is not None
        self._mixture = self._mixture[:, dropped:]
        self._start += dropped
        return self._mixture

    @torch.inference_mode()
    def _estimate(self, mixture: NDArray[np.float32]) -> NDArray[np.float32]:
        """Targets [queries, channels, samples].

        Queries, and channels that are not linked, are separated one after the other: a batch of
        them is no faster on a CPU and takes their number times the memory.
        """
        targets = np.empty((len(self._conditions), *mixture.shape), np.float32)
        channels = len(mixture)
        groups = (
            [slice(None)] if self._link_channels else [slice(c, c + 1) for c in range(channels)]
        )
        for group in groups:
            piece = torch.tensor(mixture[None, group], device=self._conditions[0].weights.device)
            encoded = self._separator.encode(piece)
            for number, condition in enumerate(self._conditions):
                estimate = self._separator.estimate(encoded, condition)[0]
                targets[number, group] = estimate.cpu().numpy()
        if not np.isfinite(targets).all():
            raise ModelError(
                f"{self._name}: the output of the model is not finite: its weights are damaged, or "
                "the recording is far beyond full scale (its peak is "
                f"{float(np.abs(mixture).max()):.3g})"
            )
        return targets
