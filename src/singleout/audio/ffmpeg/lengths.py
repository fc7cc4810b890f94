"""Lengths that media files state, also where FFmpeg guesses one for a file that is cut."""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

HEAD_BYTES = 1 << 16
MAX_BOXES = 32
"""Boxes of an MP4 before its first fragment."""
FIRST_BOXES = (b"ftyp", b"mdat", b"wide", b"free", b"skip")
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""GUID of the object with the length of a WMA or WMV."""


def stated_end(container: Any, *, is_guess: bool) -> float | None:
    """The end that a container states, in the time of its streams.

    Args:
        container: an open container of PyAV.
        is_guess: whether FFmpeg guesses the length.

    Returns:
        Seconds; None if it states no length.

    Example:
        >>> import av, tempfile, numpy as np
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_wav(f"{folder}/x.wav", np.zeros((2, 4_000), np.float32), 16_000)
        ...     with av.open(f"{folder}/x.wav") as container:
        ...         stated_end(container, is_guess=False)
        0.25
    """
    stated = _header_seconds(container.name, container.format.name)
    if stated is not None:
        return stated
    if container.duration is None or is_guess:
        return None
    lengths = [
        float(stream.duration * stream.time_base)
        for stream in container.streams
        if stream.duration is not None
    ]
    # FFmpeg adds the start of a stream to its length, but some formats include it.
    length = min(float(container.duration) / 1e6, max(lengths, default=math.inf))
    start = float(container.start_time or 0) / 1e6
    return length if length > start else start + length


def _header_seconds(path: str, format: str) -> float | None:
    """The length in the header of a cut AVI or ASF, which FFmpeg guesses from the size of a file.

    The result is None for other files.
    """
    head = b""
    with suppress(OSError), Path(path).open("rb") as file:
        head = file.read(HEAD_BYTES)
        size = file.seek(0, 2)
    with suppress(struct.error):
        if format == "avi":
            (riff_bytes,) = struct.unpack_from("<I", head, 4)
            (microseconds,) = struct.unpack_from("<I", head, 32)
            (num_pictures,) = struct.unpack_from("<I", head, 48)
            if size < riff_bytes < 0xFFFF_FFFF and head[24:28] == b"avih":
                return float(microseconds * num_pictures) / 1e6
        if format == "asf":
            start = head.find(ASF_PROPERTIES)
            file_bytes, _, _, length, _, preroll = struct.unpack_from("<6Q", head, start + 40)
            if start >= 0 and size < file_bytes:
                return max(0.0, float(length) / 1e7 - float(preroll) / 1e3)
    return None


def starts_as_mp4(path: str) -> bool:
    """Whether the first box of a file is one with which an MP4 or MOV starts.

    Example:
        >>> starts_as_mp4("missing.mp4")
        False
    """
    with suppress(OSError), Path(path).open("rb") as file:
        return file.read(8)[4:] in FIRST_BOXES
    return False


def is_fragmented(path: str) -> bool:
    """Whether a file is an MP4 of fragments, which states the length of each, but not of all.

    Example:
        >>> is_fragmented("missing.mp4")
        False
    """
    with suppress(OSError), Path(path).open("rb") as file:
        for _ in range(MAX_BOXES):
            size, name = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
            if name == b"moof":
                return True
            start = 8
            if size == 1:
                (size,) = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))
                start = 16
            if not start <= size < 1 << 62:
                return False
            file.seek(size - start, 1)
    return False
