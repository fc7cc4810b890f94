"""Tar files without compression: written with fixed bytes, and read member by member.

The layout is that of WebDataset (https://github.com/webdataset/webdataset): members of one sample
follow each other, and have the same name up to the first dot of its last part.
"""

from __future__ import annotations

import hashlib
import tarfile
from typing import IO

BLOCK = 512
"""Tar files consist of blocks of so many bytes."""
RECORD = 20 * BLOCK
"""The length of a tar file is a multiple of it, as tar programs write it."""


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
