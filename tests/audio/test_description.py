"""What archives and field recordists need goes from a recording to its target."""

from __future__ import annotations

import base64
import io
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from singleout.audio import AudioInfo, Note, OutputKind, output_kind, output_notes
from singleout.audio.description import Description, describe
from singleout.audio.flac import (
    APPLICATION,
    COMMENTS,
    PADDING,
    STREAMINFO,
    block,
    comment_block,
    comments,
    flac_blocks,
    read_flac,
)
from singleout.audio.iff import aiff_chunk, aiff_chunks
from singleout.audio.parts import MAX_BYTES, MAX_CHUNKS
from singleout.audio.riff import W64_RIFF, W64_WAVE, chunk, chunks, info_chunk, info_tags
from tests.audio.recordings import RATE, WITH_FILES, noise, read, write

CUE = struct.pack("<I", 1) + struct.pack("<II4sIII", 1, 100, b"data", 0, 0, 100)
GUANO = "GUANO|Version: 1.0\nLoc Position: 51.0 4.0\nNote: Mückenfledermaus\n".encode()
BEXT = b"a take".ljust(338, b"\0") + struct.pack("<Q", 123_456_789) + bytes(256) + b"A=PCM,F=48000"
KEPT = (
    (b"wamd", b"\0\0\2\0\0\0\1\0\7"),
    (b"bext", BEXT),
    (b"iXML", b"<BWFXML><NOTE>odd</NOTE></BWFXML>"),
    (b"cue ", CUE),
    (b"smpl", bytes(36)),
    (b"inst", bytes(7)),
    (b"LIST", b"adtl" + chunk(b"labl", struct.pack("<I", 1) + b"verse\0")),
    (b"LIST", b"INFO" + chunk(b"INAM", b"caf\xc3\xa9\0")),
    (b"axml", b"<ebuCoreMain/>"),
    (b"chna", bytes(44)),
    (b"cart", bytes(2_048)),
    (b"_PMX", b"<x:xmpmeta/>"),
    (b"SMED", b"\xff\xfe\x00"),
    (b"id3 ", b"ID3\3\0\0\0\0\0\0"),
    (b"acid", bytes(24)),
    (b"afsp", b"AFspdate: 2024\0"),
    (b"umid", bytes(64)),
    (b"link", b"<LINK/>"),
    (b"minf", bytes(16)),
    (b"elm1", bytes(5)),
    (b"regn", bytes(92)),
    (b"qqqq", b"of a program of tomorrow"),
    (b"guan", GUANO),
)
"""Chunks that describe a recording."""
OF_SAMPLES = ((b"JUNK", b"room"), (b"PAD ", b"x"), (b"FLLR", b"xx"), (b"levl", bytes(9)))
"""Chunks that describe the samples of one file only."""
PCM = (noise(1, 400)[0] * 32_767).astype("<i2").tobytes()
FORMAT = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)


def riff(before: Any = (), after: Any = (), *, data_bytes: int | None = None) -> bytes:
    """A WAV of 16 bits with chunks before and after its samples."""
    body = b"WAVE" + chunk(b"fmt ", FORMAT) + b"".join(chunk(*each) for each in before)
    size = len(PCM) if data_bytes is None else data_bytes
    body += b"data" + struct.pack("<I", size) + PCM + b"".join(chunk(*each) for each in after)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def rf64(magic: bytes, before: Any, after: Any) -> bytes:
    body = riff(before, after, data_bytes=0xFFFF_FFFF)[12:]
    sizes = struct.pack("<QQQI", len(body) + 40, len(PCM), 400, 0)
    return magic + b"\xff" * 4 + b"WAVE" + chunk(b"ds64", sizes) + body


def w64(before: Any, after: Any) -> bytes:
    def long_chunk(name: bytes, content: bytes) -> bytes:
        tail = W64_RIFF if name == b"LIST" else W64_WAVE
        size = 24 + len(content)
        return name.lower() + tail + struct.pack("<Q", size) + content + bytes(-size % 8)

    parts = [(b"fmt ", FORMAT), *before, (b"data", PCM), *after]
    body = b"wave" + W64_WAVE + b"".join(long_chunk(*each) for each in parts)
    return b"riff" + W64_RIFF + struct.pack("<Q", 24 + len(body)) + body


