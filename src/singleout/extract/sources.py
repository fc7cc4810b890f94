"""Recordings that an extractor takes: files, arrays and file objects, all read alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Event
from typing import BinaryIO, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from singleout.audio import (
    MAX_CHANNELS,
    AudioInfo,
    AudioReader,
    InfrasoundFilter,
    Note,
    checked_array,
    open_media,
)
from singleout.audio.silence import MIN_AMPLIFIED_RMS
from singleout.errors import AudioError, Cancelled
from singleout.extract.options import ExtractOptions
from singleout.storage.locations import Location

MAX_HOURS = 24

Recording = str | Path | BinaryIO | Location | ArrayLike | tuple[ArrayLike, int]
"""A path; a binary file object; a file in a store; floats [samples] or [channels, samples] with
full scale 1; or such an array with its rate in Hz, ``(array, rate)``."""


class _ArrayReader:
    """An array with the face of an open file."""

    def __init__(self, mixture: NDArray[np.float32], sample_rate: int) -> None:
        self._mixture = mixture
        self.name = "audio"
        self.info = AudioInfo(sample_rate, len(mixture), mixture.shape[1])
        self.notes: list[Note] = []

    def reopened(self) -> AbstractContextManager[AudioReader]:
        return nullcontext(self)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        yield self._mixture


@contextmanager
def open_source(
    recording: Recording,
    sample_rate: int | None = None,
    options: ExtractOptions | None = None,
    cancel: Event | None = None,
) -> Iterator[AudioReader]:
    """Open a recording of any kind.

    Args:
        recording: see ``Recording``.
        sample_rate: of an array, Hz; with anything else it may be left out.
        options: tell which sound track is read, and whether a recording must be whole.
        cancel: stops the wait for a pipe.

    Raises:
        AudioError: the recording cannot be read, its rate is not ``sample_rate``, or it is longer
            or has more channels than an extractor takes; see also ``checked_array``.
        Cancelled: ``cancel`` is set.

    Example:
        >>> import numpy as np
        >>> with open_source((np.zeros(8_000, np.float32), 16_000)) as reader:
        ...     reader.info.sample_rate, reader.info.num_frames
        (16000, 8000)
    """
    options = options or ExtractOptions()
    if is_path_or_file(recording):
        strict, track = options.strict, options.track
        with open_media(recording, strict=strict, track=track, cancel=cancel) as reader:
            _check_rate(reader.name, reader.info.sample_rate, sample_rate)
            yield checked(reader)
    elif _is_array_with_rate(recording):
        array, rate = recording
        _check_rate("audio", rate, sample_rate)
        yield checked(_ArrayReader(*checked_array(array, rate)))
    else:
        yield checked(_ArrayReader(*checked_array(recording, sample_rate)))  # type: ignore[arg-type]


def path_of(recording: Recording) -> Path | None:
    """The path of a recording that is a file; None for all others.

    Example:
        >>> path_of("street.wav").name
        'street.wav'
    """
    return Path(recording) if isinstance(recording, str | Path) else None


def several(recordings: Recording | Iterable[Recording]) -> Iterable[Recording]:
    """Recordings one by one. A path, a file object or an array with its rate is one recording.

    Example:
        >>> several("street.wav"), several(["street.wav", "park.wav"])
        (['street.wav'], ['street.wav', 'park.wav'])
    """
    if is_path_or_file(recordings) or _is_array_with_rate(recordings):
        return [recordings]
    return recordings  # type: ignore[return-value]


def _is_array_with_rate(recording: object) -> TypeGuard[tuple[ArrayLike, int]]:
    return (
        isinstance(recording, tuple)
        and len(recording) == 2
        and isinstance(recording[1], int | float | np.number)
        and not np.isscalar(recording[0])
    )


def is_path_or_file(recording: object) -> TypeGuard[str | Path | BinaryIO | Location]:
    """Whether a recording is a path, a file object or a file in a store, and no array.

    Example:
        >>> is_path_or_file("street.wav"), is_path_or_file([0.0, 0.5])
        (True, False)
    """
    return isinstance(recording, str | Path) or callable(getattr(recording, "read", None))


def _check_rate(name: str, rate: int, expected: int | None) -> None:
    if expected is not None and expected != rate:
        raise AudioError(
            f"{name}: its sample rate is {rate} Hz, not {expected}: leave sample_rate out"
        )


def checked(reader: AudioReader) -> AudioReader:
    """The reader itself, if an extractor takes its recording.

    Raises:
        AudioError: the recording has too many channels, or its header says that it is too long.

    Example:
        >>> import numpy as np
        >>> with open_source((np.zeros((2, 800), np.float32), 8_000)) as reader:
        ...     checked(reader).info.channels
        2
    """
    if reader.info.channels > MAX_CHANNELS:
        raise AudioError(
            f"{reader.name}: has {reader.info.channels} channels, the limit is {MAX_CHANNELS}"
        )
    refuse_days(reader, reader.info.num_frames or 0)
    return reader


def refuse_days(reader: AudioReader, num_samples: int) -> None:
    """Refuse a recording of more than ``MAX_HOURS``.

    A wrong rate in a header would otherwise fill the memory after resampling.

    Raises:
        AudioError: the recording is longer.

    Example:
        >>> import numpy as np
        >>> with open_source((np.zeros(800, np.float32), 8_000)) as reader:
        ...     refuse_days(reader, num_samples=800)
    """
    rate = reader.info.sample_rate
    hours = num_samples / rate / 3600
    if hours > MAX_HOURS:
        raise AudioError(
            f"{reader.name}: lasts {hours:,.0f} hours at {rate} Hz, the limit is {MAX_HOURS}: "
            "is its sample rate right?"
        )


def input_gain(
    reader: AudioReader, quietest_db: float | None, cancel: Event | None = None
) -> float:
    """The gain, 1 or more, of a recording on its way to the model.

    A separator gets worse below the level of its training. The recording is read a first time,
    only as far as it takes to know that it is loud enough; a quiet one is read to its end.

    Args:
        reader: of the recording; a file is opened again, and ``reader`` is not used up.
        quietest_db: RMS over full scale, of all samples of all channels, to amplify up to. DC
            offset and infrasound do not count. The gain is less where the peak would exceed full
            scale. None: 1.
        cancel: stops the reading before the next block.

    Raises:
        AudioError: the recording cannot be read.
        Cancelled: ``cancel`` is set.

    Example:
        >>> import numpy as np
        >>> quiet = np.tile([0.001, -0.001], 400).astype(np.float32)
        >>> with open_source((quiet, 8_000)) as reader:
        ...     round(input_gain(reader, quietest_db=-40.0), 3)
        10.0
    """
    if quietest_db is None:
        return 1.0
    with reader.reopened() as first_look:
        return _gain(first_look, quietest_db, cancel)


def _audible(reader: AudioReader) -> Iterator[NDArray[np.float32]]:
    """The blocks of a recording without DC offset and infrasound."""
    infrasound = InfrasoundFilter(reader.info.sample_rate, reader.info.channels)
    for block in reader.blocks():
        yield infrasound.push(block.astype(np.float32, copy=False))
    yield infrasound.finish()


def _gain(reader: AudioReader, quietest_db: float, cancel: Event | None = None) -> float:
    power_needed = 10 ** (quietest_db / 10)
    energy, peak, count = 0.0, 0.0, 0
    for block in _audible(reader):
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"{reader.name}: cancelled")
        count += block.shape[1]
        energy += float(np.square(block, dtype=np.float64).mean(0).sum())
        peak = max(peak, float(np.abs(block).max(initial=0)))
        if reader.info.num_frames and energy >= power_needed * max(reader.info.num_frames, count):
            return 1.0
    power = energy / max(count, 1)
    if power < MIN_AMPLIFIED_RMS**2:
        return 1.0
    return max(1.0, min(math.sqrt(power_needed / power), 1 / peak))
