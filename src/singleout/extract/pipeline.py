"""A recording through a model, block by block, in memory that does not grow with its length.

Samples are pushed in, and targets come out: ``Pipeline.push(block)`` and ``Pipeline.finish()``.
Files, arrays, sockets and sound cards can all feed it. Inside, four stages follow each other:

    Resample -> ChunkedSeparator -> Level -> ResampleTargets

Every stage has the same face. ``push`` takes a block and gives the blocks that it completes,
``finish`` gives the rest. ``look_ahead_samples`` is how many samples after a sample its output
depends on. ``latency_samples`` is how many samples a stage may hold back. Both count samples at the
rate of the stage's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from threading import Event
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from singleout.audio import ResampleStream
from singleout.condition import Condition
from singleout.extract.chunking import Block, ChunkedSeparator
from singleout.extract.options import ExtractOptions
from singleout.model import QueriedSeparator
from singleout.model.level_gate import LevelGate

MIN_CHUNK_SECONDS = 2.0
FEW_CHANNELS = 2
RESAMPLER_SAMPLES = 1_500
"""Upper bound of what a resampler holds back, in samples at the lower of its two rates."""

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)


class Stage(Protocol[In, Out]):
    """One step of the pipeline; see the module."""

    @property
    def look_ahead_samples(self) -> int:
        """Samples after a sample that its output depends on, at most."""

    @property
    def latency_samples(self) -> int:
        """Samples that the stage may hold back."""

    def push(self, block: In) -> Sequence[Out]:
        """Append a block, and return the blocks that it completes."""

    def finish(self) -> Sequence[Out]:
        """Return the remaining blocks. No block may be pushed after that."""


class Resample:
    """Resamples a mixture, [channels, samples].

    Args:
        rate_in, rate_out: Hz.
        channels: of every block.

    Example:
        >>> import numpy as np
        >>> stage = Resample(48_000, 32_000, channels=1)
        >>> blocks = [*stage.push(np.zeros((1, 48_000), np.float32)), *stage.finish()]
        >>> sum(block.shape[1] for block in blocks)
        32000
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._stream = ResampleStream(rate_in, rate_out, channels)
        self.latency_samples = _resampler_latency(rate_in, rate_out)
        self.look_ahead_samples = self.latency_samples

    def push(self, block: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Append a block, and return the samples that are final at the other rate."""
        return [self._stream.push(block)]

    def finish(self) -> list[NDArray[np.float32]]:
        """Return the remaining samples."""
        return [self._stream.finish()]


class Level:
    """Sets the level of targets by their similarity to the queries; see ``LevelGate``.

    It gives targets without their mixture, which nothing after it needs.

    Example:
        >>> import numpy as np, torch
        >>> from singleout import Query
        >>> model = QueriedSeparator.from_pretrained("builtin")
        >>> with torch.inference_mode():
        ...     gate = model.level_gate([model.embed(Query("rain"))])
        >>> stage = Level(gate)
        >>> targets = np.zeros((1, 1, 16_000), np.float32)
        >>> blocks = [*stage.push(Block(targets[0], targets)), *stage.finish()]
        >>> sum(block.shape[2] for block in blocks)
        16000
    """

    def __init__(self, gate: LevelGate) -> None:
        self._gate = gate

    @property
    def look_ahead_samples(self) -> int:
        """Samples of the later windows that the level of a sample depends on."""
        return self._gate.look_ahead_samples

    @property
    def latency_samples(self) -> int:
        """The same number: a target waits until all these windows are measured."""
        return self._gate.look_ahead_samples

    def push(self, block: Block) -> list[NDArray[np.float32]]:
        """Append a block, and return the targets whose level is known."""
        return [self._gate.push(block.targets, block.mixture.astype(np.float32, copy=False))]

    def finish(self) -> list[NDArray[np.float32]]:
        """Return the remaining samples."""
        targets = self._gate.finish()
        return [targets] if targets.size else []


class TargetsOnly:
    """Takes the place of ``Level`` where nothing measures the targets.

    Example:
        >>> import numpy as np
        >>> block = Block(np.zeros((1, 8)), np.zeros((2, 1, 8), np.float32))
        >>> TargetsOnly().push(block)[0].shape
        (2, 1, 8)
    """

    look_ahead_samples = latency_samples = 0

    def push(self, block: Block) -> list[NDArray[np.float32]]:
        """Return the targets of a block."""
        return [block.targets]

    def finish(self) -> list[NDArray[np.float32]]:
        """Return nothing, because no block is held back."""
        return []


class ResampleTargets:
    """Resamples targets, [queries, channels, samples], each query by a stream of its own.

    Args:
        rate_in, rate_out: Hz.
        channels, num_queries: of every block.

    Example:
        >>> import numpy as np
        >>> stage = ResampleTargets(32_000, 48_000, channels=1, num_queries=2)
        >>> blocks = [*stage.push(np.zeros((2, 1, 3_200), np.float32)), *stage.finish()]
        >>> sum(block.shape[2] for block in blocks)
        4800
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int, num_queries: int) -> None:
        self._streams = [ResampleStream(rate_in, rate_out, channels) for _ in range(num_queries)]
        self.latency_samples = _resampler_latency(rate_in, rate_out)
        self.look_ahead_samples = self.latency_samples

    def push(self, block: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Append a block, and return the samples that are final at the other rate."""
        pairs = zip(self._streams, block, strict=True)
        return [np.stack([stream.push(target) for stream, target in pairs])]

    def finish(self) -> list[NDArray[np.float32]]:
        """Return the remaining samples."""
        return [np.stack([stream.finish() for stream in self._streams])]


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
            Resample(sample_rate, rate, channels),
            ChunkedSeparator(
                model.separator, conditions, chunk_samples, options.link_channels, name, cancel
            ),
            TargetsOnly() if gate is None else Level(gate),
            ResampleTargets(rate, sample_rate, channels, len(conditions)),
        ]
        self._rates = [sample_rate, rate, rate, rate]
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


def _resampler_latency(rate_in: int, rate_out: int) -> int:
    if rate_in == rate_out:
        return 0
    return ceil(RESAMPLER_SAMPLES * rate_in / min(rate_in, rate_out))
