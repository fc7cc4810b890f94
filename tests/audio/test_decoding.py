"""Media that FFmpeg decodes in a process of its own: what arrives, and what happens if it dies."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from singleout.audio import AudioInfo, decoding, new_audio, open_audio, output_kind, read_audio
from singleout.audio.decoding import Decoder
from singleout.errors import AudioError

av = pytest.importorskip("av")

RATE = 48_000
NUM_FRAMES = 144_000
TAGS = {"title": "Größe 😀", "artist": "An artist"}
TAGGED = ("aac.m4a", "alac.m4a", "video.mp4", "opus.mkv", "flac.mka")


def to_floats(integers: NDArray[np.int16]) -> NDArray[np.float32]:
    return integers.astype(np.float32) / 32_768


@pytest.fixture(scope="session")
def integers() -> NDArray[np.int16]:
    """[channels, samples] of 16 bits: three seconds of two different noises."""
    drawn = np.random.default_rng(0).normal(0, 3_000, (2, NUM_FRAMES))
    return np.clip(np.rint(drawn), -32_768, 32_767).astype(np.int16)


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
    tags: Mapping[str, str] | None = None,
) -> Path:
    """A media file by FFmpeg, with a video of nothing if ``pictures`` names its codec."""
    with av.open(str(path), "w", format=container, options=dict(options or {})) as file:
        file.metadata.update(tags or {})
        video = sound = None
        if pictures is not None:
            video = file.add_stream(pictures, rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if codec is not None:
            sound = file.add_stream(codec, rate=rate)
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


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory, integers: NDArray[np.int16]) -> Path:
    """A folder of recordings of the same noises in many containers."""
    folder = tmp_path_factory.mktemp("media")
    index_first = {"movflags": "faststart"}
    fragments = {"movflags": "frag_keyframe+empty_moov+skip_trailer", "frag_duration": "500000"}
    encode(folder / "aac.m4a", "aac", integers, tags=TAGS)
    encode(folder / "alac.m4a", "alac", integers, coded_format="s16p", tags=TAGS)
    encode(folder / "fragments.m4a", "alac", integers, coded_format="s32p", options=fragments)
    encode(folder / "video.mp4", "aac", integers, pictures="mpeg4", options=index_first, tags=TAGS)
    encode(folder / "silent.mp4", None, integers, pictures="mpeg4")
    encode(folder / "opus.mkv", "libopus", integers, pictures="mpeg4", tags=TAGS)
    encode(folder / "opus.webm", "libopus", integers)
    encode(folder / "adts.aac", "aac", integers, container="adts")
    encode(folder / "pcm.mkv", "pcm_s16le", integers)
    encode(folder / "pcm.mov", "pcm_s16le", integers)
    encode(folder / "flac.mka", "flac", integers, tags=TAGS)
    return folder


# What arrives


LOSSY = {
    # Frames that the encoder adds: where the container does not say, up to two of its own.
    "aac.m4a": 0,
    "video.mp4": 0,
    "opus.mkv": 2_000,
    "opus.webm": 2_000,
    "adts.aac": 2_048,
}


def assert_tags_arrived(name: str, info: AudioInfo) -> None:
    """Under libsndfile's names, and none that it does not know."""
    assert (info.tags.items() >= TAGS.items()) == (name in TAGGED)
    assert info.tags.keys() <= set(decoding.AV_TAGS.values())


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_media(media: Path, integers: NDArray[np.int16], name: str) -> None:
    """Rate, channels in order, length, and what a lossy encoder leaves of noise."""
    with open_audio(media / name) as reader:
        info = reader.info
        found = np.concatenate(list(reader.blocks()), axis=1)
    assert (info.sample_rate, info.channels, info.subtype) == (RATE, 2, "FLOAT")
    assert found.dtype == info.dtype == np.float32
    assert NUM_FRAMES <= found.shape[1] <= NUM_FRAMES + LOSSY[name]
    assert info.num_frames in (None, NUM_FRAMES)
    assert_tags_arrived(name, info)
    # An ADTS stream does not say that its first 1,024 frames are the encoder's warming up.
    first = 1_024 if name == "adts.aac" else 0
    sound = to_floats(integers)
    decoded = found[:, first : first + NUM_FRAMES]
    for channel in range(2):
        likeness = [np.corrcoef(decoded[channel], each)[0, 1] for each in sound]
        assert likeness[channel] > 0.4
        assert abs(likeness[1 - channel]) < 0.1
    # In time, too, where the encoder keeps the wave: no lag is likelier than none.
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
def test_lossless_media(
    media: Path, tmp_path: Path, integers: NDArray[np.int16], name: str
) -> None:
    """To the bit, and so is what is written of it."""
    with open_audio(media / name) as reader:
        info, blocks = reader.info, list(reader.blocks())
    assert len(blocks) > 1
    assert max(block.nbytes for block in blocks) <= decoding.BLOCK_BYTES + 8
    found = np.concatenate(blocks, axis=1)
    np.testing.assert_array_equal(found, to_floats(integers))
    assert (info.sample_rate, info.channels, info.subtype) == (RATE, 2, LOSSLESS[name])
    assert_tags_arrived(name, info)
    kind = output_kind(info)
    assert kind.container == "wav"
    with new_audio(tmp_path / "x", info, kind) as file:
        file.write(found)
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
    """Each becomes a file that holds all of its bits."""
    rng = np.random.default_rng(1)
    steps = 1 << ((bits or 16) - 1)
    drawn = rng.integers(-steps, steps, (2, 5_000))
    audio = {
        "u8": (drawn + steps).astype(np.uint8),
        "s16": drawn.astype(np.int16),
        "s32": (drawn << 8).astype(np.int32),
        "flt": (drawn / steps).astype(np.float32),
    }[sample_format]
    path = encode(tmp_path / "x.mov", codec, audio, sample_format=sample_format)
    with open_audio(path) as reader:
        assert reader.info.subtype == subtype
        found = np.concatenate(list(reader.blocks()), axis=1)
    if bits is not None:
        np.testing.assert_array_equal(found, (drawn / steps).astype(np.float32))


