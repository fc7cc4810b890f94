"""DC offset and infrasound are removed, and everything else stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout.audio import InfrasoundFilter

RATES = (8_000, 22_050, 44_100, 96_000, 384_000)


def filtered(waveform: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """A waveform [channels, samples] through the filter, in one block."""
    infrasound = InfrasoundFilter(rate, len(waveform))
    return np.concatenate([infrasound.push(waveform), infrasound.finish()], axis=1)


def tone(frequency: float, rate: int, seconds: float = 3.0) -> NDArray[np.float32]:
    """A cosine of amplitude 1."""
    time = np.arange(round(seconds * rate)) / rate
    return np.cos(2 * np.pi * frequency * time, dtype=np.float32)[None]


def level_db(waveform: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.square(waveform, dtype=np.float64).mean() + 1e-30))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("frequency", [1.0, 4.0, 8.0, 12.0])
def test_infrasound_is_lowered_by_60_db(rate: int, frequency: float) -> None:
    infrasound = tone(frequency, rate)
    inside = slice(rate // 2, -(rate // 2))
    assert level_db(filtered(infrasound, rate)[:, inside]) < level_db(infrasound) - 60


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("frequency", [28.0, 50.0, 440.0, 500.0, 1_010.0, 3_000.0])
def test_audible_sound_stays_within_a_thousandth(rate: int, frequency: float) -> None:
    sound = tone(frequency, rate)
    inside = slice(rate // 2, -(rate // 2))
    assert np.abs(filtered(sound, rate) - sound)[:, inside].max() < 1e-3


def test_half_of_20_hz_remains() -> None:
    remaining = filtered(tone(20.0, 8_000), 8_000)[:, 4_000:-4_000]
    assert np.abs(remaining).max() == pytest.approx(0.5, abs=0.02)


@settings(max_examples=30)
@given(
    num_samples=st.integers(0, 20_000),
    rate=st.sampled_from([1, 997, 8_000, 48_000]),
    offset=st.floats(-1, 1, width=32),
)
def test_an_offset_leaves_nothing_not_even_a_click_at_the_ends(
    num_samples: int, rate: int, offset: float
) -> None:
    waveform = np.full((2, num_samples), offset, np.float32)
    result = filtered(waveform, rate)
    assert result.shape == waveform.shape
    assert np.abs(result).max(initial=0) <= 1e-6 * abs(offset) + 1e-30


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(0, 12_000), max_size=6),
    rate=st.sampled_from([1, 8_000, 44_100, 4_000_000]),
    channels=st.integers(1, 3),
)
def test_the_sizes_of_the_blocks_do_not_matter(
    lengths: list[int], rate: int, channels: int
) -> None:
    samples = np.random.default_rng(0).normal(size=(channels, sum(lengths) + 1))
    waveform = samples.astype(np.float32)
    infrasound = InfrasoundFilter(rate, channels)
    blocks = np.split(waveform, np.cumsum(lengths), axis=1)
    parts = [*map(infrasound.push, blocks), infrasound.finish()]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), filtered(waveform, rate))


def test_digital_silence_stays_silent_next_to_sound() -> None:
    waveform = tone(440.0, 8_000)
    waveform[:, 12_000:] = 0
    assert not filtered(waveform, 8_000)[:, 14_000:].any()


def test_absurd_rates_pass_unchanged() -> None:
    waveform = np.full((1, 10), 0.5, np.float32)
    np.testing.assert_array_equal(filtered(waveform, 2**31 - 1), waveform)
