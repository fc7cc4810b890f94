"""Media files that FFmpeg encodes, for the tests of the decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from singleout.audio import AudioInfo, Note, open_audio, read_audio
from singleout.errors import AudioError

av = pytest.importorskip("av")

RATE = 48_000
NUM_FRAMES = 144_000
TAGS = {"title": "Größe 😀", "artist": "An artist"}


def to_floats(integers: NDArray[np.int16]) -> NDArray[np.float32]:
    return integers.astype(np.float32) / np.float32(32_768)


def encode(
    path: Path,
    codec: str | None,
    audio: NDArray[Any],
    *,
    layout: str = "stereo",
    sample_format: str = "s16",
    coded_format: str | None = None,
    rate: int = RATE,
    container: str | None = None,
    pictures: str | None = None,
    options: Mapping[str, str] | None = None,
    codec_options: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Write a media file by FFmpeg, with a black video if ``pictures`` names its codec."""
    with av.open(str(path), "w", format=container, options=dict(options or {})) as file:
        file.metadata.update(tags or {})
        video = sound = None
        if pictures is not None:
            video = file.add_stream(pictures, rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if codec is not None:
            sound = file.add_stream(codec, rate=rate, options=dict(codec_options or {}))
            sound.layout = layout
            if coded_format is not None:
                sound.format = coded_format
        if video is not None:
            for number in range(30):
                picture = av.VideoFrame(64, 48, "yuv420p")
                for plane in picture.planes:
                    plane.update(bytes(plane.buffer_size))
                picture.pts = number
                file.mux(video.encode(picture))
            file.mux(video.encode(None))
        if sound is not None:
            packed = np.ascontiguousarray(audio.T.reshape(1, -1))
            frame: Any = av.AudioFrame.from_ndarray(packed, format=sample_format, layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            if audio.size:
                file.mux(sound.encode(frame))
            file.mux(sound.encode(None))
    return path


def lag(part: NDArray[np.float32], whole: NDArray[np.float32]) -> int:
    """Where a part of a noise begins within the whole."""
    size = len(part) + len(whole)
    product = np.fft.rfft(whole, size) * np.fft.rfft(part, size).conj()
    return int(np.argmax(np.fft.irfft(product, size)))


def read_notes(
    path: Path, track: int | None = None
) -> tuple[NDArray[np.float32], AudioInfo, list[Note]]:
    """The waveform, description and notes of a recording. Each note is a line with its name."""
    with open_audio(path, track=track) as reader:
        waveform = np.concatenate(list(reader.blocks()), axis=1)
        for note in reader.notes:
            assert note.text.startswith(f"{path}: ")
            assert "\n" not in note.text
        return waveform, reader.info, reader.notes


def damage(path: Path) -> Note:
    """The only note of a recording that is not whole. Reading it strictly refuses it."""
    (note,) = read_notes(path)[2]
    assert note.is_damage
    assert_refused(path, re.escape(note.text), strict=True)
    return note


def assert_refused(path: Path, reason: str, *, strict: bool = False) -> None:
    """Reading fails with one line that names the file and matches ``reason``."""
    with pytest.raises(AudioError, match=reason) as raised:
        read_audio(path, strict=strict)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")
