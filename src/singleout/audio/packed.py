"""WAV files whose samples have fewer bits than their places.

A sample of 24 bits in a place of 32 bits should stand in its highest bits. Some programs put it
into the lowest bits, for example ALSA's ``S24_LE``: its level would be 48 dB too low. Cool Edit
writes floats with such a header. libsndfile takes every header with 24 bits for three bytes per
sample, which gives noise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from singleout.audio.description.riff import chunks
from singleout.audio.info import AudioInfo, Note

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Packing:
    """Where the samples of a WAV stand.

    Attributes:
        sample_rate: Hz.
        channels: number of channels.
        place_bytes: bytes of the place of one sample, 2 to 4.
        bits: of a sample.
        start, num_bytes: position and length of all samples in the file, bytes.
        is_low: whether a sample stands in the lowest bits of its place.
        is_float: whether the samples are floats, whose full scale is that of ``bits``.

    Example:
        >>> packing = Packing(48_000, 2, place_bytes=4, bits=24, start=44, num_bytes=800)
        >>> packing.num_frames, packing.subtype
        (100, 'PCM_32')
    """

    sample_rate: int
    channels: int
    place_bytes: int
    bits: int
    start: int
    num_bytes: int
    is_low: bool = False
    is_float: bool = False

    @property
    def num_frames(self) -> int:
        """Samples per channel."""
        return self.num_bytes // (self.channels * self.place_bytes)

    @property
    def subtype(self) -> str:
        """libsndfile's name of the encoding that holds the samples."""
        if self.is_float:
            return "FLOAT"
        if not self.is_low:
            return f"PCM_{8 * self.place_bytes}"
        return next(f"PCM_{size}" for size in (16, 24, 32) if self.bits <= size)

    def blocks(self, file: BinaryIO) -> Iterator[NDArray[np.int32]]:
        """Read the samples of all channels in turn, each place in the highest bits of an int32."""
        frame_bytes = self.channels * self.place_bytes
        remaining = self.num_frames * frame_bytes
        file.seek(self.start)
        while remaining:
            size = min(remaining, max(1, BLOCK_BYTES // frame_bytes) * frame_bytes)
            data = file.read(size)
            places = np.zeros((len(data) // self.place_bytes, 4), np.uint8)
            whole = data[: len(places) * self.place_bytes]
            places[:, -self.place_bytes :] = np.frombuffer(whole, np.uint8).reshape(len(places), -1)
            yield places.view("<i4")[:, 0]
            remaining -= size


def packing(path: Path) -> Packing | None:
    """Find out how the samples of a WAV are packed.

    Args:
        path: a file of any kind.

    Returns:
        The packing; None if libsndfile reads the file rightly, or it is no such WAV.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_wav(f"{folder}/x.wav", np.zeros((1, 100), np.float32), 16_000)
        ...     print(packing(Path(folder) / "x.wav"))
        None
    """
    with path.open("rb") as file:
        content, start, num_bytes = b"", 0, 0
        for name, position, length in chunks(file):
            if name == b"fmt ":
                file.seek(position)
                content = file.read(min(length, 40))
            if name == b"data":
                start, num_bytes = position, length
                break
        if len(content) < 16 or not start:
            return None
        code, channels, rate, _, frame_bytes, field = struct.unpack("<HHIIHH", content[:16])
        bits = field
        if code == 0xFFFE and len(content) == 40:
            valid, code = struct.unpack("<2xH4xH", content[16:26])
            bits = min(field, valid or field)
        if code != 1 or not channels or not rate or frame_bytes % channels:
            return None
        place_bytes = frame_bytes // channels
        if not 2 <= place_bytes <= 4 or not 8 < bits < 8 * place_bytes:
            return None
        # The reader knows the true length (``ends``).
        rest = file.seek(0, 2) - start
        num_bytes = min(num_bytes, rest) or rest
        packed = Packing(rate, channels, place_bytes, bits, start, num_bytes)
        is_odd = field <= 8 * (place_bytes - 1)
        if is_odd and place_bytes == 4 and _is_float(packed, file):
            return replace(packed, is_float=True)
        if _is_low(packed, file, is_odd):
            return replace(packed, is_low=True)
        return packed if is_odd else None


def _is_float(packed: Packing, file: BinaryIO) -> bool:
    """Whether the samples are floats, judged by the first block that is not silent.

    Integers of any packing would be tiny, enormous or no numbers as floats.
    """
    for block in packed.blocks(file):
        if len(sounding := block[block != 0].view("<f4")):
            with np.errstate(invalid="ignore"):
                levels = np.abs(sounding)
                return bool(((levels > 2.0**-30) & (levels < 2.0 ** (packed.bits + 3))).all())
    return False


def _is_low(packed: Packing, file: BinaryIO, is_odd: bool) -> bool:
    """Whether the samples stand in the lowest bits of their places.

    The lowest bits are zeros if samples stand in the highest ones. The first loud sample decides,
    so that only quiet recordings are read to their end.

    Args:
        packed: how many bits there are.
        file: the WAV.
        is_odd: the header leaves a byte of each place out. The place is larger than it states, and
            the highest bits may have any value.
    """
    spare = 8 * packed.place_bytes - packed.bits
    uses_lowest = False
    for block in packed.blocks(file):
        places = block >> (32 - 8 * packed.place_bytes)
        uses_lowest = uses_lowest or bool((places & ((1 << spare) - 1)).any())
        if uses_lowest and is_odd:
            return True
        if (np.abs(places.astype(np.int64)) > 1 << (packed.bits - 1)).any():
            return False
    return uses_lowest


class PackedWav:
    """Reads a WAV with such samples. They get full scale 1, wherever they stand.

    Args:
        path: the file.
        packed: how its samples are packed.

    Attributes:
        info: describes the recording.
        notes: what a listener should know.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> packed = Packing(48_000, 1, place_bytes=4, bits=24, start=0, num_bytes=8, is_low=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x"
        ...     _ = path.write_bytes(struct.pack("<ii", 1 << 22, -1 << 23))
        ...     reader = PackedWav(path, packed)
        ...     samples = reader.read().tolist()
        ...     reader.close()
        >>> samples
        [[0.5, -1.0]]
    """

    def __init__(self, path: Path, packed: Packing) -> None:
        self._packed = packed
        self.info = AudioInfo(
            packed.sample_rate, packed.channels, packed.num_frames, "WAV", packed.subtype
        )
        self.notes: list[Note] = []
        self._shift = 0
        if packed.is_low:
            self._shift = 8 * packed.place_bytes - packed.bits
            text = f"its {packed.bits} bits stand in the lowest bits of {8 * packed.place_bytes}"
            self.notes.append(Note(f"{path}: {text}, and are read with full scale 1"))
        self._file = path.open("rb")
        self._blocks = packed.blocks(self._file)

    def read(self) -> NDArray[Any]:
        """The next block.

        Returns:
            [channels, samples] of ``info.dtype``; no samples at the end.
        """
        block = next(self._blocks, np.zeros(0, np.int32))
        frames = block[: len(block) // self.info.channels * self.info.channels]
        frames = frames.reshape(-1, self.info.channels).T
        if self._packed.is_float:
            samples = frames.view("<f4") / np.float32(1 << (self._packed.bits - 1))
        else:
            samples = (frames << self._shift) / 2**31
        return np.ascontiguousarray(samples, self.info.dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
