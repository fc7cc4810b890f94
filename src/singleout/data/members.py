"""Members of shards, read by their offset: no scan of a shard, and no more bytes than needed.

Shards stay open between reads. The reads name their offset, so that processes may share an open
shard, as forked workers do.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from singleout.data.clips import Member
from singleout.errors import InputError, ShardError
from singleout.storage.locations import Location

MAX_OPEN = 64
"""Shards that stay open."""
HEAD_BYTES = 4_096
"""Bytes in which a plain WAV has its header."""
BUFFER_BYTES = 1 << 20
"""Bytes that are read at once of a member that libsndfile reads."""
AGAIN = "copy the shard again, or prepare the corpus again"
"""The way out of damage."""
PCM_GUID = b"\1\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
"""Says, in an extensible header of a WAV, that samples are whole numbers."""


class Shard:
    """A shard that is open for reading at any offset.

    Args:
        place: path or address.

    Attributes:
        is_local: whether the place is a path.

    Raises:
        ShardError: the shard cannot be opened.

    Example:
        >>> Shard("missing.tar")
        Traceback (most recent call last):
        singleout.errors.ShardError: missing.tar: cannot be read: No such file or directory
    """

    def __init__(self, place: str) -> None:
        self._location = Location(place)
        self.is_local = self._location.is_local
        self._descriptor: int | None = None
        if self.is_local and hasattr(os, "pread"):
            with _shard_errors(place):
                self._descriptor = os.open(self._location.path, os.O_RDONLY)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(cast(int, self._descriptor))

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` to ``stop``.

        Raises:
            ShardError: the shard cannot be read, or ends before ``stop``.
        """
        with _shard_errors(self._location):
            if self._descriptor is None:
                content = self._location.read(start, stop)
            else:
                content = os.pread(self._descriptor, stop - start, start)
                while 0 < len(content) < stop - start and (
                    more := os.pread(
                        self._descriptor, stop - start - len(content), start + len(content)
                    )
                ):
                    content += more  # the system reads 2 GB at once at most
        if len(content) < stop - start:
            raise ShardError(
                f"{self._location}: lost its tail: byte {start + len(content):,} is missing: "
                f"{AGAIN}"
            )
        return content


@contextmanager
def _shard_errors(place: object) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise ShardError(str(error)) from None
    except OSError as error:
        raise ShardError(f"{place}: cannot be read: {error.strerror or error}") from None


def shard_state(place: str) -> str:
    """Size and version of a shard, which tell whether it is still the same.

    Args:
        place: path or address.

    Raises:
        ShardError: there is no such shard, or its store cannot be reached.

    Example:
        >>> shard_state("missing.tar")
        Traceback (most recent call last):
        singleout.errors.ShardError: missing.tar: no such file
    """
    with _shard_errors(place):
        return Location(place).state()


@lru_cache(MAX_OPEN)
def _local_path(place: str) -> Path | None:
    location = Location(place)
    return location.path if location.is_local else None


@lru_cache(MAX_OPEN)
def _opened(place: str, state: tuple[int, ...]) -> Shard:
    return Shard(place)


def open_shard(place: str) -> Shard:
    """A shard, open for reading. It stays open for a while.

    A shard at a path is opened again when another file has its name.

    Args:
        place: path or address.

    Raises:
        ShardError: the shard cannot be opened.

    Example:
        >>> open_shard(__file__) is open_shard(__file__)
        True
    """
    path = _local_path(place)
    if path is None:
        return _opened(place, ())
    with _shard_errors(place):
        status = path.stat()
    return _opened(place, (status.st_dev, status.st_ino, status.st_mtime_ns))


def read_member(member: Member) -> bytes:
    """The content of a member.

    Raises:
        ShardError: the shard cannot be read, or lost its tail.

    Example:
        >>> read_member(Member(__file__, 3, 7, 0, 0))
        b'Members'
    """
    return open_shard(member.shard).read(member.offset, member.offset + member.size)


class _MemberBytes(io.RawIOBase):
    """The bytes of a member as a file. It ends where a read fails, and keeps the failure.

    libsndfile reads by calls from C, which would print an exception and go on.
    """

    def __init__(self, member: Member) -> None:
        self._shard, self._offset, self._size = open_shard(member.shard), member.offset, member.size
        self._position = 0
        self.failure: ShardError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        try:
            content = self._shard.read(self._offset + self._position, self._offset + stop)
        except ShardError as error:
            self.failure = self.failure or error
            return 0
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


