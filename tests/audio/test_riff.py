"""WAV files chunk by chunk: samples, sizes, loudspeakers, descriptions and tags."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout.audio import (
    AudioInfo,
    Note,
    OutputFormat,
    OutputKind,
    open_audio,
    output_kind,
    quantised,
    read_audio,
    write_wav,
)
from singleout.audio.description.describe import describe
from singleout.audio.description.riff import chunk, chunks, info_chunk
from singleout.audio.info import LOSSLESS_BITS
from singleout.audio.wav import WavFile, WavHead
from tests.audio.recordings import RATE, WITH_FILES, noise, read, write


@st.composite
def wav_contents(draw: st.DrawFn) -> tuple[str, NDArray[Any], list[int]]:
    """A subtype, samples that ``WavFile.write`` takes for it, and where to cut them into blocks."""
    subtype = draw(st.sampled_from(["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]))
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 200))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    if bits := LOSSLESS_BITS.get(subtype):
        end = 1 << (bits - 1)
        audio = (rng.integers(-end, end, shape) << (32 - bits)).astype(np.int32)
    else:
        audio = rng.normal(0, 3, shape).astype(np.float64 if subtype == "DOUBLE" else np.float32)
    cuts = draw(st.lists(st.integers(0, shape[1]), max_size=4).map(sorted))
    return subtype, audio, cuts


def write_wav_file(path: Path, subtype: str, audio: NDArray[Any], cuts: list[int]) -> None:
    file = WavFile(path, WavHead(AudioInfo(RATE, len(audio)), subtype))
    for block in np.split(audio, cuts, axis=1):
        file.write(block)
    file.close()


def raw_samples(path: Path, like: NDArray[Any]) -> NDArray[Any]:
    """The samples as libsndfile reads them."""
    return np.ascontiguousarray(soundfile.read(path, dtype=like.dtype.name, always_2d=True)[0].T)


def assert_lengths_are_right(path: Path) -> None:
    """Every chunk ends where the next one begins, the last chunk at the end of the file."""
    data = path.read_bytes()
    assert len(data) % 2 == 0
    with path.open("rb") as file:
        listed = list(chunks(file))
    ends = [12] + [position + length + length % 2 for _, position, length in listed]
    assert [position - 8 for _, position, _ in listed] == ends[:-1]
    assert ends[-1] == len(data)
    if data.startswith(b"RIFF"):
        assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    else:
        assert data[4:8] == b"\xff" * 4
        assert struct.unpack("<Q", data[20:28])[0] == len(data) - 8


@settings(deadline=None, max_examples=80, suppress_health_check=WITH_FILES)
@given(contents=wav_contents())
def test_wav_files_hold_every_bit(
    tmp_path: Path, contents: tuple[str, NDArray[Any], list[int]]
) -> None:
    """Blocks may have any size, and samples any number of bytes."""
    subtype, audio, cuts = contents
    path = tmp_path / "x.wav"
    write_wav_file(path, subtype, audio, cuts)
    np.testing.assert_array_equal(raw_samples(path, audio), audio)
    assert_lengths_are_right(path)
    info = soundfile.info(path)
    assert (info.samplerate, info.subtype) == (RATE, subtype)
    whole = path.read_bytes()
    write_wav_file(path, subtype, audio, [])
    assert path.read_bytes() == whole


@settings(deadline=None, max_examples=40, suppress_health_check=WITH_FILES)
@given(contents=wav_contents())
def test_long_wav_files_are_rf64(
    tmp_path: Path, contents: tuple[str, NDArray[Any], list[int]]
) -> None:
    """Long files are as exact and as readable as short ones."""
    subtype, audio, cuts = contents
    path = tmp_path / "x.wav"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("singleout.audio.wav.MAX_BYTES", 0)
        write_wav_file(path, subtype, audio, cuts)
    assert soundfile.info(path).format == "RF64"
    np.testing.assert_array_equal(raw_samples(path, audio), audio)
    assert_lengths_are_right(path)
    samples, info = read(path)
    assert info.num_frames == audio.shape[1]
    assert samples.shape == audio.shape
    assert output_kind(info) == OutputKind("wav", subtype)


def test_a_wav_becomes_rf64_only_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every program reads RF64."""
    monkeypatch.setattr("singleout.audio.wav.MAX_BYTES", 400)
    for frames, head in ((100, b"RIFF"), (101, b"RF64")):
        write_wav_file(tmp_path / "x", "PCM_16", np.zeros((2, frames), np.int32), [])
        assert (tmp_path / "x").read_bytes().startswith(head)


