"""What archives and field recordists need goes from a recording to its target."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from singleout.audio import AudioInfo, Note, OutputKind, output_kind, output_notes
from singleout.audio.description.describe import Description, describe
from singleout.audio.description.flac import (
    COMMENTS,
    STREAMINFO,
    block,
    comment_block,
    flac_blocks,
)
from singleout.audio.description.iff import aiff_chunk, aiff_chunks
from singleout.audio.description.parts import MAX_BYTES, MAX_CHUNKS
from singleout.audio.description.riff import chunk, chunks, info_chunk, info_tags
from tests.audio.described import (
    AIFF_KEPT,
    FORMAT,
    GUANO,
    KEPT,
    OF_SAMPLES,
    PCM,
    PICTURE,
    TEXTS,
    aiff,
    flac,
    rf64,
    riff,
    w64,
    written_chunks,
)
from tests.audio.recordings import RATE, WITH_FILES, noise, read, write

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


# AIFF


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
