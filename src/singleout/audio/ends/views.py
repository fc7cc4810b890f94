"""A part of a file as a file of its own, with a corrected head.

libsndfile believes the sizes in a head. Where they are wrong, it gets a view of the file: the head
with the right sizes, then the samples as they are. The file itself is never changed.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any


class FileView(io.RawIOBase):
    """Bytes of a file from ``begin`` to ``end``, the first of them replaced.

    Args:
        path: the file.
        begin: position of the first byte.
        end: position after the last byte.
        head: bytes in the place of the first ones.
        replaced: how many bytes of the file ``head`` stands for.

    Raises:
        OSError: the file cannot be read; from all methods.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x"
        ...     _ = path.write_bytes(b"0123456789")
        ...     with FileView(path, 2, 8, head=b"abc", replaced=2) as view:
        ...         view.read()
        b'abc4567'
    """

    def __init__(
        self, path: Path, begin: int, end: int, head: bytes = b"", replaced: int = 0
    ) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._head, self._shift = head, begin + replaced - len(head)
        self._length = max(end - self._shift, len(head))
        self._position = 0

    def readable(self) -> bool:
        """Views can be read."""
        return True

    def seekable(self) -> bool:
        """Views can be read from any position."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position; see ``io.IOBase.seek``."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        """The position of the next byte."""
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer with the next bytes; how many there were."""
        target = memoryview(buffer).cast("B")[: max(0, self._length - self._position)]
        count = max(0, min(len(target), len(self._head) - self._position))
        target[:count] = self._head[self._position : self._position + count]
        if count < len(target):
            self._file.seek(self._shift + self._position + count)
            count += self._file.readinto(target[count:])
        self._position += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
