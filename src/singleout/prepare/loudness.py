"""Integrated loudness by Recommendation ITU-R BS.1770-5, block by block."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from singleout.errors import MissingExtraError

ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0
"""Blocks below the first, in LUFS, do not count, nor blocks so far below the mean of the rest."""
STEPS_PER_SECOND, STEPS_PER_BLOCK = 10, 4
"""Blocks last 400 ms and begin every 100 ms."""


class Loudness:
    """Integrated loudness of a sound that comes in blocks. All channels have the same weight.

    A sound below 400 ms counts as one block.

    Args:
        sample_rate: Hz.
        channels: number of channels.

    Raises:
        MissingExtraError: SciPy is not installed.

    Example:
        >>> loudness = Loudness(48_000, channels=1)
        >>> loudness.push(np.sin(2 * np.pi * 997 / 48_000 * np.arange(96_000))[None])
        >>> round(loudness.lufs(), 2)  # a full-scale sine, as the recommendation states
        -3.01
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        try:
            from scipy import signal
        except ImportError:
            raise MissingExtraError(
                "preparing sounds needs the scale extra: pip install 'singleout[scale]'"
            ) from None
        self._filter = signal.sosfilt
        self._sections = k_weighting(sample_rate)
        self._state = np.zeros((len(self._sections), channels, 2))
        self._step = round(sample_rate / STEPS_PER_SECOND)
        self._rest = np.zeros(0)  # power of the samples after the last whole step
        self._steps: list[NDArray[np.float64]] = []

    def push(self, block: NDArray[np.floating]) -> None:
        """Append samples [channels, samples], full scale 1."""
        weighted, self._state = self._filter(self._sections, block, axis=1, zi=self._state)
        power = np.concatenate([self._rest, np.square(weighted).sum(0)])
        whole = len(power) // self._step * self._step
        self._steps.append(power[:whole].reshape(-1, self._step).mean(1))
        self._rest = power[whole:]

    def lufs(self) -> float | None:
        """The loudness of all samples; None if they are too quiet to have one."""
        steps = np.concatenate(self._steps) if self._steps else np.zeros(0)
        if len(steps) < STEPS_PER_BLOCK:
            parts = [np.repeat(steps, self._step), self._rest]
            blocks = np.concatenate(parts).mean(keepdims=True) if sum(map(len, parts)) else steps
        else:
            blocks = np.convolve(steps, np.ones(STEPS_PER_BLOCK), "valid") / STEPS_PER_BLOCK
        blocks = blocks[blocks > _power(ABSOLUTE_GATE)]
        if not len(blocks):
            return None
        loud = blocks[blocks > blocks.mean() * 10 ** (RELATIVE_GATE / 10)]
        return float(-0.691 + 10 * np.log10(loud.mean()))


def _power(lufs: float) -> float:
    return float(10 ** ((lufs + 0.691) / 10))


def k_weighting(sample_rate: int) -> NDArray[np.float64]:
    """The filter of the recommendation at any rate, as second-order sections [2, 6].

    The recommendation has coefficients at 48 kHz. They are those of two analogue filters by the
    bilinear transform, whose parameters libebur128 (https://github.com/jiixyj/libebur128) derives.

    Example:
        >>> k_weighting(48_000).round(4)[0].tolist()
        [1.5351, -2.6917, 1.1984, 1.0, -1.6907, 0.7325]
    """
    tangent, quality = math.tan(math.pi * 1681.974450955533 / sample_rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    square, slope = tangent * tangent, tangent / quality
    shelf = [high + band * slope + square, 2 * (square - high), high - band * slope + square]
    shelf += [1 + slope + square, 2 * (square - 1), 1 - slope + square]
    tangent, quality = math.tan(math.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    square, slope = tangent * tangent, tangent / quality
    norm = 1 + slope + square
    high_pass = [norm, -2 * norm, norm, norm, 2 * (square - 1), 1 - slope + square]
    sections: NDArray[np.float64] = np.array([shelf, high_pass])
    sections /= sections[:, 3:4]
    return sections
