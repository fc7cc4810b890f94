"""Recordings become sounds with the statistics of what is in them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from singleout.errors import AudioError, OutputError
from singleout.prepare import PrepareConfig
from singleout.prepare.settings import MIN_RATE
from singleout.prepare.sounds import read_sound
from tests.cli.commands import file_size_limit
from tests.prepare.corpora import RATE, sound

CONFIG = PrepareConfig(sample_rate=RATE)


def test_samples_of_16_bits_stay_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "rain.flac"
    soundfile.write(path, sound(0), RATE)
    rain = read_sound(path, CONFIG)
    np.testing.assert_array_equal(rain.samples[:, 0], soundfile.read(path, dtype="int16")[0])
    for format in ("flac", "wav"):
        audio, rate = soundfile.read(io.BytesIO(rain.encoded(format, RATE)), dtype="int16")
        assert rate == RATE
        np.testing.assert_array_equal(audio, rain.samples[:, 0])


def test_channels_are_averaged_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "rain.wav"
    soundfile.write(path, np.stack([sound(0), sound(1)], 1), RATE)
    both = read_sound(path, CONFIG.model_copy(update={"channels": "all"}))
    mean = read_sound(path, CONFIG)
    assert (both.samples.shape[1], mean.samples.shape[1]) == (2, 1)
    np.testing.assert_allclose(mean.mono(), both.mono(), atol=2**-16)
    assert mean.statistics["source_channels"] == 2


def test_the_rate_changes(tmp_path: Path) -> None:
    path = tmp_path / "rain.wav"
    soundfile.write(path, sound(0, seconds=2.0), RATE)
    assert len(read_sound(path, PrepareConfig(sample_rate=32_000)).samples) == 64_000


def test_statistics_are_those_of_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "half.wav"
    audio = np.zeros(2 * RATE, np.float32)
    audio[RATE:] = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(RATE) / RATE)
    soundfile.write(path, audio, RATE)
    statistics = read_sound(path, CONFIG).statistics
    assert statistics["silence_share"] == pytest.approx(0.5, abs=0.02)
    assert statistics["rms_db"] == pytest.approx(-12.04, abs=0.05)
    assert statistics["peak_db"] == pytest.approx(-6.02, abs=0.05)
    assert statistics["loudness_lufs"] == pytest.approx(-9.6, abs=0.5)
    assert statistics["clipped_share"] == 0
    json.dumps(statistics, allow_nan=False)


def test_clipping_is_counted_across_blocks(tmp_path: Path) -> None:
    path = tmp_path / "clipped.wav"
    audio = (2 * np.sin(2 * np.pi * 100 * np.arange(25 * RATE) / RATE)).clip(-1, 1)
    soundfile.write(path, audio, RATE, subtype="PCM_16")
    share = read_sound(path, CONFIG).statistics["clipped_share"]
    assert share == pytest.approx(np.mean(np.abs(audio) >= 0.985), abs=0.001)


def test_peaks_above_full_scale_lower_the_level(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    audio = sound(0) * 30
    soundfile.write(path, audio, RATE, subtype="FLOAT")
    loud = read_sound(path, CONFIG)
    assert loud.statistics["gain_db"] == pytest.approx(-20 * np.log10(np.abs(audio).max()), abs=0.1)
    scale = 10 ** (loud.statistics["gain_db"] / 20)
    np.testing.assert_allclose(loud.mono(), audio * scale, atol=2**-14)


def test_a_silent_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(RATE), RATE)
    with pytest.raises(AudioError, match="is silent"):
        read_sound(path, CONFIG)


def test_more_channels_than_a_flac_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.wav"
    soundfile.write(path, np.stack([sound(i, 0.2) for i in range(9)], 1), RATE)
    config = CONFIG.model_copy(update={"channels": "all"})
    with pytest.raises(AudioError, match="has 9 channels"):
        read_sound(path, config)
    assert read_sound(path, CONFIG).samples.shape[1] == 1


def test_samples_that_float32_does_not_have_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    soundfile.write(path, sound(0).astype(np.float64) * 1e300, RATE, subtype="DOUBLE")
    with pytest.raises(AudioError, match="has samples above 3e38"):
        read_sound(path, CONFIG)


def test_a_wav_of_more_than_4_gb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, sound(0), RATE)
    monkeypatch.setattr("singleout.prepare.sounds.MAX_WAV_BYTES", 10_000)
    with pytest.raises(AudioError, match="is too long for a WAV: choose the format flac"):
        read_sound(path, CONFIG.model_copy(update={"format": "wav"}))
    assert len(read_sound(path, CONFIG).samples) == len(sound(0))


@pytest.mark.parametrize("rate", [MIN_RATE, 65_535, 65_540, 384_000])
def test_every_rate_of_a_flac_is_written(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "rain.wav"
    soundfile.write(path, sound(0, rate=16_000), 16_000)
    made = read_sound(path, PrepareConfig(sample_rate=rate))
    file = soundfile.info(io.BytesIO(made.encoded("flac", rate)))
    assert (file.samplerate, file.frames) == (rate, len(made.samples))


def test_rates_that_a_flac_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="a FLAC cannot have 96,001 Hz: give a multiple of 10"):
        PrepareConfig(sample_rate=96_001)
    assert PrepareConfig(sample_rate=96_001, format="wav").sample_rate == 96_001
    with pytest.raises(ValueError, match="greater than or equal to 4000"):
        PrepareConfig(sample_rate=MIN_RATE - 1)


def test_a_full_disk_for_temporary_files_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rain.wav"
    soundfile.write(path, sound(0), RATE)
    with file_size_limit(10_000), pytest.raises(OutputError, match="temporary files"):
        read_sound(path, CONFIG)
