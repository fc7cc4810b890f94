"""The level at which a target is given: its own where it sounds like what is asked, else none.

A separator that is taught to be near the target errs on the quiet side where it is unsure which
sound is meant, and never dares to be silent where none is. What tells these apart is heard
afterwards (``singleout.model.similarity``): so the level follows the likeness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import model_validator

from singleout.config import StrictConfig
from singleout.model.similarity import Listener, Windows, mean_likeness, nearby

REACH_SECONDS = 8.0
"""How far to either side of a moment is listened for its level, in whole windows."""
SILENCE_DB = -35.0
"""Of a target to its mixture: quieter serves nobody, and some metrics count it as no answer."""
LIKEST = 1.0
"""Likeness of a sound and itself."""
PIECE_HOPS = 64
"""Brought to level at a time, so that the memory is bounded."""


class Gate(StrictConfig):
    """Gain by likeness, fitted on validation mixtures (``evaluate.questions``).

    Args:
        low, high: likeness up to which it is ``floor_db``, and at which it is ``gain_db``; straight
            between them, and on to 0 dB at a likeness of 1, where there is no doubt.
        floor_db, gain_db: of the amplitude.
    """

    low: float
    high: float
    floor_db: float
    gain_db: float

    @model_validator(mode="after")
    def _in_order(self) -> Gate:
        if not (self.low < self.high < LIKEST and self.floor_db <= self.gain_db):
            raise ValueError("low is below high, which is below 1, and floor_db not above gain_db")
        return self

    def decibels(self, likeness: ArrayLike) -> NDArray[np.float64]:
        """Gain in dB, of the same shape."""
        points, gains = (self.low, self.high, LIKEST), (self.floor_db, self.gain_db, 0.0)
        return np.asarray(np.interp(np.asarray(likeness, np.float64), points, gains))


class GatedStream:
    """Targets as they come, at the level of their likeness, some seconds later.

    Around every window of the listener the likeness of its neighbours counts, by their power and
    the less the farther they are; between windows the gain is straight in dB. What is silence
    beside its mixture is not made any quieter, and nothing is made louder than its mixture.

    Args:
        gate: what the level is; None leaves it as it is, and only listens.
        listener: hears the targets as they came.
        is_gated: of each query; one that asks for nothing is not.
        link_channels: one level for all channels; without, each has its own.
    """

    def __init__(
        self,
        gate: Gate | None,
        listener: Listener,
        is_gated: Sequence[bool],
        link_channels: bool = True,
    ) -> None:
        self.gate, self.listener, self._link_channels = gate, listener, link_channels
        self._is_gated = list(is_gated)
        self._hop = listener.hop_samples
        self._reach = max(1, round(REACH_SECONDS / listener.frame_seconds))
        self._windows = Windows(self._hop)
        self._power: list[NDArray[np.float64]] = []  # of the mixture, [channels]
        self._waiting: NDArray[np.float32] | None = None
        self._given = 0  # samples

    def push(
        self, targets: NDArray[np.float32], mixture: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What can be given of float32 [queries, channels, samples] and what came before, which may
        be nothing; of a mixture [channels, samples]."""
        self.listener.push(targets)
        if self.gate is None:
            return targets
        self._power += [_power(window) for window in self._windows.push(mixture)]
        waiting = self._waiting
        self._waiting = targets if waiting is None else np.concatenate([waiting, targets], axis=2)
        # Up to the middle of the last window whose neighbours all have been heard.
        known = self.listener.num_frames - self._reach
        return self._give(max(0, known * self._hop - self._given))

    def finish(self) -> NDArray[np.float32]:
        """The rest; the listener has been told that it is the end."""
        self.listener.finish()
        self._power += [_power(window) for window in self._windows.finish()]
        if self._waiting is None:
            return np.zeros((len(self._is_gated), 1, 0), np.float32)
        return self._give(self._waiting.shape[2])

    def whole(
        self, targets: NDArray[np.float32], mixture: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """``push`` and ``finish`` of all at once."""
        given, rest = self.push(targets, mixture), self.finish()
        return np.concatenate([given, rest], axis=2) if rest.size else given

    def _give(self, num_samples: int) -> NDArray[np.float32]:
        assert self._waiting is not None
        given, self._waiting = np.split(self._waiting, [num_samples], axis=2)
        gated = given.copy()
        piece = PIECE_HOPS * self._hop
        for start in range(0, num_samples, piece):
            self._to_level(gated[:, :, start : start + piece])
        return gated

    def _to_level(self, targets: NDArray[np.float32]) -> None:
        """In place, of what comes next."""
        start = self._given
        self._given += targets.shape[2]
        first = max(0, start // self._hop - 1)
        gains_db = self._gains_db(first, (self._given - 1) // self._hop)
        middles = (first + 1 + np.arange(gains_db.shape[2])) * self._hop
        samples = np.arange(start, self._given)
        for target, gains, is_gated in zip(targets, gains_db, self._is_gated, strict=True):
            if is_gated:
                by_channel = [np.interp(samples, middles, gain) for gain in gains]
                target *= (10 ** (np.stack(by_channel) / 20)).astype(np.float32)

    def _gains_db(self, first: int, last: int) -> NDArray[np.float64]:
        """[queries, channels or 1, frames], of windows ``first`` to ``last`` as far as there are
        any."""
        assert self.gate is not None
        last = min(last, self.listener.num_frames - 1)
        likeness, power = self.listener.around(first, last, self._reach)
        heard = np.stack(self._power[max(0, first - self._reach) : last + 1 + self._reach], 1)
        mixture = heard @ nearby(first, last, self._reach, heard.shape[1])
        if self._link_channels:
            likeness = mean_likeness(likeness, power, 1)[:, None]
            power, mixture = power.sum(1, keepdims=True), mixture.sum(0, keepdims=True)
        level_db = 10 * np.log10(np.maximum(power, 1e-20) / np.maximum(mixture, 1e-20))
        gains_db = np.maximum(self.gate.decibels(likeness), np.minimum(0, SILENCE_DB - level_db))
        loudest: NDArray[np.float64] = np.minimum(gains_db, np.maximum(0, -level_db))
        return loudest


def _power(window: NDArray[np.float32]) -> NDArray[np.float64]:
    power: NDArray[np.float64] = np.square(window, dtype=np.float64).mean(-1)
    return power
