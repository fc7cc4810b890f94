"""Gaps in the sound of an AVI. Its chunks have no timestamps; an empty chunk skips a frame."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_INDEX_BYTES = 64 << 20
MAX_CHUNKS = 64
"""Chunks of the file before its index."""
ENTRY = np.dtype([("name", "S4"), ("flags", "<u4"), ("place", "<u4"), ("size", "<u4")])


def skipped_frames(path: str, stream: Any) -> NDArray[np.intp]:
    """Where empty chunks of an AVI skip frames of sound, which FFmpeg leaves out.

    Only chunks that hold one frame each count: the file then states as many frames as chunks.

    Args:
        path: the file.
        stream: one of its streams of sound, in PyAV.

    Returns:
        For each skipped frame the number of frames before it that were not skipped, in order.

    Example:
        >>> skipped_frames("missing.avi", None).shape
        (0,)
    """
    index = np.frombuffer(_index(path), ENTRY)
    if not len(index):
        return np.zeros(0, np.intp)
    sizes = index["size"][index["name"] == b"%02dwb" % stream.index]
    if len(sizes) != stream.duration:
        return np.zeros(0, np.intp)
    before: NDArray[np.intp] = np.cumsum(sizes > 0)[sizes == 0]
    return before


def _index(path: str) -> bytes:
    """The entries of the index of an AVI; nothing of other files, or if there is none."""
    with suppress(OSError), Path(path).open("rb") as file:
        if file.read(12)[8:] != b"AVI ":
            return b""
        for _ in range(MAX_CHUNKS):
            name, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
            if name == b"idx1":
                content = file.read(min(size, MAX_INDEX_BYTES))
                return content[: len(content) - len(content) % ENTRY.itemsize]
            if not size:
                return b""
            file.seek(size + size % 2, 1)
    return b""
