"""What an extractor takes: files and arrays, read alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from singleout.audio import MAX_CHANNELS, AudioInfo, AudioReader, checked_array, open_audio
from singleout.errors import AudioError
from singleout.extract.level import lift

MAX_HOURS = 24

Recording = str | Path | ArrayLike
"""A path, or floats [samples] or [channels, samples] with full scale 1."""


class _Array:
    """An array as if it were a file."""

    def __init__(self, mixture: NDArray[np.float32], sample_rate: int) -> None:
        self._mixture = mixture
        self.name = "audio"
        self.info = AudioInfo(sample_rate, len(mixture), mixture.shape[1])

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        yield self._mixture


@contextmanager
def opened(audio: Recording, sample_rate: int | None = None) -> Iterator[AudioReader]:
    """A reader of a recording.

    Raises:
        AudioError: it cannot be read, or its rate is not ``sample_rate``; see ``checked_array``.
    """
    if not isinstance(audio, str | Path):
        yield _Array(*checked_array(audio, sample_rate))
        return
    with open_audio(audio) as reader:
        rate = reader.info.sample_rate
        if sample_rate is not None and sample_rate != rate:
            raise AudioError(
                f"{audio}: its sample rate is {rate} Hz, not {sample_rate}: leave sample_rate out"
            )
        yield reader


def gain_of(reader: AudioReader, quietest_db: float | None) -> float:
    """At which a model is to hear a recording: by a first look, with a reader of its own.

    Args:
        reader: is not read.
        quietest_db: see ``lift``; None: at any level as it is.
    """
    if quietest_db is None:
        return 1.0
    if isinstance(reader, _Array):
        return lift(reader, quietest_db)
    with open_audio(reader.name) as first_look:
        return lift(first_look, quietest_db)


def refuse_channels(reader: AudioReader) -> None:
    """Raise AudioError for more than a model is asked to hear."""
    if reader.info.channels > MAX_CHANNELS:
        raise AudioError(
            f"{reader.name}: has {reader.info.channels} channels, the limit is {MAX_CHANNELS}"
        )


def refuse_days(reader: AudioReader, num_samples: int) -> None:
    """A wrong rate in a header would otherwise fill the memory after resampling: AudioError."""
    rate = reader.info.sample_rate
    hours = num_samples / rate / 3600
    if hours > MAX_HOURS:
        raise AudioError(
            f"{reader.name}: lasts {hours:,.0f} hours at {rate} Hz, the limit is {MAX_HOURS}: "
            "is its sample rate right?"
        )
