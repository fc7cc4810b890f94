"""Where commands write: what would fail at the end, or lose something, is refused at once."""

from __future__ import annotations

import os
from pathlib import Path

from singleout.errors import OutputError
from singleout.storage.atomic import is_same_file


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written; create nothing yet.

    Raises:
        OutputError: it is a file, or may not be written or created.
    """
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
    except (OSError, ValueError, StopIteration) as error:
        raise OutputError(f"{folder}: cannot be the output folder: {error}") from None
    if not existing.is_dir():
        raise OutputError(f"{existing}: is a file, the output needs a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{existing}: cannot be written, choose another folder")


def check_file(path: Path, *kept: Path) -> None:
    """Refuse a file to write that cannot be, or that is one of those that are ``kept``.

    Raises:
        OutputError: it is a folder, is to be kept, or its folder cannot be written.
    """
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written: {error}") from None
    if is_folder:
        raise OutputError(f"{path}: is a folder: give the name of a file")
    check_folder(path.parent)
    for other in kept:
        if is_same_file(path, other):
            raise OutputError(f"{path}: would overwrite {other}: choose another file")
