"""Spectrograms of recordings of any length, a block at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

WINDOW_SECONDS = 0.046
NUM_COLUMNS = 1_200
NUM_ROWS = 320
TOP_HZ = 16_000


class Spectrogram:
    """Power over time and mel, at no more columns than a picture shows.

    Windows are taken at a hop that doubles whenever there are twice as many of them as a picture
    has columns, and every other one is dropped then: cost and memory grow with the logarithm of the
    length.

    Args:
        sample_rate: Hz.
        expected_samples: to come, if known: saves windows that would be dropped.
    """

    def __init__(self, sample_rate: int, expected_samples: int = 0) -> None:
        self.top_hz = min(TOP_HZ, sample_rate / 2)
        self._window = max(16, round(WINDOW_SECONDS * sample_rate))
        self._taper = np.hanning(self._window)
        self._bins_mel = mel(np.fft.rfftfreq(2 * self._window, 1 / sample_rate))
        self._rows_mel = np.linspace(0, float(mel(self.top_hz)), NUM_ROWS)
        self._hop = max(1, self._window // 8, expected_samples // NUM_COLUMNS)
        self._columns: list[NDArray[np.float64]] = []
        self._heard: NDArray[np.float64] | None = None
        self._heard_from = -(self._window // 2)
        self._num_heard = 0

    def push(self, block: NDArray[Any]) -> None:
        """One more [channels, samples]."""
        if self._heard is None:
            self._heard = np.zeros((len(block), self._window // 2))
        self._num_heard += block.shape[1]
        self._heard = np.concatenate([self._heard, block], axis=1)
        self._take()

    def _take(self) -> None:
        """Columns for all whole windows; window ``n`` begins half a window before ``n`` hops."""
        assert self._heard is not None
        while True:
            start = len(self._columns) * self._hop - self._window // 2 - self._heard_from
            if start + self._window > self._heard.shape[1]:
                break
            frames = self._heard[:, start : start + self._window] * self._taper
            power = (np.abs(np.fft.rfft(frames, 2 * self._window)) ** 2).sum(0)
            self._columns.append(np.interp(self._rows_mel, self._bins_mel, power))
            if len(self._columns) >= 2 * NUM_COLUMNS:
                self._columns = self._columns[::2]
                self._hop *= 2
        forgotten = min(max(0, start), self._heard.shape[1])
        self._heard = self._heard[:, forgotten:]
        self._heard_from += forgotten

    def decibels(self) -> NDArray[np.float64]:
        """[rows, columns], rows evenly spaced in mel up to ``top_hz``; ends it."""
        if self._heard is None:
            return np.full((NUM_ROWS, 1), -120.0)
        self._heard = np.pad(self._heard, ((0, 0), (0, self._window)))
        self._take()
        # Windows that begin beyond the end show silence only.
        num_columns = max(1, min(len(self._columns), -(-self._num_heard // self._hop)))
        db: NDArray[np.float64] = 10 * np.log10(np.stack(self._columns[:num_columns], 1) + 1e-12)
        return db


def mel(hz: ArrayLike) -> Any:
    """Hz to mel."""
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)
