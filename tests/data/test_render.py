"""Rendered mixtures, and the crops that they are made of."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from singleout.audio import write_wav
from singleout.data.clips import Clip
from singleout.data.effects import background_noise
from singleout.data.manifest import scan_folder
from singleout.data.plan import (
    LOSSY_FORMATS,
    BackgroundSpec,
    MixtureConfig,
    Planner,
    num_crops,
)
from singleout.data.render import read_crop, render
from singleout.errors import AudioError
from tests.data.sounds import (
    HARDEST,
    RATE,
    SHORT,
    clip_of,
    lag_of,
    power_db,
    source_of,
    spec_of,
)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), loud=st.booleans())
def test_a_mixture_has_the_planned_levels(five_clips: list[Clip], seed: int, loud: bool) -> None:
    config = MixtureConfig(
        segment_seconds=0.7,
        crop_hop_seconds=0.35,
        gain_db=(20.0, 40.0) if loud else (-40.0, -10.0),
    )
    spec = Planner(five_clips, config, seed).plan(0, 0)
    rendered = render(spec, five_clips, config, RATE)
    num_samples = round(0.7 * RATE)
    assert rendered.mixture.shape == (num_samples,)
    assert rendered.sources.shape == (len(spec.sources), num_samples)
    assert rendered.mixture.dtype == rendered.sources.dtype == np.float32
    assert np.isfinite(rendered.mixture).all()
    np.testing.assert_array_equal(rendered.mixture, rendered.sources.sum(0))
    peak = np.abs(rendered.mixture).max()
    assert peak <= 0.99 + 1e-6
    levels = power_db(rendered.sources)
    planned = [source.snr_db for source in spec.sources]
    np.testing.assert_allclose(levels[0] - levels, planned, atol=0.01)
    if loud:
        assert peak == pytest.approx(0.99, abs=1e-5)
    else:
        expected = 20 * math.log10(0.05) + spec.gain_db
        assert power_db(rendered.mixture) == pytest.approx(expected, abs=0.01)
    again = render(spec, five_clips, config, RATE)
    np.testing.assert_array_equal(again.sources, rendered.sources)


def test_a_short_sound_is_placed_where_it_is_planned(five_clips: list[Clip]) -> None:
    spec = spec_of(source_of(0, onset_seconds=(0.1, 0.4)))
    (rendered,) = render(spec, five_clips, SHORT, RATE).sources
    crop = read_crop(five_clips[0], 0, SHORT, RATE)
    assert len(crop) == 6400
    gain = np.abs(rendered).max() / np.abs(crop).max()
    for onset in (3200, 12_800):
        np.testing.assert_allclose(rendered[onset : onset + 6400], gain * crop, atol=1e-6)
    assert not rendered[:3200].any()
    assert not rendered[9600:12_800].any()
    assert not rendered[19_200:].any()


def test_a_sound_is_cut_at_the_end_of_the_mixture(five_clips: list[Clip]) -> None:
    spec = spec_of(source_of(0, onset_seconds=(0.6,)))
    (rendered,) = render(spec, five_clips, SHORT, RATE).sources
    assert rendered[19_200:].any()
    assert len(rendered) == 22_400


def test_silence_renders_as_silence(tmp_path: Path, five_clips: list[Clip]) -> None:
    write_wav(tmp_path / "silent.wav", np.zeros((1, RATE), np.float32), RATE)
    (silent,) = scan_folder(tmp_path)
    for order in ((0, 1), (1, 0), (0, 0)):
        spec = spec_of(*(source_of(i) for i in order))
        rendered = render(spec, [silent, five_clips[3]], SHORT, RATE)
        assert np.isfinite(rendered.sources).all()
        assert np.abs(rendered.mixture).max() <= 0.99 + 1e-6
        assert not rendered.sources[order.index(0)].any()


def test_speed_changes_length_and_pitch(tmp_path: Path) -> None:
    time = np.arange(RATE // 5) / RATE
    tone = 0.1 * np.sin(2 * np.pi * 1000 * time)[None].astype(np.float32)
    write_wav(tmp_path / "tone.wav", tone, RATE)
    spec = spec_of(source_of(0, speed=2.0))
    (fast,) = render(spec, scan_folder(tmp_path), SHORT, RATE).sources
    assert np.abs(fast[3300:]).max() < 1e-3 * np.abs(fast).max()
    spectrum = np.abs(np.fft.rfft(fast[:3200]))
    assert np.fft.rfftfreq(3200, 1 / RATE)[spectrum.argmax()] == pytest.approx(2000, abs=20)


def test_crops_are_cut_at_the_hop_and_mixed_to_mono(five_clips: list[Clip]) -> None:
    whole, rate = soundfile.read(five_clips[4].path, dtype="float32")
    assert rate == RATE
    for crop in range(num_crops(five_clips[4], SHORT)):
        start = round(crop * 0.35 * RATE)
        expected = whole[start : start + round(0.7 * RATE)]
        np.testing.assert_array_equal(read_crop(five_clips[4], crop, SHORT, RATE), expected)
    stereo, _ = soundfile.read(five_clips[1].path, dtype="float32")
    np.testing.assert_allclose(read_crop(five_clips[1], 0, SHORT, RATE), stereo.mean(1), atol=1e-7)


def test_crops_are_resampled(five_clips: list[Clip]) -> None:
    for clip in (five_clips[2], five_clips[3]):
        assert len(read_crop(clip, 0, SHORT, RATE)) == pytest.approx(0.7 * RATE, abs=1)


def test_a_crop_beyond_the_end_of_its_file_is_refused(five_clips: list[Clip]) -> None:
    """A manifest may give milliseconds instead of seconds. Rounded lengths are accepted."""
    long = replace(five_clips[2], seconds=1_000 * five_clips[2].seconds)
    read_crop(long, 0, SHORT, RATE)
    with pytest.raises(AudioError, match=r"lasts 1\.20 s, but its manifest says 1200\.00 s"):
        read_crop(long, 7, SHORT, RATE)
    rounded = replace(five_clips[2], seconds=five_clips[2].seconds + 0.05)
    assert len(read_crop(rounded, 4, SHORT, RATE)) >= 1


def test_unreadable_sounds_are_refused_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), RATE, "FLOAT")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    for path, message in (
        (tmp_path / "empty.wav", "has no samples"),
        (broken, "cannot be read as audio"),
        (tmp_path / "no.wav", "cannot be read as audio"),
        (tmp_path / "nan.wav", "has NaN or infinite samples"),
    ):
        with pytest.raises(AudioError, match=message) as caught:
            read_crop(replace(clip_of(0), path=path), 0, SHORT, RATE)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_a_planned_silence_changes_only_its_source(eight_clips: list[Clip]) -> None:
    first, second = source_of(6), source_of(7, snr_db=3.0)
    silenced = replace(first, silences_seconds=((0.2, 0.4),))
    plain = render(spec_of(first, second), eight_clips, SHORT, RATE).sources
    changed = render(spec_of(silenced, second), eight_clips, SHORT, RATE).sources
    silent = slice(int(0.206 * RATE), int(0.394 * RATE))
    assert not changed[0, silent].any()
    assert plain[0, silent].any()
    assert changed[1, silent].any()
    # The rest of the source has the planned level.
    np.testing.assert_allclose(power_db(changed[0]) - power_db(changed[1]), 3, atol=0.01)


def test_a_room_adds_echoes_after_the_end_of_the_sound(eight_clips: list[Clip]) -> None:
    short = source_of(0, onset_seconds=(0.1,))  # it lasts 0.2 s
    dry, wet, other = (
        render(spec_of(replace(short, room=room)), eight_clips, SHORT, RATE).sources[0]
        for room in (None, (0.5, 1), (0.5, 2))
    )
    after = slice(int(0.31 * RATE), int(0.5 * RATE))
    assert not dry[after].any()
    assert -40 < power_db(wet[after]) - power_db(wet) < 0
    assert np.abs(wet - other).max() > 0.01
    assert not dry[: int(0.099 * RATE)].any()
    assert np.abs(wet[: int(0.099 * RATE)]).max() < 1e-6


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), snr_db=st.floats(-5, 25), gain_db=st.sampled_from([-30.0, 40.0]))
def test_a_background_has_the_planned_level(
    eight_clips: list[Clip], seed: int, snr_db: float, gain_db: float
) -> None:
    easy = replace(Planner(eight_clips, SHORT, seed).plan(0, 0), gain_db=gain_db)
    plain = render(easy, eight_clips, SHORT, RATE)
    background = BackgroundSpec(snr_db, -3.0, seed)
    spec = replace(easy, background=background)
    rendered = render(spec, eight_clips, SHORT, RATE)
    sounds = rendered.sources.sum(0)
    rest = rendered.mixture.astype(np.float64) - sounds
    assert power_db(sounds) - power_db(rest) == pytest.approx(snr_db, abs=0.05)
    expected = background_noise(background, len(rest), RATE)
    assert np.corrcoef(rest, expected)[0, 1] > 0.999
    assert np.abs(rendered.mixture).max() <= 0.99 + 1e-6
    if gain_db < 0:
        level = 20 * np.log10(0.05) + gain_db
        assert power_db(rendered.mixture) == pytest.approx(level, abs=0.01)
    else:
        assert np.abs(rendered.mixture).max() == pytest.approx(0.99, abs=1e-5)
    scale = np.abs(rendered.sources).max() / np.abs(plain.sources).max()
    np.testing.assert_allclose(rendered.sources, scale * plain.sources, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", LOSSY_FORMATS)
def test_a_codec_changes_the_mixture_and_not_the_sources(
    kind: str, eight_clips: list[Clip]
) -> None:
    for i in range(3):
        easy = Planner(eight_clips, SHORT, 4).plan(0, i)
        plain = render(easy, eight_clips, SHORT, RATE)
        rendered = render(replace(easy, lossy=(kind, 0.5)), eight_clips, SHORT, RATE)
        np.testing.assert_array_equal(rendered.sources, plain.sources)
        assert rendered.mixture.shape == plain.mixture.shape
        assert lag_of(plain.mixture, rendered.mixture) == 0
        loss_db = power_db(rendered.mixture - plain.mixture) - power_db(plain.mixture)
        assert -40 < loss_db < 0


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**31))
def test_all_effects_at_once_are_finite_and_reproducible(
    eight_clips: list[Clip], seed: int
) -> None:
    spec = Planner(eight_clips, HARDEST, seed).plan(0, 0)
    rendered = render(spec, eight_clips, HARDEST, RATE)
    assert rendered.mixture.shape == rendered.sources[0].shape == (round(0.7 * RATE),)
    assert rendered.mixture.dtype == rendered.sources.dtype == np.float32
    assert np.isfinite(rendered.mixture).all()
    assert np.isfinite(rendered.sources).all()
    levels = power_db(rendered.sources)
    planned = [source.snr_db for source in spec.sources]
    np.testing.assert_allclose(levels[0] - levels, planned, atol=0.01)
    again = render(spec, eight_clips, HARDEST, RATE)
    np.testing.assert_array_equal(again.mixture, rendered.mixture)
    np.testing.assert_array_equal(again.sources, rendered.sources)
