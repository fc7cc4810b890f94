"""Comments, pictures and chunks in FLAC and Ogg files."""

from __future__ import annotations

import base64
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from singleout.audio import AudioInfo, OutputKind, output_kind, output_notes
from singleout.audio.description.describe import describe
from singleout.audio.description.flac import (
    APPLICATION,
    COMMENTS,
    comment_block,
    comments,
    read_flac,
)
from tests.audio.described import (
    AIFF_KEPT,
    CUE_SHEET,
    KEPT,
    OTHER_PICTURE,
    PCM,
    PICTURE,
    TEXTS,
    aiff,
    flac,
    riff,
    written_chunks,
)
from tests.audio.recordings import RATE, noise, read, write


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
