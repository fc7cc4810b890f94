"""Media that FFmpeg decodes: rate, channels, samples and tags, and files that are refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from singleout.audio import (
    AudioInfo,
    new_audio,
    open_audio,
    output_kind,
    read_audio,
)
from singleout.audio.ffmpeg import blocks, streams
from singleout.errors import AudioError
from tests.audio.media import (
    NUM_FRAMES,
    RATE,
    TAGS,
    assert_refused,
    av,
    damage,
    encode,
    lag,
    read_notes,
    to_floats,
)

TAGGED = ("aac.m4a", "alac.m4a", "video.mp4", "opus.mkv", "flac.mka")
pytestmark = pytest.mark.usefixtures("in_process")

LOSSY = {
    # Samples that the encoder adds at most, where the container does not state the length.
    "aac.m4a": 0,
    "video.mp4": 0,
    "opus.mkv": 2_000,
    "opus.webm": 2_000,
    "adts.aac": 2_048,
}


def assert_tags_arrived(name: str, info: AudioInfo) -> None:
    """Tags have the names that libsndfile knows, and no others."""
    assert (info.tags.items() >= TAGS.items()) == (name in TAGGED)
    assert info.tags.keys() <= set(streams.AV_TAGS.values())


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_media_keep_rate_channels_and_length(
    media: Path, integers: NDArray[np.int16], name: str
) -> None:
    """Channels stay in order, and the samples resemble the noise that was encoded."""
    with open_audio(media / name) as reader:
        info = reader.info
        waveform = np.concatenate(list(reader.blocks()), axis=1)
    assert (info.sample_rate, info.channels, info.subtype) == (RATE, 2, "FLOAT")
    assert waveform.dtype == info.dtype == np.float32
    assert NUM_FRAMES <= waveform.shape[1] <= NUM_FRAMES + LOSSY[name]
    assert info.num_frames in (None, NUM_FRAMES)
    assert_tags_arrived(name, info)
    # An ADTS stream does not state that its first 1,024 samples are padding.
    first = 1_024 if name == "adts.aac" else 0
    sound = to_floats(integers)
    decoded = waveform[:, first : first + NUM_FRAMES]
    for channel in range(2):
        similarity = [np.corrcoef(decoded[channel], each)[0, 1] for each in sound]
        assert similarity[channel] > 0.4
        assert abs(similarity[1 - channel]) < 0.1
    # No sample is shifted: the correlation is highest without a lag.
    lags = range(-3, 4)
    middle = decoded[0, 1_000:-1_000]
    scores = [np.dot(middle, sound[0, 1_000 + lag : NUM_FRAMES - 1_000 + lag]) for lag in lags]
    assert lags[int(np.argmax(scores))] == 0
    assert output_kind(info).subtype == "FLOAT"


LOSSLESS = {
    "alac.m4a": "PCM_16",
    "fragments.m4a": "PCM_24",
    "pcm.mkv": "PCM_16",
    "flac.mka": "PCM_16",
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_media_keep_every_bit(
    media: Path, tmp_path: Path, integers: NDArray[np.int16], name: str
) -> None:
    """The samples are exact, and so is a file that is written of them."""
    with open_audio(media / name) as reader:
        info, parts = reader.info, list(reader.blocks())
    assert len(parts) > 1
    assert max(part.nbytes for part in parts) <= blocks.BLOCK_BYTES
    waveform = np.concatenate(parts, axis=1)
    np.testing.assert_array_equal(waveform, to_floats(integers))
    assert (info.sample_rate, info.channels, info.subtype) == (RATE, 2, LOSSLESS[name])
    assert_tags_arrived(name, info)
    kind = output_kind(info)
    assert kind.container == "wav"
    with new_audio(tmp_path / "x", info, kind) as file:
        file.write(waveform)
    written = soundfile.read(tmp_path / "x", dtype="int32")[0].T
    np.testing.assert_array_equal(written, integers.astype(np.int32) << 16)


@pytest.mark.parametrize(
    ("codec", "sample_format", "bits", "subtype"),
    [
        ("pcm_u8", "u8", 8, "PCM_16"),
        ("pcm_s24le", "s32", 24, "PCM_24"),
        ("pcm_f32le", "flt", 24, "FLOAT"),
        ("pcm_mulaw", "s16", None, "FLOAT"),
    ],
)
def test_samples_of_other_widths(
    tmp_path: Path, codec: str, sample_format: str, bits: int | None, subtype: str
) -> None:
    """The output kind holds all bits of the samples."""
    rng = np.random.default_rng(1)
    steps = 1 << ((bits or 16) - 1)
    drawn = rng.integers(-steps, steps, (2, 5_000))
    forms: dict[str, NDArray[Any]] = {
        "u8": (drawn + steps).astype(np.uint8),
        "s16": drawn.astype(np.int16),
        "s32": (drawn << 8).astype(np.int32),
        "flt": (drawn / steps).astype(np.float32),
    }
    path = encode(tmp_path / "x.mov", codec, forms[sample_format], sample_format=sample_format)
    with open_audio(path) as reader:
        assert reader.info.subtype == subtype
        waveform = np.concatenate(list(reader.blocks()), axis=1)
    if bits is not None:
        np.testing.assert_array_equal(waveform, (drawn / steps).astype(np.float32))


CODED = {"wavpack": "s16p"}


@pytest.mark.parametrize(
    ("codec", "channels", "layout"),
    [
        ("pcm_s16le", 6, "5.1"),
        ("pcm_s16le", 8, "7.1"),
        ("pcm_s16le", 12, "7.1.4"),
        ("flac", 8, "7.1"),
        ("wavpack", 8, "7.1"),
    ],
)
def test_any_number_of_channels_is_read(
    tmp_path: Path, integers: NDArray[np.int16], codec: str, channels: int, layout: str
) -> None:
    """The channels keep the order of the file, in planes and interleaved."""
    audio = np.stack([np.roll(integers[0], 100 * number)[:20_000] for number in range(channels)])
    path = encode(
        tmp_path / "x.mkv", codec, audio, layout=layout, rate=44_100, coded_format=CODED.get(codec)
    )
    waveform, rate = read_audio(path)
    assert rate == 44_100
    np.testing.assert_array_equal(waveform, to_floats(audio))


def test_rate_and_channels_may_change_within_a_file(
    tmp_path: Path, integers: NDArray[np.int16]
) -> None:
    """Broadcasts change from stereo to 5.1 and back. The first rate and layout stay."""
    integers = integers[:, :RATE]
    stereo = encode(tmp_path / "a", "aac", integers, container="adts").read_bytes()
    mono = encode(tmp_path / "b", "aac", integers[:1], layout="mono", container="adts").read_bytes()
    half = encode(
        tmp_path / "c", "aac", integers[:, ::2], rate=24_000, container="adts"
    ).read_bytes()
    path = tmp_path / "x.aac"
    path.write_bytes(stereo)
    first = read_audio(path)[0]
    length = first.shape[1]
    for second, channels in ((mono, 1), (half, 2)):
        path.write_bytes(stereo + second)
        waveform, rate = read_audio(path)
        assert (len(waveform), rate) == (2, RATE)
        np.testing.assert_array_equal(waveform[:, :length], first)
        rest = waveform[:, length:]
        # The second part keeps its length in seconds.
        assert abs(rest.shape[1] - RATE) <= 5_000
        assert np.std(rest) > 0.01
        if channels == 1:
            np.testing.assert_array_equal(rest[0], rest[1])


def test_blocks_that_cut_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, integers: NDArray[np.int16]
) -> None:
    """Reading from the pipe may stop within a frame."""
    audio = np.stack([integers[0, :2_000]] * 3)
    path = encode(tmp_path / "x.mkv", "pcm_s16le", audio, layout="2.1")
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1_001)
    np.testing.assert_array_equal(read_audio(path)[0], to_floats(audio))


@pytest.mark.parametrize("name", ["aac.m4a", "alac.m4a"])
def test_more_sound_than_stated_is_kept(
    media: Path, tmp_path: Path, name: str, integers: NDArray[np.int16]
) -> None:
    """Some programs state a second too few. Only padding of the last frame is dropped."""
    content = bytearray((media / name).read_bytes())
    place = content.index(b"mdhd") + 4
    rate, stated = struct.unpack(">II", content[place + 12 : place + 20])
    assert (rate, stated) == (RATE, NUM_FRAMES) or stated > NUM_FRAMES
    content[place + 16 : place + 20] = struct.pack(">I", RATE // 4)
    path = tmp_path / name
    path.write_bytes(content)
    whole, _ = read_audio(media / name)
    waveform, _ = read_audio(path)
    assert waveform.shape[1] >= NUM_FRAMES
    np.testing.assert_array_equal(waveform[:, : whole.shape[1]], whole)


# Files that are refused


def test_a_video_without_sound_is_refused(media: Path) -> None:
    assert_refused(media / "silent.mp4", "no sound")


@pytest.mark.parametrize("name", ["x.mp4", "x.wav", "x.txt"])
def test_text_is_refused_under_any_name(tmp_path: Path, name: str) -> None:
    """FFmpeg would show a text file as a video of letters."""
    for content in ("hello world\n" * 200, "x") if name == "x.txt" else ("hello world\n" * 200,):
        (tmp_path / name).write_text(content)
        assert_refused(tmp_path / name, "cannot be read as audio")


@pytest.mark.parametrize(
    ("name", "share", "seconds"),
    [
        ("video.mp4", 0.6, 3),
        ("aac first.m4a", 0.6, 3),
        ("opus.mkv", 0.97, 3),
        ("opus.webm", 0.6, 3),
        ("flac.mka", 0.6, 3),
        ("fragments.m4a", 0.6, None),
    ],
)
def test_cut_media_are_read_as_far_as_they_go(
    media: Path, tmp_path: Path, name: str, share: float, seconds: float | None
) -> None:
    """The note says how many of the stated seconds are missing."""
    whole, _ = read_audio(media / name)
    path = tmp_path / name
    content = (media / name).read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    waveform = read_notes(path)[0]
    np.testing.assert_array_equal(waveform, whole[:, : waveform.shape[1]])
    note = damage(path)
    assert "is cut" in note.text
    if seconds is None:
        assert note.missing_seconds is None
    else:
        assert note.missing_seconds is not None
        assert waveform.shape[1] / RATE + note.missing_seconds == pytest.approx(seconds, abs=0.06)


def test_a_cut_recording_of_one_packet_is_refused(media: Path, tmp_path: Path) -> None:
    (tmp_path / "x.mkv").write_bytes((media / "pcm.mkv").read_bytes()[:-3_000])
    assert_refused(tmp_path / "x.mkv", "no samples")


@pytest.mark.parametrize("name", ["aac.m4a", "pcm.mov"])
def test_media_without_their_index_are_refused(media: Path, tmp_path: Path, name: str) -> None:
    """An MP4 has its index at its end, unless the program that wrote it moved it."""
    path = tmp_path / name
    path.write_bytes((media / name).read_bytes()[:-3_000])
    assert_refused(path, r"is cut or was never finished: it lacks the index")


def test_damage_in_the_middle_is_silence(
    media: Path, tmp_path: Path, integers: NDArray[np.int16]
) -> None:
    """The sound after the damaged packets keeps its time."""
    data = bytearray((media / "aac.m4a").read_bytes())
    data[20_000:21_000] = np.random.default_rng(0).bytes(1_000)
    path = tmp_path / "x.m4a"
    path.write_bytes(data)
    waveform = read_notes(path)[0]
    assert waveform.shape == (2, NUM_FRAMES)
    note = damage(path)
    assert "is damaged" in note.text
    assert note.missing_seconds == pytest.approx(
        np.count_nonzero(waveform[0] == 0) / RATE, abs=0.01
    )
    assert 0.02 < (note.missing_seconds or 0.0) < 0.2
    assert lag(waveform[0, -RATE:], to_floats(integers)[0]) == NUM_FRAMES - RATE


def without_a_packet(path: Path, stream: int) -> Path:
    """Write an MPEG-TS that lacks one packet of a stream, from the middle."""
    packets = [path.read_bytes()[i : i + 188] for i in range(0, path.stat().st_size, 188)]
    of_stream = [
        i
        for i, packet in enumerate(packets)
        if (packet[1] & 0x1F) << 8 | packet[2] == 0x100 + stream and not packet[1] & 0x40
    ]
    del packets[of_stream[len(of_stream) // 2]]
    lossy = path.with_name(f"without {stream}.ts")
    lossy.write_bytes(b"".join(packets))
    return lossy


def test_a_damaged_picture_does_not_matter(tmp_path: Path, integers: NDArray[np.int16]) -> None:
    """Broadcasts often lose packets of their video."""
    whole = tmp_path / "whole.ts"
    rng = np.random.default_rng(0)
    with av.open(str(whole), "w", format="mpegts") as file:
        video = file.add_stream("mpeg2video", rate=25)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        sound = file.add_stream("mp2", rate=RATE)
        sound.layout = "stereo"
        for number in range(25):
            picture = av.VideoFrame.from_ndarray(
                rng.integers(0, 255, (360, 320), np.uint8), format="yuv420p"
            )
            picture.pts = number
            file.mux(video.encode(picture))
        file.mux(video.encode(None))
        packed = np.ascontiguousarray(integers.T.reshape(1, -1))
        frame: Any = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = RATE, 0
        file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    expected, _ = read_audio(whole)
    waveform, _ = read_audio(without_a_packet(whole, 0))
    np.testing.assert_array_equal(waveform, expected)
    waveform, _, _ = read_notes(without_a_packet(whole, 1))
    assert abs(waveform.shape[1] - expected.shape[1]) <= RATE * 0.05
    assert lag(waveform[0, -RATE:], expected[0]) == expected.shape[1] - RATE
    assert "is damaged" in damage(without_a_packet(whole, 1)).text


def test_sound_without_samples_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "x.mkv", "pcm_s16le", np.zeros((2, 0), np.int16), pictures="mpeg4")
    assert_refused(path, "no samples")


def test_a_media_file_that_changes_while_it_is_read_is_refused(media: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.mkv"
    path.write_bytes((media / "pcm.mkv").read_bytes())
    with open_audio(path) as reader:
        assert isinstance(reader.info, AudioInfo)
        blocks = reader.blocks()
        next(blocks)
        os.utime(path, (0, 0))
        with pytest.raises(AudioError, match="changed while it was read"):
            list(blocks)
