"""The stages of the pipeline that follow each other from a mixture to its targets.

Every stage has the same face. ``push`` takes a block and gives the blocks that it completes,
``finish`` gives the rest. ``look_ahead_samples`` is how many samples after a sample its output
depends on. ``latency_samples`` is how many samples a stage may hold back. Both count samples at the
rate of the stage's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from singleout.audio import InfrasoundFilter, ResampleStream
from singleout.extract.chunking import Block
from singleout.model.level_gate import LevelGate

RESAMPLER_SAMPLES = 1_500
"""Upper bound of what a resampler holds back, in samples at the lower of its two rates."""
FADE_SECONDS = 0.002

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


class RemoveInfrasound:
    """Removes DC offset and infrasound from waveforms, [..., samples].

    They reach neither the separator nor the level of the target, and remain in the residual. In a
    mixture the stage comes first: a resampler would turn the start of an offset into a click. In
    targets it comes last: a mask that changes over time makes new infrasound.

    Args:
        sample_rate: Hz.
        num_waveforms: in every block.

    Example:
        >>> import numpy as np
        >>> stage = RemoveInfrasound(32_000, num_waveforms=1)
        >>> blocks = [*stage.push(np.full((1, 32_000), 0.1, np.float32)), *stage.finish()]
        >>> bool(np.abs(np.concatenate(blocks, axis=1)).max() < 1e-6)
        True
    """

    def __init__(self, sample_rate: int, num_waveforms: int) -> None:
        self._filter = InfrasoundFilter(sample_rate, num_waveforms)
        self._shape: tuple[int, ...] = (num_waveforms,)  # of a block without its samples
        self._num_waveforms = num_waveforms
        self.latency_samples = self._filter.latency_samples
        self.look_ahead_samples = self._filter.look_ahead_samples

    def push(self, block: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Append a block, and return the samples that are final."""
        self._shape = block.shape[:-1]
        filtered = self._filter.push(block.reshape(self._num_waveforms, block.shape[-1]))
        return [filtered.reshape(*self._shape, filtered.shape[-1])]

    def finish(self) -> list[NDArray[np.float32]]:
        """Return the remaining samples."""
        filtered = self._filter.finish()
        return [filtered.reshape(*self._shape, filtered.shape[-1])]


class Level:
    """Sets the level of targets by their similarity to the queries; see ``LevelGate``.

    It gives targets without their mixture, which nothing after it needs.

    Example:
        >>> import numpy as np, torch
        >>> from singleout import Query
        >>> from singleout.model import QueriedSeparator
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


class FadeEnds:
    """Fades targets, [queries, channels, samples], in and out over 2 ms.

    A recording may begin or end in the middle of a sound. Its target would start with a click.

    Args:
        sample_rate: Hz.

    Example:
        >>> import numpy as np
        >>> stage = FadeEnds(1_000)
        >>> blocks = [*stage.push(np.ones((1, 1, 6), np.float32)), *stage.finish()]
        >>> np.concatenate(blocks, axis=2).tolist()
        [[[0.0, 0.5, 1.0, 1.0, 0.5, 0.0]]]
    """

    def __init__(self, sample_rate: int) -> None:
        samples = ceil(FADE_SECONDS * sample_rate)
        self._ramp = np.arange(samples, dtype=np.float32) / samples
        self._num_samples = 0  # that were pushed
        self._held: NDArray[np.float32] | None = None
        self.look_ahead_samples = self.latency_samples = samples

    def push(self, block: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Append a block, and return the samples before the last 2 ms."""
        if (position := self._num_samples) < len(self._ramp):
            ramp = self._ramp[position : position + block.shape[2]]
            block = block.copy()
            block[:, :, : len(ramp)] *= ramp
        self._num_samples += block.shape[2]
        held = block if self._held is None else np.concatenate([self._held, block], axis=2)
        num_known = max(0, held.shape[2] - len(self._ramp))
        known, self._held = held[:, :, :num_known], held[:, :, num_known:]
        return [known]

    def finish(self) -> list[NDArray[np.float32]]:
        """Return the last 2 ms."""
        if self._held is None:
            return []
        ramp = self._ramp[::-1][len(self._ramp) - self._held.shape[2] :]
        return [(self._held * ramp).astype(np.float32, copy=False)]


def _resampler_latency(rate_in: int, rate_out: int) -> int:
    if rate_in == rate_out:
        return 0
    return ceil(RESAMPLER_SAMPLES * rate_in / min(rate_in, rate_out))
