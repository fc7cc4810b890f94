"""Keeps what libmpg123 writes to the terminal away from the user.

libsndfile decodes MP3 by libmpg123, which writes lines straight to the standard error output of the
process: ``[src/libmpg123/layer3.c:...] error: ...``. Nothing else shows damage within a frame, so
these lines become a note of the recording. Lines of others are passed on.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STANDARD_ERROR = 2
CHATTER = re.compile(
    rb"\s*$|\[(?:\.\./)*src/libmpg123/|(?:Note|Warning): "
    rb"(?:Xing |Illegal Audio|Trying to resync|Skipped|Hit end|Encountered|Cannot|Real sample)"
)
"""Matches the lines of libmpg123."""
DAMAGE = re.compile(rb"\] error:")


class _Redirection:
    """Standard error output goes to a file while at least one thread decodes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def start(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                self._terminal = os.dup(STANDARD_ERROR)
                os.dup2(self._file.fileno(), STANDARD_ERROR)

    def stop(self) -> bytes:
        """End it; what was written."""
        with self._lock:
            self._count -= 1
            if not self._count:
                os.dup2(self._terminal, STANDARD_ERROR)
                os.close(self._terminal)
            self._file.seek(0)
            text = self._file.read()
            self._file.seek(0)
            self._file.truncate()
            if not self._count:
                self._file.close()
            lines = text.splitlines(keepends=True)
            if others := b"".join(line for line in lines if not CHATTER.match(line)):
                with suppress(OSError):
                    os.write(STANDARD_ERROR if not self._count else self._terminal, others)
            return text


_REDIRECTION = _Redirection()


@contextmanager
def quiet(is_needed: bool = True) -> Iterator[list[str]]:
    """Keep the lines of libmpg123 off the terminal.

    Args:
        is_needed: whether libmpg123 is at work. Otherwise nothing is redirected.

    Yields:
        The lines that report damage; complete after the ``with`` block.

    Example:
        >>> with quiet() as damage:
        ...     _ = os.write(2, b"[src/libmpg123/layer3.c:1804] error: part2_3_length too large\\n")
        >>> damage
        ['part2_3_length too large']
    """
    damage: list[str] = []
    try:
        os.fstat(STANDARD_ERROR)
    except OSError:  # the caller has closed it
        is_needed = False
    if not is_needed:
        yield damage
        return
    _REDIRECTION.start()
    try:
        yield damage
    finally:
        for line in _REDIRECTION.stop().splitlines():
            if DAMAGE.search(line):
                damage.append(line.split(b"error:", 1)[1].strip().decode("ascii", "replace"))
