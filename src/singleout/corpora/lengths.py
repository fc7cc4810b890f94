"""Lengths of many recordings by their headers, in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from singleout.data.sound_files import stated_seconds
from singleout.errors import AudioError

T = TypeVar("T")
Result = TypeVar("Result")

BATCH = 1_024
"""Files that are under way or wait at a time, so that memory does not grow with a corpus."""
MAX_THREADS = 32


def length_or_reason(path: str) -> float | str:
    """The length of a recording in seconds, or why it cannot be read.

    Example:
        >>> length_or_reason("no/such/file.wav")
        'cannot be read: No such file or directory'
    """
    try:
        return stated_seconds(Path(path))
    except AudioError as error:
        return str(error).removeprefix(f"{path}: ")


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
