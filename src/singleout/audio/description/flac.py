"""The metadata blocks of FLAC files."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import BinaryIO

from singleout.audio.channels import FLAC_MASKS, Layout
from singleout.audio.description.iff import SAMPLE_CHUNKS
from singleout.audio.description.parts import MAX_CHUNKS, Chunks, read_parts
from singleout.audio.description.riff import describes, format_layout

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
    return flac_layout(blocks), describing_blocks(blocks), [f"block {kind}" for kind in too_large]


def flac_layout(blocks: Blocks) -> Layout:
    """The layout of the channels by the blocks of a FLAC.

    Args:
        blocks: all of them, the first one and the comments among them.

    Example:
        >>> flac_layout(((STREAMINFO, bytes(12) + bytes([10]) + bytes(21)),)).mask  # 6 channels
        63
    """
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


def describing_blocks(blocks: Blocks) -> Blocks:
    """The blocks that describe the recording and are whole.

    Args:
        blocks: of a FLAC.

    Example:
        >>> describing_blocks(((STREAMINFO, bytes(34)), (APPLICATION, b"fica"), (PICTURE, b"")))
        ((2, b'fica'),)
    """
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
        for _ in range(min(count, MAX_CHUNKS)):
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


def all_comments(blocks: Blocks, tags: Mapping[str, str]) -> list[bytes]:
    """The comments of a recording, without the one that states the loudspeakers.

    Args:
        blocks: of the recording.
        tags: texts by libsndfile's names, which count if the blocks have no comments.

    Example:
        >>> all_comments((), {"title": "rain"})
        [b'TITLE=rain']
    """
    texts = [text for kind, content in blocks if kind == COMMENTS for text in comments(content)]
    if not texts:
        texts = [f"{name.upper()}={text}".encode("utf-8", "replace") for name, text in tags.items()]
    return [text for text in texts if not text.upper().startswith(MASK_KEY + b"=")]
