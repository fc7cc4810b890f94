"""A recording becomes a sound of a shard: decoded, mixed to mono, resampled and measured.

Samples wait in a temporary file until their peak is known. So memory grows by the two bytes of a
sample in the shard, and not by those of decoding and resampling.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.audio import ResampleStream, open_audio
from singleout.errors import AudioError, OutputError
from singleout.prepare.fingerprints import fingerprint
from singleout.prepare.loudness import Loudness
from singleout.prepare.settings import PrepareConfig

FULL_SCALE = 32_768
BLOCK = 1 << 19
"""Samples that are encoded and measured at once."""
CLIPPED_PEAK, CLIPPED_RUN = 0.985, 3
"""Samples at this level or above are clipped if at least so many follow each other."""
SILENT_DB, WINDOW_SECONDS = -60.0, 0.05
"""A window of this length is silent if its RMS is below this level."""
MAX_FLAC_CHANNELS = 8
MAX_WAV_BYTES = (1 << 32) - 1_000
"""Bytes of samples in a WAV, whose header has 32 bits for its size."""


@dataclass(frozen=True)
class Sound:
    """A sound as it goes into a shard.

    Attributes:
        samples: int16 [samples, channels].
        statistics: JSON object: ``loudness_lufs``, ``rms_db``, ``peak_db`` and ``silence_share`` of
            the samples; ``gain_db`` that kept them below full scale; ``clipped_share``,
            ``source_seconds``, ``source_rate`` and ``source_channels`` of the recording;
            ``digest`` of its decoded samples and ``fingerprint``, as hexadecimal digits.
        warnings: what is wrong with the recording, without its name.
        decode_seconds: processor time of decoding, mixing and resampling.

    Example:
        >>> Sound(np.zeros((8, 1), np.int16), {"peak_db": None}, (), 0.0).mono()
        array([0., 0., 0., 0., 0., 0., 0., 0.], dtype=float32)
    """

    samples: NDArray[np.int16]
    statistics: dict[str, Any]
    warnings: tuple[str, ...]
    decode_seconds: float

    def mono(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Samples from ``start`` to ``stop``, the mean of all channels, full scale 1."""
        part = self.samples[start:stop].astype(np.float32) / FULL_SCALE
        return np.ascontiguousarray(part.mean(1))

    def encoded(self, format: str, sample_rate: int) -> bytes:
        """The content of an audio file with these samples, ``flac`` or ``wav`` of 16 bits."""
        file = io.BytesIO()
        channels = self.samples.shape[1]
        with soundfile.SoundFile(
            file, "w", sample_rate, channels, subtype="PCM_16", format=format.upper()
        ) as writer:
            for start in range(0, len(self.samples), BLOCK):
                writer.write(self.samples[start : start + BLOCK])
        return file.getvalue()


def read_sound(path: Path, config: PrepareConfig) -> Sound:
    """Read and measure a recording.

    Args:
        path: any media that ``audio.open_audio`` reads. What can be read of a damaged recording is
            taken, and a warning says what is missing.
        config: rate, format and channels of the sound.

    Raises:
        AudioError: the recording cannot be read, has more channels than a FLAC, or is too long for
            a WAV or the memory of this machine; or it is silent: BS.1770 gives it no loudness.
        OutputError: the folder for temporary files is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     noise = np.random.default_rng(0).normal(0, 0.1, 8_000)
        ...     soundfile.write(f"{folder}/rain.wav", noise, 8_000)
        ...     rain = read_sound(Path(folder, "rain.wav"), PrepareConfig())
        >>> rain.samples.shape, round(rain.statistics["rms_db"])
        ((32000, 1), -20)
    """
    started = time.process_time()
    with TemporaryFile() as spool:
        source = _Source()
        for block in source.blocks(path, config):
            _write(spool, block)
        try:
            samples, gain = _quantised(spool, source.channels, source.peak)
        except MemoryError:
            raise AudioError(f"{path}: is too long for this machine's memory") from None
    if config.format == "wav" and samples.nbytes > MAX_WAV_BYTES:
        raise AudioError(f"{path}: is too long for a WAV: choose the format flac")
    decode_seconds = time.process_time() - started
    statistics = _measured(samples, config.sample_rate)
    if statistics["loudness_lufs"] is None:
        raise AudioError(f"{path}: is silent: it is quieter than -70 LUFS everywhere")
    statistics |= {
        "clipped_share": _rounded(source.clipped.share),
        "gain_db": _decibels(gain),
        "source_seconds": _rounded(source.num_samples / source.sample_rate),
        "source_rate": source.sample_rate,
        "source_channels": source.source_channels,
        "digest": source.digest.hexdigest(),
    }
    return Sound(samples, statistics, source.warnings, decode_seconds)


def _write(spool: IO[bytes], block: NDArray[np.float32]) -> None:
    """Append samples [channels, samples] to the temporary file."""
    try:
        spool.write(np.ascontiguousarray(block.T).data)
        spool.flush()
    except OSError as error:
        raise OutputError(
            f"no space for temporary files: {error.strerror or error}: set TMPDIR to a folder on "
            "another disk"
        ) from None


