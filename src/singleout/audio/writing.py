"""Writing audio files, which appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio.channels import vorbis_holds
from singleout.audio.encoding import BLOCK_FRAMES, AiffFile, EncodedFile, FlacFile, OggFile
from singleout.audio.info import (
    MAX_FLAC_CHANNELS,
    MAX_FLAC_RATE,
    AudioInfo,
    OutputKind,
)
from singleout.audio.wav import WavFile, WavHead, wav_chunks
from singleout.errors import OutputError, one_line
from singleout.storage.atomic import replacing


class _Sink(Protocol):
    def write(self, block: NDArray[Any]) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


class AudioWriter:
    """A new file that is written block by block. ``new_audio`` opens and closes it.

    Attributes:
        kind: container and encoding of the file.

    Example:
        >>> import tempfile
        >>> from singleout.audio import read_audio
        >>> kind = OutputKind("wav", "PCM_16")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.wav"
        ...     with new_audio(path, AudioInfo(16_000, 1), kind) as writer:
        ...         for _ in range(3):
        ...             writer.write(np.full((1, 1_000), 0.5))
        ...     read_audio(path)[0].shape
        (1, 3000)
    """

    def __init__(self, path: Path, sink: _Sink, kind: OutputKind) -> None:
        self._path, self._sink = path, sink
        self._is_open = True
        self.kind = kind

    def write(self, block: NDArray[Any]) -> None:
        """Append a block.

        Args:
            block: float [channels, samples] with full scale 1. Where the file holds integers, the
                values must lie on their grid and within their limits (``quantised``). Lossy
                encodings are clipped to full scale.

        Raises:
            OutputError: the disk is full or was removed.
        """
        bits = self.kind.bits
        if bits is None:
            self._written(np.clip(block, -1, 1) if self.kind.is_lossy else block)
            return
        # Every sink takes the highest bits of 32-bit integers.
        scaled = block.astype(np.float64) * float(1 << (bits - 1))
        self._written(np.rint(scaled).astype(np.int64).astype(np.int32) << (32 - bits))

    def close(self) -> None:
        """Complete the file, which appears at the end of ``new_audio``. Further calls do nothing.

        Raises:
            OutputError: the disk is full or was removed.
        """
        if self._is_open:
            self._is_open = False
            with self._one_line():
                self._sink.close()

    def abandon(self) -> None:
        """Close the file after an error, without an error that would hide the first one."""
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
            # On a full disk soundfile writes too few frames, which fails its assertion.
            reason = getattr(error, "error_string", "is the disk full?").rstrip(".")
            raise OutputError(f"{self._path}: cannot be written: {reason}") from None


@contextmanager
def new_audio(path: Path, info: AudioInfo, kind: OutputKind) -> Iterator[AudioWriter]:
    """Write a new audio file, which appears at the end of the ``with`` block.

    On any error no new file appears, and a file that was at ``path`` before stays.

    Args:
        path: the file; its folder must exist.
        info: rate in Hz, number of channels and description of the recording.
        kind: container and encoding of the file.

    Yields:
        A writer that takes the samples.

    Raises:
        OutputError: the file cannot be written, or its format does not hold such a recording.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.flac"
        ...     kind = OutputKind("flac", "PCM_16")
        ...     with new_audio(path, AudioInfo(16_000, 2), kind) as writer:
        ...         writer.write(np.zeros((2, 1_000)))
        ...     soundfile.info(path).subtype
        'PCM_16'
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
    if kind.container == "ogg" and (
        info.is_ambisonic or not vorbis_holds(info.channels, info.channel_mask)
    ):
        what = "ambisonic channels" if info.is_ambisonic else "the loudspeakers of this recording"
        raise OutputError(f"{path}: Ogg Vorbis does not hold {what}: write WAV or FLAC")
    try:
        if kind.container == "wav":
            return WavFile(partial, WavHead(info, kind.subtype, wav_chunks(info)))
        if kind.container == "flac":
            return FlacFile(partial, info, kind)
        if kind.container == "aiff":
            return AiffFile(partial, info, kind)
        if kind.container == "ogg":
            return OggFile(partial, info, kind)
        return EncodedFile(partial, info, kind, info.tags)
    except (soundfile.LibsndfileError, ValueError) as error:
        reason = getattr(error, "error_string", None) or one_line(error)
        if "System error" in reason:
            raise OutputError(f"{path}: cannot be written") from None
        raise OutputError(
            f"{path}: {info.channels} channels at a sample rate of {info.sample_rate:,} Hz do not "
            f"fit {kind.container.upper()} ({reason.rstrip('.')}): write WAV"
        ) from None


def quantised(
    target: NDArray[Any], mixture: NDArray[Any], kind: OutputKind
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Round target and residual to a file's samples, so that their sum is the mixture.

    Integers have limits: where the residual would exceed them, the target is changed. Floating
    point has no limits. Lossy encodings get the target unchanged.

    Args:
        target: float [channels, samples].
        mixture: [channels, samples] in the type of the recording (``AudioInfo.dtype``).
        kind: the files of target and residual.

    Returns:
        Target and residual, both [channels, samples] in the type of the mixture.

    Example:
        >>> mixture = np.array([[0.5, -1.0]], np.float32)
        >>> target, residual = quantised(0.3 * mixture, mixture, OutputKind("wav", "PCM_16"))
        >>> np.array_equal(target + residual, mixture)
        True
        >>> target * 2**15
        array([[ 4915., -9830.]], dtype=float32)
    """
    if kind.bits is not None:
        steps = mixture.dtype.type(1 << (kind.bits - 1))
        lowest, highest = mixture.dtype.type(-1), 1 - 1 / steps
        whole = np.rint(mixture * steps) / steps
        rounded = np.rint(np.clip(target, -1, 1).astype(mixture.dtype) * steps) / steps
        # A target of 0 and one that equals the mixture are within both pairs of bounds.
        low = np.maximum(lowest, whole - highest)
        high = np.minimum(highest, whole - lowest)
        rounded = np.clip(rounded, np.minimum(low, highest), np.maximum(high, lowest))
        return rounded, np.clip(whole - rounded, lowest, highest)
    rounded = target.astype(mixture.dtype)
    return rounded, mixture - rounded


def write_wav(path: str | Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    """Write a waveform as a 32-bit float WAV, which appears whole or not at all.

    Samples are stored exactly, beyond full scale, too. Equal audio gives equal bytes.

    Args:
        path: the file; its folder must exist.
        audio: float32 [channels, samples].
        sample_rate: Hz.

    Raises:
        OutputError: the file cannot be written, or the rate is impossible.

    Example:
        >>> import tempfile
        >>> from singleout.audio import read_audio
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_wav(f"{folder}/x.wav", np.full((1, 3), 1.5, np.float32), 16_000)
        ...     read_audio(f"{folder}/x.wav")
        (array([[1.5, 1.5, 1.5]], dtype=float32), 16000)
    """
    if sample_rate <= 0:
        raise OutputError(f"{path}: sample rate {sample_rate} Hz cannot be written")
    info = AudioInfo(sample_rate, len(audio))
    with new_audio(Path(path), info, OutputKind("wav", "FLOAT")) as file:
        for start in range(0, audio.shape[1], BLOCK_FRAMES):
            file.write(audio[:, start : start + BLOCK_FRAMES])
