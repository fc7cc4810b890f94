"""The heads of sound files: where the sound starts, and how long it is by the file's own words.

Each function of ``HEADS`` reads one format. ``ends`` compares its result with the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

MAX_HEAD_BYTES = 1 << 20
"""Chunks in front of the sound may be long (``bext``, ``JUNK``). Longer heads are not corrected."""
MAX_FIELD = 0xFFFF_FFFF


@dataclass(frozen=True)
class ChunkStyle:
    """How a format writes the head of a chunk.

    Attributes:
        form: of name and length, for ``struct``.
        align: chunks start at multiples of this many bytes.
        counts_head: whether the length includes the head of the chunk.

    Example:
        >>> RIFF.head_bytes
        8
    """

    form: str
    align: int = 2
    counts_head: bool = False

    @property
    def head_bytes(self) -> int:
        """Length of name and length."""
        return struct.calcsize(self.form)


RIFF = ChunkStyle("<4sI")
IFF = ChunkStyle(">4sI")
CAF = ChunkStyle(">4sq", align=1)
W64 = ChunkStyle("<16sQ", align=8, counts_head=True)


@dataclass(frozen=True)
class Field:
    """A number in a head that must be right, so that libsndfile reads the sound to its end.

    Attributes:
        position: where it stands.
        form: of the number, for ``struct``.
        unit: ``sound`` (bytes of the sound), ``file`` (bytes of the file) or ``frames``.
        offset: added to the number.

    Example:
        >>> Field(4, "<I", "file", -8).unit
        'file'
    """

    position: int
    form: str
    unit: Literal["sound", "file", "frames"]
    offset: int = 0


@dataclass(frozen=True)
class Head:
    """What the head of a sound file says.

    Attributes:
        start: position of the first byte of sound.
        stated: bytes of sound; None if not stated.
        file_end: where the file ends; None if not stated.
        chunks: style of the chunks that may follow the sound; None if nothing may follow.
        fields: the numbers that state lengths.
        frame_bytes: bytes of a sample of all channels; 0 if compressed or unknown.
        needs_ffmpeg: whether the encoding is one that libsndfile reads badly.

    Example:
        >>> Head(start=44, stated=1_000).chunks is None
        True
    """

    start: int
    stated: int | None
    file_end: int | None = None
    chunks: ChunkStyle | None = None
    fields: tuple[Field, ...] = ()
    frame_bytes: int = 0
    needs_ffmpeg: bool = False


def chunks(
    file: BinaryIO, position: int, end: int, style: ChunkStyle
) -> Iterator[tuple[bytes, int, int]]:
    """List chunks up to the end of the file or to something that is no chunk.

    Args:
        file: the open file.
        position: where the first chunk starts.
        end: where the file ends.
        style: how the format writes chunks.

    Yields:
        Name, position of the content and stated length of the content in bytes.

    Example:
        >>> import io
        >>> list(chunks(io.BytesIO(b"LIST\\2\\0\\0\\0ab"), 0, 10, RIFF))
        [(b'LIST', 8, 2)]
    """
    while position + style.head_bytes <= end:
        file.seek(position)
        head = file.read(style.head_bytes)
        if len(head) < style.head_bytes:
            return
        name, length = struct.unpack(style.form, head)
        if not (name[:4].isascii() and name[:4].decode().isprintable()):
            return
        length -= style.head_bytes if style.counts_head else 0
        yield name, position + style.head_bytes, length
        if length < 0:
            return
        position += style.head_bytes + length
        position += -position % style.align


def _at(file: BinaryIO, position: int, form: str) -> tuple[int, ...]:
    file.seek(position)
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _riff(file: BinaryIO, size: int) -> Head | None:
    magic = file.read(12)
    if magic[8:] != b"WAVE":
        return None
    style = IFF if magic[:4] == b"RIFX" else RIFF
    order = style.form[0]
    length = int(struct.unpack(order + "I", magic[4:8])[0])
    fields = [Field(4, order + "I", "file", -8)]
    frame_bytes, long_bytes, code = 0, None, 0
    for name, position, stated in chunks(file, 12, size, style):
        if name == b"ds64" and magic[:4] != b"RIFF":
            length, long_bytes = _at(file, position, "<QQ")
            fields = [
                Field(position, "<Q", "file", -8),
                Field(position + 8, "<Q", "sound"),
                Field(position + 16, "<Q", "frames"),
            ]
        elif name == b"fmt ":
            code, _, _, _, frame_bytes = _at(file, position, order + "HHIIH")
        elif name == b"data":
            if long_bytes is None:
                fields.append(Field(position - 4, order + "I", "sound"))
            elif stated == MAX_FIELD:
                stated = long_bytes
            whole = 8 + length if 0 < length < MAX_FIELD or long_bytes else None
            return Head(
                position, stated, whole, style, tuple(fields), frame_bytes, code in (0x50, 0x55)
            )
    return None


def _aiff(file: BinaryIO, size: int) -> Head | None:
    magic = file.read(12)
    kind = magic[8:]
    if kind not in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        return None
    length = int.from_bytes(magic[4:8], "big")
    fields, frame_bytes = [Field(4, ">I", "file", -8)], 0
    for name, position, stated in chunks(file, 12, size, IFF):
        if name == b"COMM":
            channels, frames, bits = _at(file, position, ">HIH")
            coding = b"NONE"
            if kind == b"AIFC":
                file.seek(position + 18)
                coding = file.read(4)
            if coding.lower() in (b"ulaw", b"alaw"):
                frame_bytes = channels
            elif coding.lower() in (
                b"none",
                b"sowt",
                b"twos",
                b"raw ",
                b"fl32",
                b"fl64",
                b"in24",
                b"in32",
            ):
                frame_bytes = channels * (-(-bits // 8))
            if not frames and frame_bytes:
                fields.append(Field(position + 2, ">I", "frames"))
        elif name in (b"SSND", b"BODY"):
            skip = 0 if name == b"BODY" else 8 + _at(file, position, ">I")[0]
            fields.append(Field(position - 4, ">I", "sound", skip))
            known = max(0, stated - skip) if stated != MAX_FIELD else stated
            whole = 8 + length if 0 < length < MAX_FIELD else None
            return Head(position + skip, known, whole, IFF, tuple(fields), frame_bytes)
    return None


def _caf(file: BinaryIO, size: int) -> Head | None:
    for name, position, stated in chunks(file, 8, size, CAF):
        if name == b"data":
            known = stated - 4 if stated > 0 else None
            return Head(position + 4, known, None, CAF, (Field(position - 8, ">q", "sound", 4),))
    return None


def _w64(file: BinaryIO, size: int) -> Head | None:
    (length,) = _at(file, 16, "<Q")
    for name, position, stated in chunks(file, 40, size, W64):
        if name[:4] == b"data":
            fields = Field(16, "<Q", "file"), Field(position - 8, "<Q", "sound", 24)
            return Head(position, max(0, stated), length or None, W64, fields)
    return None


def _au(file: BinaryIO, size: int) -> Head | None:
    order = ">" if file.read(4) == b".snd" else "<"
    start, stated, code, _, channels = _at(file, 4, order + "5I")
    sample_bytes = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(code, 0)
    field = Field(8, order + "I", "sound")
    known = stated if 0 < stated < MAX_FIELD else None
    return Head(start, known, None, None, (field,), sample_bytes * channels)


def _nist(file: BinaryIO, size: int) -> Head | None:
    text = file.read(1_024)
    numbers = {
        name: int(value)
        for name, value in re.findall(rb"^(\w+) -i (\d{1,12})\s", text, re.MULTILINE)
    }
    start = int(text[8:16])
    frame_bytes = numbers.get(b"sample_n_bytes", 1) * numbers.get(b"channel_count", 1)
    count = numbers.get(b"sample_count", 0) * frame_bytes
    return Head(start, count or None, frame_bytes=frame_bytes)


def _mat4(file: BinaryIO, size: int) -> Head | None:
    order = "<" if file.read(4)[0] == 0 and _at(file, 4, "<I")[0] == 1 else ">"
    position = 0
    for _ in range(2):  # the rate, then the sound
        code, rows, columns, _, name_bytes = _at(file, position, order + "5I")
        item = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}.get(code // 10 % 10, 0)
        start = position + 20 + name_bytes
        position = start + rows * columns * item
    return Head(start, position - start or None)


def _mat5(file: BinaryIO, size: int) -> Head | None:
    file.seek(126)
    order = "<" if file.read(2) == b"IM" else ">"
    _, length = _at(file, 128, order + "II")
    position = 136 + length
    content = position + 8
    # Flags, dimensions and name come before the samples, each an element of its own.
    for _ in range(3):
        kind, length = _at(file, content, order + "II")
        if kind > 0xFFFF:  # a short element holds its content in its head
            content += 8
        else:
            content += 8 + length + -length % 8
    _, length = _at(file, content, order + "II")
    return Head(content + 8, length or None)


def _voc(file: BinaryIO, size: int) -> Head | None:
    (position,) = _at(file, 20, "<H")
    kind = _at(file, position, "<B")[0]
    start = position + 4 + {1: 2, 9: 12}.get(kind, 0)
    num_blocks = 0
    while position < size and (kind := _at(file, position, "<B")[0]):
        low, middle, high = _at(file, position + 1, "<BBB")
        following = position + 4 + (low | middle << 8 | high << 16)
        if kind > 9 or (not num_blocks and 1 < size - following < 16):
            return Head(start, None)  # SoX states 8 bytes too few
        position, num_blocks = following, num_blocks + 1
    if size - position > 16:
        return Head(start, None)  # libsndfile leaves out what 24 bits do not hold
    # libsndfile takes the heads of further blocks for sound.
    return Head(start, position - start if position > start else None, needs_ffmpeg=num_blocks > 1)


def _sds(file: BinaryIO, size: int) -> Head | None:
    head = file.read(21)
    per_packet = 120 // -(-head[6] // 7) if head[6] else 60
    frames = head[10] | head[11] << 7 | head[12] << 14
    return Head(21, 127 * -(-frames // per_packet) or None)


def _htk(file: BinaryIO, size: int) -> Head | None:
    frames, period, frame_bytes, kind = _at(file, 0, ">IIHH")
    if kind != 0 or frame_bytes != 2 or not 0 < period < 10_000_000:
        return None
    field = Field(0, ">I", "frames")
    return Head(12, 2 * frames, None, None, (field,), frame_bytes)


def _fixed(start: int, position: int, form: str, unit: int = 1) -> HeadReader:
    """A head of fixed length that states the length of the sound at a fixed position."""

    def read(file: BinaryIO, size: int) -> Head | None:
        (count,) = _at(file, position, form)
        return Head(start, count * unit or None)

    return read


def _avr(file: BinaryIO, size: int) -> Head | None:
    channels, bits = _at(file, 12, ">HH")
    frame_bytes = (2 if channels else 1) * (bits // 8)
    (frames,) = _at(file, 26, ">I")
    return Head(128, frames * frame_bytes or None, frame_bytes=frame_bytes)


def _mpc2k(file: BinaryIO, size: int) -> Head | None:
    file.seek(21)
    channels = 2 if file.read(1)[0] else 1
    (frames,) = _at(file, 30, "<I")
    return Head(42, 2 * channels * frames or None, frame_bytes=2 * channels)


def _ircam(file: BinaryIO, size: int) -> Head | None:
    order = ">" if file.read(1) == b"\0" else "<"
    channels, code = _at(file, 8, order + "II")
    return Head(1_024, None, frame_bytes=channels * (code & 0xFF if code & 0xFF <= 8 else 0))


def _paf(file: BinaryIO, size: int) -> Head | None:
    order = ">" if file.read(1) == b" " else "<"
    _, _, _, code, channels = _at(file, 4, order + "5I")
    # 24 bits are packed in blocks of 10 samples, 32 bytes each.
    return Head(2_048, None, frame_bytes=channels * {0: 2, 1: 32, 2: 1}.get(code, 0))


def _pvf(file: BinaryIO, size: int) -> Head | None:
    match = re.match(rb"PVF1\n(\d+) \d+ (\d+)\n", file.read(64))
    return match and Head(match.end(), None, frame_bytes=int(match[1]) * int(match[2]) // 8)


HeadReader = Callable[[BinaryIO, int], Head | None]
HEADS: tuple[tuple[int, bytes, HeadReader], ...] = (
    (0, b"RIFF", _riff), (0, b"RIFX", _riff), (0, b"RF64", _riff), (0, b"BW64", _riff),
    (0, b"FORM", _aiff), (0, b"caff", _caf), (0, b"riff\x2e\x91\xcf\x11", _w64),
    (0, b".snd", _au), (0, b"dns.", _au), (0, b"NIST_1A", _nist),
    (0, b"MATLAB 5.0 MAT-file", _mat5), (0, b"Creative Voice File\x1a", _voc),
    (0, b"Extended Instrument: ", _fixed(338, 298, "<I")), (0, b"2BIT", _avr),
    (0, b"ALawSoundFile**", _fixed(32, 18, ">I")), (0, b"\x01\x04", _mpc2k),
    (0, b"\xf0\x7e", _sds), (1, b"\xa3", _ircam), (2, b"\xa3", _ircam), (0, b" paf", _paf),
    (0, b"fap ", _paf), (0, b"PVF1\n", _pvf), (0, b"\0\0\0\0\1\0\0\0\1\0\0\0", _mat4),
    (0, b"\0\0\3\xe8\0\0\0\1\0\0\0\1", _mat4), (8, b"\0\2\0\0", _htk),
)  # fmt: skip
"""Position and bytes that a format is known by, and the function that reads its head."""


def read_head(file: BinaryIO, size: int) -> Head | None:
    """Read what the head of a file says about its sound.

    Args:
        file: the open file.
        size: its length in bytes.

    Returns:
        The head; None for other formats, and for heads that are damaged or very long.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import io
        >>> read_head(io.BytesIO(b".snd" + struct.pack(">5I", 24, 8, 3, 16_000, 1) + bytes(8)), 32)
        ... # doctest: +ELLIPSIS
        Head(start=24, stated=8, ...)
    """
    file.seek(0)
    start = file.read(24)
    for position, magic, reader in HEADS:
        if start[position:].startswith(magic):
            try:
                file.seek(0)
                head = reader(file, size)
            except (struct.error, ValueError, IndexError):  # cut within the head
                return None
            if head is None or not 0 < head.start <= MAX_HEAD_BYTES:
                return None
            ends = [field.position + struct.calcsize(field.form) for field in head.fields]
            return head if max(ends, default=0) <= head.start else None
    return None
