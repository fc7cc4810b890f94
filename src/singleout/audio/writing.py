"""Writing whole files or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio.info import (
    MAX_FLAC_CHANNELS,
    MAX_FLAC_RATE,
    AudioInfo,
    OutputKind,
    sndfile_name,
)
from singleout.audio.riff import WavFile, info_chunk
from singleout.errors import OutputError, one_line
from singleout.storage.atomic import replacing

BLOCK_FRAMES = 1 << 16
LAST_BYTES = 1 << 20
"""An encoder holds less than that back until its file is closed."""


class _Sink(Protocol):
    def write(self, block: NDArray[Any]) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


class _SoundFile:
    """Any other format of libsndfile, with the face of ``WavFile``."""

    def __init__(self, path: Path, info: AudioInfo, kind: OutputKind) -> None:
        self._path = path
        self._file = soundfile.SoundFile(
            sndfile_name(path),
            "w",
            info.sample_rate,
            info.channels,
            kind.subtype,
            format=kind.container.upper(),
        )
        for name, text in info.tags.items():
            # A container without such a tag does without.
            with suppress(soundfile.LibsndfileError, RuntimeError, AttributeError):
                setattr(self._file, name, text)

    def write(self, block: NDArray[Any]) -> None:
        # Vorbis' encoder overflows its stack on long blocks.
        for start in range(0, block.shape[1], BLOCK_FRAMES):
            self._file.write(np.ascontiguousarray(block[:, start : start + BLOCK_FRAMES].T))

    def close(self) -> None:
        try:
            self._ask_for_room()
        finally:
            self._file.close()

    def _ask_for_room(self) -> None:
        """Encoders write their last frames on closing, and libsndfile hides that a disk is full."""
        with self._path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.write(bytes(LAST_BYTES))
            file.truncate(size)

    def abandon(self) -> None:
        with suppress(soundfile.LibsndfileError):
            self._file.close()


class AudioWriter:
    """A new file that is written block by block; see ``new_audio``."""

    def __init__(self, path: Path, sink: _Sink, kind: OutputKind) -> None:
        self._path, self._sink = path, sink
        self._is_open = True
        self.kind = kind

    def write(self, block: NDArray[Any]) -> None:
        """Float [channels, samples] with full scale 1; integers must hold its values (see
        ``quantised``).

        Raises:
            OutputError: the disk is full, or gone.
        """
        bits = self.kind.bits
        if bits is None:
            self._written(np.clip(block, -1, 1) if self.kind.is_lossy else block)
            return
        # Left-justified integers of 32 bits are what all sinks cut to their width.
        scaled = block.astype(np.float64) * float(1 << (bits - 1))
        self._written(np.rint(scaled).astype(np.int64).astype(np.int32) << (32 - bits))

    def close(self) -> None:
        """All that was written is in the file, which has still to appear; again does nothing.

        Raises:
            OutputError: the disk is full, or gone.
        """
        if self._is_open:
            self._is_open = False
            with self._one_line():
                self._sink.close()

    def abandon(self) -> None:
        """After an error, which this one must not hide."""
        if self._is_open:
            self._is_open = False
            with suppress(OSError):
                self._sink.abandon()

    def _written(self, block: NDArray[Any]) -> None:
        with self._one_line():
            self._sink.write(block)

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from None
        except (soundfile.LibsndfileError, AssertionError) as error:
            # A full disk is an assertion of soundfile's: fewer frames written than given.
            reason = getattr(error, "error_string", "is the disk full?").rstrip(".")
            raise OutputError(f"{self._path}: cannot be written: {reason}") from None


@contextmanager
def new_audio(path: Path, info: AudioInfo, kind: OutputKind) -> Iterator[AudioWriter]:
    """A file at ``path`` with rate, channels and description of ``info``, whole or not at all.

    Raises:
        OutputError: it cannot be written there, or its format does not hold such a recording.
    """
    with replacing(path) as partial:
        writer = AudioWriter(path, _opened(path, partial, info, kind), kind)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise


def _opened(path: Path, partial: Path, info: AudioInfo, kind: OutputKind) -> _Sink:
    if kind.container == "flac" and (
        info.channels > MAX_FLAC_CHANNELS or info.sample_rate > MAX_FLAC_RATE
    ):
        raise OutputError(
            f"{path}: FLAC holds {MAX_FLAC_CHANNELS} channels at {MAX_FLAC_RATE:,} Hz at most, "
            f"not {info.channels} at {info.sample_rate:,} Hz: write WAV"
        )
    try:
        if kind.container != "wav":
            return _SoundFile(partial, info, kind)
        describing = info.riff_chunks or info_chunk(info.tags)
        return WavFile(
            partial, info.sample_rate, info.channels, kind.subtype, info.channel_mask, describing
        )
    except (soundfile.LibsndfileError, ValueError) as error:
        reason = getattr(error, "error_string", None) or one_line(error)
        if "System error" in reason:
            raise OutputError(f"{path}: cannot be written there") from None
        raise OutputError(
            f"{path}: {info.channels} channels at a sample rate of {info.sample_rate:,} Hz do not "
            f"fit {kind.container.upper()} ({reason.rstrip('.')}): write WAV"
        ) from None


def quantised(
    target: NDArray[Any], mixture: NDArray[Any], kind: OutputKind
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Target and residual as a file of ``kind`` holds them, so that the two add up to the mixture.

    Integers have limits: where a residual would pass them, the target gives way. Floating point
    has none, and lossy encodings get the target as it is.

    Args:
        target: float [channels, samples].
        mixture: the same shape, in the type of the recording (``AudioInfo.dtype``).

    Returns:
        Both in the mixture's type.
    """
    if kind.bits is not None:
        steps = mixture.dtype.type(1 << (kind.bits - 1))
        lowest, highest = mixture.dtype.type(-1), 1 - 1 / steps
        whole = np.rint(mixture * steps) / steps
        found = np.rint(np.clip(target, -1, 1).astype(mixture.dtype) * steps) / steps
        # Each bound admits what the other asks for: a target of 0 or of the mixture satisfies both.
        low = np.maximum(lowest, whole - highest)
        high = np.minimum(highest, whole - lowest)
        found = np.clip(found, np.minimum(low, highest), np.maximum(high, lowest))
        return found, np.clip(whole - found, lowest, highest)
    found = target.astype(mixture.dtype)
    return found, mixture - found


def write_wav(path: str | Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    """Write [channels, samples] as a 32-bit float WAV, whole or not at all.

    Samples are stored as they are: values beyond full scale survive, and a target and a residual
    still add up to their mixture. The same audio gives the same bytes.

    Raises:
        OutputError: the file cannot be written there, or the rate is impossible.
    """
    if sample_rate <= 0:
        raise OutputError(f"{path}: sample rate {sample_rate} Hz cannot be written")
    info = AudioInfo(sample_rate, len(audio))
    with new_audio(Path(path), info, OutputKind("wav", "FLOAT")) as file:
        for start in range(0, audio.shape[1], BLOCK_FRAMES):
            file.write(audio[:, start : start + BLOCK_FRAMES])