@pytest.mark.parametrize(("channels", "layout"), [(6, "5.1"), (12, "7.1.4")])
def test_any_number_of_channels(
    tmp_path: Path, integers: NDArray[np.int16], channels: int, layout: str
) -> None:
    """In the order of the file."""
    audio = np.stack([np.roll(integers[0], 100 * number)[:20_000] for number in range(channels)])
    path = encode(tmp_path / "x.mkv", "pcm_s16le", audio, layout=layout, rate=44_100)
    found, rate = read_audio(path)
    assert rate == 44_100
    np.testing.assert_array_equal(found, to_floats(audio))


@pytest.mark.parametrize("name", ["concat:a|two\nlines 😀 %03d.m4a", os.fsdecode(b"caf\xe9.m4a")])
def test_names_of_any_kind(media: Path, tmp_path: Path, name: str) -> None:
    """None is a protocol or a pattern of FFmpeg's, nor needs it be text."""
    path = tmp_path / name
    path.write_bytes((media / "aac.m4a").read_bytes())
    assert read_audio(path)[0].shape == (2, NUM_FRAMES)


def test_paths_from_the_current_folder(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is found; what lies beside it is not taken for a part of this program."""
    for name in ("json.py", "av.py", "singleout.py", "numpy.py"):
        (tmp_path / name).write_text("raise SystemExit('not this one')\n")
    (tmp_path / "x.m4a").write_bytes((media / "aac.m4a").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert read_audio("x.m4a")[1] == RATE


def test_a_shape_that_changes_on_the_way(tmp_path: Path, integers: NDArray[np.int16]) -> None:
    """Broadcasts go from stereo to 5.1 and back; the recording stays what it was at first."""
    integers = integers[:, :RATE]
    stereo = encode(tmp_path / "a", "aac", integers, container="adts").read_bytes()
    mono = encode(tmp_path / "b", "aac", integers[:1], layout="mono", container="adts").read_bytes()
    half = encode(
        tmp_path / "c", "aac", integers[:, ::2], rate=24_000, container="adts"
    ).read_bytes()
    path = tmp_path / "x.aac"
    path.write_bytes(stereo)
    alone = read_audio(path)[0]
    length = alone.shape[1]
    for second, channels in ((mono, 1), (half, 2)):
        path.write_bytes(stereo + second)
        found, rate = read_audio(path)
        assert (len(found), rate) == (2, RATE)
        np.testing.assert_array_equal(found[:, :length], alone)
        rest = found[:, length:]
        # As long in seconds as it was.
        assert abs(rest.shape[1] - RATE) <= 5_000
        assert np.std(rest) > 0.01
        if channels == 1:
            np.testing.assert_array_equal(rest[0], rest[1])


# What is refused


@pytest.mark.parametrize("name", ["aac.m4a", "alac.m4a"])
def test_more_sound_than_stated_is_kept(
    media: Path, tmp_path: Path, name: str, integers: NDArray[np.int16]
) -> None:
    """Some writers state a second too few; an encoder's last frame alone is cut."""
    content = bytearray((media / name).read_bytes())
    place = content.index(b"mdhd") + 4
    rate, stated = struct.unpack(">II", content[place + 12 : place + 20])
    assert (rate, stated) == (RATE, NUM_FRAMES) or stated > NUM_FRAMES
    content[place + 16 : place + 20] = struct.pack(">I", RATE // 4)
    path = tmp_path / name
    path.write_bytes(content)
    whole, _ = read_audio(media / name)
    found, _ = read_audio(path)
    assert found.shape[1] >= NUM_FRAMES
    np.testing.assert_array_equal(found[:, : whole.shape[1]], whole)


def assert_refused(path: Path, reason: str) -> None:
    with pytest.raises(AudioError, match=reason) as raised:
        read_audio(path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")


def test_pictures_without_sound(media: Path) -> None:
    assert_refused(media / "silent.mp4", "no sound")


@pytest.mark.parametrize("name", ["x.mp4", "x.wav", "x.txt"])
def test_text_by_any_name(tmp_path: Path, name: str) -> None:
    """FFmpeg would show a text file as a video of letters."""
    for content in ("hello world\n" * 200, "x") if name == "x.txt" else ("hello world\n" * 200,):
        (tmp_path / name).write_text(content)
        assert_refused(tmp_path / name, "cannot be read as audio")


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("video.mp4", 0.6),
        ("opus.mkv", 0.97),
        ("opus.webm", 0.6),
        ("pcm.mkv", 0.97),
        ("flac.mka", 0.6),
        ("fragments.m4a", 0.6),
    ],
)
def test_media_that_are_cut(media: Path, tmp_path: Path, name: str, share: float) -> None:
    """FFmpeg decodes what there is, and at most warns."""
    whole = (media / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * share)])
    assert_refused(path, r"truncated|damaged")