class _Source:
    """A recording while it is decoded, and what is counted meanwhile."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self.clipped = _ClippedRuns()
        self.peak = 0.0
        self.num_samples = self.channels = self.sample_rate = self.source_channels = 0
        self.warnings: tuple[str, ...] = ()

    def blocks(self, path: Path, config: PrepareConfig) -> Iterator[NDArray[np.float32]]:
        """The samples of the sound, float32 [channels, samples]."""
        with open_audio(path) as reader:
            self.sample_rate, self.source_channels = reader.info.sample_rate, reader.info.channels
            self.channels = 1 if config.channels == "mono" else self.source_channels
            if config.format == "flac" and self.channels > MAX_FLAC_CHANNELS:
                raise AudioError(
                    f"{path}: has {self.channels} channels, and FLAC holds {MAX_FLAC_CHANNELS}: "
                    "choose the format wav, or mono"
                )
            self.digest.update(f"{self.sample_rate} {self.source_channels} ".encode())
            stream = ResampleStream(self.sample_rate, config.sample_rate, self.channels)
            for block in reader.blocks():
                with np.errstate(over="ignore"):
                    block = block.astype(np.float32, copy=False)
                if not np.isfinite(block).all():
                    raise AudioError(f"{path}: has samples above 3e38, which no sound has")
                self.num_samples += block.shape[1]
                self.digest.update(np.ascontiguousarray(block.T).reshape(-1).data)
                self.clipped.push(block)
                if config.channels == "mono":
                    block = block.mean(0, keepdims=True)
                yield self._resampled(stream.push(block))
            yield self._resampled(stream.finish())
            texts = (note.text.removeprefix(f"{path}: ") for note in reader.notes)
            self.warnings = tuple(dict.fromkeys(texts))

    def _resampled(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
        return block


class _ClippedRuns:
    """Counts samples of runs at full scale."""

    def __init__(self) -> None:
        self._last = np.zeros((0, 0), bool)
        self._num_clipped = self._num_samples = 0

    def push(self, block: NDArray[np.float32]) -> None:
        is_high = np.abs(block) >= CLIPPED_PEAK
        if is_high.any():
            # The end of the block before is looked at again, so that no run is cut.
            if not self._last.size:
                self._last = np.zeros((len(block), 0), bool)
            joined = np.concatenate([self._last, is_high], axis=1)
            self._num_clipped += _in_runs(joined) - _in_runs(self._last)
        self._num_samples += block.size
        self._last = is_high[:, -2 * CLIPPED_RUN :]

    @property
    def share(self) -> float:
        return self._num_clipped / max(1, self._num_samples)


def _in_runs(is_high: NDArray[np.bool_]) -> int:
    """Number of samples in runs of at least ``CLIPPED_RUN``."""
    if is_high.shape[1] < CLIPPED_RUN:
        return 0
    starts = np.lib.stride_tricks.sliding_window_view(is_high, CLIPPED_RUN, axis=1).all(2)
    covered = np.zeros_like(is_high)
    for shift in range(CLIPPED_RUN):
        covered[:, shift : shift + starts.shape[1]] |= starts
    return int(covered.sum())


def _quantised(spool: IO[bytes], channels: int, peak: float) -> tuple[NDArray[np.int16], float]:
    """Samples as 16-bit integers, and the gain that keeps them below full scale."""
    limit = 1 - 1 / FULL_SCALE
    gain = min(1.0, limit / peak) if peak > 1 else 1.0
    if not spool.tell():
        return np.zeros((0, channels), np.int16), gain
    samples = np.memmap(spool, np.float32, "r").reshape(-1, channels)
    quantised = np.empty(samples.shape, np.int16)
    for start in range(0, len(samples), BLOCK):
        scaled = np.rint(samples[start : start + BLOCK] * np.float32(gain * FULL_SCALE))
        quantised[start : start + BLOCK] = scaled.clip(-FULL_SCALE, FULL_SCALE - 1)
    return quantised, gain


def _measured(samples: NDArray[np.int16], sample_rate: int) -> dict[str, Any]:
    """Statistics of the samples of a sound."""
    loudness = Loudness(sample_rate, samples.shape[1])
    window = max(1, round(WINDOW_SECONDS * sample_rate))
    silent = 10 ** (SILENT_DB / 10)
    power = peak = 0.0
    num_silent = num_windows = 0
    size = BLOCK // window * window or window
    for start in range(0, len(samples), size):
        block = samples[start : start + size].astype(np.float64).T / FULL_SCALE
        loudness.push(block)
        square = np.square(block).mean(0)
        power += float(square.sum())
        peak = max(peak, float(np.abs(block).max()))
        edges = np.arange(0, len(square), window)
        means = np.add.reduceat(square, edges) / np.diff([*edges, len(square)])
        num_silent, num_windows = num_silent + int((means < silent).sum()), num_windows + len(means)
    lufs = loudness.lufs()
    mono = samples[: 2 * BLOCK].astype(np.float32).mean(1) / np.float32(FULL_SCALE)
    bits = fingerprint(mono, sample_rate)
    return {
        "loudness_lufs": None if lufs is None else _rounded(lufs),
        "rms_db": _decibels(math.sqrt(power / max(1, len(samples)))),
        "peak_db": _decibels(peak),
        "silence_share": _rounded(num_silent / max(1, num_windows)),
        "fingerprint": None if bits is None else bits.hex(),
    }


def _decibels(amplitude: float) -> float | None:
    return _rounded(20 * math.log10(amplitude)) if amplitude > 0 else None


def _rounded(value: float) -> float:
    """Six digits: the last bits differ between machines."""
    return float(f"{value:.6g}")
