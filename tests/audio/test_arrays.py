"""Reading, resampling and writing."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout.audio import read_audio, resample, riff, write_wav, writing
from singleout.errors import AudioError
from singleout.storage.atomic import replacing

RATE = 16_000


def noise(channels: int = 2, num_samples: int = RATE, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(0, 0.1, (channels, num_samples))
    return drawn.astype(np.float32)


FORMATS: dict[str, dict[str, str]] = {
    "wav": {"subtype": "PCM_16"},
    "wavex": {"format": "WAVEX", "subtype": "FLOAT"},
    "rf64": {"format": "RF64"},
    "w64": {"format": "W64"},
    "aiff": {},
    "au": {"format": "AU"},
    "flac": {},
    "ogg": {},
    "mp3": {},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_reads_whole_files_and_refuses_cut_ones(tmp_path: Path, kind: str) -> None:
    audio = noise()
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, audio.T, RATE, **FORMATS[kind])
    read, rate = read_audio(path)
    assert rate == RATE
    assert read.shape == audio.shape
    assert read.dtype == np.float32
    assert read.flags["C_CONTIGUOUS"]

    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(AudioError, match=r"truncated|damaged") as raised:
            read_audio(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_wav_from_a_pipe_is_not_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise().T, RATE, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFF_FFFF)
    path.write_bytes(data)
    assert read_audio(path)[0].shape == (2, RATE)


def test_long_files_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("singleout.audio.reading.BLOCK_FRAMES", 1_000)
    monkeypatch.setattr(writing, "BLOCK_FRAMES", 999)
    audio = noise()
    write_wav(tmp_path / "x.wav", audio, RATE)
    np.testing.assert_array_equal(read_audio(tmp_path / "x.wav")[0], audio)


def write_bad(folder: Path, kind: str) -> Path:
    """A recording that cannot be used."""
    path = folder / f"{kind}.wav"
    if kind == "folder":
        path.mkdir()
    elif kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "no samples":
        soundfile.write(path, np.zeros((0, 1)), RATE)
    elif kind == "not audio":
        path.write_text("not audio\n" * 100)
    elif kind in ("nan", "inf"):
        audio = noise()
        audio[1, 77] = float(kind)
        soundfile.write(path, audio.T, RATE, subtype="FLOAT")
    elif kind == "truncated":
        soundfile.write(path, noise().T, RATE)
        path.write_bytes(path.read_bytes()[:9_999])
    elif kind == "header only":
        soundfile.write(path, noise().T, RATE)
        path.write_bytes(path.read_bytes()[:30])
    elif kind == "rate 0":
        soundfile.write(path, noise().T, RATE)
        data = bytearray(path.read_bytes())
        data[24:28] = bytes(4)
        path.write_bytes(data)
    elif kind == "raw":
        path = folder / "x.raw"
        path.write_bytes(bytes(1_000))
    elif kind == "pipe":
        os.mkfifo(path)
    return path


BAD = {
    "missing": "no such file",
    "folder": "is a folder",
    "zero bytes": "is empty",
    "no samples": "no samples",
    "not audio": "cannot be read as audio",
    "nan": "NaN or infinite",
    "inf": "NaN or infinite",
    "truncated": "truncated",
    "header only": "cannot be read as audio",
    "rate 0": "impossible sample rate",
    "raw": "cannot be read as audio",
    "pipe": "not a regular file",
    "\0": "cannot be read as audio",
    "n" * 300: "cannot be read as audio",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(tmp_path: Path, kind: str) -> None:
    path = write_bad(tmp_path, kind)
    with pytest.raises(AudioError, match=BAD[kind]) as raised:
        read_audio(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_longer_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    write_wav(tmp_path / "x.wav", noise(), RATE)
    monkeypatch.setattr("singleout.audio.reading.np.empty", fail)
    with pytest.raises(AudioError, match="memory"):
        read_audio(tmp_path / "x.wav")


def test_an_mp3_that_states_no_length_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    soundfile.write(path, noise().T, RATE)
    path.write_bytes(path.read_bytes().replace(b"Xing", bytes(4)))
    assert read_audio(path)[0].shape[1] >= RATE


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write_wav(path, noise(), RATE)
    assert read_audio(path)[1] == RATE


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    channels=st.integers(1, 9),
    num_samples=st.integers(1, 3_000),
    rate=st.integers(1, 2**31 - 1),
    gain=st.sampled_from([1.0, 1e-30, 1e30]),
)
def test_wav_round_trip_is_exact(
    tmp_path: Path, channels: int, num_samples: int, rate: int, gain: float
) -> None:
    audio = noise(channels, num_samples) * np.float32(gain)
    write_wav(tmp_path / "x.wav", audio, rate)
    read, read_rate = read_audio(tmp_path / "x.wav")
    np.testing.assert_array_equal(read, audio)
    assert read_rate == rate


def test_recordings_beyond_four_gigabytes_are_rf64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = noise()
    write_wav(tmp_path / "short.wav", audio, RATE)
    monkeypatch.setattr(riff, "MAX_BYTES", 10_000)
    write_wav(tmp_path / "long.wav", audio, RATE)
    assert (tmp_path / "long.wav").read_bytes().startswith(b"RF64")
    np.testing.assert_array_equal(read_audio(tmp_path / "long.wav")[0], audio)


def test_same_audio_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_wav(tmp_path / name, noise(), RATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("place", ["missing/x.wav", "file/x.wav", "n" * 300 + ".wav", "folder"])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(AudioError, match="cannot be written"):
        write_wav(tmp_path / place, noise(), RATE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_impossible_rates(tmp_path: Path) -> None:
    for rate in (0, -1, 2**32):
        with pytest.raises(AudioError, match="sample rate"):
            write_wav(tmp_path / "x.wav", noise(), rate)
    for rates in ((0, 1), (1, -1)):
        with pytest.raises(AudioError, match="must be positive"):
            resample(noise(), *rates)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "x.wav"
    write_wav(path, noise(seed=1), RATE)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(writing.np, "ascontiguousarray", fail)
    with pytest.raises(AudioError if isinstance(error, OSError) else KeyboardInterrupt):
        write_wav(path, noise(seed=2), RATE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nested_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"

    def fail() -> None:
        with replacing(a) as first, replacing(b) as second:
            first.write_text("a")
            second.write_text("b")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())
    with replacing(a) as first, replacing(b) as second:
        first.write_text("a")
        second.write_text("b")
        assert not a.exists()
        assert not b.exists()
    assert (a.read_text(), b.read_text()) == ("a", "b")


def test_resampling_keeps_what_fits_the_band() -> None:
    time = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)[None]
    down = resample(tone, 48_000, 32_000)
    assert down.shape == (1, 32_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(32_000) / 32_000)
    assert np.abs(down[0] - expected)[200:-200].max() < 1e-4
    assert resample(tone, 48_000, 48_000) is tone