def written_chunks(path: Path) -> tuple[tuple[bytes, bytes], ...]:
    """All describing chunks of a file, read by hand."""
    is_aiff = path.read_bytes().startswith(b"FORM")
    listed = []
    with path.open("rb") as file:
        for name, position, length in (aiff_chunks if is_aiff else chunks)(file):
            file.seek(position)
            listed.append((name, file.read(length)))
    samples = (b"JUNK", b"ds64", b"fmt ", b"fact", b"data", b"COMM", b"SSND")
    return tuple(each for each in listed if each[0] not in samples)


# WAV


@pytest.mark.parametrize("container", ["RIFF", "RF64", "BW64", "W64"])
def test_all_that_describes_a_recording_is_kept_to_the_byte(tmp_path: Path, container: str) -> None:
    """Before and after the samples, even chunks that nobody knows yet. Chunks about the samples of
    the recording would be wrong for a target."""
    before, after = (*OF_SAMPLES, *KEPT[:9]), (*KEPT[9:], OF_SAMPLES[0])
    kept: tuple[tuple[bytes, bytes], ...] = KEPT
    if container == "RIFF":
        content = riff(before, after)
    elif container == "W64":
        content = w64(before, after)
        kept = tuple((name if name == b"LIST" else name.lower(), c) for name, c in KEPT)
    else:
        content = rf64(container.encode(), before, after)
    (tmp_path / "x").write_bytes(content)
    assert describe(tmp_path / "x").riff_chunks == kept
    info = describe(tmp_path / "x").completed(AudioInfo(RATE, 1))
    assert info.tags == {"title": "café"}
    kind = OutputKind("wav", "PCM_16")
    for part in ("target", "residual"):
        write(tmp_path / part, noise(1), info, kind)
        assert written_chunks(tmp_path / part) == kept
    assert output_notes("x", info, kind) == []
    assert soundfile.info(tmp_path / "target").frames == 5_000


