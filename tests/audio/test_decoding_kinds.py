"""Layouts of channels, and odd or hostile headers of media that FFmpeg decodes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from singleout.audio import output_kind
from singleout.audio.ffmpeg.frames import FrameConverter
from singleout.audio.ffmpeg.streams import WAV_CHANNELS
from tests.audio.media import RATE, assert_refused, av, damage, encode, read_notes, to_floats

pytestmark = pytest.mark.usefixtures("in_process")

LAYOUTS = [
    ("m4a", "aac", "5.1"),
    ("m4a", "aac", "7.1"),
    ("m4a", "aac", "4.0"),
    ("m4a", "aac", "quad"),
    ("ts", "aac", "5.1"),
    ("mkv", "ac3", "5.1(side)"),
    ("mkv", "ac3", "quad(side)"),
    ("mkv", "eac3", "5.1(side)"),
    ("mkv", "libopus", "5.1"),
    ("mkv", "libopus", "7.1"),
    ("mka", "flac", "6.1"),
    ("m4a", "alac", "7.1(wide)"),
    ("mov", "pcm_s16le", "hexagonal"),
    ("mov", "pcm_s16le", "mono"),
]


def tones(layout: str) -> NDArray[np.int16]:
    """One second of a tone in each channel, low enough for any loudspeaker."""
    time = np.arange(RATE) / RATE
    channels = range(len(av.AudioLayout(layout).channels))
    sound = [8_000 * np.sin(2 * np.pi * (40 + 10 * each) * time) for each in channels]
    return np.stack(sound).astype(np.int16)


@pytest.mark.parametrize(("suffix", "codec", "layout"), LAYOUTS)
def test_channels_are_in_the_order_of_a_wav(
    tmp_path: Path, suffix: str, codec: str, layout: str
) -> None:
    """The mask names the loudspeaker of each channel."""
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    path = encode(tmp_path / f"x.{suffix}", codec, tones(layout), layout=layout)
    waveform, info, _ = read_notes(path)
    spectrum = np.abs(np.fft.rfft(waveform[:, :RATE], axis=1))
    loudspeakers = [names[round((peak - 40) / 10)] for peak in spectrum.argmax(axis=1)]
    stated = [name for bit, name in enumerate(WAV_CHANNELS) if info.channel_mask >> bit & 1]
    assert loudspeakers == stated
    assert sorted(stated) == sorted(names)
    assert not info.is_ambisonic


@pytest.mark.parametrize("layout", ["ambisonic 1", "4 channels", "ambisonic 1+stereo"])
def test_layouts_without_loudspeakers_have_no_mask(
    tmp_path: Path, integers: NDArray[np.int16], layout: str
) -> None:
    channels = len(av.AudioLayout(layout).channels)
    audio = np.stack([integers[0, 100 * each : 100 * each + 9_000] for each in range(channels)])
    path = encode(tmp_path / "x.mkv", "pcm_s16le", audio, layout=layout)
    waveform, info, _ = read_notes(path)
    np.testing.assert_array_equal(waveform, to_floats(audio))
    assert info.channel_mask == 0


def frame(layout: str, rate: int = RATE) -> Any:
    """A frame whose channels hold 0.1, 0.2, ..."""
    channels = len(av.AudioLayout(layout).channels)
    packed = np.tile(np.arange(1, channels + 1, dtype=np.float32) / 10, 1_000)[None]
    made: Any = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    made.sample_rate = rate
    return made


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("stereo", "mono", [0.1, 0.1]),
        ("stereo", "2 channels", [0.1, 0.2]),
        ("ambisonic 1", "mono", [0.1, 0, 0, 0]),
        ("mono", "ambisonic 1", [0.1]),
        ("stereo", "12 channels", [0.1, 0.2]),
        ("22.2", "stereo", [0.1, 0.2] + [0] * 22),
        ("5.1", "5.1(side)", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    ],
)
def test_a_change_of_channels_keeps_the_number(
    first: str, second: str, expected: list[float]
) -> None:
    """Where FFmpeg has no rule to mix, channels keep their places."""
    converter = FrameConverter(frame(first))
    converter.push(frame(first))
    samples = converter.push(frame(second))
    assert samples.shape == (len(expected), 1_000)
    if (first, second) != ("stereo", "mono"):
        np.testing.assert_allclose(samples[:, 500], expected, rtol=1e-6)
    else:
        np.testing.assert_allclose(samples[0], samples[1])


def test_a_change_of_the_rate_keeps_the_seconds() -> None:
    converter = FrameConverter(frame("stereo"))
    parts = [converter.push(frame("stereo", RATE // 2)) for _ in range(10)]
    parts += [converter.push(frame("stereo")), converter.finish()]
    assert sum(part.shape[1] for part in parts) == 21_000


# Headers


def patched(path: Path, kind: bytes, place: int, content: bytes) -> Path:
    """Write bytes at a place after the name of the last box of a kind."""
    data = bytearray(path.read_bytes())
    start = data.rindex(kind) + place
    data[start : start + len(content)] = content
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", [b"enca", b"drms"])
def test_encrypted_sound_is_refused(media: Path, tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "x.m4a"
    path.write_bytes((media / "aac.m4a").read_bytes())
    assert_refused(patched(path, b"mp4a", 0, name), ": its sound is encrypted$")


@pytest.mark.parametrize("rate", [0.0, 1e9, -1.0, float("nan"), 1e300])
def test_impossible_rates_are_no_crash(
    tmp_path: Path, integers: NDArray[np.int16], rate: float
) -> None:
    path = encode(tmp_path / "x.mkv", "pcm_s16le", integers[:, :9_600])
    patched(path, b"\xb5\x88" + struct.pack(">d", RATE), 2, struct.pack(">d", rate))
    if rate in (0.0, 1e9):
        assert_refused(path, r"impossible sample rate|Invalid argument")
    else:  # FFmpeg takes 8 kHz
        assert read_notes(path)[0].shape == (2, 9_600)


@pytest.mark.parametrize(
    ("suffix", "container", "codec"),
    [("avi", "avi", "ac3"), ("wma", "asf", "pcm_s16le"), ("mka", "matroska", "ac3")],
)
def test_the_stated_length_of_a_cut_file_is_known(
    tmp_path: Path, integers: NDArray[np.int16], suffix: str, container: str, codec: str
) -> None:
    """FFmpeg guesses the length of a cut AVI or ASF from the bytes that are there."""
    path = encode(tmp_path / f"x.{suffix}", codec, integers, container=container, pictures="mpeg4")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    waveform = read_notes(path)[0]
    note = damage(path)
    assert "is cut: its last " in note.text
    assert note.missing_seconds is not None
    assert note.missing_seconds > 0.5
    assert waveform.shape[1] < 3 * RATE


def test_an_output_of_a_video_is_a_wav(media: Path) -> None:
    info = read_notes(media / "video.mp4")[1]
    assert output_kind(info).container == "wav"
