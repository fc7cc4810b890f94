"""Lengths of many recordings by their headers, in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar

from singleout.audio import open_audio
from singleout.corpora.files import is_sound
from singleout.data.manifest_rows import MAX_SECONDS
from singleout.data.sound_files import open_sound
from singleout.errors import AudioError

T = TypeVar("T")
Result = TypeVar("Result")

BATCH = 1_024
"""Files that are under way or wait at a time, so that memory does not grow with a corpus."""
MAX_THREADS = 32


def stated_seconds(path: str) -> float:
    """The length of a recording, as its file states it.

    Args:
        path: the file. libsndfile reads the header; FFmpeg reads that of other media.

    Raises:
        AudioError: the file cannot be read, states no length, or has no samples.

    Example:
        >>> import tempfile, numpy as np, soundfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(4_000), 8_000)
        ...     stated_seconds(f"{folder}/rain.wav")
        0.5
    """
    status = Path(path).stat()
    if not S_ISREG(status.st_mode):  # such as a pipe, which nobody may ever write
        raise AudioError(f"{path}: is not a regular file")
    if not status.st_size:
        raise AudioError(f"{path}: is empty (0 bytes)")
    if is_sound(path):
        with open_sound(Path(path)) as file:
            seconds = float(file.frames / file.samplerate)
    else:
        with open_audio(path) as reader:
            seconds = (reader.info.num_frames or 0) / reader.info.sample_rate
    if not 0 < seconds <= MAX_SECONDS:
        raise AudioError(f"{path}: has no samples, or does not state its length")
    return seconds


def length_or_reason(path: str) -> float | str:
    """The length of a recording in seconds, or why it cannot be read.

    Example:
        >>> length_or_reason("no/such/file.wav")
        'cannot be read: No such file or directory'
    """
    try:
        return stated_seconds(path)
    except AudioError as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def in_threads(function: Callable[[T], Result], items: Iterable[T]) -> Iterator[tuple[T, Result]]:
    """Call a function with each item, many at a time; items and results come in order.

    Args:
        function: must be safe in threads, and must not raise.
        items: may be endless; a few are taken ahead.

    Example:
        >>> list(in_threads(len, ["dog", "rain"]))
        [('dog', 3), ('rain', 4)]
    """
    remaining = iter(items)
    num_threads = min(MAX_THREADS, 4 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(num_threads, "singleout-lengths") as pool:
        while batch := list(islice(remaining, BATCH)):
            yield from zip(batch, pool.map(function, batch), strict=True)
