"""A recording through a model, block by block, in memory that does not grow with its length.

Samples are pushed in, and targets come out: ``Pipeline.push(block)`` and ``Pipeline.finish()``.
Files, arrays, sockets and sound cards can all feed it. Inside, seven stages follow each other:

    RemoveInfrasound -> Resample -> ChunkedSeparator
        -> Level -> ResampleTargets -> RemoveInfrasound -> FadeEnds

Every stage has the same face; see ``extract.stages``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from singleout.condition import Condition
from singleout.extract.chunking import Block, ChunkedSeparator
from singleout.extract.options import ExtractOptions
from singleout.extract.stages import (
    FadeEnds,
    Level,
    RemoveInfrasound,
    Resample,
    ResampleTargets,
    TargetsOnly,
)
from singleout.model import QueriedSeparator
from singleout.model.level_gate import LevelGate

MIN_CHUNK_SECONDS = 2.0
FEW_CHANNELS = 2


class Pipeline:
    """The stages from a recording to its targets.

    The samples of the recording wait until their targets are known, so that both come out
    together, at the rate and channels of the recording.

    Args:
        model: in evaluation mode.
        conditions: one per query, [1, parts, dim], on the separator's device.
        sample_rate: of the recording, Hz.
        channels: of the recording.
        options: chunk length and linked channels; see ``ExtractOptions``.
        gate: sets and measures the targets; None: they keep the separator's level.
        gain: of the recording on its way to the model; targets have the recording's own level.
        name: of the recording, for messages.
        cancel: stops the work before the next chunk.

    Example:
        >>> import numpy as np, torch
        >>> from singleout import Query
        >>> from singleout.model import QueriedSeparator
        >>> model = QueriedSeparator.from_pretrained("builtin")
        >>> with torch.inference_mode():
        ...     conditions = [model.embed(Query("a dog barking"))]
        >>> pipeline = Pipeline(model, conditions, sample_rate=44_100, channels=1)
        >>> first = pipeline.push(np.zeros((1, 30_000), np.float32))
        >>> rest = pipeline.finish()
        >>> first.targets.shape[2] + rest.targets.shape[2]
        30000
    """

    def __init__(
        self,
        model: QueriedSeparator,
        conditions: Sequence[Condition],
        sample_rate: int,
        channels: int,
        options: ExtractOptions | None = None,
        *,
        gate: LevelGate | None = None,
        gain: float = 1.0,
        name: str = "audio",
        cancel: Event | None = None,
    ) -> None:
        options = options or ExtractOptions()
        rate = model.sample_rate
        chunk_samples = max(1, round(_chunk_seconds(options, channels) * rate))
        self._stages: list[Any] = [
            RemoveInfrasound(sample_rate, channels),
            Resample(sample_rate, rate, channels),
            ChunkedSeparator(
                model.separator, conditions, chunk_samples, options.link_channels, name, cancel
            ),
            TargetsOnly() if gate is None else Level(gate),
            ResampleTargets(rate, sample_rate, channels, len(conditions)),
            RemoveInfrasound(sample_rate, len(conditions) * channels),
            FadeEnds(sample_rate),
        ]
        self._rates = [sample_rate, sample_rate, rate, rate, rate, sample_rate, sample_rate]
        self._sample_rate, self._gain = sample_rate, gain
        self._recording: list[NDArray[Any]] = []  # samples whose targets are still to come
        self._targets: list[NDArray[np.float32]] = []  # targets whose samples are still to come
        self._num_targets = len(conditions)

    @property
    def look_ahead_samples(self) -> int:
        """Samples of the recording after a sample that its targets depend on, at most."""
        return self._in_samples("look_ahead_samples")

    @property
    def latency_samples(self) -> int:
        """Samples of the recording that the stages may hold back."""
        return self._in_samples("latency_samples")

    def _in_samples(self, name: str) -> int:
        pairs = zip(self._stages, self._rates, strict=True)
        return ceil(sum(float(getattr(s, name)) * self._sample_rate / rate for s, rate in pairs))

    def push(self, block: NDArray[Any]) -> Block:
        """Append a block of the recording, [channels, samples].

        Returns:
            What is known by now: the next samples of the recording with their targets. There may
            be none.

        Raises:
            ModelError: the output of the model is not finite.
            Cancelled: see ``cancel``.
        """
        self._recording.append(block)
        amplified = block if self._gain == 1.0 else block * self._gain
        blocks: list[Any] = [amplified.astype(np.float32, copy=False)]
        for stage in self._stages:
            blocks = [done for each in blocks for done in stage.push(each)]
        return self._aligned(blocks)

    def finish(self) -> Block:
        """Return the rest of the recording with its targets. No block may be pushed after that.

        Raises:
            ModelError, Cancelled: see ``push``.
        """
        blocks: list[Any] = []
        for stage in self._stages:
            blocks = [done for each in blocks for done in stage.push(each)] + stage.finish()
        return self._aligned(blocks, is_last=True)

    def _aligned(self, blocks: list[NDArray[np.float32]], is_last: bool = False) -> Block:
        """The next targets, with the samples of the recording that they belong to."""
        channels = len(self._recording[0]) if self._recording else 1
        none = np.zeros((self._num_targets, channels, 0), np.float32)
        if not self._recording or not (is_last or any(block.size for block in blocks)):
            return Block(none[0], none)  # samples are joined when it is time
        recording = np.concatenate(self._recording, axis=1)
        targets: NDArray[np.float32] = np.concatenate([none, *self._targets, *blocks], axis=2)
        if is_last:  # resampling there and back may lose a few samples
            missing = max(0, recording.shape[1] - targets.shape[2])
            targets = np.pad(targets, ((0, 0), (0, 0), (0, missing)))
        known = min(recording.shape[1], targets.shape[2])
        self._recording, self._targets = [recording[:, known:]], [targets[:, :, known:]]
        # A copy: a caller who keeps the block must not keep the samples that still wait.
        mixture = recording[:, :known].copy()
        known_targets = (targets[:, :, :known] / np.float32(self._gain)).astype(
            np.float32, copy=False
        )
        return Block(mixture, known_targets)


def _chunk_seconds(options: ExtractOptions, channels: int) -> float:
    """Length of the chunks. Many linked channels use shorter chunks, to need no more memory."""
    seconds = options.chunk_seconds
    if not options.link_channels:
        return seconds
    share = FEW_CHANNELS / max(FEW_CHANNELS, channels)
    return max(min(seconds, MIN_CHUNK_SECONDS), seconds * share)