def test_recordings_beyond_four_gigabytes_are_rf64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = noise()
    write_wav(tmp_path / "short.wav", audio, RATE)
    monkeypatch.setattr("singleout.audio.wav.MAX_BYTES", 10_000)
    write_wav(tmp_path / "long.wav", audio, RATE)
    assert (tmp_path / "long.wav").read_bytes().startswith(b"RF64")
    np.testing.assert_array_equal(read_audio(tmp_path / "long.wav")[0], audio)


def test_zeros_behind_a_recording_are_not_read_as_chunks(tmp_path: Path) -> None:
    """Some recorders append zeros. Read as chunks of eight bytes they would take minutes."""
    path = tmp_path / "x.wav"
    write_wav_file(path, "PCM_16", np.zeros((1, 100), np.int32), [])
    with path.open("rb") as file:
        before = list(chunks(file))
    path.write_bytes(path.read_bytes() + bytes(80_000))
    with path.open("rb") as file:
        assert list(chunks(file)) == before


# Descriptions


def insert_chunks(path: Path, before: bytes, after: bytes = b"") -> None:
    """Insert chunks around the samples of a WAV that libsndfile wrote."""
    data = path.read_bytes()
    at = data.index(b"data")
    data = data[:at] + before + data[at:] + after
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])


CUE = struct.pack("<I", 1) + struct.pack("<II4sIII", 1, 100, b"data", 0, 0, 100)

LABEL = b"adtl" + chunk(b"labl", struct.pack("<I", 1) + b"verse\0")

DESCRIBING = (
    (
        b"bext",
        b"a take".ljust(256, b"\0") + bytes(82) + struct.pack("<Q", 123_456_789) + bytes(257),
    ),
    (b"iXML", b"<BWFXML><NOTE>odd</NOTE></BWFXML>"),
    (b"cue ", CUE),
    (b"LIST", LABEL),
    (b"LIST", b"INFO" + chunk(b"INAM", b"caf\xc3\xa9\0")),
)


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
def test_a_wav_keeps_what_describes_it(tmp_path: Path, container: str) -> None:
    """Editors need time codes and markers to place a target."""
    path, new = tmp_path / "x.wav", tmp_path / "new.wav"
    soundfile.write(path, noise().T, RATE, "PCM_16", format=container)
    # libsndfile cannot read an RF64 with a chunk of an odd length.
    describing = tuple(
        (name, content + bytes(len(content) % 2 if container == "RF64" else 0))
        for name, content in DESCRIBING
    )
    before = b"".join(chunk(*each) for each in (*describing[:3], (b"junk", b"no use")))
    insert_chunks(path, before, b"".join(chunk(*each) for each in describing[3:]))
    samples, info = read(path)
    np.testing.assert_array_equal(samples.T, soundfile.read(path, dtype="float32")[0])
    assert info.riff_chunks == describing

    write(new, samples, info, output_kind(info))
    assert describe(new).riff_chunks == describing
    again, info_again = read(new)
    np.testing.assert_array_equal(again, samples)
    assert info_again.riff_chunks == describing
    assert info_again.tags["title"] == "café"
    assert_lengths_are_right(new)
    with soundfile.SoundFile(new) as file:
        assert file.copy_metadata()["title"] == "café"
        assert "Cue ID :  1  Pos :   100" in file.extra_info


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_long_wav_files_with_descriptions_are_readable(tmp_path: Path, subtype: str) -> None:
    """libsndfile does not skip the padding of an odd chunk in an RF64 and would see no samples
    after it. In an RF64 such chunks stand behind the samples, to the byte."""
    path = tmp_path / "x.wav"
    info = AudioInfo(RATE, 2, riff_chunks=DESCRIBING)
    audio = np.rint(noise() * 32_768) / 32_768
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("singleout.audio.wav.MAX_BYTES", 0)
        write(path, audio, info, OutputKind("wav", subtype))
    info = read(path)[1]
    assert info.container == "RF64"
    assert any(len(content) % 2 for _, content in DESCRIBING)
    assert sorted(info.riff_chunks) == sorted(DESCRIBING)
    np.testing.assert_array_equal(soundfile.read(path, dtype="float32")[0].T, audio)
    assert_lengths_are_right(path)


def test_a_wav_does_not_keep_megabytes(tmp_path: Path) -> None:
    """Very large edit lists are dropped to save memory, with a note; the other chunks stay."""
    path = tmp_path / "x.wav"
    soundfile.write(path, noise().T, RATE, "PCM_16")
    insert_chunks(path, chunk(b"iXML", bytes(9 << 20)) + chunk(*DESCRIBING[0]))
    with open_audio(path) as reader:
        assert reader.info.riff_chunks == DESCRIBING[:1]
        (note,) = reader.notes
    assert note == Note(f"{path}: descriptions of more than 8 MiB are left out: iXML")


