"""Files that libsndfile reads, and files that are refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout.audio import (
    AudioInfo,
    OutputKind,
    open_audio,
    read_audio,
    write_wav,
    writing,
)
from singleout.errors import AudioError
from tests.audio.recordings import WITH_FILES, noise, read, write

RATE = 16_000


def second(seed: int = 0) -> NDArray[np.float32]:
    return noise(num_samples=RATE, seed=seed)


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
def test_whole_files_are_read_and_cut_files_are_refused(tmp_path: Path, kind: str) -> None:
    audio = second()
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, audio.T, RATE, **FORMATS[kind])
    waveform, rate = read_audio(path)
    assert rate == RATE
    assert waveform.shape == audio.shape
    assert waveform.dtype == np.float32
    assert waveform.flags["C_CONTIGUOUS"]

    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(AudioError, match=r"truncated|damaged") as raised:
            read_audio(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
        with suppress(AudioError), open_audio(path) as reader:  # an Ogg of one page has no sound
            num_read = sum(block.shape[1] for block in reader.blocks())
            assert 0 < num_read < RATE
            assert [note.is_damage for note in reader.notes] == [True]


def test_a_wav_from_a_pipe_is_not_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, second().T, RATE, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFF_FFFF)
    path.write_bytes(data)
    assert read_audio(path)[0].shape == (2, RATE)


def test_an_mp3_that_states_no_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    soundfile.write(path, second().T, RATE)
    path.write_bytes(path.read_bytes().replace(b"Xing", bytes(4)))
    assert read_audio(path)[0].shape[1] >= RATE


def test_a_name_that_is_not_valid_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write_wav(path, noise(), RATE)
    assert read_audio(path)[1] == RATE


def test_a_recording_longer_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    write_wav(tmp_path / "x.wav", noise(), RATE)
    monkeypatch.setattr("singleout.audio.reading.np.empty", fail)
    with pytest.raises(AudioError, match="memory"):
        read_audio(tmp_path / "x.wav")


def write_bad(folder: Path, kind: str) -> Path:
    """Write a file that cannot be read as a recording."""
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
        soundfile.write(path, second().T, RATE)
        path.write_bytes(path.read_bytes()[:9_999])
    elif kind == "header only":
        soundfile.write(path, second().T, RATE)
        path.write_bytes(path.read_bytes()[:30])
    elif kind == "rate 0":
        soundfile.write(path, second().T, RATE)
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


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = write_bad(tmp_path, kind)
    with pytest.raises(AudioError, match=BAD[kind]) as raised:
        read_audio(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


# Block by block


def test_long_files_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("singleout.audio.sources.BLOCK_FRAMES", 1_000)
    monkeypatch.setattr(writing, "BLOCK_FRAMES", 999)
    audio = noise()
    write_wav(tmp_path / "x.wav", audio, RATE)
    np.testing.assert_array_equal(read_audio(tmp_path / "x.wav")[0], audio)


def test_blocks_of_low_rates_are_short(tmp_path: Path) -> None:
    """Resampled to the rate of the model they may become long."""
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(3_000), 20)
    with open_audio(path) as reader:
        lengths = [block.shape[1] for block in reader.blocks()]
    assert max(lengths) <= 10 * 20
    assert sum(lengths) == 3_000


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF"])
@pytest.mark.parametrize(("channels", "rate"), [(1, 8_000), (2, 192_000), (8, 44_100)])
def test_a_single_sample_is_read(tmp_path: Path, container: str, channels: int, rate: int) -> None:
    sample = noise(channels, 1)
    soundfile.write(tmp_path / "x", sample.T, rate, "PCM_24", format=container)
    samples, info = read(tmp_path / "x")
    assert (info.sample_rate, info.channels, info.num_frames) == (rate, channels, 1)
    assert np.abs(samples - sample).max() <= 2**-23


@settings(deadline=None, max_examples=40, suppress_health_check=WITH_FILES)
@given(
    channels=st.integers(1, 12),
    num_samples=st.integers(1, 1_000),
    rate=st.sampled_from([8_000, 44_100, 192_000, 768_000]),
    subtype=st.sampled_from(["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]),
    block=st.integers(1, 400),
)
def test_blocks_are_bounded_and_together_the_file(
    tmp_path: Path, channels: int, num_samples: int, rate: int, subtype: str, block: int
) -> None:
    """Memory grows neither with the length nor with the number of channels."""
    path = tmp_path / "x.wav"
    drawn = np.random.default_rng(num_samples).uniform(-1, 0.99, (num_samples, channels))
    soundfile.write(path, drawn, rate, subtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("singleout.audio.sources.BLOCK_FRAMES", block)
        with open_audio(path) as reader:
            blocks, info = list(reader.blocks()), reader.info
    assert all(0 < each.size <= max(block, channels) for each in blocks)
    assert (info.sample_rate, info.channels, info.num_frames) == (rate, channels, num_samples)
    # float32 holds 24 bits.
    dtype = "float64" if subtype in ("PCM_32", "DOUBLE") else "float32"
    expected = soundfile.read(path, dtype=dtype, always_2d=True)[0].T
    assert {each.dtype for each in blocks} == {np.dtype(dtype)}
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), expected)
    if subtype == "DOUBLE":
        np.testing.assert_array_equal(expected, drawn.T)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def rewrite(path: Path) -> None:
    write(path, noise(num_samples=4_000), AudioInfo(RATE, 2), OutputKind("wav", "PCM_16"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [(append, "changed"), (touch, "changed"), (rewrite, "changed"), (Path.unlink, "no such file")],
)
@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    reason: str,
    container: str,
) -> None:
    """A file that is still being recorded or copied would lose its end."""
    monkeypatch.setattr("singleout.audio.sources.BLOCK_FRAMES", 1_000)
    path = tmp_path / "x"
    soundfile.write(path, noise().T, RATE, format=container)
    with open_audio(path) as reader:
        blocks = reader.blocks()
        next(blocks)
        change(path)
        with pytest.raises(AudioError, match=reason) as raised:
            list(blocks)
    assert "\n" not in str(raised.value)


@settings(deadline=None, max_examples=100, suppress_health_check=WITH_FILES)
@given(
    container=st.sampled_from(["WAV", "WAVEX", "RF64", "AIFF"]),
    at=st.integers(0, 120),
    put=st.binary(min_size=1, max_size=8) | st.just(b"\xff" * 8) | st.just(b"\xff" * 4),
    cut=st.integers(0, 300),
)
def test_damaged_headers_are_read_or_refused(
    tmp_path: Path, container: str, at: int, put: bytes, cut: int
) -> None:
    """For any bytes the only possible error is an ``AudioError`` of one line."""
    path = tmp_path / "x"
    soundfile.write(path, noise(num_samples=30).T, RATE, "PCM_16", format=container)
    data = path.read_bytes()
    data = data[:at] + put + data[at + len(put) :]
    path.write_bytes(data[: len(data) - max(0, cut - 200)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("singleout.audio.sources.Decoder", NoDecoder)
        try:
            message = f"{path} has {read_audio(path)[0].shape[1]} samples"
        except AudioError as error:
            message = str(error)
    assert "\n" not in message
    assert str(path) in message
    assert " 0 samples" not in message


class NoDecoder:
    """Without FFmpeg: hundreds of processes would take minutes."""

    def __init__(self, path: Path, reason: str, _: int | None = None) -> None:
        raise AudioError(f"{path}: {reason}")
