"""FLACs of unknown or wrong length, cut ones, and damaged ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from singleout.audio import Note, open_audio, read_audio
from singleout.audio.ends import flac_frames
from singleout.errors import AudioError
from tests.audio.media import encode
from tests.audio.recordings import noise

RATE = 16_000
NUM_FRAMES = 50_001
pytestmark = pytest.mark.usefixtures("in_process")


def flac(folder: Path) -> tuple[bytearray, NDArray[np.float32]]:
    path = folder / "whole.flac"
    soundfile.write(path, noise(num_samples=NUM_FRAMES).T, RATE, "PCM_16")
    return bytearray(path.read_bytes()), soundfile.read(path, dtype="float32")[0].T


def stating(data: bytearray, num_samples: int) -> bytearray:
    """The same FLAC with another number of samples in its head."""
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | num_samples
    data[18:26] = packed.to_bytes(8, "big")
    return data


def read_with_notes(path: Path) -> tuple[NDArray[Any], list[Note]]:
    with open_audio(path) as reader:
        waveform = np.concatenate(list(reader.blocks()), axis=1)
        assert reader.info.num_frames == waveform.shape[1]
        assert reader.info.container == "FLAC"
        return waveform, reader.notes


@pytest.mark.parametrize("stated", [0, 1, 40_000, NUM_FRAMES])
@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125)])
def test_all_frames_are_read(tmp_path: Path, stated: int, tail: bytes) -> None:
    data, expected = flac(tmp_path)
    path = tmp_path / "x.flac"
    path.write_bytes(stating(data, stated) + tail)
    waveform, notes = read_with_notes(path)
    np.testing.assert_array_equal(waveform, expected)
    assert notes == []


@pytest.mark.parametrize("stated", [0, NUM_FRAMES])
def test_a_cut_anywhere_is_noted(tmp_path: Path, stated: int) -> None:
    data, expected = flac(tmp_path)
    path = tmp_path / "x.flac"
    stating(data, stated)
    for cut in range(len(data) // 3, len(data) - 1, len(data) // 7):
        path.write_bytes(data[:cut])
        waveform, [note] = read_with_notes(path)
        np.testing.assert_array_equal(waveform, expected[:, : waveform.shape[1]])
        assert note.is_damage
        if stated:
            seconds = waveform.shape[1] / RATE + (note.missing_seconds or 0)
            assert seconds == pytest.approx(NUM_FRAMES / RATE)
        with pytest.raises(AudioError, match="truncated"):
            read_audio(path)


@pytest.mark.parametrize("kind", ["overwritten", "left out", "one bit"])
def test_damage_in_the_middle_keeps_the_rest_in_time(tmp_path: Path, kind: str) -> None:
    """libsndfile ends or fails at the damage, and FFmpeg reads on."""
    data, expected = flac(tmp_path)
    middle = len(data) // 2
    if kind == "overwritten":
        data[middle : middle + 20_000] = np.random.default_rng(0).bytes(20_000)
    elif kind == "left out":
        del data[middle : middle + 20_000]
    else:
        data[middle] ^= 4
    path = tmp_path / "x.flac"
    path.write_bytes(data)
    waveform, notes = read_with_notes(path)
    assert waveform.shape == expected.shape
    np.testing.assert_array_equal(waveform[:, :20_000], expected[:, :20_000])
    np.testing.assert_array_equal(waveform[:, -10_000:], expected[:, -10_000:])
    assert [note.is_damage for note in notes] == [True]
    with pytest.raises(AudioError, match="damaged"):
        read_audio(path)


def test_blocks_of_any_length(tmp_path: Path, integers: NDArray[np.int16]) -> None:
    """FFmpeg chooses other block sizes than libsndfile."""
    for size in ("192", "1152", "4608", "16384"):
        path = tmp_path / f"{size}.flac"
        encode(path, "flac", integers, container="flac", options={"frame_size": size})
        data = stating(bytearray(path.read_bytes()), 0)
        end = flac_frames.find_end(io.BytesIO(data), 0, len(data))
        assert end is not None
        assert (end.num_samples, end.is_cut) == (integers.shape[1], False)


@pytest.mark.parametrize("data", [b"", b"fLaC", b"fLaC\0\0\0\x22" + bytes(34), b"\xff\xf8" * 500])
def test_no_frame_no_end(data: bytes) -> None:
    assert flac_frames.find_end(io.BytesIO(data), 0, len(data)) is None
