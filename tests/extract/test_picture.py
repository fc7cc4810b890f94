"""Pictures of extractions, and the spectrograms in them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout import Extractor
from singleout.errors import MissingExtraError
from singleout.extract.picture import (
    NUM_COLUMNS,
    NUM_ROWS,
    Spectrogram,
    mel,
    print_png,
    require_matplotlib,
)
from tests.recordings import file_names, noise, write_recording


def test_stopping_between_two_pictures_leaves_no_file(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture is complete when the second one is stopped, and must not appear."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    print_figure = FigureCanvasAgg.print_figure
    files_after_first: list[list[str]] = []

    def stop_at_second(self: Any, *arguments: Any, **options: Any) -> None:
        if files_after_first:
            raise KeyboardInterrupt
        print_figure(self, *arguments, **options)
        files_after_first.append(file_names(tmp_path / "out"))

    monkeypatch.setattr(FigureCanvasAgg, "print_figure", stop_at_second)
    path = write_recording(tmp_path / "x.wav", noise(9_000), 8_000)
    with pytest.raises(KeyboardInterrupt):
        extractor.extract_file(path, ["a dog", "rain"], tmp_path / "out", plot=True)
    assert len(files_after_first[0]) == 5 + 1  # and the lock
    assert file_names(tmp_path / "out") == []


def test_plot_is_a_figure(extractor: Extractor) -> None:
    from matplotlib.figure import Figure

    figure = extractor.extract(noise(16_000, 2), "a dog", 8_000).plot()
    assert isinstance(figure, Figure)
    titles = [axis.get_title(loc="left") for axis in figure.axes[:3]]
    assert titles == ["mixture", "target: a dog", "residual"]
    assert figure.axes[0].get_xlim() == (0, 2)
    image = figure.axes[0].get_images()[0].get_array()
    assert image is not None
    assert image.max() == 0  # the loudest point is 0 dB


@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(0, 6_000), min_size=1, max_size=5),
    channels=st.integers(1, 2),
    rate=st.sampled_from([300, 1_000, 8_000]),
)
def test_a_spectrogram_of_blocks_is_that_of_the_whole(
    lengths: list[int], channels: int, rate: int
) -> None:
    """At low rates, the longest sounds reach the length at which columns are dropped."""
    total = sum(lengths)
    audio = noise(total, channels)
    whole, blockwise = (Spectrogram(rate) for _ in range(2))
    whole.push(audio)
    for block in np.split(audio, np.cumsum(lengths)[:-1], axis=1):
        blockwise.push(block)
    picture = whole.decibels()
    np.testing.assert_array_equal(blockwise.decibels(), picture)
    assert picture.shape[0] == NUM_ROWS
    assert 1 <= picture.shape[1] <= 2 * NUM_COLUMNS


def spectrogram_of(audio: NDArray[Any], rate: int, hop: int | None = None) -> NDArray[np.float64]:
    """Decibels [rows, columns] of audio [channels, samples] that is pushed in blocks."""
    spectrogram = Spectrogram(rate)
    spectrogram._hop = hop or spectrogram._hop
    for start in range(0, audio.shape[1], 30_000):
        spectrogram.push(audio[:, start : start + 30_000])
    return spectrogram.decibels()


def row_of(hz: NDArray[Any] | float, rate: int) -> NDArray[Any]:
    """The row of a frequency; rows are evenly spaced in mel."""
    return np.asarray(mel(hz) / mel(rate / 2) * (NUM_ROWS - 1))


@pytest.mark.parametrize("hz", [100.0, 1_000.0, 3_100.0])
def test_a_long_tone_is_brightest_in_its_row(hz: float) -> None:
    rate, seconds = 8_000, 100
    time = np.arange(seconds * rate) / rate
    picture = spectrogram_of(0.5 * np.sin(2 * np.pi * hz * time)[None], rate)
    assert NUM_COLUMNS <= picture.shape[1] <= 2 * NUM_COLUMNS
    inside = picture[:, 2:-2]  # windows at an edge contain a step
    brightest = inside.argmax(0)
    # At low frequencies, rows are closer together than a window can resolve.
    assert np.abs(brightest - row_of(hz, rate)).max() <= (6 if hz < 500 else 2)
    elsewhere = np.abs(np.arange(NUM_ROWS) - row_of(hz, rate)) > 60
    assert inside.max() - inside[elsewhere].max() > 60


def test_a_rising_tone_is_brightest_in_its_rows() -> None:
    rate, seconds = 8_000, 60
    time = np.arange(seconds * rate) / rate
    hz = 300 + 50 * time
    audio = 0.5 * np.sin(2 * np.pi * (300 * time + 25 * time**2))[None]
    picture = spectrogram_of(audio, rate)
    shares = np.linspace(0.02, 0.98, 200)
    brightest = picture[:, (shares * picture.shape[1]).astype(int)].argmax(0)
    assert np.abs(brightest - row_of(hz[(shares * len(hz)).astype(int)], rate)).max() <= 3


def test_columns_that_are_dropped_leave_those_of_a_wider_hop() -> None:
    """The result equals, bit for bit, a spectrogram of the wider hop."""
    rate, hop = 1_000, 5 * 2**3
    audio = noise(hop * (NUM_COLUMNS + 500))
    thinned, direct = spectrogram_of(audio, rate), spectrogram_of(audio, rate, hop)
    assert thinned.shape[1] == NUM_COLUMNS + 500
    np.testing.assert_array_equal(thinned, direct)


def test_a_spectrogram_of_nothing_is_dark() -> None:
    assert (Spectrogram(8_000).decibels() == -120).all()
    assert (spectrogram_of(np.zeros((2, 9_999)), 8_000) == -120).all()


def test_plot(extractor: Extractor, tmp_path: Path) -> None:
    for number, (rate, audio) in enumerate(
        [(48_000, noise(channels=2)), (8_000, noise(1)), (300, np.zeros((1, 99), np.float32))]
    ):
        path = tmp_path / f"{number}.png"
        figure = extractor.extract(audio, "a $\\dog$ 犬" * 9, rate).plot()
        print_png(figure, path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert len(figure.axes) == 4  # three spectrograms and their scale


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'singleout\[plot\]'"):
        require_matplotlib()
