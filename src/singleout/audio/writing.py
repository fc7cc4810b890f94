"""Writing whole files or none."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from singleout.errors import AudioError

BLOCK_FRAMES = 1 << 16
MAX_FIELD = 0xFFFF_FFFF
MAX_BYTES = MAX_FIELD - 1_024
"""A WAV counts bytes in 32 bits; longer recordings become RF64, which most readers know."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``: it takes its place at the end, or vanishes on any error.

    Nested, all contents are written before the first one appears.

    Raises:
        AudioError: the file cannot be written there.
    """
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise AudioError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            partial.unlink()


def write_wav(path: str | Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    """Write [channels, samples] as a 32-bit float WAV, whole or not at all.

    Samples are stored as they are: values beyond full scale survive, and a target and a residual
    still add up to their mixture. The same audio gives the same bytes.

    Raises:
        AudioError: the file cannot be written there, or the rate is impossible.
    """
    if not 0 < sample_rate < MAX_FIELD:
        raise AudioError(f"{path}: sample rate {sample_rate} Hz cannot be written")
    with replacing(Path(path)) as partial, partial.open("wb") as file:
        _write_float_wav(file, audio, sample_rate)


def _write_float_wav(file: BinaryIO, audio: NDArray[np.float32], sample_rate: int) -> None:
    channels, num_frames = audio.shape
    frame_bytes = 4 * channels
    num_bytes = frame_bytes * num_frames
    is_long = num_bytes > MAX_BYTES
    ieee_float, bits, extension_bytes = 3, 32, 0
    bytes_per_second = min(frame_bytes * sample_rate, MAX_FIELD)
    fmt = struct.pack("<HHII", ieee_float, channels, sample_rate, bytes_per_second)
    fmt += struct.pack("<HHH", frame_bytes, bits, extension_bytes)
    chunks = _chunk(b"fmt ", fmt) + _chunk(b"fact", struct.pack("<I", min(num_frames, MAX_FIELD)))
    riff_bytes = 4 + len(chunks) + 8 + num_bytes
    if is_long:
        ds64 = _chunk(b"ds64", struct.pack("<QQQI", riff_bytes + 36, num_bytes, num_frames, 0))
        chunks = ds64 + chunks
    file.write(b"RF64" if is_long else b"RIFF")
    file.write(struct.pack("<I", MAX_FIELD if is_long else riff_bytes) + b"WAVE" + chunks)
    file.write(b"data" + struct.pack("<I", MAX_FIELD if is_long else num_bytes))
    for start in range(0, num_frames, BLOCK_FRAMES):
        block = audio[:, start : start + BLOCK_FRAMES]
        file.write(np.ascontiguousarray(block.T, dtype="<f4").tobytes())


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content
