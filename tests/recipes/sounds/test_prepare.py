"""From files to clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from recipes.sounds import prepare
from tests.recipes.sounds.archives import RATE_HZ, Samples, noise, wav_bytes


def prepared(samples: Samples, max_segments: int = 3) -> prepare.Prepared:
    columns = samples if samples.ndim == 2 else samples[:, None]
    return prepare.prepare_samples(columns, RATE_HZ, max_segments)


def test_silent_ends_are_trimmed_and_the_peak_is_minus_one_db() -> None:
    silence = np.zeros(RATE_HZ, np.float32)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    (clip,) = prepared(np.concatenate([silence, tone, silence])).clips
    assert clip.seconds == pytest.approx(1.0, abs=0.05)  # the high-pass rings a little
    assert 20 * np.log10(np.abs(clip.samples).max()) == pytest.approx(-1.0, abs=0.01)
    assert clip.gain_db == pytest.approx(-1 - 20 * np.log10(0.3), abs=0.3)


def test_a_quiet_file_is_trimmed_relative_to_its_peak() -> None:
    body = noise(1.0, level=10 ** (-30 / 20))
    tail = noise(1.0, seed=1, level=10 ** (-58 / 20))  # above 40 dB under the peak
    (clip,) = prepared(np.concatenate([body, tail])).clips
    assert clip.seconds == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize(
    ("seconds", "max_segments", "segments"), [(9.0, 3, 1), (25.0, 3, 2), (60.0, 3, 3), (60.0, 2, 2)]
)
def test_segments_of_a_longer_file(seconds: float, max_segments: int, segments: int) -> None:
    clips = prepared(noise(seconds), max_segments).clips
    assert [clip.segment for clip in clips] == list(range(segments))
    assert all(clip.seconds <= prepare.SEGMENT_SECONDS + 1e-3 for clip in clips)


def test_segments_do_not_overlap_and_reach_the_end() -> None:
    assert prepare.segment_starts(100, 10, 3) == [0, 45, 90]
    assert prepare.segment_starts(20, 10, 3) == [0, 10]
    assert prepare.segment_starts(19, 10, 3) == [0]


def test_channels_that_cancel_give_the_louder_one() -> None:
    left = noise(1.0)
    np.testing.assert_array_equal(prepare.to_mono(np.stack([0.9 * left, -left], axis=1)), -left)
    mono = prepare.to_mono(np.stack([left, left], axis=1))
    np.testing.assert_allclose(mono, left, atol=1e-7)


def test_offset_and_rumble_go() -> None:
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    tone = 0.1 * np.sin(2 * np.pi * 440 * time_s)
    rumble = 0.3 + 0.3 * np.sin(2 * np.pi * 5 * time_s)
    filtered = prepare.high_pass((tone + rumble).astype(np.float32), RATE_HZ)
    inner = slice(RATE_HZ // 2, -RATE_HZ // 2)
    assert np.abs(filtered - tone)[inner].max() < 0.01


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (noise(0.1), "too short"),
        (noise(1.0, level=10 ** (-62 / 20)), "too quiet"),
        (np.zeros(RATE_HZ, np.float32), "too quiet"),
        (np.zeros(0, np.float32), "empty"),
        (np.full(RATE_HZ, np.nan, np.float32), "empty"),
    ],
)
def test_what_is_too_short_or_too_quiet_is_dropped(samples: Samples, reason: str) -> None:
    result = prepared(samples)
    assert (result.clips, result.dropped) == ([], reason)


def test_the_hash_is_of_the_audio_not_of_the_file() -> None:
    mono = noise(0.5)
    padded = np.concatenate([np.zeros(100, np.float32), mono])
    stereo = np.stack([mono, mono], axis=1)
    hashes = {prepared(samples).audio_hash for samples in (mono, padded, stereo)}
    assert len(hashes) == 1
    assert prepared(noise(0.5, seed=1)).audio_hash not in hashes


def test_the_band_edge_is_measured() -> None:
    low = soxr.resample(soxr.resample(noise(2.0), RATE_HZ, 11_025), 11_025, RATE_HZ)
    (clip,) = prepared(low).clips
    assert clip.bandwidth_hz == pytest.approx(5_500, abs=600)
    assert prepared(noise(2.0)).clips[0].bandwidth_hz > 15_500


def test_mpeg_audio_with_a_broken_end_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "tone.mp3"
    soundfile.write(path, noise(1.0), RATE_HZ, format="MP3")
    path.write_bytes(path.read_bytes() + b"LIST" * 500)
    samples, rate_hz = prepare.decode(path)
    assert (rate_hz, samples.shape[1]) == (RATE_HZ, 1)
    assert len(samples) == pytest.approx(RATE_HZ, rel=0.1)


def test_an_unknown_codec_is_an_error_of_that_file(tmp_path: Path) -> None:
    path = tmp_path / "odd.ogg"  # a RIFF file with a codec that nobody has
    content = bytearray(wav_bytes(noise(0.2)))
    content[20:22] = b"Og"
    path.write_bytes(content)
    with pytest.raises(prepare.DecodeError):
        prepare.decode(path)


def test_a_file_that_is_no_audio_is_an_error_of_that_file(tmp_path: Path) -> None:
    path = tmp_path / "not.ogg"
    path.write_bytes(b"no audio at all")
    with pytest.raises(prepare.DecodeError):
        prepare.decode(path)
