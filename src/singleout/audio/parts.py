"""Parts of a file that describe its recording, read in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

Chunks = tuple[tuple[bytes, bytes], ...]
"""Names and contents of parts of a file."""

MAX_BYTES = 8 << 20
"""Limit of the describing parts of a file together. Those that exceed it are left out."""
MAX_CHUNKS = 10_000
"""A file with more parts is the work of an attacker, or is read at a wrong place."""


def read_parts(
    file: BinaryIO, parts: Iterable[tuple[bytes, int, int]]
) -> tuple[Chunks, list[bytes]]:
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
    kept: list[tuple[bytes, bytes]] = []
    too_large: list[bytes] = []
    end, total = file.seek(0, 2), 0
    for name, position, length in parts:
        if position + length > end:
            continue
        if total + length > MAX_BYTES:
            too_large.append(name)
            continue
        file.seek(position)
        kept.append((name, file.read(length)))
        total += length
    return tuple(kept), too_large
