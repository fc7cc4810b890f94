"""Pictures of an extraction: spectrograms of its mixture, target and residual."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from singleout.errors import MissingExtraError

WINDOW_SECONDS = 0.046
NUM_COLUMNS = 1_200
NUM_ROWS = 320
TOP_HZ = 16_000
RANGE_DB = 80.0
TICKS_KHZ = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16)

_one_at_a_time = Lock()
"""Filters of warnings belong to the whole process."""


def require_matplotlib() -> None:
    """Check that matplotlib is installed, without importing it.

    Raises:
        MissingExtraError: tells how to install it.

    Example:
        >>> require_matplotlib()
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("plots need matplotlib: pip install 'singleout[plot]'")


class Picture:
    """Mixture, target and residual below each other, from blocks of any length.

    Time is in seconds, frequency in kHz on the mel scale up to 16 kHz, and level in dB below the
    loudest point of the mixture. All three share one colour scale.

    Args:
        query: for the title.
        sample_rate: Hz.

    Raises:
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> picture = Picture("rain", 8_000)
        >>> block = np.random.default_rng(0).normal(0, 0.1, (1, 8_000))
        >>> picture.push(block, block / 2, block / 2)
        >>> len(picture.figure().axes)
        4
    """

    def __init__(self, query: str, sample_rate: int) -> None:
        require_matplotlib()
        titles = ("mixture", f"target: {_shortened(query)}", "residual")
        self._panels = {title: Spectrogram(sample_rate) for title in titles}
        self._sample_rate = sample_rate
        self._num_samples = 0

    def push(self, mixture: NDArray[Any], target: NDArray[Any], residual: NDArray[Any]) -> None:
        """Append a block of each, [channels, samples]."""
        self._num_samples += mixture.shape[1]
        for panel, block in zip(self._panels.values(), (mixture, target, residual), strict=True):
            panel.push(block)

    def figure(self) -> Any:
        """The picture so far, a matplotlib ``Figure``."""
        from matplotlib.figure import Figure

        seconds = self._num_samples / self._sample_rate
        top_hz = next(iter(self._panels.values())).top_hz
        levels = [panel.decibels() for panel in self._panels.values()]
        peak = float(levels[0].max())
        figure = Figure(figsize=(10, 8), dpi=120, layout="constrained")
        axes: Any = figure.subplots(3, 1, sharex=True, sharey=True)
        images = []
        ticks = [tick for tick in TICKS_KHZ if tick * 1000 <= top_hz]
        for axis, title, level in zip(axes, self._panels, levels, strict=True):
            image = axis.imshow(
                level - peak,
                origin="lower",
                aspect="auto",
                extent=(0, seconds, 0, float(mel(top_hz))),
                vmin=-RANGE_DB,
                vmax=0,
                cmap="magma",
                interpolation="nearest",
            )
            images.append(image)
            axis.set_title(title, loc="left", parse_math=False)
            axis.set_ylabel("kHz")
            axis.set_yticks([float(mel(tick * 1000)) for tick in ticks], [f"{t:g}" for t in ticks])
        axes[-1].set_xlabel("seconds")
        figure.colorbar(images[0], ax=axes, label="dB", pad=0.01, aspect=40)
        return figure


def print_png(figure: Any, to: Any) -> None:
    """Draw a figure as PNG into a file or buffer, whatever characters its titles have.

    Example:
        >>> import io
        >>> from matplotlib.figure import Figure
        >>> buffer = io.BytesIO()
        >>> print_png(Figure(figsize=(1, 1)), buffer)
        >>> buffer.getvalue()[:4]
        b'\\x89PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with _one_at_a_time, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        FigureCanvasAgg(figure).print_figure(to, format="png")


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Spectrogram:
    """Power over time and mel frequency, with no more columns than a picture shows.

    When there are twice as many windows as a picture has columns, every other one is dropped and
    the hop doubles. So cost and memory grow with the logarithm of the length, and nothing depends
    on the length that a recording states.

    Args:
        sample_rate: Hz.

    Example:
        >>> import numpy as np
        >>> spectrogram = Spectrogram(8_000)
        >>> spectrogram.push(np.zeros((1, 8_000)))
        >>> spectrogram.decibels().shape[0] == NUM_ROWS
        True
    """

    def __init__(self, sample_rate: int) -> None:
        self.top_hz = min(TOP_HZ, sample_rate / 2)
        self._window = max(16, round(WINDOW_SECONDS * sample_rate))
        self._taper = np.hanning(self._window)
        self._bins_mel = mel(np.fft.rfftfreq(2 * self._window, 1 / sample_rate))
        self._rows_mel = np.linspace(0, float(mel(self.top_hz)), NUM_ROWS)
        self._hop = max(1, self._window // 8)
        self._columns: list[NDArray[np.float64]] = []
        self._buffer: NDArray[np.float64] | None = None
        self._buffer_start = -(self._window // 2)
        self._num_samples = 0

    def push(self, block: NDArray[Any]) -> None:
        """Append a block, [channels, samples]."""
        if self._buffer is None:
            self._buffer = np.zeros((len(block), self._window // 2))
        self._num_samples += block.shape[1]
        self._buffer = np.concatenate([self._buffer, block], axis=1)
        self._take()

    def _take(self) -> None:
        """Columns of all complete windows; window ``n`` starts half a window before ``n`` hops."""
        assert self._buffer is not None
        while True:
            start = len(self._columns) * self._hop - self._window // 2 - self._buffer_start
            if start + self._window > self._buffer.shape[1]:
                break
            frames = self._buffer[:, start : start + self._window] * self._taper
            power = (np.abs(np.fft.rfft(frames, 2 * self._window)) ** 2).sum(0)
            self._columns.append(np.interp(self._rows_mel, self._bins_mel, power))
            if len(self._columns) >= 2 * NUM_COLUMNS:
                self._columns = self._columns[::2]
                self._hop *= 2
        dropped = min(max(0, start), self._buffer.shape[1])
        self._buffer = self._buffer[:, dropped:]
        self._buffer_start += dropped

    def decibels(self) -> NDArray[np.float64]:
        """Levels in dB, [rows, columns], rows evenly spaced in mel up to ``top_hz``.

        No more blocks may follow.
        """
        if self._buffer is None:
            return np.full((NUM_ROWS, 1), -120.0)
        self._buffer = np.pad(self._buffer, ((0, 0), (0, self._window)))
        self._take()
        # Windows that begin beyond the end show silence only.
        num_columns = max(1, min(len(self._columns), -(-self._num_samples // self._hop)))
        db: NDArray[np.float64] = 10 * np.log10(np.stack(self._columns[:num_columns], 1) + 1e-12)
        return db


def mel(hz: ArrayLike) -> Any:
    """Frequency in Hz to mel.

    Example:
        >>> round(float(mel(1_000)))
        1000
    """
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)
