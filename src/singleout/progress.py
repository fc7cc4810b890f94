"""Progress bars on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
_IS_HIDDEN = ContextVar("is_hidden", default=False)


def is_shown() -> bool:
    """Whether progress bars are drawn: only on a terminal, and a process may have no stderr.

    Example:
        >>> is_shown()  # no terminal here
        False
    """
    return not _IS_HIDDEN.get() and sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def hidden() -> Iterator[None]:
    """A context without progress: another process shows the progress of both.

    Example:
        >>> with hidden():
        ...     is_shown()
        False
    """
    token = _IS_HIDDEN.set(True)
    try:
        yield
    finally:
        _IS_HIDDEN.reset(token)


def track(items: Sequence[T] | Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar on stderr; without a bar if stderr is not a terminal.

    Args:
        items: they are given unchanged.
        what: text next to the bar.
        total: number of items, if ``len(items)`` is not known.

    Example:
        >>> list(track(["rain.wav", "wind.wav"], "reading"))
        ['rain.wav', 'wind.wav']
    """
    if not is_shown():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, what, total, console=Console(stderr=True), transient=True)
