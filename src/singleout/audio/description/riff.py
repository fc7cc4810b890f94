"""The chunks of WAV, RF64, BW64 and W64 files, which describe a recording in many ways.

libsndfile drops the chunks of recorders, editors and archives (``bext`` with its time code,
``cue``, ``iXML``, ``guan``) and the loudspeakers of the channels.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import BinaryIO

from singleout.audio.channels import Layout
from singleout.audio.description.parts import MAX_CHUNKS, Chunks, read_parts

MAX_FIELD = 0xFFFF_FFFF

SAMPLE_CHUNKS = (
    b"FMT", b"DATA", b"DS64", b"FACT", b"PEAK", b"LEVL", b"JUNK", b"FLLR", b"FILR", b"PAD", b"SLNT",
    b"WAVL", b"MD5", b"FAKE",
)  # fmt: skip
"""Chunks that describe the samples of a file: their encoding, peaks, checksum and padding. All
others describe the recording, and the target as well."""

INFO_NAMES = {
    "title": b"INAM", "copyright": b"ICOP", "software": b"ISFT", "artist": b"IART",
    "comment": b"ICMT", "date": b"ICRD", "album": b"IPRD", "tracknumber": b"ITRK", "genre": b"IGNR",
}  # fmt: skip
"""Names of tags in libsndfile, and in the ``INFO`` list of a WAV."""

GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
"""End of the identifiers of WAVE_FORMAT_EXTENSIBLE, after two bytes for the plain format."""
AMBISONIC_TAIL = bytes.fromhex("00002107d3118644c8c1ca000000")
"""The same for ambisonic B-format."""
W64_RIFF = bytes.fromhex("2e91cf11a5d628db04c10000")
W64_WAVE = bytes.fromhex("f3acd3118cd100c04f8edb8a")
"""Ends of the identifiers of a W64, after the four letters of a RIFF."""


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """List the chunks of a RIFF, RF64, BW64 or W64 file.

    Args:
        file: a file that is open at its start. It may be damaged or of any other kind.

    Yields:
        Name, position of the content and length of the content, both in bytes, of every chunk. No
        chunks for files of other kinds, and none after samples of unknown length.

    Example:
        >>> import io
        >>> content = b"WAVE" + chunk(b"iXML", b"<a/>")
        >>> list(chunks(io.BytesIO(b"RIFF" + struct.pack("<I", len(content)) + content)))
        [(b'iXML', 20, 4)]
    """
    head = file.read(12)
    if head == b"riff" + W64_RIFF[:8]:
        yield from _w64_chunks(file)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return
    sizes: dict[bytes, int] = {}
    end, position = file.seek(0, os.SEEK_END), 12
    for _ in range(MAX_CHUNKS):
        file.seek(min(position, end))
        header = file.read(8)
        if not _is_header(header):
            return  # padding: every eight zeros would be a chunk
        name, length = header[:4], int(struct.unpack("<I", header[4:])[0])
        position += 8
        if name == b"ds64":
            sizes = _long_sizes(file.read(min(length, 1 << 16)))
        if length == MAX_FIELD:
            length = sizes.get(name, length)
        yield name, position, length
        if name == b"data" and length == 0:
            return  # a recorder that was cut off, or a pipe: samples follow
        position += length
        if length % 2:
            position += _has_padding(file, position, end)


def _has_padding(file: BinaryIO, position: int, end: int) -> bool:
    """Whether a zero follows a chunk of an odd length, as it should. Some recorders omit it."""
    file.seek(min(position, end))
    rest = file.read(9)
    if rest[:1] in (b"", b"\0") or not _is_header(rest[:8]):
        return True
    return _is_header(rest[1:]) and position + 9 + struct.unpack("<I", rest[5:])[0] <= end


def _is_header(header: bytes) -> bool:
    name = header[:4]
    return len(header) == 8 and name.isascii() and name.decode().isprintable()


def _long_sizes(content: bytes) -> dict[bytes, int]:
    """Sizes of the chunks of an RF64 that do not fit 32 bits."""
    if len(content) < 28:
        return {}
    data_bytes, count = struct.unpack("<8xQ8xI", content[:28])
    table = content[28 : 28 + 12 * count]
    table = table[: len(table) - len(table) % 12]
    return {b"data": data_bytes, **dict(struct.iter_unpack("<4sQ", table))}


def _w64_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    end, position = file.seek(0, os.SEEK_END), 40
    for _ in range(MAX_CHUNKS):
        file.seek(min(position, end))
        header = file.read(24)
        if len(header) < 24 or (size := int(struct.unpack("<Q", header[16:])[0])) < 24:
            return
        name = {b"list": b"LIST"}.get(header[:4], header[:4])
        if header[4:16] in (W64_RIFF, W64_WAVE) and _is_header(header[:8]):
            yield name, position + 24, size - 24
        position += size + -size % 8


def read_riff(file: BinaryIO) -> tuple[Layout, Chunks, list[str]]:
    """Read what a WAV, RF64, BW64 or W64 says about its recording.

    Args:
        file: a file that is open at its start. Of a damaged file the chunks before the damage are
            read.

    Returns:
        The layout of the channels; name and content of the describing chunks; and the names of
        those that are too large (``parts.MAX_BYTES``).

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import io
        >>> content = b"WAVE" + chunk(b"data", bytes(8)) + chunk(b"guan", b"GUANO|Version:1.0")
        >>> read_riff(io.BytesIO(b"RIFF" + struct.pack("<I", len(content)) + content))[1]
        ((b'guan', b'GUANO|Version:1.0'),)
    """
    layout = Layout()
    describing = []
    for name, position, length in chunks(file):
        if name == b"fmt ":
            file.seek(position)
            layout = format_layout(file.read(min(length, 40)))
        elif describes(name):
            describing.append((name, position, length))
    kept, too_large = read_parts(file, describing)
    return layout, kept, [name.decode() for name in too_large]


def describes(name: bytes) -> bool:
    """Whether a chunk describes the recording, and not only the samples of its file.

    Example:
        >>> describes(b"guan"), describes(b"PEAK"), describes(b"junk")
        (True, False, False)
    """
    return name.strip().upper() not in SAMPLE_CHUNKS


def format_layout(content: bytes) -> Layout:
    """The layout of the channels by the ``fmt`` chunk of a WAV.

    Args:
        content: of the chunk; it may be cut.

    Example:
        >>> extensible = struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 8_000, 16_000, 2, 16, 22, 16, 4, 1)
        >>> format_layout(extensible + GUID_TAIL).mask
        4
        >>> format_layout(struct.pack("<HHIIHH", 1, 1, 8_000, 16_000, 2, 16)).mask
        0
    """
    if len(content) < 40 or content[:2] != b"\xfe\xff":
        return Layout()
    (mask,) = struct.unpack("<I", content[20:24])
    return Layout(mask, content[26:40] == AMBISONIC_TAIL)


def info_chunk(tags: Mapping[str, str]) -> Chunks:
    """Make a ``LIST`` chunk of tags.

    Args:
        tags: texts by libsndfile's names. Blank texts and unknown names are left out.

    Returns:
        Name and content of one chunk; empty if no tag is left.

    Example:
        >>> [(name, content)] = info_chunk({"title": "rain"})
        >>> name, content[:8], content[12:16]
        (b'LIST', b'INFOINAM', b'rain')
        >>> info_chunk({"title": " "})
        ()
    """
    content = b"".join(
        chunk(INFO_NAMES[name], re.sub("\0+", " ", text).encode("utf-8", "replace") + b"\0")
        for name, text in tags.items()
        if name in INFO_NAMES and text.strip()
    )
    return ((b"LIST", b"INFO" + content),) if content else ()


def info_tags(chunks: Chunks) -> dict[str, str]:
    """The tags of the ``LIST`` chunks of a WAV.

    Args:
        chunks: name and content. Texts may have any encoding: those that are not UTF-8 are read as
            Windows-1252, which old programs write.

    Returns:
        Texts by libsndfile's names.

    Example:
        >>> info_tags(info_chunk({"title": "rain"}))
        {'title': 'rain'}
    """
    names = {name: tag for tag, name in INFO_NAMES.items()}
    tags: dict[str, str] = {}
    for content in (content[4:] for name, content in chunks if name == b"LIST"):
        position = 0
        while len(header := content[position : position + 8]) == 8:
            name, length = struct.unpack("<4sI", header)
            text = decoded(content[position + 8 : position + 8 + length])
            if name in names and text:
                tags.setdefault(names[name], text)
            position += 8 + length + length % 2
    return tags


def decoded(text: bytes) -> str:
    """A text of a chunk, which ends at the first zero.

    Example:
        >>> decoded("café".encode()), decoded("café".encode("latin-1"))
        ('café', 'café')
    """
    text = text.split(b"\0")[0]
    with suppress(UnicodeDecodeError):
        return text.decode()
    return text.decode("cp1252", "replace")


def chunk(name: bytes, content: bytes) -> bytes:
    """The bytes of a chunk: header, content, and padding to an even length.

    Example:
        >>> list(chunk(b"iXML", b"<a>")[4:])
        [3, 0, 0, 0, 60, 97, 62, 0]
    """
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
