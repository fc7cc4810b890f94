"""WAV files chunk by chunk, for what libsndfile cannot do.

libsndfile drops the chunks that describe a recording (``bext`` with its time code, ``cue``,
``iXML``) and the loudspeakers of the channels. It must know before the first sample whether a file
passes 4 GB. It writes the current time into float files, so that equal audio gives unequal bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from singleout.audio.info import LOSSLESS_BITS

MAX_FIELD = 0xFFFF_FFFF
MAX_BYTES = MAX_FIELD - (1 << 20)
"""A WAV counts bytes in 32 bits. Longer recordings become RF64, which most programs read."""

MAX_DESCRIPTION_BYTES = 1 << 20
"""Limit of the describing chunks of a file together. Larger ones are dropped."""
DESCRIPTIONS = (b"LIST", b"bext", b"iXML", b"cue ", b"axml", b"smpl", b"inst", b"id3 ", b"ID3 ")
"""Chunks that describe a target as well as the recording that contains it."""

INFO_NAMES = {
    "title": b"INAM", "copyright": b"ICOP", "software": b"ISFT", "artist": b"IART",
    "comment": b"ICMT", "date": b"ICRD", "album": b"IPRD", "tracknumber": b"ITRK", "genre": b"IGNR",
}  # fmt: skip
"""Names of tags in libsndfile, and in the ``INFO`` list of a WAV."""

DS64_BYTES = 28
"""Length of the chunk that states the sizes of an RF64."""
LOUDSPEAKERS = {1: 0x4, 2: 0x3, 4: 0x33, 6: 0x3F, 8: 0x63F}
"""Channel masks of the usual layouts by number of channels: mono, stereo, quad, 5.1, 7.1."""
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
"""End of the identifiers of WAVE_FORMAT_EXTENSIBLE, after two bytes for the plain format."""


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """List the chunks of a RIFF or RF64 file.

    Args:
        file: a file that is open at its start. It may be damaged or of any other kind.

    Yields:
        Name, position of the content and length of the content, both in bytes, of every chunk. No
        chunks for files of other kinds.

    Example:
        >>> import io
        >>> content = b"WAVE" + chunk(b"iXML", b"<a/>")
        >>> list(chunks(io.BytesIO(b"RIFF" + struct.pack("<I", len(content)) + content)))
        [(b'iXML', 20, 4)]
    """
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return
    data_bytes = None
    position = 12
    while len(header := file.read(8)) == 8:
        name, length = header[:4], int(struct.unpack("<I", header[4:])[0])
        if not name.isascii() or not name.decode().isprintable():
            return  # padding: every eight zeros would be a chunk
        position += 8
        if name == b"ds64":
            data_bytes = struct.unpack("<8xQ", file.read(16))[0]
        if name == b"data" and length == MAX_FIELD and data_bytes is not None:
            length = data_bytes
        yield name, position, length
        position += length + length % 2
        file.seek(position)


def description(path: Path) -> tuple[int, tuple[tuple[bytes, bytes], ...]]:
    """Read the chunks of a WAV that describe the recording.

    Args:
        path: a file of any kind. Of a damaged file the chunks before the damage are read.

    Returns:
        The channel mask, 0 if the file states none, and name and content of the describing chunks.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.wav"
        ...     WavFile(path, 16_000, 1, "PCM_16", describing=info_chunk({"title": "rain"})).close()
        ...     mask, describing = description(path)
        >>> describing == info_chunk({"title": "rain"})
        True
    """
    mask, total = 0, 0
    describing: list[tuple[bytes, bytes]] = []
    with path.open("rb") as file, suppress(struct.error):
        for name, position, length in chunks(file):
            if name == b"fmt " and length >= 40:
                file.seek(position + 20)
                mask = int(struct.unpack("<I", file.read(4))[0])
            elif name in DESCRIPTIONS and total + length <= MAX_DESCRIPTION_BYTES:
                file.seek(position)
                content = file.read(length)
                if len(content) == length:
                    describing.append((name, content))
                    total += length
    return mask, tuple(describing)


def info_chunk(tags: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
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


def chunk(name: bytes, content: bytes) -> bytes:
    """The bytes of a chunk: header, content, and padding to an even length.

    Example:
        >>> list(chunk(b"iXML", b"<a>")[4:])
        [3, 0, 0, 0, 60, 97, 62, 0]
    """
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


class WavFile:
    """A WAV that is written block by block. Beyond 4 GB it becomes an RF64.

    Equal samples give equal bytes.

    Args:
        path: the file, which is overwritten.
        sample_rate: Hz.
        channels: number of channels.
        subtype: ``PCM_16``, ``PCM_24``, ``PCM_32``, ``FLOAT`` or ``DOUBLE``.
        channel_mask: the loudspeaker of each channel, a bit each; 0 for the usual layout.
        describing: name and content of chunks to write before the samples.

    Raises:
        OSError: the file cannot be written; from all methods.
        ValueError: rate or channels do not fit a WAV.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.wav"
        ...     file = WavFile(path, 16_000, channels=2, subtype="FLOAT")
        ...     file.write(np.zeros((2, 1_000), np.float32))
        ...     file.close()
        ...     with path.open("rb") as raw:
        ...         [name for name, _, _ in chunks(raw)]
        [b'JUNK', b'fmt ', b'fact', b'data']
    """

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        channels: int,
        subtype: str,
        channel_mask: int = 0,
        describing: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self._is_float = subtype in ("FLOAT", "DOUBLE")
        bits = LOSSLESS_BITS.get(subtype) or (64 if subtype == "DOUBLE" else 32)
        self._frame_bytes = channels * bits // 8
        self._dtype = f"<{'f' if self._is_float else 'i'}{bits // 8 if bits != 24 else 4}"
        self._bits, self._num_frames = bits, 0
        if not 0 < sample_rate < MAX_FIELD or self._frame_bytes > 0xFFFF:
            raise ValueError(f"{channels} channels at {sample_rate} Hz do not fit a WAV")
        head = chunk(b"JUNK", bytes(DS64_BYTES))  # makes room for the ds64 of an RF64
        head += chunk(b"fmt ", self._format(sample_rate, channels, channel_mask))
        self._fact_position = None
        if self._is_float:
            self._fact_position = 12 + len(head) + 8
            head += chunk(b"fact", bytes(4))
        self._odd_lengths: dict[int, int] = {}
        for name, content in describing:
            if len(content) % 2:
                self._odd_lengths[12 + len(head) + 4] = len(content)
            head += chunk(name, content)
        self._head_bytes = 12 + len(head) + 8
        self._file = path.open("wb")
        self._file.write(b"RIFF" + bytes(4) + b"WAVE" + head + b"data" + bytes(4))

    def _format(self, sample_rate: int, channels: int, channel_mask: int) -> bytes:
        plain = 3 if self._is_float else 1
        extensible = channels > 2 or channel_mask not in (0, LOUDSPEAKERS.get(channels))
        bytes_per_second = min(self._frame_bytes * sample_rate, MAX_FIELD)
        code = 0xFFFE if extensible else plain
        head = struct.pack("<HHII", code, channels, sample_rate, bytes_per_second)
        head += struct.pack("<HH", self._frame_bytes, self._bits)
        if not extensible:
            return head + struct.pack("<H", 0) if self._is_float else head
        mask = channel_mask or LOUDSPEAKERS.get(channels, 0)
        return head + struct.pack("<HHIH", 22, self._bits, mask, plain) + GUID_TAIL

    def write(self, block: NDArray[Any]) -> None:
        """Append a block.

        Args:
            block: [channels, samples]. Floats are written as they are. Integers are int32, shifted
                to the highest bits (left-justified).
        """
        frames = np.ascontiguousarray(block.T)
        if self._is_float or self._bits == 32:
            data = frames.astype(self._dtype, copy=False)
        elif self._bits == 16:
            data = (frames >> 16).astype("<i2")
        else:
            data = frames.astype("<i4", copy=False).view(np.uint8).reshape(-1, 4)[:, 1:]
        self._file.write(np.ascontiguousarray(data).tobytes())
        self._num_frames += len(frames)

    def close(self) -> None:
        """Complete the header and close the file. Further calls do nothing."""
        if self._file.closed:
            return
        with self._file as file:
            num_bytes = self._num_frames * self._frame_bytes
            padding = num_bytes % 2
            file.write(bytes(padding))
            is_long = num_bytes > MAX_BYTES
            riff_bytes = self._head_bytes - 8 + num_bytes + padding
            file.seek(0)
            file.write(b"RF64" if is_long else b"RIFF")
            file.write(struct.pack("<I", MAX_FIELD if is_long else riff_bytes))
            if is_long:
                file.seek(12)
                ds64 = struct.pack("<QQQI", riff_bytes, num_bytes, self._num_frames, 0)
                file.write(chunk(b"ds64", ds64))
                for position, length in self._odd_lengths.items():
                    # libsndfile does not skip padding in an RF64, so that it becomes content.
                    file.seek(position)
                    file.write(struct.pack("<I", length + 1))
            if self._fact_position is not None:
                file.seek(self._fact_position)
                file.write(struct.pack("<I", min(self._num_frames, MAX_FIELD)))
            file.seek(self._head_bytes - 4)
            file.write(struct.pack("<I", MAX_FIELD if is_long else num_bytes))

    def abandon(self) -> None:
        """Close the file without completing the header."""
        self._file.close()
