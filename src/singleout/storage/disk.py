"""Waiting until files are on the disk, where a power cut does not lose them.

On the machine of docs/reliability.md, this costs 0.7 ms for a file of 1 MB and 30 ms for one of 92 MB.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from errno import EINVAL, ENOTSUP
from pathlib import Path


def sync(descriptor: int) -> None:
    """Wait until an open file is on the disk. File systems without ``fsync`` are left alone.

    Raises:
        OSError: the disk is full or damaged.

    Example:
        >>> with Path(__file__).open("rb") as file:
        ...     sync(file.fileno())
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (EINVAL, ENOTSUP):
            raise


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk; see ``sync``.

    Example:
        >>> sync_file(Path(__file__))
    """
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that.

    Example:
        >>> sync_names(Path(__file__).parent)
    """
    with suppress(OSError):  # Windows, and folders that may not be read
        sync_file(folder)
