"""Pictures of an extraction."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from singleout.errors import MissingExtraError
from singleout.extract.spectrogram import Spectrogram, mel

RANGE_DB = 80.0
TICKS_KHZ = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16)

_one_at_a_time = Lock()
"""What is warned of is a matter of the whole process."""


def require_matplotlib() -> None:
    """Check, without loading it, that matplotlib is there.

    Raises:
        MissingExtraError: says how to install it.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("plots need matplotlib: pip install 'singleout[plot]'")


class Picture:
    """Mixture, target and residual below each other, from blocks of any length.

    Time in seconds, frequency in kHz on the mel scale up to 16 kHz, level in dB below the loudest
    point of the mixture; one colour scale for all three.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(self, query: str, sample_rate: int, expected_samples: int = 0) -> None:
        require_matplotlib()
        titles = ("mixture", f"target: {_shortened(query)}", "residual")
        self._panels = {title: Spectrogram(sample_rate, expected_samples) for title in titles}
        self._sample_rate = sample_rate
        self._num_samples = 0

    def push(self, mixture: NDArray[Any], target: NDArray[Any], residual: NDArray[Any]) -> None:
        """One more block of each, [channels, samples]."""
        self._num_samples += mixture.shape[1]
        for panel, block in zip(self._panels.values(), (mixture, target, residual), strict=True):
            panel.push(block)

    def figure(self) -> Any:
        """A matplotlib ``Figure``."""
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
    """Draw a figure into a file or buffer, whatever letters its titles have."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with _one_at_a_time, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        FigureCanvasAgg(figure).print_figure(to, format="png")


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