def test_a_chunk_that_is_cut_is_dropped(tmp_path: Path) -> None:
    """The chunks before the cut stay."""
    path = tmp_path / "x.wav"
    soundfile.write(path, noise().T, RATE, "PCM_16")
    insert_chunks(path, chunk(*DESCRIBING[0]), chunk(*DESCRIBING[1]))
    path.write_bytes(path.read_bytes()[:-10])
    assert describe(path).riff_chunks == DESCRIBING[:1]


@pytest.mark.parametrize("mask", [0x3, 0x30, 0x600, 0x8000_0003])
def test_loudspeakers_stay_what_they_are(tmp_path: Path, mask: int) -> None:
    """Two side channels must not become the two front channels."""
    path, new = tmp_path / "x.wav", tmp_path / "new.wav"
    soundfile.write(path, noise().T, RATE, "PCM_24", format="WAVEX")
    data = bytearray(path.read_bytes())
    at = data.index(b"fmt ") + 8 + 20
    data[at : at + 4] = struct.pack("<I", mask)
    path.write_bytes(data)
    samples, info = read(path)
    assert info.channel_mask == mask
    write(new, samples, info, output_kind(info))
    again, info_again = read(new)
    np.testing.assert_array_equal(again, samples)
    # The two channels of a plain WAV are front left and right.
    assert info_again.channel_mask == (0 if mask == 0x3 else mask)


# Tags

TAGS = {"title": "A title", "artist": "An artist", "album": "An album", "genre": "Field"}


def write_tagged(path: Path, container: str) -> dict[str, str]:
    """Write a file with tags by libsndfile; the tags."""
    # libsndfile damages all but ASCII in an MP3.
    tags = TAGS if container == "MP3" else {**TAGS, "title": "Größe 😀"}
    with soundfile.SoundFile(path, "w", RATE, 2, format=container) as file:
        for name, text in tags.items():
            setattr(file, name, text)
        file.write(noise().T)
    return tags


@pytest.mark.parametrize("container", ["FLAC", "MP3", "OGG"])
@pytest.mark.parametrize("format", ["wav", "flac"])
def test_tags_are_kept(tmp_path: Path, container: str, format: OutputFormat) -> None:
    """From every container that holds tags to every container that takes them."""
    tags = write_tagged(tmp_path / "x", container)
    audio, info = read(tmp_path / "x")
    assert info.tags.items() >= tags.items()
    kind = output_kind(info, format)
    write(tmp_path / "new", quantised(audio, audio, kind)[0], info, kind)
    with soundfile.SoundFile(tmp_path / "new") as file:
        assert file.format.lower() == format
        assert file.copy_metadata().items() >= tags.items()


def test_tags_of_a_wav_are_kept_in_a_flac(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x", noise().T, RATE, "PCM_16", format="WAV")
    insert_chunks(tmp_path / "x", chunk(*info_chunk(TAGS)[0]))
    audio, info = read(tmp_path / "x")
    write(tmp_path / "new", audio, info, output_kind(info, "flac"))
    assert read(tmp_path / "new")[1].tags.items() >= TAGS.items()


def test_tags_that_a_wav_cannot_hold_are_left_out(tmp_path: Path) -> None:
    """A zero would end the text, unknown names have no chunk, and a lone surrogate is no text."""
    tags = {"title": "a\0b", "artist": " ", "license": "CC0", "comment": "\udce9"}
    (name, content), *others = info_chunk(tags)
    assert not others
    assert name == b"LIST"
    assert content == b"INFO" + chunk(b"INAM", b"a b\0") + chunk(b"ICMT", b"?\0")
    assert info_chunk({"artist": "", "license": "CC0"}) == ()
    write(tmp_path / "x", noise(), AudioInfo(RATE, 2, tags=tags), OutputKind("wav", "FLOAT"))
    assert read(tmp_path / "x")[1].tags["title"] == "a b"


def test_tags_of_an_old_encoding_do_not_matter(tmp_path: Path) -> None:
    """A recording with tags that are not UTF-8 is read all the same."""
    soundfile.write(tmp_path / "x", noise().T, RATE, "PCM_16", format="WAV")
    latin = chunk(b"LIST", b"INFO" + chunk(b"INAM", "Größe".encode("latin-1") + b"\0"))
    insert_chunks(tmp_path / "x", latin)
    audio, info = read(tmp_path / "x")
    assert audio.shape == (2, 5_000)
    assert info.tags.get("title") != "Größe"  # damaged, or none
    write(tmp_path / "new", audio, info, output_kind(info))
    assert latin in (tmp_path / "new").read_bytes()
