"""Files with descriptions, built by hand, for the tests of audio files."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from singleout.audio.description.flac import PADDING, block, flac_blocks
from singleout.audio.description.iff import aiff_chunk, aiff_chunks
from singleout.audio.description.riff import W64_RIFF, W64_WAVE, chunk, chunks
from tests.audio.recordings import RATE, noise

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
