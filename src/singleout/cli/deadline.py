"""An end within seconds of a signal, whatever the main thread does at that moment.

Python handles a signal between two of its own steps. A training step, or the writing of a large
checkpoint, may keep the main thread outside of Python for longer than a user waits.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from singleout.cli.signals import WORDS

GRACE_SECONDS = 2.0
"""Time for the usual way out, which removes files that are not complete."""


@contextmanager
def ending_in_time(advice: str) -> Iterator[None]:
    """End the process ``GRACE_SECONDS`` after a signal, if it has not ended until then.

    What it then leaves behind is harmless: temporary files are removed by the next run.

    Args:
        advice: how to go on, for the line on stderr.

    Example:
        >>> with ending_in_time("repeat the command"):
        ...     pass
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    is_left = threading.Event()
    threading.Thread(target=_watch, args=(read_end, is_left, advice), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        is_left.set()
        os.close(write_end)


def _watch(read_end: int, is_left: threading.Event, advice: str) -> None:
    """Wait for a signal that stops the process, until the other end of the pipe is closed.

    Python writes the number of every signal that it handles into the pipe, at once.
    """
    words = {getattr(signal, name): w for name, w in WORDS.items() if hasattr(signal, name)}
    with open(read_end, "rb", buffering=0) as numbers:
        while (number := numbers.read(1)) and number[0] not in words:
            pass
        if number and not is_left.wait(GRACE_SECONDS):
            with suppress(OSError):
                os.write(2, f"{words[number[0]]}: {advice}\n".encode(errors="backslashreplace"))
            os._exit(128 + number[0])
