"""The metadata blocks of FLAC files, and the comments of Ogg files, which have the same form."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import BinaryIO

from singleout.audio.channels import FLAC_MASKS, Layout, vorbis_layout
from singleout.audio.iff import SAMPLE_CHUNKS
from singleout.audio.parts import MAX_BYTES, MAX_CHUNKS, Chunks, read_parts
from singleout.audio.riff import describes, format_layout

Blocks = tuple[tuple[int, bytes], ...]
"""Types and contents of metadata blocks."""

STREAMINFO, PADDING, APPLICATION, SEEKTABLE, COMMENTS = 0, 1, 2, 3, 4
CUE_SHEET, PICTURE, INVALID = 5, 6, 127
"""Types of blocks (RFC 9639, section 8.1)."""
FOREIGN = (b"riff", b"aiff", b"w64 ")
"""Identifiers of APPLICATION blocks that hold the chunks of the file that was encoded."""
MASK_KEY = b"WAVEFORMATEXTENSIBLE_CHANNEL_MASK"
"""Comment that states the loudspeakers (RFC 9639, section 8.6.2)."""


def flac_blocks(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """List the metadata blocks of a FLAC.

    Args:
        file: a file that is open at its start. It may be damaged or of any other kind.

    Yields:
        Type, position of the content and length of the content, both in bytes, of every block.

    Example:
        >>> import io
        >>> list(flac_blocks(io.BytesIO(b"fLaC" + block(4, b"rain", is_last=True))))
        [(4, 8, 4)]
    """
    position = 0
    head = file.read(10)
    if head[:3] == b"ID3":  # a tag of another format in front
        position = 10 + sum((byte & 0x7F) << 7 * k for k, byte in enumerate(reversed(head[6:])))
        file.seek(position)
        head = file.read(4)
    if head[:4] != b"fLaC":
        return
    position += 4
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        if len(header := file.read(4)) < 4:
            return
        length = int.from_bytes(header[1:])
        yield header[0] & 0x7F, position + 4, length
        if header[0] & 0x80:
            return
        position += 4 + length


def ogg_packets(file: BinaryIO) -> Iterator[bytes]:
    """Read the packets of the sound of an Ogg file, the first ones of which are headers.

    Args:
        file: a file that is open at its start. It may be damaged or of any other kind.

    Yields:
        Packets of the first stream of Vorbis, Opus or FLAC. A packet of more than
        ``parts.MAX_BYTES`` is empty.

    Example:
        >>> import io
        >>> page = b"OggS\\0\\2" + bytes(20) + b"\\1\\x08" + b"OpusHead"
        >>> list(ogg_packets(io.BytesIO(page)))
        [b'OpusHead']
    """
    serial, packet, is_long = None, b"", False
    while len(head := file.read(27)) == 27 and head[:4] == b"OggS":
        lacing = file.read(head[26])
        content = file.read(sum(lacing))
        is_sound = content.startswith((b"\x01vorbis", b"OpusHead", b"\x7fFLAC"))
        if serial is None and head[5] & 2 and is_sound:
            serial = head[14:18]
        if head[14:18] != serial:
            continue
        for length in lacing:
            packet, content = packet + content[:length], content[length:]
            is_long = is_long or len(packet) > MAX_BYTES
            packet = b"" if is_long else packet
            if length < 255:
                yield packet
                packet, is_long = b"", False


def read_flac(file: BinaryIO) -> tuple[Layout, Blocks, list[str]]:
    """Read what a FLAC says about its recording.

    Args:
        file: a file that is open at its start.

    Returns:
        The layout of the channels; type and content of all blocks but those of the samples; and the
        names of those that are too large (``parts.MAX_BYTES``).

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import io
        >>> head = block(STREAMINFO, bytes(34)) + block(COMMENTS, comment_block([b"A=rain"]), True)
        >>> layout, blocks, _ = read_flac(io.BytesIO(b"fLaC" + head))
        >>> layout.mask, [comments(content) for _, content in blocks]
        (4, [[b'A=rain']])
    """
    listed = [each for each in flac_blocks(file) if each[0] not in (PADDING, SEEKTABLE)]
    blocks, too_large = read_parts(file, listed)
    return _flac_layout(blocks), _describing(blocks), [f"block {kind}" for kind in too_large]


def read_ogg(file: BinaryIO) -> tuple[Layout, Blocks, list[str]]:
    """Read what an Ogg file says about its recording: Vorbis, Opus or FLAC.

    Args:
        file: a file that is open at its start.

    Returns:
        As ``read_flac``: comments are in a block of type ``COMMENTS``.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import io
        >>> packet = b"\\1vorbis" + bytes(4) + b"\\6" + bytes(18)
        >>> page = b"OggS\\0\\2" + bytes(20) + b"\\1\\x1e" + packet
        >>> read_ogg(io.BytesIO(page))[0].mask
        63
    """
    packets = ogg_packets(file)
    first = next(packets, b"")
    if first.startswith(b"\x7fFLAC"):
        headers = [first[13:], *_flac_headers(packets)]
        blocks = tuple((packet[0] & 0x7F, packet[4:]) for packet in headers if packet)
        return _flac_layout(blocks), _describing(blocks), []
    second = next(packets, b"\0")
    too_large = [] if second else ["comments"]
    is_opus = first.startswith(b"OpusHead")
    prefix = b"OpusTags" if is_opus else b"\x03vorbis"
    kept = ((COMMENTS, second.removeprefix(prefix)),) if second.startswith(prefix) else ()
    layout = Layout()
    if is_opus and len(first) > 18 and first[18] == 1:
        layout = vorbis_layout(first[9])
    elif not is_opus and len(first) > 11:
        layout = vorbis_layout(first[11])
    return layout, kept, too_large


def _flac_headers(packets: Iterator[bytes]) -> Iterator[bytes]:
    for packet in islice(packets, MAX_CHUNKS):
        if len(packet) < 4 or packet[0] == 0xFF:
            return
        yield packet
        if packet[0] & 0x80:
            return


def _flac_layout(blocks: Blocks) -> Layout:
    mask = 0
    for kind, content in blocks:
        if kind == STREAMINFO and len(content) > 12:
            mask = FLAC_MASKS[1 + (content[12] >> 1 & 7)]
        if kind == COMMENTS:
            for comment in comments(content):
                name, _, value = comment.partition(b"=")
                if name.upper() == MASK_KEY:
                    with suppress(ValueError):
                        mask = int(value, 0) & 0xFFFF_FFFF
    return Layout(mask)


def _describing(blocks: Blocks) -> Blocks:
    kinds = (STREAMINFO, PADDING, SEEKTABLE, INVALID)
    return tuple(each for each in blocks if each[0] not in kinds and _is_whole(*each))


def _is_whole(kind: int, content: bytes) -> bool:
    """Whether the lengths in a block fit it. Decoders refuse files with a damaged block."""
    with suppress(struct.error, IndexError):
        if kind == PICTURE:
            position = 4
            for skipped in (0, 16, 0):  # type, text, sizes, picture
                (length,) = struct.unpack_from(">I", content, position)
                position += 4 + length + skipped
            return position == len(content)
        if kind == CUE_SHEET:
            position = 396
            for _ in range(content[395]):
                position += 36 + 12 * content[position + 35]
            return position == len(content)
        return kind != APPLICATION or len(content) >= 4
    return False


def is_foreign(kind: int, content: bytes) -> bool:
    """Whether a block holds a chunk of the file that was encoded (``flac
    --keep-foreign-metadata``).

    Example:
        >>> is_foreign(APPLICATION, b"riffLIST"), is_foreign(APPLICATION, b"fica")
        (True, False)
    """
    return kind == APPLICATION and content[:4] in FOREIGN


def foreign_chunks(blocks: Blocks) -> tuple[Layout, Chunks, Chunks]:
    """The chunks of the file that was encoded.

    Args:
        blocks: of a FLAC.

    Returns:
        The layout of the channels, the chunks of a WAV, and the chunks of an AIFF.

    Example:
        >>> foreign_chunks(((APPLICATION, b"riff" + b"guan" + struct.pack("<I", 4) + b"rain"),))[1]
        ((b'guan', b'rain'),)
    """
    layout = Layout()
    riff: list[tuple[bytes, bytes]] = []
    aiff: list[tuple[bytes, bytes]] = []
    for origin, part in ((c[:4], c[4:]) for kind, c in blocks if is_foreign(kind, c)):
        name, start = {b"list": b"LIST"}.get(part[:4], part[:4]), 24 if origin == b"w64 " else 8
        length = int.from_bytes(part[4:8], "big" if origin == b"aiff" else "little")
        content = part[start:] if origin == b"w64 " else part[start : start + length]
        if origin == b"aiff":
            if name != b"FORM" and name not in SAMPLE_CHUNKS:
                aiff.append((name, content))
        elif name == b"fmt ":
            layout = format_layout(content)
        elif name.upper() not in (b"RIFF", b"RF64") and describes(name):
            riff.append((name, content))
    return layout, tuple(riff), tuple(aiff)


def comments(content: bytes) -> list[bytes]:
    """The comments of a block, each ``NAME=text`` in UTF-8.

    Args:
        content: of a block of type ``COMMENTS``. Of a damaged one the first comments are read.

    Example:
        >>> comments(comment_block([b"TITLE=rain", b"ARTIST=me"]))
        [b'TITLE=rain', b'ARTIST=me']
    """
    texts: list[bytes] = []
    with suppress(struct.error):
        (length,) = struct.unpack_from("<I", content)
        (count,) = struct.unpack_from("<I", content, 4 + length)
        position = 8 + length
        for _ in range(count):
            (length,) = struct.unpack_from("<I", content, position)
            if position + 4 + length > len(content):
                break
            texts.append(content[position + 4 : position + 4 + length])
            position += 4 + length
    return texts


def comment_block(comments: list[bytes], vendor: bytes = b"singleout") -> bytes:
    """The content of a block of comments.

    Args:
        comments: each ``NAME=text`` in UTF-8.
        vendor: name of the encoder.

    Example:
        >>> comment_block([b"A=b"], b"x")
        b'\\x01\\x00\\x00\\x00x\\x01\\x00\\x00\\x00\\x03\\x00\\x00\\x00A=b'
    """
    parts = [struct.pack("<I", len(each)) + each for each in (vendor, *comments)]
    return parts[0] + struct.pack("<I", len(comments)) + b"".join(parts[1:])


def block(kind: int, content: bytes, is_last: bool = False) -> bytes:
    """The bytes of a metadata block.

    Example:
        >>> block(PADDING, bytes(2), is_last=True)
        b'\\x81\\x00\\x00\\x02\\x00\\x00'
    """
    return bytes([kind | is_last << 7]) + len(content).to_bytes(3) + content
