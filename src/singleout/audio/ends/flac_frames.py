"""Where a FLAC ends, whatever its head states.

The head of a FLAC (``STREAMINFO``) states the number of samples, and decoders believe it. Programs
that write into a pipe state 0. Each frame states where it stands, so that the last frame shows the
true end.

Source: RFC 9639.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

BLOCK_BYTES = 1 << 18
TAIL_BYTES = 1 << 21
"""Longer than any two frames that encoders write."""
INFO_BYTES = 42
"""Length of the mark of a FLAC and of its ``STREAMINFO``."""
START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
"""Matches the first bytes of a FLAC."""
SYNC = re.compile(rb"\xff[\xf8\xf9]")


@dataclass(frozen=True)
class FlacEnd:
    """Where the sound of a FLAC ends.

    Attributes:
        stated: samples per channel that the head states; 0 for unknown.
        num_samples: samples per channel in whole frames.
        end: position after the last whole frame.
        sample_rate: Hz.
        is_cut: whether the last frame is not whole.

    Example:
        >>> FlacEnd(stated=0, num_samples=100, end=1_000, sample_rate=48_000, is_cut=False).stated
        0
    """

    stated: int
    num_samples: int
    end: int
    sample_rate: int
    is_cut: bool


def starts(file: BinaryIO, begin: int, size: int) -> list[int]:
    """Where FLACs start in a file: more than one if files were joined.

    Args:
        file: the open file.
        begin: where to start to search.
        size: length of the file in bytes.

    Example:
        >>> import io
        >>> starts(io.BytesIO((b"fLaC\\0\\0\\0\\x22" + bytes(92)) * 2), 0, 200)
        [0, 100]
    """
    positions: list[int] = []
    file.seek(begin)
    rest = b""
    while block := file.read(BLOCK_BYTES):
        data = rest + block
        positions += [begin - len(rest) + match.start() for match in START.finditer(data)]
        rest, begin = data[-7:], begin + len(block)
    return positions


def find_end(file: BinaryIO, begin: int, end: int) -> FlacEnd | None:
    """Find the last frame of a FLAC.

    Args:
        file: the open file.
        begin: where the FLAC starts.
        end: where the file or the next FLAC starts.

    Returns:
        Where the sound ends; None if no frame was recognised.

    Example:
        >>> import io, numpy as np, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(48_000), 48_000, format="FLAC")
        >>> find_end(file, 0, len(file.getvalue())).num_samples
        48000
    """
    file.seek(begin)
    info = file.read(INFO_BYTES)
    if len(info) < INFO_BYTES or end < begin + INFO_BYTES:
        return None
    packed = int.from_bytes(info[18:26], "big")
    rate, stated = packed >> 44, packed & (1 << 36) - 1
    block_size = int.from_bytes(info[8:10], "big")
    tail_start = max(begin + INFO_BYTES, end - TAIL_BYTES)
    file.seek(tail_start)
    tail = file.read(end - tail_start)
    if tail[-128:].startswith(b"TAG"):
        tail = tail[:-128]
    last = None
    ends: set[int] = set()
    for match in SYNC.finditer(tail):
        frame = _frame(tail, match.start(), block_size)
        if frame is None:
            continue
        # Other bytes may look like a frame. A true one follows another, or ends where it should.
        if last is None or frame[0] in ends or frame[1] == stated:
            last = frame
        ends.add(frame[1])
    if last is None or rate == 0:
        return None
    first, after, at = last
    is_whole = after == stated or _crc16(tail[at:]) == 0
    if is_whole:
        return FlacEnd(stated, after, end, rate, is_cut=False)
    return FlacEnd(stated, first, tail_start + at, rate, is_cut=True)


def _frame(data: bytes, at: int, block_size: int) -> tuple[int, int, int] | None:
    """First sample, sample after the last, and position of the frame that starts at a position."""
    head = data[at : at + 16]
    if len(head) < 6 or head[2] >> 4 == 0 or head[2] & 15 == 15:
        return None
    if head[3] >> 4 > 10 or head[3] & 1 or head[3] >> 1 & 7 == 3:
        return None
    extra = _extra_bytes(head[4])
    if extra is None or len(head) < 7 + extra:
        return None
    number = head[4] & (0x7F if extra == 0 else 0x3F >> extra)
    for byte in head[5 : 5 + extra]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    position, code = 5 + extra, head[2] >> 4
    if code in (6, 7):
        length = int.from_bytes(head[position : position + code - 5], "big") + 1
        position += code - 5
    else:
        length = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    position += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if position >= len(head) or _crc8(head[:position]) != head[position]:
        return None
    first = number if head[1] & 1 else number * block_size
    return first, first + length, at


def _extra_bytes(first: int) -> int | None:
    """Further bytes of a number that is coded as in UTF-8."""
    if first < 0x80:
        return 0
    ones = 8 - (~first & 0xFF).bit_length()
    return ones - 1 if 2 <= ones <= 7 else None


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    top, mask, value = 1 << bits - 1, (1 << bits) - 1, 0
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
    return value


def _crc8(data: bytes) -> int:
    return _crc(data, 0x07, 8)


CRC16 = [_crc(bytes([byte]), 0x8005, 16) for byte in range(256)]


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ CRC16[value >> 8 ^ byte]
    return value
