"""Parts of a file that describe its recording, read in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import BinaryIO, TypeVar

Chunks = tuple[tuple[bytes, bytes], ...]
"""Names and contents of parts of a file."""

Name = TypeVar("Name", bytes, int)

MAX_BYTES = 8 << 20
"""Limit of the describing parts of a file together. Those that exceed it are left out."""
MAX_CHUNKS = 10_000
"""A file with more parts is the work of an attacker, or is read at a wrong place."""


def read_parts(
    file: BinaryIO, parts: Iterable[tuple[Name, int, int]]
) -> tuple[tuple[tuple[Name, bytes], ...], list[Name]]:
    """Read parts of a file.

    Args:
        file: the file.
        parts: name, position of the content and its length in bytes.

    Returns:
        Name and content of the parts, and the names of those that are too large. A part that the
        end of the file cuts is in neither list.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import io
        >>> read_parts(io.BytesIO(b"....rain"), [(b"NAME", 4, 4), (b"ANNO", 8, 100)])
        (((b'NAME', b'rain'),), [])
    """
    end = file.seek(0, os.SEEK_END)
    whole = [part for part in parts if part[1] + part[2] <= end]
    kept: list[tuple[Name, bytes]] = []
    too_large: list[Name] = []
    fitting = _fitting([length for _, _, length in whole])
    for (name, position, length), fits in zip(whole, fitting, strict=True):
        if not fits:
            too_large.append(name)
            continue
        file.seek(position)
        kept.append((name, file.read(length)))
    return tuple(kept), too_large


def _fitting(lengths: list[int]) -> list[bool]:
    """Which parts fit the limit together. Small ones come first: a picture displaces no time
    code."""
    total, fitting = 0, [False] * len(lengths)
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        total += lengths[index]
        fitting[index] = total <= MAX_BYTES
    return fitting