def test_a_whole_wav_is_read_and_written_again(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(riff(KEPT[:9], KEPT[9:]))
    audio, info = read(tmp_path / "x.wav")
    write(tmp_path / "new.wav", audio, info, output_kind(info))
    assert written_chunks(tmp_path / "new.wav") == KEPT
    again, new = read(tmp_path / "new.wav")
    np.testing.assert_array_equal(again, audio)
    assert new.riff_chunks == info.riff_chunks


@pytest.mark.parametrize("data_bytes", [0, 0xFFFF_FFFF, 0x7FFF_FFFF, len(PCM) + 44])
def test_a_recording_of_unset_length_keeps_what_stands_before_its_samples(
    tmp_path: Path, data_bytes: int
) -> None:
    """Recorders that lose power and programs that write to a pipe."""
    (tmp_path / "x.wav").write_bytes(riff(KEPT[:5], data_bytes=data_bytes))
    assert describe(tmp_path / "x.wav").riff_chunks == KEPT[:5]


def test_a_recording_that_is_cut_keeps_what_stands_before_the_cut(tmp_path: Path) -> None:
    content = riff(KEPT[:5], KEPT[5:])
    for end in range(0, len(content), 7):
        (tmp_path / "x.wav").write_bytes(content[:end])
        kept = describe(tmp_path / "x.wav").riff_chunks
        assert kept == KEPT[: len(kept)]


@pytest.mark.parametrize("is_padded", [False, True])
def test_padding_may_be_left_out(tmp_path: Path, is_padded: bool) -> None:
    """Some recorders do not fill chunks of an odd length."""
    odd = b"iXML" + struct.pack("<I", 9) + b"<BWFXML/>" + bytes(is_padded)
    body = b"WAVE" + chunk(b"fmt ", FORMAT) + chunk(b"data", PCM) + odd + chunk(b"guan", GUANO)
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert describe(tmp_path / "x.wav").riff_chunks == ((b"iXML", b"<BWFXML/>"), (b"guan", GUANO))


def test_a_byte_of_rubbish_is_padding_as_well(tmp_path: Path) -> None:
    odd = b"iXML" + struct.pack("<I", 9) + b"<BWFXML/>" + b"x"
    body = b"WAVE" + chunk(b"fmt ", FORMAT) + chunk(b"data", PCM) + odd + chunk(b"guan", GUANO)
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert describe(tmp_path / "x.wav").riff_chunks[1:] == ((b"guan", GUANO),)


def test_long_chunks_of_an_rf64_are_skipped() -> None:
    """Their sizes are in a table."""
    big = b"big " + b"\xff" * 4 + bytes(1_000)
    sizes = struct.pack("<QQQI", 0, len(PCM), 400, 1) + b"big " + struct.pack("<Q", 1_000)
    file = b"RF64" + b"\xff" * 4 + b"WAVE" + chunk(b"ds64", sizes) + big + chunk(b"guan", GUANO)
    assert [name for name, _, _ in chunks(io.BytesIO(file))] == [b"ds64", b"big ", b"guan"]


def test_descriptions_that_are_too_large_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(riff([(b"axml", bytes(MAX_BYTES)), *KEPT[:2]]))
    described = describe(path)
    assert described.riff_chunks == KEPT[:2]  # however large the others are
    (note,) = described.notes(path)
    assert note == Note(f"{path}: descriptions of more than 8 MiB are left out: axml")


def test_an_attacker_cannot_make_a_reader_count_chunks(tmp_path: Path) -> None:
    many = b"AAAA\0\0\0\0" * (3 * MAX_CHUNKS)
    assert len(list(chunks(io.BytesIO(b"RIFF\0\0\0\0WAVE" + many)))) == MAX_CHUNKS
    assert len(list(aiff_chunks(io.BytesIO(b"FORM\0\0\0\0AIFF" + many)))) == MAX_CHUNKS
    flac = b"fLaC" + b"\2\0\0\0" * (3 * MAX_CHUNKS)
    assert len(list(flac_blocks(io.BytesIO(flac)))) == MAX_CHUNKS


SEEDS = [
    riff(KEPT[:5], KEPT[5:]),
    rf64(b"RF64", KEPT[:5], KEPT[5:]),
    w64(KEPT[:5], KEPT[5:]),
    b"fLaC" + block(STREAMINFO, bytes(34)) + block(COMMENTS, comment_block([b"A=b"]), is_last=True),
    b"FORM\0\0\0\x60AIFF" + aiff_chunk(b"COMM", bytes(18)) + aiff_chunk(b"CHAN", bytes(32)),
    b"caff\0\1\0\0" + struct.pack(">4sq32s", b"desc", 32, b"") + b"chan" + bytes(40),
    b"OggS\0\2" + bytes(20) + b"\1\x1e\1vorbis" + bytes(23) + b"OggS" + bytes(22) + b"\1\x40",
]


@settings(deadline=None, max_examples=300, suppress_health_check=WITH_FILES)
@given(data=st.data())
def test_damaged_descriptions_are_read_or_left(tmp_path: Path, data: st.DataObject) -> None:
    """No damage gives an error: the samples may be whole."""
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    (tmp_path / "x").write_bytes(content[:end])
    described = describe(tmp_path / "x")
    info = described.completed(AudioInfo(RATE, 1))
    for container in ("wav", "aiff", "ogg"):
        for note in output_notes("x", info, OutputKind(container, "PCM_16")):
            assert "\n" not in note.text
            assert len(note.text) < 200


def test_tags_of_an_old_encoding_are_read() -> None:
    latin = (b"LIST", b"INFO" + chunk(b"INAM", "Größe".encode("latin-1") + b"\0"))
    assert info_tags((latin,)) == {"title": "Größe"}
    assert info_tags(info_chunk({"title": "雨", "genre": "x"})) == {"title": "雨", "genre": "x"}


# FLAC

PICTURE = struct.pack(">II", 3, 9) + b"image/png" + bytes(20) + struct.pack(">I", 4) + b"\x89PNG"
OTHER_PICTURE = struct.pack(">II", 4, 3) + b"-->" + bytes(20) + struct.pack(">I", 1) + b"u"
CUE_SHEET = bytes(395) + b"\1" + struct.pack(">QB", 5_000, 255) + bytes(27)
TEXTS = [
    "TITLE=Größe 😀".encode(), b"ALBUMARTIST=me", b"ARTIST=one", b"ARTIST=two", b"X-UNKNOWN=a=b",
    b"replaygain_track_gain=-3 dB",
]  # fmt: skip


def with_blocks(path: Path, *blocks: tuple[int, bytes]) -> None:
    """Put blocks behind the first one of a FLAC of libsndfile, which has comments of its own."""
    data = path.read_bytes()
    ends = [start + size for _, start, size in flac_blocks(io.BytesIO(data))]
    new = b"".join(block(*each) for each in blocks)
    path.write_bytes(data[:42] + new + block(PADDING, b"", is_last=True) + data[ends[-1] :])


def flac(path: Path, *blocks: tuple[int, bytes]) -> None:
    soundfile.write(path, noise().T, RATE, "PCM_16", format="FLAC")
    with_blocks(path, *blocks)


def test_a_flac_keeps_comments_pictures_and_blocks_of_programs(tmp_path: Path) -> None:
    blocks = (
        (COMMENTS, comment_block(TEXTS, b"an encoder")),
        (6, PICTURE),
        (6, OTHER_PICTURE),
        (5, CUE_SHEET),
        (APPLICATION, b"fica" + b"data"),
    )
    flac(tmp_path / "x.flac", *blocks)
    audio, info = read(tmp_path / "x.flac")
    assert info.flac_blocks == blocks
    write(tmp_path / "new.flac", audio, info, output_kind(info))
    again, new = read(tmp_path / "new.flac")
    np.testing.assert_array_equal(again, audio)
    assert [kind for kind, _ in new.flac_blocks] == [COMMENTS, 6, 6, 5, APPLICATION]
    assert new.flac_blocks[1:] == blocks[1:]
    assert comments(new.flac_blocks[0][1]) == TEXTS
    assert output_notes("x", info, output_kind(info)) == []
    assert soundfile.info(tmp_path / "new.flac").frames == 5_000


def test_comments_may_fill_megabytes(tmp_path: Path) -> None:
    texts = [b"LYRICS=" + b"la " * 1_000_000]
    picture = PICTURE[:-8] + struct.pack(">I", 2_000_000) + bytes(2_000_000)
    flac(tmp_path / "x.flac", (COMMENTS, comment_block(texts)), (6, picture))
    audio, info = read(tmp_path / "x.flac")
    write(tmp_path / "new.flac", audio, info, output_kind(info))
    again, new = read(tmp_path / "new.flac")
    np.testing.assert_array_equal(again, audio)
    assert comments(new.flac_blocks[0][1]) == texts
    assert new.flac_blocks[1:] == info.flac_blocks[1:]


def test_damaged_blocks_are_left(tmp_path: Path) -> None:
    """libsndfile could not read a file with them. FFmpeg reads the recording."""
    damaged = [(6, PICTURE[:-1]), (5, CUE_SHEET + b"x"), (APPLICATION, b"x"), (127, b"")]
    texts = (COMMENTS, comment_block(TEXTS))
    flac(tmp_path / "x.flac", texts, *damaged)
    assert describe(tmp_path / "x.flac").flac_blocks == (texts,)
    flac(tmp_path / "x.flac", texts, damaged[0])
    audio, info = read(tmp_path / "x.flac")
    write(tmp_path / "new.flac", audio, info, output_kind(info))
    np.testing.assert_array_equal(soundfile.read(tmp_path / "new.flac")[0].T, audio)
    assert comments(read(tmp_path / "new.flac")[1].flac_blocks[0][1]) == TEXTS


def test_the_chunks_of_a_wav_have_a_place_in_a_flac(tmp_path: Path) -> None:
    """In the form that ``flac --keep-foreign-metadata`` writes: a block for the header and for each
    chunk, of the samples their header only."""
    (tmp_path / "x.wav").write_bytes(riff(KEPT[:9], KEPT[9:]))
    audio, info = read(tmp_path / "x.wav")
    write(tmp_path / "x.flac", audio, info, output_kind(info, "flac"))
    with (tmp_path / "x.flac").open("rb") as file:
        blocks = read_flac(file)[1]
    parts = [content[4:] for kind, content in blocks if kind == APPLICATION]
    assert all(c[:4] == b"riff" for kind, c in blocks if kind == APPLICATION)
    write(tmp_path / "whole.wav", audio, info, output_kind(info))
    whole = (tmp_path / "whole.wav").read_bytes()
    assert b"".join(parts) + PCM == whole
    assert comments(blocks[0][1]) == ["TITLE=café".encode()]

    again, new = read(tmp_path / "x.flac")
    assert new.riff_chunks == info.riff_chunks
    write(tmp_path / "new.wav", again, new, output_kind(new, "wav"))
    assert (tmp_path / "new.wav").read_bytes() == whole
    write(tmp_path / "new.flac", again, new, output_kind(new))
    assert read(tmp_path / "new.flac")[1].riff_chunks == info.riff_chunks


def test_a_long_recording_is_an_rf64_in_a_flac(tmp_path: Path) -> None:
    """Its chunks have a place as well, those of an odd length behind the samples."""
    info = AudioInfo(RATE, 1, riff_chunks=KEPT)
    audio = np.rint(noise(1) * 32_768) / 32_768
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("singleout.audio.wav.MAX_BYTES", 0)
        write(tmp_path / "x.flac", audio, info, OutputKind("flac", "PCM_16"))
    again, new = read(tmp_path / "x.flac")
    np.testing.assert_array_equal(again, audio)
    assert sorted(new.riff_chunks) == sorted(KEPT)
    assert b"riffRF64" in (tmp_path / "x.flac").read_bytes()


@pytest.mark.skipif(shutil.which("flac") is None, reason="needs the program flac")
@pytest.mark.parametrize("name", ["x.wav", "x.aiff"])
def test_the_program_flac_agrees(tmp_path: Path, name: str) -> None:
    """What it stores is read, and what is stored here gives the chunks back by it."""
    path, suffix = tmp_path / name, name.removeprefix("x")
    path.write_bytes(riff(KEPT[:9], KEPT[9:]) if suffix == ".wav" else aiff(AIFF_KEPT))
    keep = ["flac", "-s", "-f", "--keep-foreign-metadata"]
    subprocess.run([*keep, name], cwd=tmp_path, check=True, capture_output=True)
    audio, info = read(tmp_path / "x.flac")
    expected = KEPT if suffix == ".wav" else AIFF_KEPT
    assert info.riff_chunks + info.aiff_chunks == expected
    write(tmp_path / "new.flac", audio, info, output_kind(info))
    command = [*keep, "-d", "new.flac", "-o", f"new{suffix}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert written_chunks(tmp_path / f"new{suffix}") == expected
    np.testing.assert_array_equal(read(tmp_path / f"new{suffix}")[0], audio)


def test_comments_of_ogg_are_read(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "x.ogg", "w", RATE, 2, "VORBIS", format="OGG") as file:
        file.title = "Größe"
        file.write(noise().T)
    audio, info = read(tmp_path / "x.ogg")
    assert "TITLE=Größe".encode() in comments(info.flac_blocks[0][1])
    write(tmp_path / "x.flac", audio, info, OutputKind("flac", "PCM_24"))
    assert read(tmp_path / "x.flac")[1].tags["title"] == "Größe"


@pytest.mark.parametrize("size", [1, 100, 3_000_000])
def test_an_ogg_keeps_comments_and_pictures(tmp_path: Path, size: int) -> None:
    """libsndfile reads the samples only if the sums of all pages are right."""
    texts = [*TEXTS, b"LYRICS=" + b"l" * size]
    flac(tmp_path / "x.flac", (COMMENTS, comment_block(texts)), (6, PICTURE))
    audio, info = read(tmp_path / "x.flac")
    kind = output_kind(info, "ogg")
    assert output_notes("x", info, kind) == []
    write(tmp_path / "x.ogg", audio, info, kind)
    again, new = read(tmp_path / "x.ogg")
    picture = b"METADATA_BLOCK_PICTURE=" + base64.b64encode(PICTURE)
    assert comments(new.flac_blocks[0][1]) == [*texts, picture]
    assert again.shape == audio.shape
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "x.ogg")) as media:
        assert media.streams.audio[0].metadata["X-UNKNOWN"] == "a=b"


