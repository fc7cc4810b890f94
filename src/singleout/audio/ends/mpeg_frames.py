"""The frames of an MP3, which show its true length.

An MP3 is a row of frames. Its first frame may hold a count of the others (a ``Xing``, ``Info`` or
``VBRI`` header), and decoders believe this count. It is wrong for files that were cut or joined,
and programs that write into a pipe leave it out. A walk from frame header to frame header shows the
truth. It takes a few seconds for a day of sound.

Source: ISO/IEC 11172-3 and 13818-3 (headers of frames), id3.org (tags).
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass, field
from typing import BinaryIO

from singleout.audio.ends.tags import tag_bytes

BLOCK_BYTES = 1 << 20
HEADER = re.compile(rb"\xff[\xe2-\xff][\x00-\xef].", re.DOTALL)
"""Matches what may be the header of a frame."""
MAX_FREE_BYTES = 8_192
"""Longest frame of a bit rate that is not in the tables ("free format")."""
FREE = -1
MIN_FRAME_BYTES = 192
"""The count and all that belongs to it stand in the first bytes of a frame."""
NUM_CONFIRMED = 3
"""Frames that must follow each other where a walk starts: any two bytes may look like one."""

COUNTS = re.compile(rb"Xing"), re.compile(rb"Info")  # one pattern of both takes ten times as long
COUNT_BYTES = 48
"""Such a name is in the first bytes of a frame."""

RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Hz, by version (3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5)."""
KILOBITS = {
    (3, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates by version and layer; low versions share one table, and their layers 2 and 3 too."""


@dataclass
class MpegFrames:
    """What a walk over the frames of an MP3 shows.

    Attributes:
        begin, end: position of the first frame, and after the last one.
        num_frames: frames with sound.
        num_samples: samples per channel at the first rate, with the padding of the encoder.
        sample_rate: Hz, of the first frame.
        layer: 1, 2 or 3, of the first frame.
        stated_frames: the count in the first frame; None if it holds none.
        padding: samples that the encoder added at both ends, by its own words.
        is_uniform: whether all frames have one rate and one number of channels.
        is_free: whether the bit rate is not in the tables.
        is_xing: whether the count is in a form that libsndfile understands.
        has_others: whether something else stands before, between or after frames, such as a tag.
        foreign_bytes: bytes between frames that belong to no frame and to no tag.
        is_cut: whether the last frame is not whole.

    Example:
        >>> MpegFrames(num_frames=10, num_samples=11_520, sample_rate=48_000).seconds
        0.24
    """

    begin: int = 0
    end: int = 0
    num_frames: int = 0
    num_samples: int = 0
    sample_rate: int = 0
    layer: int = 0
    stated_frames: int | None = None
    padding: int = 0
    is_uniform: bool = True
    is_free: bool = False
    is_xing: bool = False
    has_others: bool = False
    foreign_bytes: int = 0
    is_cut: bool = False

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return (self.num_samples - self.padding) / self.sample_rate

    @property
    def missing_frames(self) -> int:
        """How many frames fewer there are than the first one states."""
        return max(0, (self.stated_frames or 0) - self.num_frames)


@dataclass
class _Form:
    """What the first two bytes after the sync byte of a header say."""

    version: int
    layer: int
    rate: int
    num_samples: int
    num_bytes: int


def _form(code: int) -> _Form | None:
    """The form of frame that two bytes of a header stand for."""
    version, layer = code >> 11 & 3, 4 - (code >> 9 & 3)
    index, rate_index, padding = code >> 4 & 15, code >> 2 & 3, code >> 1 & 1
    if code >> 13 != 7 or version == 1 or layer == 4 or index == 15 or rate_index == 3:
        return None
    rate = RATES[version][rate_index]
    num_samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1_152
    num_bytes = FREE
    if index:
        table = (3, layer) if version == 3 else (2, min(layer, 2))
        bits = KILOBITS[table][index - 1] * 1_000 * num_samples // rate
        num_bytes = (bits // 32 + padding) * 4 if layer == 1 else bits // 8 + padding
    return _Form(version, layer, rate, num_samples, num_bytes)


@functools.cache
def _forms() -> dict[int, _Form]:
    """The forms of frames by the two bytes that state them."""
    forms = {code: _form(code) for code in range(0xE000, 1 << 16)}
    return {code: form for code, form in forms.items() if form is not None}


@functools.cache
def _lengths() -> list[int]:
    """Bytes of a frame by the two bytes that state its form: 0 for no frame, or ``FREE``."""
    lengths = [0] * (1 << 16)
    for code, form in _forms().items():
        lengths[code] = form.num_bytes
    return lengths


SHAPE = 0xFE0C
"""Bits of a header that say version, layer and rate: no encoder changes them."""


def walk(file: BinaryIO, begin: int, end: int) -> MpegFrames | None:
    """Count the frames of an MP3.

    Args:
        file: the open file.
        begin, end: where to start, and where the file or the next MP3 in it ends.

    Returns:
        What the frames show; None if there are no frames, so that the file is no MP3.

    Example:
        >>> import io, numpy as np, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(48_000), 48_000, format="MP3")
        >>> frames = walk(file, 0, len(file.getvalue()))
        >>> frames.sample_rate, frames.num_frames == frames.stated_frames
        (48000, True)
    """
    walker = _Walker(file, end)
    position = walker.next_frame(begin)
    if position is None:
        return None
    walker.read_first(position)
    walker.frames.begin, walker.frames.end = position, walker.run(position)
    walker.frames.has_others |= position > begin or walker.frames.end < end
    return walker.frames


def starts(file: BinaryIO, begin: int, size: int) -> list[int]:
    """Where MP3s start in a file: more than one if files were joined.

    An MP3 without a count of frames cannot be told from the one before it.

    Args:
        file: the open file.
        begin: where to start to search.
        size: length of the file in bytes.

    Returns:
        ``begin``, and the positions of later frames that hold a count.

    Example:
        >>> import io, numpy as np, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(48_000), 48_000, format="MP3")
        >>> length = len(file.getvalue())
        >>> starts(io.BytesIO(file.getvalue() * 2), 0, 2 * length) == [0, length]
        True
    """
    walker, positions, position = _Walker(file, size), [], begin
    while len(data := walker.at(position, BLOCK_BYTES)) > COUNT_BYTES:
        for match in itertools.chain(*(count.finditer(data) for count in COUNTS)):
            for side in (9, 17, 32):
                head = match.start() - 4 - side
                if head >= 0 and _side_bytes(data[head : head + 4]) == side:
                    positions.append(position + head)
        position += max(1, len(data) - COUNT_BYTES)
    return [begin, *sorted(set(positions))[1:]]


def _side_bytes(head: bytes) -> int:
    """Length of the side information that follows the header of a frame; 0 if it is no header."""
    form = _forms().get(head[1] << 8 | head[2]) if head[0] == 0xFF else None
    if form is None:
        return 0
    is_mono = head[3] >> 6 == 3
    return (17 if is_mono else 32) if form.version == 3 else (9 if is_mono else 17)


def first_frame(file: BinaryIO, begin: int, end: int) -> int | None:
    """Where the first frame of an MP3 stands.

    Args:
        file: the open file.
        begin, end: where to search.

    Returns:
        The position of a frame that others follow; None if there is none.

    Example:
        >>> import io
        >>> first_frame(io.BytesIO(bytes(1_000)), 0, 1_000) is None
        True
    """
    return _Walker(file, end).next_frame(begin)


@dataclass
class _Walker:
    file: BinaryIO
    size: int
    frames: MpegFrames = field(default_factory=MpegFrames)
    block: bytes = b""
    start: int = 0
    free_bytes: int = 0

    def at(self, position: int, count: int) -> bytes:
        """Some bytes of the file; fewer at its end."""
        offset = position - self.start
        if not 0 <= offset <= len(self.block) - count:
            self.file.seek(position)
            self.block, self.start, offset = self.file.read(BLOCK_BYTES), position, 0
        return self.block[offset : offset + count]

    def length(self, position: int) -> int:
        """Bytes of the frame at a position; 0 if there is none."""
        head = self.at(position, 3)
        if len(head) < 3 or head[0] != 0xFF:
            return 0
        code = head[1] << 8 | head[2]
        length = _lengths()[code]
        if length != FREE:
            return length
        return self.free_bytes + (code >> 1 & 1) if self.free_bytes else self._free(position, code)

    def _free(self, position: int, code: int) -> int:
        """Bytes of a frame of free format: the distance to the next header like its own."""
        data = self.at(position, 2 * MAX_FREE_BYTES)
        for match in HEADER.finditer(data, 24, MAX_FREE_BYTES):
            length = match.start()
            pair = [
                data[at + 1] << 8 | data[at + 2]
                for at in (length, 2 * length)
                if at + 2 < len(data)
            ]
            if all((other ^ code) & (SHAPE | 0xF0) == 0 for other in pair):
                self.free_bytes = length - (code >> 1 & 1)
                return length
        return 0

    def next_frame(self, position: int) -> int | None:
        """Where the next frames stand that follow each other, from a position on."""
        while len(self.at(position, 4)) == 4:
            data = memoryview(self.block)[position - self.start :]
            for match in HEADER.finditer(data):
                if self._is_confirmed(position + match.start()):
                    return position + match.start()
            position += max(1, len(data) - 3)
        return None

    def _is_confirmed(self, position: int) -> bool:
        saved, free_bytes = (self.block, self.start), self.free_bytes
        try:
            code = None
            for _ in range(NUM_CONFIRMED):
                head, length = self.at(position, 3), self.length(position)
                other = int.from_bytes(head[1:], "big")
                if not length or (code is not None and (code ^ other) & SHAPE):
                    self.free_bytes = free_bytes
                    return False
                code, position = other, position + length
                if position >= self.size or tag_bytes(self.at(position, 32)):
                    break  # the end of a short file
            return True
        finally:
            self.block, self.start = saved

    def read_first(self, position: int) -> None:
        """Read what the first frame says: the shape of the sound, and the count of frames."""
        frames, length = self.frames, self.length(position)
        data = self.at(position, length).ljust(MIN_FRAME_BYTES, b"\0")
        form = _forms()[data[1] << 8 | data[2]]
        frames.sample_rate, frames.layer = form.rate, form.layer
        frames.is_free = form.num_bytes == FREE
        side = _side_bytes(data)
        for at in (4 + side, 6 + side):
            if data[at : at + 4] in (b"Xing", b"Info"):
                if data[at + 7] & 1:
                    frames.stated_frames = int.from_bytes(data[at + 8 : at + 12], "big")
                    frames.is_xing = True
                delays = int.from_bytes(data[at + 141 : at + 144], "big")
                if data[at + 120 : at + 124] in (b"LAME", b"Lavf", b"Lavc"):
                    frames.padding = (delays >> 12) + (delays & 0xFFF)
                self._uncount(form)
                return
        if data[36:40] == b"VBRI":
            frames.stated_frames = int.from_bytes(data[50:54], "big")
            self._uncount(form)

    def _uncount(self, form: _Form) -> None:
        """The frame that holds the count has no sound."""
        self.frames.num_frames -= 1
        self.frames.num_samples -= form.num_samples

    def run(self, position: int) -> int:
        """Walk from the first frame to the last. The position after it."""
        frames, counts, shape = self.frames, dict[int, int](), None
        while True:
            end = self._run(position, counts)
            if end > self.size:
                frames.is_cut = True
                end = position = self.size
            # No frame here: a tag, foreign bytes, or the end.
            after = end + tag_bytes(self.at(end, 32))
            following = self.next_frame(after) if after < self.size else None
            if following is None:
                break
            frames.has_others = True
            frames.foreign_bytes += self._foreign(after, following)
            position = following
        for code, count in counts.items():
            form = _forms()[code >> 8]
            frames.num_frames += count
            frames.num_samples += count * form.num_samples * frames.sample_rate // form.rate
            frames.is_uniform &= shape in (None, code)
            shape = code
        return end

    def _foreign(self, begin: int, end: int) -> int:
        """How many bytes of a stretch without frames are no zeros and no tags."""
        while begin < end:
            if tag := tag_bytes(self.at(begin, 32)):
                begin += tag
                continue
            data = self.at(begin, min(end - begin, BLOCK_BYTES))
            if data.strip(b"\0"):
                return end - begin
            begin += len(data)
        return 0

    def _run(self, position: int, counts: dict[int, int]) -> int:
        """Walk over frames without a break. The position after them, which may be beyond the end.

        The loop is the hot one: a day of sound has three million frames.
        """
        size, lengths = self.size, _lengths()
        last, count = -1, 0
        block, start, offset, limit = b"", position, 0, -1
        while True:
            if offset > limit:
                position = start + offset
                self.at(position, BLOCK_BYTES)
                block, start = self.block, self.start
                offset, limit = position - start, min(len(block), size - start) - 4
                if offset > limit:  # the end of the file
                    break
            if block[offset] != 0xFF:
                break
            code = block[offset + 1] << 8 | block[offset + 2]
            length = lengths[code]
            if length < 1:
                length = self.length(start + offset)
                if not length:
                    break
            shape = (code & SHAPE) << 8 | (block[offset + 3] >= 0xC0)
            if shape != last:
                counts[last] = counts.get(last, 0) + count
                last, count = shape, 0
            count += 1
            offset += length
        count -= start + offset > size  # a frame that is not whole
        counts[last] = counts.get(last, 0) + count
        counts.pop(-1, None)
        return start + offset
