"""Removal of DC offset and infrasound, which no query describes.

Cheap recorders add a constant to all samples, and wind moves a microphone a few times a second.
Both may be far stronger than the sounds of a quiet recording. A mask that changes over time would
chop them into thumps.

A filter as long as a period of 20 Hz is slow at the rate of the recording. The content below 20 Hz
is therefore computed at a low rate, interpolated and subtracted. All filters have linear phase, so
that everything else stays where it was.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CUTOFF_HZ = 20.0
"""Half of the amplitude remains here."""
LOW_RATE = 500
"""About the rate, in Hz, at which the content below the cutoff is computed."""
TAP_SECONDS = 0.3
"""Length of the low-pass filter: below 14 Hz at most 0.1 % remains, above 28 Hz all."""
KAISER_BETA = 6.0
FRAMES = 4
"""The change of rate weights the samples of this many periods of ``LOW_RATE``."""
WINDOW_BETA = 8.0
"""Kaiser window of the change of rate: it attenuates the images of low content by 80 dB."""
BLOCK_SECONDS = 0.25
MAX_RATE = 2_000_000
"""Hz. At higher rates, which only a wrong header states, the filter would need gigabytes."""


class InfrasoundFilter:
    """Removes content below 20 Hz from a recording, block by block.

    The recording is continued at both ends by its mirror image, so that an offset does not begin
    with a click. The result does not depend on the sizes of the blocks. Recordings of more than
    2 MHz pass unchanged.

    Args:
        sample_rate: Hz, positive.
        channels: number of channels of every block.

    Attributes:
        look_ahead_samples: samples after a sample that its output depends on.
        latency_samples: samples that the filter may hold back.

    Example:
        >>> import numpy as np
        >>> offset = np.full((1, 16_000), 0.5, np.float32)
        >>> filter = InfrasoundFilter(16_000, channels=1)
        >>> filtered = np.concatenate([filter.push(offset), filter.finish()], axis=1)
        >>> filtered.shape, bool(np.abs(filtered).max() < 1e-6)
        ((1, 16000), True)
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._none = np.zeros((channels, 0), np.float32)
        self._passes = sample_rate > MAX_RATE
        self.look_ahead_samples = self.latency_samples = 0
        if self._passes:
            return
        self._period = period = max(1, round(sample_rate / LOW_RATE))
        low_rate = sample_rate / period
        half_taps = max(2, round(TAP_SECONDS * low_rate / 2))
        window = np.kaiser(FRAMES * period, WINDOW_BETA).reshape(FRAMES, period)
        taps = _low_pass(half_taps - 1, CUTOFF_HZ / low_rate)
        # The windows attenuate 10 Hz a little more than 0 Hz; a second difference undoes it.
        self._taps = np.pad(taps, 1) - _variance(window) * np.convolve(taps, (1, -2, 1))
        # Every phase of the interpolation sums to one: a constant stays a constant.
        self._interpolation = (window / window.sum(0)).astype(np.float32)
        self._decimation = (window / window.sum()).T.astype(np.float32)
        # Both changes of rate reach over FRAMES - 1 periods together to either side.
        self._reach = (half_taps + FRAMES - 1) * period
        self._block = period * max(1, round(BLOCK_SECONDS * low_rate))
        self.look_ahead_samples = self._reach
        self.latency_samples = self._reach + self._block
        self._samples: NDArray[np.float32] | None = None  # from ``_reach`` before the next output
        self._waiting: list[NDArray[np.float32]] = []
        self._num_waiting = 0

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Append a block.

        Args:
            block: float32 [channels, samples].

        Returns:
            float32 [channels, samples], the samples that no later block can change. It may be
            empty.
        """
        if self._passes:
            return block
        self._waiting.append(block)
        self._num_waiting += block.shape[1]
        if self._samples is None and self._num_waiting <= self._reach:
            return self._none
        samples = self._joined()
        filtered = []
        while samples.shape[1] >= 2 * self._reach + self._block:
            filtered.append(self._filtered(samples[:, : 2 * self._reach + self._block]))
            samples = samples[:, self._block :]
        self._samples = samples
        return np.concatenate([self._none, *filtered], axis=1)

    def finish(self) -> NDArray[np.float32]:
        """Return the remaining samples. No block may be pushed after that."""
        if self._passes:
            return self._none
        samples = self._joined()
        num_left = samples.shape[1] - self._reach
        if num_left <= 0:
            return self._none
        # The mirror image, and further zeros that reach no output.
        samples = np.pad(samples, ((0, 0), (0, self._reach)), mode="symmetric")
        samples = np.pad(samples, ((0, 0), (0, self._block)))
        filtered = [
            self._filtered(samples[:, start : start + 2 * self._reach + self._block])
            for start in range(0, num_left, self._block)
        ]
        return np.concatenate(filtered, axis=1)[:, :num_left]

    def _joined(self) -> NDArray[np.float32]:
        """All samples that are still needed, with the mirror image before the first one."""
        new = np.concatenate([self._none, *self._waiting], axis=1)
        self._waiting, self._num_waiting = [], 0
        if self._samples is not None:
            return np.concatenate([self._samples, new], axis=1)
        if not new.shape[1]:
            return new
        return np.pad(new, ((0, 0), (self._reach, 0)), mode="symmetric")

    def _filtered(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The samples between the first and the last ``_reach``, without their low content."""
        middle = samples[:, self._reach : self._reach + self._block]
        result = np.empty_like(middle)
        for channel, (row, output) in enumerate(zip(samples, result, strict=True)):
            sums = row.reshape(-1, self._period) @ self._decimation
            length = len(sums) - FRAMES + 1
            coarse = np.sum([sums[j : j + length, j] for j in range(FRAMES)], axis=0)
            low = np.convolve(coarse, self._taps, "valid").astype(np.float32)
            num_frames = self._block // self._period
            frames = np.lib.stride_tricks.sliding_window_view(low, FRAMES)[:num_frames]
            content = frames @ self._interpolation[::-1]
            with np.errstate(over="ignore"):  # samples near the largest number; refused later
                np.subtract(middle[channel], content.reshape(-1), out=output)
        return result


def _low_pass(half_taps: int, cutoff: float) -> NDArray[np.float64]:
    """Low-pass filter of ``2 * half_taps + 1`` taps: a windowed sinc of gain 1 at 0 Hz.

    Args:
        half_taps: taps to either side of the middle.
        cutoff: over the sample rate.
    """
    n = np.arange(-half_taps, half_taps + 1)
    taps = np.sinc(2 * cutoff * n) * np.kaiser(len(n), KAISER_BETA)
    return np.asarray(taps / taps.sum())


def _variance(window: NDArray[np.float64]) -> float:
    """Variance of the weights [periods, samples of a period] over time, in periods squared."""
    weights = window.reshape(-1) / window.sum()
    time = np.arange(len(weights)) / window.shape[1]
    return float(weights @ np.square(time - weights @ time))
