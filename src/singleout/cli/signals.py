"""Signals that stop a command: Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes.

A signal raises a ``KeyboardInterrupt`` in the main thread, so that files that are not complete are
removed on the way out. Three moments need care:

- While a command imports its libraries, nothing has to be removed. The process ends at once,
  because an exception would leave modules half initialised.
- While the first signal is handled, further ones are ignored. They would interrupt the removal.
- A library may drop the exception, for example in a callback. It is raised again until it arrives.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
"""What the command prints, by the name of the signal."""
REPEAT_SECONDS = 0.2
"""Time after which a stop that has not arrived is tried again."""


class _Stopped(KeyboardInterrupt):
    """A signal stopped the command. Libraries treat it as Ctrl-C."""


class StopSignals:
    """The signals that stop this process, and what became of them.

    Attributes:
        number: the first signal that arrived; None before.
        is_over: the command has ended, and only the exit of the process is left.

    Example:
        >>> StopSignals().exit_code
        130
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.is_over = False
        self._numbers: list[int] = []

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, as shells count. Without a signal, that of Ctrl-C."""
        return 128 + (self.number or signal.SIGINT)

    def install(self) -> None:
        """Handle the signals from now on, except those that the process was started to ignore.

        Processes that are forked later ignore Ctrl-C and hang-ups: this process ends them.
        """
        numbers = [getattr(signal, name) for name in WORDS if hasattr(signal, name)]
        self._numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
        for number in self._numbers:
            signal.signal(number, self._receive)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._try_again)
        if hasattr(os, "register_at_fork"):
            left_to_parent = [n for n in self._numbers if n != signal.SIGTERM]
            os.register_at_fork(
                after_in_child=lambda: [signal.signal(n, signal.SIG_IGN) for n in left_to_parent]
            )
        sys.unraisablehook = _without_stops

    def finish(self) -> None:
        """Ignore all signals: the exit code is that of the command, which has ended."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)

    def report(self, advice: str = "") -> None:
        """Print the line that says why the command ended.

        Args:
            advice: how to go on.

        Example:
            >>> StopSignals().report()  # on stderr
        """
        word = WORDS[signal.Signals(self.exit_code - 128).name]
        if sys.stderr is not None:
            print(": ".join(filter(None, (word, advice))), file=sys.stderr, flush=True)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.is_over:
            return
        self.number = self.number or number
        self._stop(frame)

    def _try_again(self, _: int, frame: FrameType | None) -> None:
        if self.number is not None and not self.is_over:
            self._stop(frame)

    def _stop(self, frame: FrameType | None) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
        if any(isinstance(error, _Stopped) for error in _errors_being_handled()):
            return
        importer = _importer(frame)
        if importer.startswith("singleout.cli"):
            self._exit()
        if not importer:
            raise _Stopped

    def _exit(self) -> NoReturn:
        with suppress(OSError):
            self.report()
        os._exit(self.exit_code)


stop_signals = StopSignals()
"""Those of this process."""


def _errors_being_handled() -> Iterator[BaseException]:
    error = sys.exception()
    while error is not None:
        yield error
        error = error.__context__


def _importer(frame: FrameType | None) -> str:
    """The outermost module whose import statement is running; empty if none is."""
    importer = ""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib") and frame.f_back is not None:
            importer = frame.f_back.f_globals.get("__name__", "")
        frame = frame.f_back
    return importer


def _without_stops(event: Any) -> None:
    """Report what Python cannot raise, except a stop: it is tried again."""
    if not issubclass(event.exc_type, _Stopped):
        sys.__unraisablehook__(event)
