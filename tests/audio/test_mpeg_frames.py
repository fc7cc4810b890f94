"""MP3s whose count of frames is missing or wrong, and MP3s that were joined."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from singleout.audio import Note, open_audio, read_audio
from singleout.audio.ends import mpeg_frames
from singleout.errors import AudioError
from tests.audio.media import encode
from tests.audio.recordings import noise

RATE = 48_000
SECONDS = 2
pytestmark = pytest.mark.usefixtures("in_process")


def mp3(
    folder: Path,
    *,
    rate: int = RATE,
    layout: str = "mono",
    seconds: float = SECONDS,
    **options: str,
) -> bytes:
    """An MP3 of noise by FFmpeg, without tags. The options are those of its muxer."""
    channels = 1 if layout == "mono" else 2
    integers = (noise(channels, round(rate * seconds), seed=2) * 20_000).astype(np.int16)
    path = encode(
        folder / "part.mp3",
        "libmp3lame",
        integers,
        layout=layout,
        rate=rate,
        coded_format="s16p",
        options={"id3v2_version": "0", **options},
    )
    return path.read_bytes()


def uncounted(folder: Path, **options: Any) -> bytes:
    return mp3(folder, write_xing="0", **options)


def read_with_notes(path: Path) -> tuple[NDArray[Any], list[Note]]:
    with open_audio(path) as reader:
        waveform = np.concatenate(list(reader.blocks()), axis=1)
        num_frames = reader.info.num_frames
        assert num_frames is None or abs(num_frames - waveform.shape[1]) <= 3 * 1_152
        return waveform, reader.notes


TAG = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)
APE = b"APETAGEX" + (2_000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(4)
APE += (0xA000_0000).to_bytes(4, "little") + bytes(8) + bytes(32)
LONG_TAG = b"ID3\x04\x00\x00" + bytes([1, 0, 0, 0]) + bytes(1 << 21)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_an_mp3_without_a_count_is_read_to_its_end(tmp_path: Path, rate: int, layout: str) -> None:
    """MPEG-1, MPEG-2 and MPEG-2.5."""
    path = tmp_path / "x.mp3"
    path.write_bytes(uncounted(tmp_path, rate=rate, layout=layout, seconds=1))
    waveform, notes = read_with_notes(path)
    assert rate <= waveform.shape[1] <= rate + 4 * 1_152
    assert notes == []


@pytest.mark.parametrize("count", [1, 40, 10_000])
def test_the_count_of_an_mp3_may_be_wrong(tmp_path: Path, count: int) -> None:
    """A count that is too high is that of a cut file."""
    data = bytearray(mp3(tmp_path))
    position = max(data.find(b"Xing"), data.find(b"Info")) + 8
    data[position : position + 4] = count.to_bytes(4, "big")
    path = tmp_path / "x.mp3"
    path.write_bytes(data)
    waveform, notes = read_with_notes(path)
    assert waveform.shape[1] >= SECONDS * RATE
    assert [note.is_damage for note in notes] == ([True] if count == 10_000 else [])
    if notes:
        missing = notes[0].missing_seconds or 0
        assert missing == pytest.approx(10_000 * 1_152 / RATE - SECONDS, abs=0.1)


@pytest.mark.parametrize(
    ("before", "between", "after"),
    [
        (b"", b"", b""),
        (TAG, TAG, b""),
        (TAG, b"TAG" + bytes(125) + TAG, b"TAG" + bytes(125)),
        (LONG_TAG, LONG_TAG, b""),
        (TAG, APE, APE + b"TAG" + bytes(125)),
        (b"", bytes(5_000), bytes(5_000)),
        (b"garbage" * 500, b"", b"garbage" * 500),
    ],
)
@pytest.mark.parametrize("is_counted", [True, False])
def test_joined_mp3s_are_read_whole(
    tmp_path: Path, before: bytes, between: bytes, after: bytes, is_counted: bool
) -> None:
    part = mp3(tmp_path) if is_counted else uncounted(tmp_path)
    path = tmp_path / "x.mp3"
    path.write_bytes(before + part + between + part + between + part + after)
    waveform, notes = read_with_notes(path)
    if is_counted:
        assert waveform.shape[1] == 3 * SECONDS * RATE
    else:
        assert 3 * SECONDS * RATE <= waveform.shape[1] < 3 * (SECONDS * RATE + 4 * 1_152)
    assert notes == []


def test_rate_and_channels_may_change_between_joined_mp3s(tmp_path: Path) -> None:
    for write in (mp3, uncounted):
        parts = write(tmp_path), write(tmp_path, layout="stereo"), write(tmp_path, rate=24_000)
        path = tmp_path / "x.mp3"
        path.write_bytes(b"".join(parts))
        waveform, notes = read_with_notes(path)
        assert waveform.shape[0] == 1
        assert abs(waveform.shape[1] / RATE - 3 * SECONDS) < 0.3
        assert not any(note.is_damage for note in notes)


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_cut_mp3_is_noted(tmp_path: Path, is_counted: bool) -> None:
    data = mp3(tmp_path) if is_counted else uncounted(tmp_path)
    path = tmp_path / "x.mp3"
    path.write_bytes(data[: len(data) // 2 + 7])
    waveform, [note] = read_with_notes(path)
    assert waveform.shape[1] == pytest.approx(SECONDS * RATE / 2, rel=0.1)
    assert note.is_damage
    assert "truncated" in note.text
    if is_counted:
        seconds = waveform.shape[1] / RATE + (note.missing_seconds or 0)
        assert seconds == pytest.approx(SECONDS, abs=0.1)
    with pytest.raises(AudioError, match="truncated"):
        read_audio(path)


def test_foreign_bytes_between_frames_are_noted(tmp_path: Path) -> None:
    data = uncounted(tmp_path)
    path = tmp_path / "x.mp3"
    middle = len(data) // 2
    path.write_bytes(data[:middle] + b"foreign" * 300 + data[middle:])
    waveform, notes = read_with_notes(path)
    assert waveform.shape[1] == pytest.approx(SECONDS * RATE, rel=0.1)
    assert any(note.is_damage for note in notes)


def test_free_format_is_read_whole(tmp_path: Path) -> None:
    """Its bit rate is not in the tables. FFmpeg does not read it."""
    data = bytearray(uncounted(tmp_path))
    frame = 384  # bytes, at 128 kbit/s and 48 kHz
    encoded = bytearray()
    for _ in range(20):
        encoded += b"\xff\xfb\x04\xc4" + bytes(frame - 4)
    assert data[:2] == b"\xff\xfb"
    path = tmp_path / "x.mp3"
    path.write_bytes(encoded)
    waveform, notes = read_with_notes(path)
    assert waveform.shape == (1, 20 * 1_152)
    assert notes == []


def test_layer_two_is_read_whole(tmp_path: Path, integers: NDArray[np.int16]) -> None:
    path = encode(tmp_path / "x.mp2", "mp2", integers)
    waveform, notes = read_with_notes(path)
    assert waveform.shape[1] >= integers.shape[1]
    assert notes == []


def test_a_walk_counts_frames() -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(1, RATE).T, RATE, format="MP3")
    data = file.getvalue()
    frames = mpeg_frames.walk(file, 0, len(data))
    assert frames is not None
    assert frames.num_frames == frames.stated_frames == -(-RATE // 1_152) + 1
    assert not frames.is_cut
    for junk in (b"", b"\xff" * 5_000, bytes(5_000), np.random.default_rng(0).bytes(20_000)):
        assert mpeg_frames.walk(io.BytesIO(junk), 0, len(junk)) is None


def test_a_vbri_header_is_a_count(tmp_path: Path) -> None:
    """Fraunhofer's encoder writes it in the place of ``Xing``."""
    data = bytearray(uncounted(tmp_path))
    data[36 : 36 + 26] = b"VBRI" + bytes(10) + (10_000).to_bytes(4, "big") + bytes(8)
    frames = mpeg_frames.walk(io.BytesIO(data), 0, len(data))
    assert frames is not None
    assert frames.stated_frames == 10_000
    assert not frames.is_xing


def test_the_reason_for_a_damaged_mp3_is_true(tmp_path: Path) -> None:
    """libsndfile says that it does not."""
    path = tmp_path / "x.mp3"
    path.write_bytes(b"\xff\xfb\x90\x00" + np.random.default_rng(0).bytes(2_000))
    with pytest.raises(AudioError) as raised:
        read_audio(path)
    assert "format is not recognised" in str(raised.value)
