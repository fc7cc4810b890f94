"""The level at which a target is given: its own where it sounds like what is asked, else none.

A separator that is taught to be near the target errs on the quiet side where it is unsure which
sound is meant, and never dares to be silent where none is. What tells these apart is heard
afterwards (``singleout.presence``): so the level follows the likeness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import model_validator

from singleout.config import StrictConfig
from singleout.presence import Listener

REACH_SECONDS = 8.0
"""How far around a moment is listened for the level that it is given."""
SILENCE_DB = -35.0
"""Of a target to its mixture: quieter serves nobody, and some metrics count it as no answer."""
LIKEST = 1.0
"""Likeness of a sound and itself."""


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
    beside its mixture is not made any quieter.

    Args:
        gate: what the level is; None leaves it as it is, and only listens.
        listener: hears the targets as they came.
        is_gated: of each query; one that asks for nothing is not.
    """

    def __init__(self, gate: Gate | None, listener: Listener, is_gated: Sequence[bool]) -> None:
        self.gate, self.listener = gate, listener
        self._is_gated = np.array(is_gated)
        self._hop = listener.hop_samples
        self._reach = max(1, round(REACH_SECONDS / listener.frame_seconds))
        self._energies = _Energies(self._hop)
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
        self._energies.push(np.concatenate([targets, mixture[None]]))
        waiting = self._waiting
        self._waiting = targets if waiting is None else np.concatenate([waiting, targets], axis=2)
        # Up to the middle of the last window whose neighbours all have been heard.
        known = self.listener.num_frames - self._reach
        return self._give(max(0, known * self._hop - self._given))

    def finish(self) -> NDArray[np.float32]:
        """The rest; the listener has been told that it is the end."""
        self.listener.finish()
        if self._waiting is None:
            return np.zeros((len(self._is_gated), 1, 0), np.float32)
        return self._give(self._waiting.shape[2])

    def _give(self, num_samples: int) -> NDArray[np.float32]:
        assert self._waiting is not None
        given, self._waiting = np.split(self._waiting, [num_samples], axis=2)
        if num_samples == 0:
            return given
        start = self._given
        self._given += num_samples
        first, last = max(0, start // self._hop - 1), (self._given - 1) // self._hop
        gains_db = self._gains_db(first, last)
        middles = (first + 1 + np.arange(gains_db.shape[1])) * self._hop
        samples = np.arange(start, self._given)
        gains = np.stack([np.interp(samples, middles, own) for own in gains_db])
        amplitude = np.where(self._is_gated[:, None], 10 ** (gains / 20), 1.0)
        gated: NDArray[np.float32] = given * amplitude[:, None].astype(np.float32)
        return gated

    def _gains_db(self, first: int, last: int) -> NDArray[np.float64]:
        """[queries, frames], of windows ``first`` to ``last`` as far as there are any."""
        assert self.gate is not None
        likeness = self.listener.around(first, last, self._reach)
        last = first + likeness.shape[1] - 1
        *targets, mixture = self._energies.around(first, last, self._reach)
        levels_db = 10 * np.log10(np.maximum(targets, 1e-20) / np.maximum(mixture, 1e-20))
        quietest_db = np.minimum(0.0, SILENCE_DB - levels_db)
        gains_db: NDArray[np.float64] = np.maximum(self.gate.decibels(likeness), quietest_db)
        return gains_db


class _Energies:
    """Of every hop of what comes."""

    def __init__(self, hop: int) -> None:
        self._hop, self._count = hop, 0
        self._sums: list[NDArray[np.float64]] = []

    def push(self, waves: NDArray[np.float32]) -> None:
        """[rows, channels, samples]."""
        if not waves.shape[2]:
            return
        squares = np.square(waves, dtype=np.float64).sum(1)
        begun = self._count % self._hop
        starts = [0, *range(self._hop - begun, waves.shape[2], self._hop)]
        sums = list(np.add.reduceat(squares, starts, axis=1).T)
        if begun:
            self._sums[-1] = self._sums[-1] + sums.pop(0)
        self._sums += sums
        self._count += waves.shape[2]

    def around(self, first: int, last: int, reach: int) -> NDArray[np.float64]:
        """[rows, windows] of two hops each, and up to ``reach`` to either side, the less the
        farther."""
        there = slice(max(0, first - reach), last + 2 + reach)
        energies = np.stack(self._sums[there], 1)
        hops = there.start + np.arange(energies.shape[1])
        windows = np.arange(first, last + 1)
        near = np.maximum(0, 1 - np.abs(windows[:, None] + 0.5 - hops) / (reach + 1))
        found: NDArray[np.float64] = energies @ near.T
        return found
