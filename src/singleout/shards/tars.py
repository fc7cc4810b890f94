"""Tar files without compression: written with fixed bytes, and read member by member.

The layout is that of WebDataset (https://github.com/webdataset/webdataset): members of one sample
follow each other, and have the same name up to the first dot of its last part.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from typing import IO, BinaryIO, NamedTuple, cast

from singleout.errors import InputError, one_line, shortened
from singleout.storage.locations import Location

BLOCK = 512
"""Tar files consist of blocks of so many bytes."""
RECORD = 20 * BLOCK
"""The length of a tar file is a multiple of it, as tar programs write it."""
MAX_HEADER_BYTES = 1 << 20
"""A longer header of a member is refused: names and other texts need less."""
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
"""First bytes of compressed files, the names of the formats, and programs that unpack them."""


class TarWriter:
    """Writes a tar file. Its bytes depend on the names and contents of its members alone.

    Args:
        file: open for writing, at its start.

    Attributes:
        size: bytes written.

    Example:
        >>> import io
        >>> tar = TarWriter(file := io.BytesIO())
        >>> offset = tar.add("000000001.txt", b"rain")
        >>> offset, file.getvalue()[offset : offset + 4]
        (512, b'rain')
        >>> tar.finish()[:8], tar.size
        ('9f490ef9', 10240)
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self.size = file, hashlib.sha256(), 0

    def add(self, name: str, content: bytes) -> int:
        """Write a member; the offset of its content in the file."""
        info = tarfile.TarInfo(name)  # times, owners and ids are 0, the mode is 0644
        info.size = len(content)
        self._write(info.tobuf(tarfile.GNU_FORMAT))
        offset = self.size
        self._write(content)
        self._write(bytes(-len(content) % BLOCK))
        return offset

    def finish(self) -> str:
        """Write the end mark; the SHA-256 of the file, as hexadecimal digits."""
        self._write(bytes(2 * BLOCK + -(self.size + 2 * BLOCK) % RECORD))
        return self._digest.hexdigest()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.size += len(content)


class TarMember(NamedTuple):
    """A file in a tar file.

    Attributes:
        key: its name up to the first dot of its last part; the same for a whole sample.
        suffix: the rest of its name, without the dot, in small letters.
        name: its name.
        offset, size: first byte and number of bytes in the tar file.

    Example:
        >>> TarMember("dogs/7", "flac", "dogs/7.flac", 512, 1_000).key
        'dogs/7'
    """

    key: str
    suffix: str
    name: str
    offset: int
    size: int


def scan_tar(place: Location) -> Iterator[TarMember]:
    """The files in a tar file, in their order. Only their headers are read.

    Names of any length are read (PAX, GNU). Folders, links, files without a suffix, and notes of
    WebDataset on a shard (``__name__``) are left out.

    Args:
        place: of the tar file.

    Raises:
        InputError: the file cannot be read, is compressed or no tar file, is damaged, or lost its
            tail.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Location(folder) / "0.tar"
        ...     with place.path.open("wb") as file:
        ...         tar = TarWriter(file)
        ...         _ = tar.add("dogs/7.txt", b"a dog")
        ...         _ = tar.finish()
        ...     list(scan_tar(place))
        [TarMember(key='dogs/7', suffix='txt', name='dogs/7.txt', offset=512, size=5)]
    """
    size = place.size()
    with place.open() as file:
        headers = _Headers(file, size)
        head = headers.read(8)
        for start, (kind, program) in COMPRESSED.items():
            if head.startswith(start):
                raise InputError(
                    f"{place}: is compressed ({kind}), but crops are read by their offset: unpack "
                    f"the file with {program}"
                )
        headers.seek(0)
        try:
            yield from _members(tarfile.TarFile(fileobj=cast(IO[bytes], headers)), headers)
        except _LostTailError as error:
            raise InputError(
                f"{place}: lost its tail: {error}: copy or make the shard again"
            ) from None
        except InputError:
            raise
        except (tarfile.TarError, ValueError, OSError, RecursionError, LookupError) as error:
            raise InputError(f"{place}: cannot be read as a tar file: {one_line(error)}") from None


class _LostTailError(Exception):
    """A tar file ends too early."""


class _Headers:
    """An open tar file for ``tarfile``, which reads nothing but headers from it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size

    def read(self, num_bytes: int) -> bytes:
        if not 0 <= num_bytes <= MAX_HEADER_BYTES:
            raise ValueError(f"a header has {num_bytes:,} bytes")
        return self._file.read(num_bytes)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _members(tar: tarfile.TarFile, file: _Headers) -> Iterator[TarMember]:
    end = 0
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else all of them stay in memory
        if info.size < 0 or info.offset < end or info.offset_data <= info.offset:
            raise ValueError(f"the member {shortened(info.name)} has an impossible place")
        size = info.size if info.isreg() else 0
        end = info.offset_data + size + -size % BLOCK
        if end > file.size:
            name = shortened(info.name)
            raise _LostTailError(f"{name} ends at byte {end:,}, the file has {file.size:,}")
        if info.issparse():
            raise ValueError(f"the member {shortened(info.name)} is stored with holes")
        if info.isreg() and (key := _key(info.name)):
            suffix = info.name[len(key) + 1 :].lower()
            yield TarMember(key, suffix, info.name, info.offset_data, info.size)
    # tarfile stops without an error at what is no header.
    file.seek(tar.offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise _LostTailError("it has no end mark")
    if any(block):
        raise ValueError(f"byte {tar.offset:,} begins no header")


def _key(name: str) -> str:
    """The key of the sample of a member; empty if it belongs to none."""
    if "/" not in name and name.startswith("__") and name.endswith("__"):
        return ""
    folder, slash, base = name.rpartition("/")
    stem, dot, _ = base.partition(".")
    return folder + slash + stem if stem and dot else ""


class TarSample(NamedTuple):
    """The files of a sample.

    Attributes:
        key: of the sample.
        members: by suffix.

    Example:
        >>> TarSample("dogs/7", {}).key
        'dogs/7'
    """

    key: str
    members: dict[str, TarMember]


def scan_samples(place: Location) -> Iterator[TarSample]:
    """The samples in a shard, in their order.

    Args:
        place: of the shard.

    Raises:
        InputError: see ``scan_tar``; or a sample has two files of one suffix.

    Example:
        >>> list(scan_samples(Location("missing.tar")))
        Traceback (most recent call last):
        singleout.errors.InputError: missing.tar: no such file
    """
    sample: TarSample | None = None
    for member in scan_tar(place):
        if sample is None or member.key != sample.key:
            if sample is not None:
                yield sample
            sample = TarSample(member.key, {})
        if member.suffix in sample.members:
            raise InputError(f"{place}: has the member {shortened(member.name)} twice")
        sample.members[member.suffix] = member
    if sample is not None:
        yield sample