# AIFF

AIFF_KEPT = (
    (b"NAME", b"a name"),
    (b"AUTH", b"me!"),
    (b"MARK", struct.pack(">HHI", 1, 1, 100) + b"\5verse"),
    (b"INST", bytes(20)),
    (b"COMT", struct.pack(">HIHH", 1, 0, 0, 3) + b"odd\0"),
    (b"APPL", b"stocabc"),
    (b"(c) ", b"mine"),
    (b"ANNO", b"first"),
    (b"ANNO", b"second"),
    (b"ID3 ", b"ID3\3\0\0\0\0\0\0"),
)


def aiff(kept: Any) -> bytes:
    samples = np.frombuffer(PCM, "<i2").astype(">i2").tobytes()
    rate = struct.pack(">HQ", 16_383 + 15, RATE << 48)
    common = aiff_chunk(b"COMM", struct.pack(">HIH", 1, 400, 16) + rate)
    parts = [aiff_chunk(*each) for each in kept]
    body = b"AIFF" + common + b"".join(parts[:3]) + aiff_chunk(b"SSND", bytes(8) + samples)
    body += b"".join(parts[3:])
    return b"FORM" + struct.pack(">I", len(body)) + body


@pytest.mark.parametrize("way", [[], ["flac"]])
def test_an_aiff_keeps_its_chunks(tmp_path: Path, way: list[Any]) -> None:
    """Markers and texts, directly and through a FLAC."""
    (tmp_path / "x.aiff").write_bytes(aiff(AIFF_KEPT))
    audio, info = read(tmp_path / "x.aiff")
    assert info.aiff_chunks == AIFF_KEPT
    for format in way:
        write(tmp_path / "between", audio, info, output_kind(info, format))
        audio, info = read(tmp_path / "between")
    write(tmp_path / "new.aiff", audio, info, output_kind(info, "aiff"))
    assert written_chunks(tmp_path / "new.aiff") == AIFF_KEPT
    again, new = read(tmp_path / "new.aiff")
    np.testing.assert_array_equal(again, audio)
    assert new.tags["title"] == "a name"
    assert (tmp_path / "new.aiff").stat().st_size % 2 == 0


