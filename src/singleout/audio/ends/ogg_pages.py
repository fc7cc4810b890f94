"""The pages of an Ogg file, which show its links and its true length.

An Ogg file is a row of pages. Several recordings may follow each other ("links" of a "chained"
file), as in the stream of a radio station, and libsndfile reads only the first. A page states the
time of its end as a number of samples ("granule position"). The last page of a link has a mark.

Source: RFC 3533 (pages), RFC 7845 (Opus), the specifications of Vorbis I and of FLAC in Ogg.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

BLOCK_BYTES = 1 << 18
LIVE_SECONDS = 30
"""No page is as long. A first page that ends later is from the middle of a live stream."""
IS_FIRST, IS_LAST = 2, 4
"""Flags of the first and of the last page of a stream."""


@dataclass
class OggLink:
    """One recording in an Ogg file.

    Attributes:
        begin, end: position of its first byte, and after its last whole page.
        codecs: ``vorbis``, ``opus``, ``flac``, ``speex`` or "" for each stream in it.
        sample_rate: Hz, of the first stream with sound.
        num_samples: where the last page ends, in samples per channel from the start.
        has_end: whether a page is marked as the last.
        lost_pages: pages that are missing or damaged in the middle.
        stated_samples: end of the last page that is only partly there; None if there is none.

    Example:
        >>> OggLink(0, 100, ["opus"], 48_000, num_samples=96_000).seconds
        2.0
    """

    begin: int
    end: int
    codecs: list[str] = field(default_factory=list)
    sample_rate: int = 0
    num_samples: int = 0
    has_end: bool = False
    lost_pages: int = 0
    stated_samples: int | None = None

    @property
    def seconds(self) -> float:
        """Length of the sound; 0 if it is not known."""
        return self.num_samples / self.sample_rate if self.sample_rate else 0.0


def links(file: BinaryIO, size: int) -> list[OggLink]:
    """List the recordings in an Ogg file.

    Args:
        file: the open file.
        size: length of the file in bytes.

    Returns:
        The links in order; none if the file is no Ogg.

    Example:
        >>> import io, numpy as np, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(48_000), 48_000, format="OGG")
        >>> twice = file.getvalue() * 2
        >>> [(link.codecs, link.seconds) for link in links(io.BytesIO(twice), len(twice))]
        [(['vorbis'], 1.0), (['vorbis'], 1.0)]
    """
    walker = _Walker(file, size)
    walker.run()
    return walker.links


@dataclass
class _Walker:
    file: BinaryIO
    size: int
    links: list[OggLink] = field(default_factory=list)
    block: bytes = b""
    start: int = 0
    serial: int | None = None
    """The stream with sound of the present link."""
    numbers: dict[int, int] = field(default_factory=dict)
    """Number of the last page by stream."""
    in_heads: bool = False
    origin: int = 0
    """Granule position of the first sample that is played."""

    def at(self, position: int, count: int) -> bytes:
        """Some bytes of the file; fewer at its end."""
        offset = position - self.start
        if not 0 <= offset <= len(self.block) - count:
            self.file.seek(position)
            self.block, self.start, offset = self.file.read(BLOCK_BYTES), position, 0
        return self.block[offset : offset + count]

    def run(self) -> None:
        """Walk from page to page."""
        position = 0
        while len(head := self.at(position, 27)) == 27:
            if head[:4] != b"OggS":
                position = self._next_page(position + 1)
                continue
            length = 27 + head[26] + sum(self.at(position + 27, head[26]))
            if position + length > self.size:
                self._cut_page(head)
                break
            self._page(position, length, head)
            position += length

    def _next_page(self, position: int) -> int:
        while data := self.at(position, BLOCK_BYTES):
            if (at := data.find(b"OggS")) >= 0:
                return position + at
            position += max(1, len(data) - 3)
        return self.size

    def _page(self, position: int, length: int, head: bytes) -> None:
        flags, granule, serial, number = _fields(head)
        if flags & IS_FIRST:
            if not self.in_heads:
                self.links.append(OggLink(position, position))
                self.serial, self.numbers, self.in_heads = None, {}, True
            self._first_page(serial, self.at(position + 27 + head[26], 64))
        elif not self.links:
            return
        link = self.links[-1]
        link.end = position + length
        self.in_heads = self.in_heads and bool(flags & IS_FIRST)
        if serial == self.serial:
            before = self.numbers.get(serial)
            link.lost_pages += before is not None and number != before + 1
            link.has_end |= bool(flags & IS_LAST)
            if granule > 0:
                if not link.num_samples and granule > LIVE_SECONDS * link.sample_rate:
                    self.origin = granule
                link.num_samples = granule - self.origin
        self.numbers[serial] = number

    def _first_page(self, serial: int, packet: bytes) -> None:
        """Read what codec a stream has."""
        codec, rate, skip = "", 0, 0
        if packet[:7] == b"\x01vorbis":
            codec, rate = "vorbis", int.from_bytes(packet[12:16], "little")
        elif packet[:8] == b"OpusHead":
            codec, rate, skip = "opus", 48_000, int.from_bytes(packet[10:12], "little")
        elif packet[:5] == b"\x7fFLAC":
            codec, rate = "flac", int.from_bytes(packet[27:30], "big") >> 4
        elif packet[:8] == b"Speex   ":
            codec, rate = "speex", int.from_bytes(packet[36:40], "little")
        link = self.links[-1]
        link.codecs.append(codec)
        if codec and self.serial is None:
            self.serial, self.origin, link.sample_rate = serial, skip, rate

    def _cut_page(self, head: bytes) -> None:
        """The file ends within a page, whose head may say how much sound it had."""
        flags, granule, serial, _ = _fields(head)
        if self.links and serial == self.serial and granule > 0 and flags & IS_LAST:
            self.links[-1].stated_samples = granule - self.origin


def _fields(head: bytes) -> tuple[int, int, int, int]:
    """Flags, granule position, number of the stream and of the page, in the head of a page."""
    granule = int.from_bytes(head[6:14], "little", signed=True)
    serial, number = (int.from_bytes(head[at : at + 4], "little") for at in (14, 18))
    return head[5], granule, serial, number
