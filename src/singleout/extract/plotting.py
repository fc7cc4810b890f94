"""Pictures of an extraction."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from singleout.audio import replacing
from singleout.errors import MissingExtraError
from singleout.types import Extraction

WINDOW_SECONDS = 0.046
NUM_COLUMNS = 1_200
NUM_ROWS = 320
TOP_HZ = 16_000
RANGE_DB = 80.0
TICKS_KHZ = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16)


def require_matplotlib() -> None:
    """Check, without loading it, that matplotlib is there.

    Raises:
        MissingExtraError: says how to install it.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("plots need matplotlib: pip install 'singleout[plot]'")


def save_spectrograms(extraction: Extraction, path: str | Path) -> None:
    """Draw mixture, target and residual below each other as a PNG, whole or not at all.

    Time in seconds, frequency in kHz on the mel scale up to 16 kHz, level in dB below the loudest
    point of the mixture; one colour scale for all three.

    Raises:
        MissingExtraError: matplotlib is not installed.
        AudioError: the file cannot be written there.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rate = extraction.sample_rate
    top_hz = min(TOP_HZ, rate / 2)
    seconds = extraction.target.shape[1] / rate
    panels = {
        "mixture": extraction.target + extraction.residual,
        f"target: {_shortened(str(extraction.query))}": extraction.target,
        "residual": extraction.residual,
    }
    levels = [_mel_spectrogram_db(audio, rate, top_hz) for audio in panels.values()]
    peak = float(levels[0].max())

    figure = Figure(figsize=(10, 8), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.subplots(3, 1, sharex=True, sharey=True)
    images = []
    ticks = [tick for tick in TICKS_KHZ if tick * 1000 <= top_hz]
    for axis, title, level in zip(axes, panels, levels, strict=True):
        image = axis.imshow(
            level - peak,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, float(_mel(top_hz))),
            vmin=-RANGE_DB,
            vmax=0,
            cmap="magma",
            interpolation="nearest",
        )
        images.append(image)
        axis.set_title(title, loc="left", parse_math=False)
        axis.set_ylabel("kHz")
        axis.set_yticks([float(_mel(tick * 1000)) for tick in ticks], [f"{t:g}" for t in ticks])
    axes[-1].set_xlabel("seconds")
    figure.colorbar(images[0], ax=axes, label="dB", pad=0.01, aspect=40)
    with replacing(Path(path)) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        canvas.print_figure(partial, format="png")


def _mel(hz: ArrayLike) -> Any:
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)


def _mel_spectrogram_db(
    audio: NDArray[np.float32], rate: int, top_hz: float
) -> NDArray[np.float64]:
    """[rows, columns]: power summed over the channels, at rows evenly spaced in mel."""
    num_samples = audio.shape[1]
    window = max(16, round(WINDOW_SECONDS * rate))
    padded = np.pad(audio, ((0, 0), (window // 2, window)))
    num_columns = min(NUM_COLUMNS, 1 + num_samples * 8 // window)
    starts = np.linspace(0, num_samples, num_columns, endpoint=False).astype(int)
    power = np.zeros((num_columns, 2 * window // 2 + 1))
    for channel in padded:
        frames = channel[starts[:, None] + np.arange(window)] * np.hanning(window)
        power += np.abs(np.fft.rfft(frames, 2 * window)) ** 2
    bins_mel = _mel(np.fft.rfftfreq(2 * window, 1 / rate))
    rows_mel = np.linspace(0, float(_mel(top_hz)), NUM_ROWS)
    rows = np.stack([np.interp(rows_mel, bins_mel, column) for column in power], 1)
    db: NDArray[np.float64] = 10 * np.log10(rows + 1e-12)
    return db


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