@contextmanager
def member_file(member: Member) -> Iterator[BinaryIO]:
    """A member as a file that can seek. A small one is read at once, a large one in parts.

    Raises:
        ShardError: the shard cannot be read, or lost its tail; at the end of the ``with`` block,
            if a later read failed.

    Example:
        >>> with member_file(Member(__file__, 3, 7, 0, 0)) as file:
        ...     file.read()
        b'Members'
    """
    if member.size <= BUFFER_BYTES:
        yield io.BytesIO(read_member(member))
        return
    content = _MemberBytes(member)
    try:
        yield cast(BinaryIO, io.BufferedReader(content, BUFFER_BYTES))
    finally:
        if content.failure is not None:
            raise content.failure from None


class PcmHead(NamedTuple):
    """What the header of a WAV with samples of 16 bits says.

    Attributes:
        sample_rate: Hz.
        channels: number of them.
        start: offset of the first sample in the file.
        num_samples: per channel.

    Example:
        >>> PcmHead(32_000, 1, 44, 64_000).num_samples
        64000
    """

    sample_rate: int
    channels: int
    start: int
    num_samples: int


def pcm_head(head: bytes, size: int) -> PcmHead | None:
    """Read the header of a WAV with samples of 16 bits.

    Args:
        head: the first bytes of the file.
        size: of the file, bytes.

    Returns:
        None if the file is something else, or its header is longer than ``head``.

    Example:
        >>> import io, numpy as np, soundfile
        >>> soundfile.write(file := io.BytesIO(), np.zeros(9), 8_000, format="WAV")
        >>> pcm_head(file.getvalue(), len(file.getvalue()))
        PcmHead(sample_rate=8000, channels=1, start=44, num_samples=9)
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    position, rate, channels = 12, 0, 0
    while position + 8 <= len(head):
        name, length = (
            head[position : position + 4],
            int.from_bytes(head[position + 4 : position + 8], "little"),
        )
        position += 8
        if name == b"fmt " and position + 16 <= len(head):
            code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head, position)
            is_pcm = code == 1 or (
                code == 0xFFFE and head[position + 24 : position + 40] == PCM_GUID
            )
            if not (is_pcm and bits == 16 and channels and rate):
                return None
        elif name == b"data":
            frames = length // (2 * channels) if channels else 0
            is_whole = position + length <= size
            return PcmHead(rate, channels, position, frames) if frames and is_whole else None
        position += length + length % 2
    return None


class PcmSound:
    """A member that is a WAV with samples of 16 bits. Only the samples of a crop are read.

    Args:
        member: the place in the shard.
        head: its header.

    Attributes:
        frames: samples per channel.
        samplerate: Hz.

    Example:
        >>> PcmSound(Member(__file__, 0, 100, 8_000, 10), PcmHead(8_000, 1, 44, 10)).frames
        10
    """

    def __init__(self, member: Member, head: PcmHead) -> None:
        self._member, self._head, self._position = member, head, 0
        self.frames, self.samplerate = head.num_samples, head.sample_rate

    def seek(self, frames: int) -> int:
        """Go to a sample."""
        self._position = frames
        return frames

    def read(
        self, frames: int, dtype: str = "float32", always_2d: bool = True
    ) -> NDArray[np.float32]:
        """Read samples, float32 [samples, channels]. There are fewer at the end.

        Args:
            frames: number of samples.
            dtype, always_2d: as libsndfile has them; only these values are possible.
        """
        first = self._member.offset + self._head.start
        stop = min(self._position + frames, self.frames)
        start, self._position = min(self._position, stop), stop
        frame = 2 * self._head.channels
        shard = open_shard(self._member.shard)
        content = shard.read(first + start * frame, first + stop * frame)
        samples = np.frombuffer(content, "<i2").astype(np.float32)
        samples *= np.float32(1 / 32_768)
        return samples.reshape(-1, self._head.channels)


def open_pcm(member: Member) -> PcmSound | None:
    """Open a member that is a WAV with samples of 16 bits; None if it is something else.

    None is also given for a small member in a store: one request for all of it takes less time than
    two, for its header and for a crop.

    Raises:
        ShardError: the shard cannot be read, or lost its tail.

    Example:
        >>> open_pcm(Member(__file__, 0, 100, 8_000, 10)) is None
        True
    """
    shard = open_shard(member.shard)
    if not shard.is_local and member.size <= BUFFER_BYTES:
        return None
    head = shard.read(member.offset, member.offset + min(HEAD_BYTES, member.size))
    parsed = pcm_head(head, member.size)
    return None if parsed is None else PcmSound(member, parsed)
