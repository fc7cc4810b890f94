"""The level of a target: its own where it is similar to the query, nearly silent elsewhere.

A separator that is trained to be close to the target is too quiet where it is unsure which sound
is meant, and is never silent where none is present. Similarity tells these cases apart
(``model.similarity``), so the level follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from singleout.config import StrictConfig
from singleout.model.similarity import SimilarityMeter, Windows, neighbour_weights, weighted_mean

REACH_SECONDS = 8.0
"""Windows this far to either side take part in the level of a moment."""
LOWEST_TARGET_DB = -35.0
"""Target over mixture: the gate lowers no target further. A lower level is of no use, and metrics
count it as no answer from -40 dB on (``audio.silence.SILENT_BELOW_MIXTURE_DB``)."""
HIGHEST = 1.0
"""Similarity of a sound and itself."""
PIECE_HOPS = 64
"""Windows whose level is set at a time, so that the memory is bounded."""


class Gate(StrictConfig):
    """Gain by similarity; fitted on validation mixtures (``model.calibration``).

    Args:
        low: similarity up to which the gain is ``floor_db``.
        high: similarity at which the gain is ``gain_db``. The gain is linear in dB between the
            two, and from ``high`` on to 0 dB at a similarity of 1, where there is no doubt.
        floor_db, gain_db: gain of the amplitude, dB.

    Example:
        >>> Gate(low=0.2, high=0.4, floor_db=-20.0, gain_db=2.0).decibels([0.1, 0.3, 0.4, 1.0])
        array([-20.,  -9.,   2.,   0.])
    """

    low: Annotated[float, Field(ge=-1e6)]
    high: float
    floor_db: Annotated[float, Field(ge=-200)]
    gain_db: Annotated[float, Field(le=200)]

    @model_validator(mode="after")
    def _in_order(self) -> Gate:
        if not (self.low < self.high < HIGHEST and self.floor_db <= self.gain_db):
            raise ValueError("low is below high, which is below 1, and floor_db not above gain_db")
        return self

    def decibels(self, similarity: ArrayLike) -> NDArray[np.float64]:
        """Gain in dB, of the shape of ``similarity``."""
        points, gains = (self.low, self.high, HIGHEST), (self.floor_db, self.gain_db, 0.0)
        return np.asarray(np.interp(np.asarray(similarity, np.float64), points, gains))


class LevelGate:
    """Sets the level of targets by their similarity, block by block.

    The similarity of a window is the mean over its neighbours, by their power and the less the
    farther they are. Between windows the gain is linear in dB. A target that is silent next to
    its mixture is not attenuated further, and no target becomes louder than its mixture.

    Args:
        gate: gain by similarity. None: targets keep their level, and only the similarity is
            measured.
        meter: measures the similarity of the targets before their level is set.
        is_gated: of each query; False: its target keeps its level.
        link_channels: one level for all channels. False: one for each channel.

    Example:
        >>> import numpy as np, torch
        >>> from singleout import Query
        >>> from singleout.model import QueriedSeparator
        >>> model = QueriedSeparator.from_pretrained("builtin")
        >>> with torch.inference_mode():
        ...     gate = model.level_gate([model.embed(Query("rain"))])
        >>> mixture = np.random.default_rng(0).normal(0, 0.1, (1, 32_000)).astype(np.float32)
        >>> gate.whole(mixture[None] / 2, mixture).shape
        (1, 1, 32000)
    """

    def __init__(
        self,
        gate: Gate | None,
        meter: SimilarityMeter,
        is_gated: Sequence[bool],
        link_channels: bool = True,
    ) -> None:
        self.gate, self.meter, self._link_channels = gate, meter, link_channels
        self._is_gated = list(is_gated)
        self._hop = meter.hop_samples
        self._reach = max(1, round(REACH_SECONDS / meter.frame_seconds))
        self._windows = Windows(self._hop)
        self._mixture_power: list[NDArray[np.float64]] = []  # each [channels]
        self._pending: NDArray[np.float32] | None = None
        self._num_done = 0  # samples

    @property
    def look_ahead_samples(self) -> int:
        """Samples of input after a sample that its output needs; 0 without gate."""
        return 0 if self.gate is None else (self._reach + 2) * self._hop

    def push(
        self, targets: NDArray[np.float32], mixture: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Append a block; the targets whose level is known by now.

        Args:
            targets: float32 [queries, channels, samples].
            mixture: float32 [channels, samples].

        Returns:
            float32 [queries, channels, samples]; there may be no samples yet.
        """
        self.meter.push(targets)
        if self.gate is None:
            return targets
        self._mixture_power += [_power(window) for window in self._windows.push(mixture)]
        pending = self._pending
        self._pending = targets if pending is None else np.concatenate([pending, targets], axis=2)
        # Up to the middle of the last window whose neighbours are all measured.
        known = self.meter.num_frames - self._reach
        return self._release(max(0, known * self._hop - self._num_done))

    def finish(self) -> NDArray[np.float32]:
        """Return the rest of the targets. No block may be pushed after that."""
        self.meter.finish()
        self._mixture_power += [_power(window) for window in self._windows.finish()]
        if self._pending is None:
            return np.zeros((len(self._is_gated), 1, 0), np.float32)
        return self._release(self._pending.shape[2])

    def whole(
        self, targets: NDArray[np.float32], mixture: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Set the level of whole targets: ``push`` and ``finish`` in one call."""
        first, rest = self.push(targets, mixture), self.finish()
        return np.concatenate([first, rest], axis=2) if rest.size else first

    def _release(self, num_samples: int) -> NDArray[np.float32]:
        assert self._pending is not None
        released, self._pending = np.split(self._pending, [num_samples], axis=2)
        levelled = released.copy()
        piece = PIECE_HOPS * self._hop
        for start in range(0, num_samples, piece):
            self._set_level(levelled[:, :, start : start + piece])
        return levelled

    def _set_level(self, targets: NDArray[np.float32]) -> None:
        """Set the level of the next samples, in place."""
        start = self._num_done
        self._num_done += targets.shape[2]
        first = max(0, start // self._hop - 1)
        gains_db = self._gains_db(first, (self._num_done - 1) // self._hop)
        middles = (first + 1 + np.arange(gains_db.shape[2])) * self._hop
        samples = np.arange(start, self._num_done)
        for target, gains, is_gated in zip(targets, gains_db, self._is_gated, strict=True):
            if is_gated:
                by_channel = [np.interp(samples, middles, gain) for gain in gains]
                target *= (10 ** (np.stack(by_channel) / 20)).astype(np.float32)

    def _gains_db(self, first: int, last: int) -> NDArray[np.float64]:
        """Gains of the windows ``first`` to ``last``, [queries, channels or 1, frames]."""
        assert self.gate is not None
        last = min(last, self.meter.num_frames - 1)
        similarity, power = self.meter.around(first, last, self._reach)
        part = slice(max(0, first - self._reach), last + 1 + self._reach)
        by_window = np.stack(self._mixture_power[part], 1)
        mixture = by_window @ neighbour_weights(first, last, self._reach, by_window.shape[1])
        if self._link_channels:
            similarity = weighted_mean(similarity, power, 1)[:, None]
            power, mixture = power.sum(1, keepdims=True), mixture.sum(0, keepdims=True)
        level_db = 10 * np.log10(np.maximum(power, 1e-20) / np.maximum(mixture, 1e-20))
        lowest_db = np.minimum(0, LOWEST_TARGET_DB - level_db)
        gains_db = np.maximum(self.gate.decibels(similarity), lowest_db)
        loudest: NDArray[np.float64] = np.minimum(gains_db, np.maximum(0, -level_db))
        return loudest


def _power(window: NDArray[np.float32]) -> NDArray[np.float64]:
    power: NDArray[np.float64] = np.square(window, dtype=np.float64).mean(-1)
    return power