@pytest.mark.parametrize("name", ["aac.m4a", "pcm.mov"])
def test_media_without_their_index(media: Path, tmp_path: Path, name: str) -> None:
    """It is at the end of an MP4, unless the writer moves it."""
    path = tmp_path / name
    path.write_bytes((media / name).read_bytes()[:-3_000])
    assert_refused(path, r"truncated|damaged")


def test_damage_in_the_middle(media: Path, tmp_path: Path) -> None:
    data = bytearray((media / "aac.m4a").read_bytes())
    data[20_000:21_000] = np.random.default_rng(0).bytes(1_000)
    (tmp_path / "x.m4a").write_bytes(data)
    assert_refused(tmp_path / "x.m4a", "damaged")


def without_a_packet(path: Path, stream: int) -> Path:
    """An MPEG-TS that has lost one of a stream's packets, in the middle."""
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


def test_a_picture_that_is_damaged_leaves_the_sound_alone(
    tmp_path: Path, integers: NDArray[np.int16]
) -> None:
    """As broadcasts are."""
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
    found, _ = read_audio(without_a_packet(whole, 0))
    np.testing.assert_array_equal(found, expected)
    assert_refused(without_a_packet(whole, 1), "damaged or truncated")


def test_sound_of_no_samples(tmp_path: Path) -> None:
    path = encode(tmp_path / "x.mkv", "pcm_s16le", np.zeros((2, 0), np.int16), pictures="mpeg4")
    assert_refused(path, "no samples")


# A decoder that fails


@pytest.fixture
def unreadable(tmp_path: Path) -> Path:
    """Nothing that libsndfile knows: the decoder is asked."""
    path = tmp_path / "x.m4a"
    path.write_bytes(bytes(1_000))
    return path


HEAD = """
import json, os, signal, sys
out = sys.stdout.buffer
def head(**fields):
    out.write(json.dumps({"sample_rate": 48000, "channels": 2, **fields}).encode() + b"\\n")
"""
KILL = "out.flush(); os.kill(os.getpid(), signal.SIGSEGV)\n"


@pytest.mark.parametrize("num_bytes", [None, 0, 8_000, 8_003, 3 << 20])
def test_a_decoder_that_dies(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int | None
) -> None:
    """Before its first line, after it, and amid samples: this process lives, and says so."""
    sent = "" if num_bytes is None else f"head(); out.write(bytes({num_bytes}))\n"
    monkeypatch.setattr(decoding, "PROGRAM", HEAD + sent + KILL)
    assert_refused(unreadable, "SIGSEGV.*damaged")


