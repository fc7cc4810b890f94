"""The headers of Ogg files: comments, and the channels of Vorbis and Opus.

Vorbis comments have the same form as those of a FLAC.
"""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from singleout.audio.channels import Layout, vorbis_layout
from singleout.audio.description.flac import (
    COMMENTS,
    PICTURE,
    Blocks,
    all_comments,
    comment_block,
    describing_blocks,
    flac_layout,
)
from singleout.audio.description.parts import MAX_BYTES, MAX_CHUNKS
from singleout.audio.info import AudioInfo

HEAD_BYTES = MAX_BYTES * 3 // 2
"""Headers stand in the first bytes of a file, as far as they are read."""
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class _Page:
    position: int
    data: bytes

    @property
    def lacing(self) -> bytes:
        return self.data[27 : 27 + self.data[26]]

    @property
    def content(self) -> bytes:
        return self.data[27 + self.data[26] :]


def _sound_pages(file: BinaryIO) -> Iterator[_Page]:
    """The pages of the first stream of Vorbis, Opus or FLAC, at the head of a file."""
    serial = None
    while (position := file.tell()) < HEAD_BYTES:
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            return
        lacing = file.read(head[26])
        page = _Page(position, head + lacing + file.read(sum(lacing)))
        is_sound = page.content.startswith((b"\x01vorbis", b"OpusHead", b"\x7fFLAC"))
        if serial is None and head[5] & 2 and is_sound:
            serial = head[14:18]
        if head[14:18] == serial:
            yield page


def ogg_packets(file: BinaryIO) -> Iterator[bytes]:
    """Read the packets of the sound of an Ogg file, the first ones of which are headers.

    Args:
        file: a file that is open at its start. It may be damaged or of any other kind.

    Yields:
        Packets of the first stream of Vorbis, Opus or FLAC, from the head of the file.

    Example:
        >>> import io
        >>> page = b"OggS\\0\\2" + bytes(20) + b"\\1\\x08" + b"OpusHead"
        >>> list(ogg_packets(io.BytesIO(page)))
        [b'OpusHead']
    """
    packet: list[bytes] = []
    for page in _sound_pages(file):
        content, start = page.content, 0
        for length in page.lacing:
            packet.append(content[start : start + length])
            start += length
            if length < 255:
                yield b"".join(packet)
                packet = []


def read_ogg(file: BinaryIO) -> tuple[Layout, Blocks, list[str]]:
    """Read what an Ogg file says about its recording: Vorbis, Opus or FLAC.

    Args:
        file: a file that is open at its start.

    Returns:
        As ``flac.read_flac``: comments are in a block of type ``COMMENTS``.

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
        return flac_layout(blocks), describing_blocks(blocks), []
    second = next(packets, b"")
    is_opus = first.startswith(b"OpusHead")
    prefix = b"OpusTags" if is_opus else b"\x03vorbis"
    kept: Blocks = ()
    if second.startswith(prefix) and len(second) <= MAX_BYTES:
        kept = ((COMMENTS, second.removeprefix(prefix)),)
    layout = Layout()
    if is_opus and len(first) > 18 and first[18] == 1:
        layout = vorbis_layout(first[9])
    elif not is_opus and len(first) > 11:
        layout = vorbis_layout(first[11])
    too_large = ["comments"] if first and not kept and file.tell() > MAX_BYTES else []
    return layout, kept, too_large


def _flac_headers(packets: Iterator[bytes]) -> Iterator[bytes]:
    for packet in islice(packets, MAX_CHUNKS):
        if len(packet) < 4 or packet[0] == 0xFF:
            return
        yield packet
        if packet[0] & 0x80:
            return


def vorbis_comments(info: AudioInfo) -> list[bytes]:
    """The comments of a recording for an Ogg Vorbis, with the pictures of a FLAC.

    Example:
        >>> vorbis_comments(AudioInfo(8_000, 1, flac_blocks=((PICTURE, b"..."),)))
        [b'METADATA_BLOCK_PICTURE=Li4u']
    """
    pictures = [content for kind, content in info.flac_blocks if kind == PICTURE]
    texts = [b"METADATA_BLOCK_PICTURE=" + base64.b64encode(each) for each in pictures]
    return [*all_comments(info.flac_blocks, info.tags), *texts]


def replace_comments(file: BinaryIO, texts: list[bytes]) -> None:
    """Replace the comments of an Ogg Vorbis by others, which must not be longer.

    Args:
        file: the file, open for reading and writing.
        texts: each ``NAME=text`` in UTF-8.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import io
        >>> import soundfile
        >>> file = io.BytesIO()
        >>> with soundfile.SoundFile(file, "w", 8_000, 1, format="OGG") as sound:
        ...     sound.comment = "-" * 100
        >>> replace_comments(file, [b"COMMENT=rain"])
        >>> _ = file.seek(0)
        >>> soundfile.SoundFile(file).comment
        'rain'
    """
    file.seek(0)
    _, old = islice(ogg_packets(file), 2)
    vendor = old[11 : 11 + int.from_bytes(old[7:11], "little")]
    new = b"\x03vorbis" + comment_block(texts, vendor) + b"\x01"
    new += bytes(len(old) - len(new))  # the packet ends at its framing bit
    file.seek(0)
    pages, index, done = list(_sound_pages(file)), 0, 0
    for page in pages:
        data, start = bytearray(page.data), 27 + len(page.lacing)
        for length in page.lacing:
            if index == 1:
                data[start : start + length] = new[done : done + length]
                done += length
            start += length
            index += length < 255
        data[22:26] = bytes(4)
        data[22:26] = _checksum(bytes(data)).to_bytes(4, "little")
        file.seek(page.position)
        file.write(data)
        if index > 1:
            break
    file.seek(0, os.SEEK_END)


def _checksum(page: bytes) -> int:
    """The checksum of a page (RFC 3533, section 6): zlib's polynomial with all bits reversed."""
    crc = zlib.crc32(page.translate(REVERSED_BITS), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{crc:032b}"[::-1], 2)