# From one kind of file to another


def test_what_has_no_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(riff(KEPT))
    audio, info = read(tmp_path / "x.wav")
    kind = output_kind(info, "aiff")
    (note,) = output_notes("x.wav", info, kind)
    assert note.text.startswith("x.wav: AIFF has no place for: wamd, bext, iXML, cue, smpl, inst, ")
    assert (note.is_damage, note.missing_seconds) == (False, 0.0)
    write(tmp_path / "x.aiff", audio, info, kind)
    new = read(tmp_path / "x.aiff")[1]
    assert new.tags["title"] == "café"
    assert (b"ID3 ", KEPT[13][1]) in new.aiff_chunks


def test_tags_of_an_aiff_go_along_to_a_wav(tmp_path: Path) -> None:
    (tmp_path / "x.aiff").write_bytes(aiff(AIFF_KEPT))
    audio, info = read(tmp_path / "x.aiff")
    kind = output_kind(info, "wav")
    (note,) = output_notes("x.aiff", info, kind)
    assert note.text == "x.aiff: WAV has no place for: MARK, INST, COMT, APPL"
    write(tmp_path / "x.wav", audio, info, kind)
    new = read(tmp_path / "x.wav")[1]
    assert new.tags["title"] == "a name"
    assert new.tags["artist"] == "me!"
    assert new.riff_chunks[-1] == (b"id3 ", AIFF_KEPT[-1][1])


def test_comments_and_pictures_without_a_place_are_named(tmp_path: Path) -> None:
    flac(tmp_path / "x.flac", (COMMENTS, comment_block(TEXTS)), (6, PICTURE))
    info = read(tmp_path / "x.flac")[1]
    (note,) = output_notes("x.flac", info, output_kind(info, "wav"))
    assert "picture" in note.text
    assert "ALBUMARTIST" in note.text
    assert "TITLE" not in note.text


def test_loudspeakers_that_ogg_invents_are_named() -> None:
    kind = OutputKind("ogg", "VORBIS")
    (note,) = output_notes("x.wav", AudioInfo(RATE, 6), kind)
    assert note.text == "x.wav: states no loudspeakers, and Ogg Vorbis states the usual ones"
    assert output_notes("x.wav", AudioInfo(RATE, 6, channel_mask=0x3F), kind) == []
    assert output_notes("x.wav", AudioInfo(RATE, 2), kind) == []


def test_an_empty_description_changes_nothing() -> None:
    info = AudioInfo(RATE, 2, tags={"title": "x"})
    assert Description().completed(info) == info
    assert Description().notes(Path("x")) == []
