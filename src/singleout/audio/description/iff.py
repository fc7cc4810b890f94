"""The chunks of AIFF and CAF files."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from singleout.audio.channels import Layout, core_audio_layout
from singleout.audio.description.parts import MAX_CHUNKS, Chunks, read_parts
from singleout.audio.description.riff import decoded
from singleout.audio.info import AudioInfo, OutputKind

SAMPLE_CHUNKS = (b"COMM", b"SSND", b"FVER", b"CHAN", b"PEAK", b"SAXL", b"FLLR", b"PAD ")
"""Chunks of an AIFF that describe its samples. All others describe the recording."""
TEXT_CHUNKS = {b"NAME": "title", b"AUTH": "artist", b"(c) ": "copyright", b"ANNO": "comment"}
"""libsndfile's names of the tags of an AIFF."""
MAX_FIELD = 0xFFFF_FFFF


def aiff_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """List the chunks of an AIFF.

    Args:
        file: a file that is open at its start. It may be damaged or of any other kind.

    Yields:
        Name, position of the content and length of the content, both in bytes, of every chunk.

    Example:
        >>> import io
        >>> content = b"AIFF" + aiff_chunk(b"NAME", b"rain")
        >>> list(aiff_chunks(io.BytesIO(b"FORM" + struct.pack(">I", len(content)) + content)))
        [(b'NAME', 20, 4)]
    """
    head = file.read(12)
    if head[:4] != b"FORM" or head[8:] not in (b"AIFF", b"AIFC"):
        return
    position = 12
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8 or not (header[:4].isascii() and header[:4].decode().isprintable()):
            return
        name, length = struct.unpack(">4sI", header)
        yield name, position + 8, length
        position += 8 + length + length % 2


def read_aiff(file: BinaryIO) -> tuple[Layout, Chunks, list[str]]:
    """Read what an AIFF says about its recording.

    Args:
        file: a file that is open at its start.

    Returns:
        The layout of the channels; name and content of the describing chunks; and the names of
        those that are too large (``parts.MAX_BYTES``).

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import io
        >>> content = b"AIFF" + aiff_chunk(b"ANNO", b"rain") + aiff_chunk(b"PEAK", bytes(8))
        >>> read_aiff(io.BytesIO(b"FORM" + struct.pack(">I", len(content)) + content))[1]
        ((b'ANNO', b'rain'),)
    """
    chan, channels, describing = b"", 0, []
    for name, position, length in aiff_chunks(file):
        file.seek(position)
        if name == b"COMM":
            channels = int.from_bytes(file.read(2))
        elif name == b"CHAN":
            chan = file.read(min(length, 1 << 12))
        elif name not in SAMPLE_CHUNKS:
            describing.append((name, position, length))
    kept, too_large = read_parts(file, describing)
    return core_audio_layout(chan, channels), kept, [name.decode() for name in too_large]


def aiff_tags(chunks: Chunks) -> dict[str, str]:
    """The tags of an AIFF.

    Args:
        chunks: name and content.

    Returns:
        Texts by libsndfile's names.

    Example:
        >>> aiff_tags(((b"AUTH", b"me"), (b"MARK", bytes(2))))
        {'artist': 'me'}
    """
    tags: dict[str, str] = {}
    for name, content in chunks:
        if name in TEXT_CHUNKS and (text := decoded(content)):
            tags.setdefault(TEXT_CHUNKS[name], text)
    return tags


def caf_layout(file: BinaryIO) -> Layout:
    """Read the layout of the channels of a CAF.

    Args:
        file: a file that is open at its start.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import io
        >>> desc = struct.pack(">4sq24xII", b"desc", 32, 3, 16)
        >>> chan = struct.pack(">4sqIII", b"chan", 12, 114 << 16 | 3, 0, 0)  # C L R
        >>> caf_layout(io.BytesIO(b"caff" + bytes(4) + desc + chan)).order
        (1, 2, 0)
    """
    channels, position = 0, 8
    end = file.seek(0, os.SEEK_END)
    for _ in range(MAX_CHUNKS):
        file.seek(min(position, end))
        if len(header := file.read(12)) < 12:
            break
        name, length = struct.unpack(">4sq", header)
        if name == b"desc":
            channels = int.from_bytes(file.read(32)[24:28])
        if name == b"chan":
            return core_audio_layout(file.read(max(0, min(length, 1 << 12))), channels)
        if length < 0:
            break  # the samples last to the end of the file
        position += 12 + length
    return Layout()


def aiff_chunk(name: bytes, content: bytes) -> bytes:
    """The bytes of a chunk of an AIFF: header, content, and padding to an even length.

    Example:
        >>> aiff_chunk(b"ANNO", b"dog")
        b'ANNO\\x00\\x00\\x00\\x03dog\\x00'
    """
    return name + struct.pack(">I", len(content)) + content + bytes(len(content) % 2)


def append_chunks(file: BinaryIO, chunks: bytes) -> None:
    """Append chunks to a complete AIFF.

    Args:
        file: the AIFF, open for reading and writing.
        chunks: whole chunks (``aiff_chunk``).

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import io
        >>> file = io.BytesIO(b"FORM" + struct.pack(">I", 4) + b"AIFF")
        >>> append_chunks(file, aiff_chunk(b"NAME", b"rain"))
        >>> read_aiff(io.BytesIO(file.getvalue()))[1]
        ((b'NAME', b'rain'),)
    """
    end = file.seek(0, os.SEEK_END)
    file.write(bytes(end % 2) + chunks)
    num_bytes = file.tell() - 8
    file.seek(4)
    file.write(struct.pack(">I", num_bytes))


def aiff_parts(info: AudioInfo, kind: OutputKind, num_frames: int) -> list[bytes]:
    """The bytes of an AIFF of integers without its samples.

    Args:
        info: rate in Hz, channels and describing chunks.
        kind: with the bits of a sample.
        num_frames: samples per channel.

    Returns:
        The header, every chunk, and the header of the samples. Their lengths do not depend on the
        number of samples.

    Example:
        >>> info = AudioInfo(16_000, 1, aiff_chunks=((b"NAME", b"rain"),))
        >>> [part[:4] for part in aiff_parts(info, OutputKind("flac", "PCM_16"), 100)]
        [b'FORM', b'COMM', b'NAME', b'SSND']
    """
    bits = kind.bits or 24
    num_bytes = num_frames * info.channels * bits // 8
    exponent = info.sample_rate.bit_length() - 1
    rate = struct.pack(">HQ", 16_383 + exponent, info.sample_rate << 63 - exponent)
    format = struct.pack(">HIH", info.channels, min(num_frames, MAX_FIELD), bits) + rate
    chunks = [aiff_chunk(*each) for each in ((b"COMM", format), *info.aiff_chunks)]
    form_bytes = 4 + sum(map(len, chunks)) + 16 + num_bytes + num_bytes % 2
    head = b"FORM" + struct.pack(">I", min(form_bytes, MAX_FIELD)) + b"AIFF"
    samples = b"SSND" + struct.pack(">III", min(8 + num_bytes, MAX_FIELD), 0, 0)
    return [head, *chunks, samples]