def test_what_a_dying_decoder_sent_is_not_passed_on_as_whole(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its samples arrive, the end of the recording does not."""
    sent = "head(); out.write(bytes(8_000))\n"
    monkeypatch.setattr(decoding, "PROGRAM", HEAD + sent + KILL)
    with open_audio(unreadable) as reader:
        blocks = reader.blocks()
        assert next(blocks).shape == (2, 1_000)
        with pytest.raises(AudioError, match="SIGSEGV"):
            next(blocks)


BROKEN = {
    "import sys; sys.exit(1)": "its decoder failed: exit code 1",
    "": "its decoder failed",
    "print('garbage')": "cannot be read as audio",
    "print('5')": "cannot be read as audio",
    "print('{\"sample_rate\": 1}')": "cannot be read as audio",
    "import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n')": "cannot be read as audio",
    "import sys; sys.stdout.buffer.write(b'no line')": "its decoder failed",
    "1 / 0": "its decoder failed: ZeroDivisionError",
    "import sys; sys.exit('refused: of a reason')": ": of a reason$",
    "import sys; sys.stderr.write('x\\n' * 100_000); sys.exit(3)": "its decoder failed: x$",
    HEAD + "head(); out.write(bytes(8_000)); out.flush(); 1 / 0": "failed: ZeroDivisionError",
    HEAD + "head(); out.write(bytes(8_003))": "its decoder failed",
    HEAD + "head()": "no samples",
    HEAD + "head(); out.write(b'\\xff' * 8_000)": "NaN",
}


@pytest.mark.parametrize("program", BROKEN, ids=range(len(BROKEN)))
def test_a_decoder_that_is_broken(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """Whatever it does, or says on the way, there is one line about it."""
    monkeypatch.setattr(decoding, "PROGRAM", program)
    assert_refused(unreadable, BROKEN[program])


def test_without_pyav(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not on every machine; what libsndfile reads needs none of it."""
    hidden = "import sys; sys.modules['av'] = None\n" + decoding.PROGRAM
    monkeypatch.setattr(decoding, "PROGRAM", hidden)
    assert_refused(media / "aac.m4a", "pip install av")


# No process stays


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Decoder]]:
    """The decoders of a test: none of their processes may outlive it."""
    found: list[Decoder] = []
    init = Decoder.__init__

    def noted(self: Decoder, path: Path, otherwise: str) -> None:
        found.append(self)
        init(self, path, otherwise)

    monkeypatch.setattr(Decoder, "__init__", noted)
    yield found
    assert found
    for decoder in found:
        # The return code is what ``wait`` found: the process is gone, not even a zombie.
        assert decoder._process.returncode is not None
        assert not Path(f"/proc/{decoder._process.pid}").exists()
        assert decoder._samples.closed
        assert decoder._said.closed


def test_a_reader_that_is_left_half_way(media: Path, started: list[Decoder]) -> None:
    """After some blocks, after none, and by an error of somebody else's."""
    for num_blocks in (0, 1):
        with open_audio(media / "aac.m4a") as reader:
            blocks = reader.blocks()
            for _ in range(num_blocks):
                next(blocks)
            assert started[-1]._process.returncode is None

    def fail() -> None:
        with open_audio(media / "pcm.mkv") as reader:
            next(reader.blocks())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()


def test_a_decoder_that_hangs_is_ended(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch, started: list[Decoder]
) -> None:
    """Closing asks nothing of it."""
    hang = "head(); out.write(bytes(8 << 20)); out.flush()\nwhile True: signal.pause()"
    monkeypatch.setattr(decoding, "PROGRAM", HEAD + hang)
    with open_audio(unreadable) as reader:
        assert next(reader.blocks()).shape[0] == 2


def test_errors_leave_no_process(
    media: Path, unreadable: Path, monkeypatch: pytest.MonkeyPatch, started: list[Decoder]
) -> None:
    assert_refused(media / "silent.mp4", "no sound")
    read_audio(media / "aac.m4a")
    monkeypatch.setattr(decoding, "PROGRAM", "print('garbage', flush=True)\nwhile True: pass")
    assert_refused(unreadable, "cannot be read as audio")


def test_blocks_that_cut_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, integers: NDArray[np.int16]
) -> None:
    """The pipe knows nothing of channels."""
    audio = np.stack([integers[0, :2_000]] * 3)
    path = encode(tmp_path / "x.mkv", "pcm_s16le", audio, layout="2.1")
    monkeypatch.setattr(decoding, "BLOCK_BYTES", 1_001)
    np.testing.assert_array_equal(read_audio(path)[0], to_floats(audio))


def test_a_media_file_that_changes_while_it_is_read(media: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.mkv"
    path.write_bytes((media / "pcm.mkv").read_bytes())
    with open_audio(path) as reader:
        assert isinstance(reader.info, AudioInfo)
        blocks = reader.blocks()
        next(blocks)
        os.utime(path, (0, 0))
        with pytest.raises(AudioError, match="changed while it was read"):
            list(blocks)
