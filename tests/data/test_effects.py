"""Effects: low-pass, silences, rooms, backgrounds and codecs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout.data.effects import (
    DIRECT_TO_ROOM_DB,
    apply_codec,
    apply_room,
    apply_silences,
    background_noise,
    low_pass,
)
from singleout.data.plan import LOSSY_FORMATS, BackgroundSpec
from tests.data.sounds import RATE, lag_of, noise, power_db


@pytest.mark.parametrize("cutoff_hz", [500.0, 2_000.0, 10_000.0])
@pytest.mark.parametrize("num_samples", [16_000, 16_001])
def test_a_low_pass_keeps_low_and_removes_high_frequencies(
    cutoff_hz: float, num_samples: int
) -> None:
    audio = noise(num_samples)
    filtered = low_pass(audio, cutoff_hz, RATE)
    assert filtered.dtype == np.float32
    assert filtered.shape == audio.shape
    hz = np.fft.rfftfreq(num_samples, 1 / RATE)
    gain = np.abs(np.fft.rfft(filtered)) / np.abs(np.fft.rfft(audio))
    np.testing.assert_allclose(gain[hz <= cutoff_hz], 1, atol=1e-3)
    assert gain[hz >= cutoff_hz * 2 ** (1 / 3)].max() < 1e-3
    # Zero phase: a tone below the cut-off is not delayed.
    tone = np.sin(2 * np.pi * 100 * np.arange(num_samples) / RATE).astype(np.float32)
    assert np.abs(low_pass(tone, cutoff_hz, RATE) - tone)[1000:-1000].max() < 0.01


@settings(deadline=None, max_examples=30)
@given(edges=st.lists(st.floats(0, 1.2), max_size=6), seed=st.integers(0, 9))
def test_a_silence_lasts_from_its_start_to_its_end(edges: list[float], seed: int) -> None:
    """It has fades of 10 ms around its edges; outside of them, nothing changes."""
    edges = sorted(edges)[: len(edges) // 2 * 2]
    silences = list(zip(edges[::2], edges[1::2], strict=True))
    audio = noise(seed=seed)
    before = audio.copy()
    silenced = apply_silences(audio, silences, RATE)
    np.testing.assert_array_equal(audio, before)
    assert silenced.shape == audio.shape
    assert silenced.dtype == np.float32
    assert (np.abs(silenced) <= np.abs(audio) + 1e-6).all()
    time = np.arange(len(audio)) / RATE
    fade = 0.0052
    inside = np.zeros(len(audio), bool)
    near = np.zeros(len(audio), bool)
    for start, stop in silences:
        inside |= (time > start + fade) & (time < stop - fade)
        near |= (time > start - fade) & (time < stop + fade)
    np.testing.assert_array_equal(silenced[~near], audio[~near])
    if (~near).mean() > 0.05:
        assert not silenced[inside].any()


def test_a_silence_fades_and_does_not_click() -> None:
    tone = np.ones(RATE, np.float32)
    silenced = apply_silences(tone, [(0.25, 0.5), (0.75, 2.0)], RATE)
    assert np.abs(np.diff(silenced)).max() <= 1.01 / (0.01 * RATE)
    assert silenced[RATE // 4] == pytest.approx(0.5, abs=0.01)
    assert not silenced[int(0.76 * RATE) :].any()


def test_a_sound_is_never_silenced_as_a_whole() -> None:
    click = np.zeros(RATE, np.float32)
    click[1_000:2_000] = noise(1_000)
    for audio, silence in ((noise(), (0.0, 2.0)), (click, (0.01, 0.1))):
        np.testing.assert_array_equal(apply_silences(audio, [silence], RATE), audio)
    assert not apply_silences(np.zeros(RATE, np.float32), [(0.1, 0.2)], RATE).any()


def response(rt60_seconds: float, number: int = 3, seconds: float = 2.5) -> NDArray[np.float32]:
    impulse = np.zeros(int(seconds * RATE), np.float32)
    impulse[0] = 1
    return apply_room(impulse, rt60_seconds, number, RATE)


@pytest.mark.parametrize("rt60_seconds", [0.2, 0.6, 1.2])
def test_a_room_decays_by_60_db_in_its_time(rt60_seconds: float) -> None:
    decays = []
    for number in range(4):
        echo = response(rt60_seconds, number).astype(np.float64)
        assert echo[0] == pytest.approx(1, abs=1e-5)
        assert np.abs(echo[1 : int(0.002 * RATE)]).max() < 1e-6  # the echoes start later
        rest = np.square(echo[1:]).sum()
        assert 10 * np.log10(rest) == pytest.approx(-DIRECT_TO_ROOM_DB, abs=0.01)
        end = round(rt60_seconds * RATE)
        assert np.abs(echo[end + 1 :]).max() < 1e-6
        edges = np.linspace(0.3, 0.95, 14) * rt60_seconds
        levels = [power_db(echo[int(a * RATE) : int(b * RATE)]) for a, b in pairwise(edges)]
        decays.append(-60 / np.polyfit((edges[:-1] + edges[1:]) / 2, levels, 1)[0])
    assert np.mean(decays) == pytest.approx(rt60_seconds, rel=0.15)


def test_late_echoes_are_dull() -> None:
    echo = response(1.0)

    def bright(part: NDArray[np.float32]) -> float:
        spectrum = np.square(np.abs(np.fft.rfft(part)))
        return float(spectrum[len(spectrum) // 4 :].sum() / spectrum.sum())

    early, late = (echo[int(a * RATE) : int((a + 0.1) * RATE)] for a in (0.03, 0.7))
    assert bright(early) > 2 * bright(late)


@settings(deadline=None, max_examples=12)
@given(
    num_samples=st.integers(1, 9_000),
    rt60_seconds=st.floats(1e-6, 1.5),
    number=st.integers(0, 2**31 - 1),
)
def test_a_room_keeps_the_length_and_follows_from_its_number(
    num_samples: int, rt60_seconds: float, number: int
) -> None:
    audio = noise(num_samples)
    reverberant = apply_room(audio, rt60_seconds, number, RATE)
    assert reverberant.shape == audio.shape
    assert reverberant.dtype == np.float32
    assert np.isfinite(reverberant).all()
    np.testing.assert_array_equal(reverberant, apply_room(audio, rt60_seconds, number, RATE))
    np.testing.assert_allclose(
        apply_room(2 * audio, rt60_seconds, number, RATE), 2 * reverberant, atol=1e-5
    )
    direct = min(num_samples, int(0.002 * RATE))
    np.testing.assert_allclose(reverberant[:direct], audio[:direct], atol=1e-5)


@settings(deadline=None, max_examples=8)
@given(slope_db=st.floats(-7, 1), number=st.integers(0, 2**31 - 1))
def test_a_background_has_unit_power_and_its_slope(slope_db: float, number: int) -> None:
    spec = BackgroundSpec(10.0, slope_db, number)
    background = background_noise(spec, 4 * RATE, RATE)
    assert background.shape == (4 * RATE,)
    assert background.dtype == np.float32
    assert power_db(background) == pytest.approx(0, abs=1e-3)
    np.testing.assert_array_equal(background, background_noise(spec, 4 * RATE, RATE))
    spectrum = np.square(np.abs(np.fft.rfft(background.astype(np.float64))))
    hz = np.fft.rfftfreq(len(background), 1 / RATE)
    octaves = np.arange(7, 13.5, 0.5)
    levels = [10 * np.log10(spectrum[(hz >= 2**o) & (hz < 2 ** (o + 0.5))].mean()) for o in octaves]
    assert np.polyfit(octaves, levels, 1)[0] == pytest.approx(slope_db, abs=0.5)


def test_backgrounds_differ_by_their_numbers_and_wander() -> None:
    one, two = (
        background_noise(BackgroundSpec(0.0, -3.0, number), 4 * RATE, RATE) for number in (1, 2)
    )
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.1
    levels = power_db(background_noise(BackgroundSpec(0.0, 0.0, 5), 4 * RATE, RATE).reshape(16, -1))
    assert 1 < levels.max() - levels.min() < 12


@pytest.mark.parametrize("rate", [8_000, 20_000, 32_000, 44_100, 96_000])
@pytest.mark.parametrize("kind", LOSSY_FORMATS)
def test_a_codec_keeps_length_and_timing(kind: str, rate: int) -> None:
    """Also at rates that MP3 does not have."""
    audio = noise(rate)
    for compression in (0.2, 0.9):
        decoded = apply_codec(audio, kind, compression, rate)
        assert decoded.shape == audio.shape
        assert decoded.dtype == np.float32
        assert lag_of(audio, decoded) == 0
        loss_db = power_db(decoded - audio) - power_db(audio)
        assert -30 < loss_db < -0.5
        np.testing.assert_array_equal(decoded, apply_codec(audio, kind, compression, rate))
    assert not apply_codec(np.zeros(rate, np.float32), kind, 0.5, rate).any()


@settings(deadline=None, max_examples=20)
@given(num_samples=st.integers(1, 5_000), kind=st.sampled_from(LOSSY_FORMATS))
def test_a_codec_keeps_any_length(num_samples: int, kind: str) -> None:
    decoded = apply_codec(noise(num_samples), kind, 0.5, RATE)
    assert decoded.shape == (num_samples,)
    assert np.isfinite(decoded).all()
