"""Standard streams that are closed, on a full disk, or no longer read.

They never end a command: its files are worth more than its lines. A reader that has gone away, as
in ``| head -1``, has read what it needs. Any other error is reported when the command ends.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any


class _Output(io.FileIO):
    """A stream that drops everything after its first error, and keeps the error."""

    error: OSError | None = None

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        view = memoryview(data)
        try:
            while self.error is None:
                if (count := super().write(view)) is not None:
                    return count
                select.select([], [self], [])  # another program made the stream non-blocking
        except OSError as error:
            self.error = error
        return view.nbytes


def open_streams() -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` streams that never fail.

    Closed ones lead to the null device. Otherwise the next file that is opened would take the place
    of the stream, and messages of libraries would be written into that file.

    Characters that a stream cannot encode are escaped: names of files may hold bytes that are no
    text.

    Example:
        >>> open_streams()
        >>> print("rain")
        rain
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None or _is_file(stream, descriptor):
            is_shown_at_once = name == "stderr" or os.isatty(descriptor)
            new = io.TextIOWrapper(
                io.BufferedWriter(_Output(descriptor, "w", closefd=False)),
                encoding=getattr(stream, "encoding", "utf-8"),
                errors="backslashreplace",
                line_buffering=is_shown_at_once,
            )
            setattr(sys, name, new)
        elif hasattr(stream, "reconfigure"):  # a console of Windows
            stream.reconfigure(errors="backslashreplace")


def _is_file(stream: Any, descriptor: int) -> bool:
    """Whether a stream writes to this descriptor: others are of a console, or of a test."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return isinstance(raw, io.FileIO) and raw.fileno() == descriptor


def output_error() -> str | None:
    """Why the lines on stdout are not complete; None if they are, or if their reader has gone.

    Example:
        >>> output_error() is None
        True
    """
    sys.stdout.flush()
    output = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = output.error if isinstance(output, _Output) else None
    if error is None or isinstance(error, BrokenPipeError):
        return None
    return f"stdout cannot be written: {error.strerror}"
