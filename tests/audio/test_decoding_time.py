"""Sound of videos keeps its time: gaps, late starts, joined streams, tracks, wrong times."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from singleout.audio import open_audio
from singleout.errors import AudioError
from tests.audio.media import RATE, av, damage, encode, lag, read_notes, to_floats

pytestmark = pytest.mark.usefixtures("in_process")
SECONDS = 3

KINDS = {
    # Container, codec of the sound, codec of the pictures, and most samples that the codec adds.
    "mp4": ("mp4", "aac", "mpeg4", 2_048),
    "mov": ("mov", "alac", "mpeg4", 4_096),
    "mkv": ("matroska", "flac", "mpeg4", 0),
    "webm": ("webm", "libopus", "libvpx", 2_000),
    "ts": ("mpegts", "mp2", "mpeg2video", 2_048),
    "mpg": ("vob", "ac3", "mpeg2video", 2_048),
    "flv": ("flv", "aac", "flv1", 2_048),
    "wmv": ("asf", "pcm_s16le", "mpeg4", 0),
    "avi": ("avi", "ac3", "mpeg4", 2_048),
    "nut": ("nut", "pcm_s16le", "mpeg4", 0),
}


def record(
    path: Path,
    integers: NDArray[np.int16],
    *,
    gaps: Sequence[tuple[float, float]] = (),
    late: float = 0.0,
    picture_gaps: Sequence[tuple[float, float]] = (),
    has_pictures: bool = True,
) -> Path:
    """Write a video whose timestamps of sound and pictures rise by gaps (at, seconds)."""
    container, codec, picture_codec, _ = KINDS[path.suffix[1:]]
    with av.open(str(path), "w", format=container) as file:
        sound = file.add_stream(codec, rate=RATE)
        sound.layout = "stereo"
        packed = np.ascontiguousarray(integers.T.reshape(1, -1))
        frame: Any = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = RATE, 0
        packets = [(packet, gaps, late) for packet in cut(sound, frame)]
        if has_pictures:
            video = file.add_stream(picture_codec, rate=25)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for number in range(25 * SECONDS):
                picture = av.VideoFrame(64, 48, "yuv420p")
                for plane in picture.planes:
                    plane.update(bytes(plane.buffer_size))
                picture.pts, picture.time_base = number, Fraction(1, 25)
                packets += [(packet, picture_gaps, 0.0) for packet in video.encode(picture)]
            packets += [(packet, picture_gaps, 0.0) for packet in video.encode(None)]
        for packet, steps, offset in packets:
            time = float(packet.dts * packet.time_base)
            shift = offset + sum(length for at, length in steps if time >= at)
            packet.pts += round(shift / packet.time_base)
            packet.dts += round(shift / packet.time_base)
        for packet, _, _ in sorted(packets, key=lambda each: each[0].dts * each[0].time_base):
            file.mux(packet)
    return path


def cut(sound: Any, frame: Any) -> list[Any]:
    """Encode a frame in packets of at most 20 ms, if the codec takes frames of any length."""
    if not sound.codec_context.codec.name.startswith("pcm"):
        return [*sound.encode(frame), *sound.encode(None)]
    packed, packets = frame.to_ndarray(), []
    for start in range(0, packed.shape[1], 2 * 960):
        part = np.ascontiguousarray(packed[:, start : start + 2 * 960])
        small: Any = av.AudioFrame.from_ndarray(part, format="s16", layout="stereo")
        small.sample_rate, small.pts = RATE, start // 2
        packets += sound.encode(small)
    return packets


@pytest.mark.parametrize("suffix", KINDS)
def test_a_gap_is_filled_with_silence(
    tmp_path: Path, integers: NDArray[np.int16], suffix: str
) -> None:
    path = record(tmp_path / f"x.{suffix}", integers, gaps=[(1.5, 1.0)])
    waveform, _, (note,) = read_notes(path)
    assert "1.0 s without sound are filled with silence" in note.text
    assert (note.missing_seconds, note.is_damage) == (0.0, False)
    sound, surplus = to_floats(integers), KINDS[suffix][3]
    extra = waveform.shape[1] - 4 * RATE
    assert -0.05 * RATE <= extra <= surplus + 0.05 * RATE
    # Before and after the gap, each sample is where it was.
    start = lag(waveform[0, RATE // 2 : RATE], sound[0]) - RATE // 2
    end = lag(waveform[0, 3 * RATE : 3 * RATE + RATE // 2], sound[0]) - 3 * RATE
    assert start - end == pytest.approx(RATE, abs=0.05 * RATE)
    silent = np.count_nonzero(~waveform[:, : -surplus or None].any(axis=0))
    assert silent == pytest.approx(RATE, abs=0.05 * RATE)


@pytest.mark.parametrize("suffix", KINDS)
def test_sound_that_starts_late_has_silence_before_it(
    tmp_path: Path, integers: NDArray[np.int16], suffix: str
) -> None:
    whole = read_notes(record(tmp_path / f"whole.{suffix}", integers))[0]
    path = record(tmp_path / f"x.{suffix}", integers, late=0.7)
    waveform, _, (note,) = read_notes(path)
    assert "0.7 s without sound" in note.text
    assert not note.is_damage
    start = lag(whole[0, RATE : 2 * RATE], waveform[0]) - RATE
    assert start == pytest.approx(0.7 * RATE, abs=0.025 * RATE)


@pytest.mark.parametrize("suffix", KINDS)
def test_sound_without_gaps_gets_no_silence(
    tmp_path: Path, integers: NDArray[np.int16], suffix: str
) -> None:
    path = record(tmp_path / f"x.{suffix}", integers)
    waveform, _, notes = read_notes(path)
    assert notes == []
    assert 0 <= waveform.shape[1] - SECONDS * RATE <= KINDS[suffix][3]


@pytest.mark.parametrize("suffix", ["mkv", "ts", "flv", "nut"])
def test_sound_that_starts_before_the_pictures_is_kept(
    tmp_path: Path, integers: NDArray[np.int16], suffix: str
) -> None:
    path = record(tmp_path / f"x.{suffix}", integers, picture_gaps=[(0.0, 1.0)])
    waveform, _, notes = read_notes(path)
    assert notes == []
    assert lag(waveform[0, RATE : 2 * RATE], to_floats(integers)[0]) == pytest.approx(
        RATE, abs=2_048
    )


def test_joined_streams_follow_each_other(tmp_path: Path, integers: NDArray[np.int16]) -> None:
    """Timestamps of joined broadcasts start again, or jump by hours together with the pictures."""
    first = record(tmp_path / "a.ts", integers)
    shift = [(0.0, 20_000.0)]
    later = record(tmp_path / "b.ts", integers, gaps=shift, picture_gaps=shift)
    whole = read_notes(first)[0].shape[1]
    for second, is_note in ((first, False), (later, True)):
        path = tmp_path / "x.ts"
        path.write_bytes(first.read_bytes() + second.read_bytes())
        waveform, _, notes = read_notes(path)
        assert waveform.shape[1] == pytest.approx(2 * whole, abs=0.1 * RATE)
        assert [note.is_damage for note in notes] == [False] * is_note
        assert all("timestamps jump by " in note.text for note in notes)


def test_a_long_gap_of_a_broadcast_is_filled(tmp_path: Path, integers: NDArray[np.int16]) -> None:
    """The pictures go on, so that the timestamps did not jump."""
    path = record(
        tmp_path / "x.ts", integers, gaps=[(1.5, 20.0)],
        picture_gaps=[(at / 5, 20 / 15) for at in range(15)],
    )  # fmt: skip
    waveform, _, (note,) = read_notes(path)
    assert waveform.shape[1] == pytest.approx(23 * RATE, abs=0.2 * RATE)
    assert "20.0 s without sound" in note.text


@pytest.mark.parametrize("suffix", ["mkv", "nut"])
@pytest.mark.parametrize("gap", [(1.5, 1e8), (0.0, 1e8)])
def test_absurd_timestamps_write_no_silence(
    tmp_path: Path, integers: NDArray[np.int16], suffix: str, gap: tuple[float, float]
) -> None:
    path = record(tmp_path / f"x.{suffix}", integers, gaps=[gap])
    waveform, _, _ = read_notes(path)
    assert waveform.shape[1] == SECONDS * RATE
    assert "timestamps jump by 100,000,000.0 s" in damage(path).text


def test_timestamps_that_start_late_without_pictures_add_nothing(
    tmp_path: Path, integers: NDArray[np.int16]
) -> None:
    path = record(tmp_path / "x.mkv", integers, late=3_600.0, has_pictures=False)
    waveform, _, notes = read_notes(path)
    assert (waveform.shape[1], notes) == (SECONDS * RATE, [])


# Tracks

TITLE = {"title": "a\nb" * 99}


@pytest.fixture
def tracks(tmp_path: Path, integers: NDArray[np.int16]) -> Path:
    """Three sound tracks: the noise, half as loud, and a quarter as loud."""
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as file:
        sounds = [file.add_stream("flac", rate=RATE, layout="stereo") for _ in range(3)]
        for sound, tags in zip(
            sounds, ({"language": "eng"}, {"language": "deu"}, TITLE), strict=True
        ):
            sound.metadata.update(tags)
        for number, sound in enumerate(sounds):
            packed = np.ascontiguousarray((integers >> number).T.reshape(1, -1))
            frame: Any = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
            frame.sample_rate, frame.pts = RATE, 0
            file.mux(sound.encode(frame))
            file.mux(sound.encode(None))
    return path


def test_several_tracks_are_named(tracks: Path, integers: NDArray[np.int16]) -> None:
    waveform, _, (note,) = read_notes(tracks)
    np.testing.assert_array_equal(waveform, to_floats(integers))
    assert "has 3 sound tracks (1: eng, stereo; 2: deu, stereo; 3: a ba ba" in note.text
    assert "track 1 is read; --track N reads another" in note.text
    assert (note.missing_seconds, note.is_damage) == (0.0, False)
    assert len(note.text) < len(str(tracks)) + 200


@pytest.mark.parametrize("track", [1, 2, 3])
def test_a_track_is_chosen(tracks: Path, integers: NDArray[np.int16], track: int) -> None:
    waveform, _, notes = read_notes(tracks, track)
    np.testing.assert_array_equal(waveform, to_floats(integers >> (track - 1)))
    assert notes == []
    with open_audio(tracks, track=track) as reader, reader.reopened() as again:
        np.testing.assert_array_equal(np.concatenate(list(again.blocks()), axis=1), waveform)


@pytest.mark.parametrize("track", [0, 4, -1, 10**9])
def test_a_track_that_does_not_exist_is_refused(tracks: Path, track: int) -> None:
    with pytest.raises(AudioError, match=f"has 3 sound tracks, and no track {track}$"):
        read_notes(tracks, track)


def test_a_wav_has_one_track(tmp_path: Path, integers: NDArray[np.int16]) -> None:
    path = encode(tmp_path / "x.wav", "pcm_s16le", integers)
    np.testing.assert_array_equal(read_notes(path, 1)[0], to_floats(integers))
    with pytest.raises(AudioError, match="has 1 sound track, and no track 2"):
        read_notes(path, 2)


def test_a_shorter_track_of_a_whole_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.mka"
    lengths = (96_000, 144_000)
    with av.open(str(path), "w") as file:
        streams = [file.add_stream("flac", rate=RATE, layout="mono") for _ in lengths]
        for stream, length in zip(streams, lengths, strict=True):
            samples = np.random.default_rng(0).integers(-9_000, 9_000, (1, length), np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    for track, length in enumerate(lengths, 1):
        waveform, _, notes = read_notes(path, track)
        assert waveform.shape == (1, length)
        assert notes == []
    assert not any(note.is_damage for note in read_notes(path)[2])


@pytest.mark.parametrize("codec", ["libmp3lame", "mp2"])
def test_compressed_sound_in_a_wav_of_unset_size_is_whole(
    tmp_path: Path, integers: NDArray[np.int16], codec: str
) -> None:
    formats = {"libmp3lame": "s16p", "mp2": "s16"}
    path = encode(tmp_path / "x.wav", codec, integers, coded_format=formats[codec])
    data = bytearray(path.read_bytes())
    start = data.index(b"data") + 4
    size = int.from_bytes(data[start : start + 4], "little")
    del data[start + 4 + size :]  # a pipe has nothing behind the sound
    data[4:8] = data[start : start + 4] = b"\xff" * 4
    path.write_bytes(data)
    waveform, _, notes = read_notes(path)
    assert waveform.shape[1] >= integers.shape[1]
    assert notes == []
    if codec == "libmp3lame":  # an MP2 decoder takes a part of a frame
        path.write_bytes(data[:-100])
        assert damage(path).missing_seconds is None
