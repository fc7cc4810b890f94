"""Ogg files with several recordings, with pictures, and cut ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from singleout.audio import Note, open_audio, read_audio
from singleout.audio.ends import ogg_pages
from singleout.errors import AudioError
from tests.audio.media import encode
from tests.audio.recordings import noise

RATE = 48_000
pytestmark = pytest.mark.usefixtures("in_process")


def ogg(
    seconds: float = 2, *, rate: int = RATE, channels: int = 2, subtype: str = "VORBIS"
) -> bytes:
    file = io.BytesIO()
    audio = noise(channels, round(rate * seconds), seed=round(10 * seconds))
    soundfile.write(file, audio.T, rate, subtype, format="OGG")
    return file.getvalue()


def read_with_notes(path: Path) -> tuple[NDArray[Any], list[Note]]:
    with open_audio(path) as reader:
        return np.concatenate(list(reader.blocks()), axis=1), reader.notes


@pytest.mark.parametrize("first", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("second", ["VORBIS", "OPUS"])
def test_all_links_are_read(tmp_path: Path, first: str, second: str) -> None:
    """Rate and channels are those of the first link."""
    path = tmp_path / "x.ogg"
    links = ogg(1, subtype=first), ogg(2, rate=24_000, channels=1, subtype=second), ogg(1.5)
    path.write_bytes(b"".join(links))
    waveform, notes = read_with_notes(path)
    assert waveform.shape == (2, round(4.5 * RATE))
    assert notes == []
    for link, start in zip(links[::2], (0, 3 * RATE), strict=True):
        expected = soundfile.read(io.BytesIO(link), dtype="float32")[0].T
        part = waveform[:, start : start + expected.shape[1]]
        np.testing.assert_allclose(part, expected, atol=1e-6)
    with open_audio(path) as reader:
        assert reader.info.num_frames == round(4.5 * RATE)


def test_links_of_flac_are_read(tmp_path: Path, integers: NDArray[np.int16]) -> None:
    """libsndfile does not read FLAC in Ogg."""
    data = encode(tmp_path / "a.oga", "flac", integers, container="ogg").read_bytes()
    path = tmp_path / "x.oga"
    path.write_bytes(data * 2)
    waveform, notes = read_with_notes(path)
    assert waveform.shape[1] == 2 * integers.shape[1]
    assert notes == []


def pages(data: bytes) -> list[bytes]:
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def test_streams_at_the_same_time_do_not_matter(tmp_path: Path) -> None:
    """FFmpeg reads files with several streams, such as those with pictures."""
    one, other = pages(ogg(2)), pages(ogg(2, subtype="OPUS"))
    path = tmp_path / "x.ogg"
    path.write_bytes(b"".join([one[0], other[0], *one[1:], *other[1:]]))
    [link] = ogg_pages.links(io.BytesIO(path.read_bytes()), path.stat().st_size)
    assert link.codecs == ["vorbis", "opus"]
    waveform, notes = read_with_notes(path)
    assert waveform.shape[1] == pytest.approx(2 * RATE, abs=2_000)
    assert not any(note.is_damage for note in notes)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_cut_anywhere_is_noted(tmp_path: Path, subtype: str) -> None:
    whole = ogg(8, subtype=subtype)
    path = tmp_path / "x.ogg"
    for tenths in range(3, 10):
        path.write_bytes(whole[: len(whole) * tenths // 10])
        waveform, [note] = read_with_notes(path)
        assert waveform.shape[1] < 8 * RATE
        assert note.is_damage
        assert "truncated" in note.text
        if note.missing_seconds is not None:
            assert waveform.shape[1] / RATE + note.missing_seconds == pytest.approx(8, abs=0.1)
        with pytest.raises(AudioError, match="truncated"):
            read_audio(path)


def test_lost_pages_are_noted(tmp_path: Path) -> None:
    whole = ogg(8)
    path = tmp_path / "x.ogg"
    path.write_bytes(b"".join(page for number, page in enumerate(pages(whole)) if number != 4))
    _, notes = read_with_notes(path)
    assert [note.is_damage for note in notes] == [True]
    [link] = ogg_pages.links(io.BytesIO(path.read_bytes()), path.stat().st_size)
    assert link.lost_pages == 1


def test_a_live_stream_starts_at_any_time() -> None:
    """Its first page ends hours after the start of the stream."""
    data = b""
    for page in pages(ogg(3)):
        granule = int.from_bytes(page[6:14], "little", signed=True)
        later = (granule + 10**9).to_bytes(8, "little") if granule > 0 else page[6:14]
        data += page[:6] + later + page[14:]
    [link] = ogg_pages.links(io.BytesIO(data), len(data))
    assert link.seconds <= 3
