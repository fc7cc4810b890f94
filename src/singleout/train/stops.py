"""Signals that stop a run between two steps, so that no step is lost.

A checkpoint can be written between two steps only. So a signal that comes in a step waits for its
end. A second signal ends the run at once, from the checkpoint before.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that end a process."""
WARNING = "SIGUSR1"
"""Signal by which a cluster tells that it will end the process soon, such as SLURM's ``--signal``.
It stops a run as SIGTERM does. A handler that the process has for it stays."""


class Stops:
    """A context in which a signal waits for the end of a step.

    Signals that the process was started to ignore, as by ``nohup``, stay ignored. Outside of the
    main thread, where Python handles no signals, the context changes nothing.

    Example:
        >>> with Stops() as stops:
        ...     stops.is_requested
        False
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[int, Any] = {}
        self._save: Callable[[], None] | None = _nothing
        """What to do before a signal ends the run; None while a step runs."""
        self._process = os.getpid()

    @property
    def is_requested(self) -> bool:
        """Whether a signal waits."""
        return self._number is not None

    def __enter__(self) -> Stops:
        if threading.current_thread() is not threading.main_thread():
            return self
        for name in (*SIGNALS, WARNING):
            number = getattr(signal, name, None)
            handler = None if number is None else signal.getsignal(number)
            # What was not set from Python cannot be set again.
            if number is None or handler in (None, signal.SIG_IGN):
                continue
            if name != WARNING or handler is signal.SIG_DFL:
                self._before[number] = handler
        self.hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None and self.is_requested:
            self.deliver()
        self._restore()
        self._before = {}

    def hold(self) -> None:
        """Take the signals again, after a library has set handlers of its own."""
        for number in self._before:
            signal.signal(number, self._receive)

    def begin_step(self) -> None:
        """Let signals wait from now on."""
        self._save = None

    def end_step(self, save: Callable[[], None]) -> None:
        """Let signals end the run from now on, and the one that waits.

        Args:
            save: is called before.
        """
        self._save = save
        if self.is_requested:
            self.deliver()

    def deliver(self) -> None:
        """Let the signal that waits do what it would have done without this context.

        If that does not end the run, the context goes on.
        """
        save, self._save = self._save, None
        if save is not None:
            save()
        self._restore()
        signal.raise_signal(signal.SIGTERM if self._number is None else self._number)
        self._number, self._save = None, save
        self.hold()

    def _receive(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a forked process, which its parent ends
        is_now = self.is_requested or self._save is not None
        self._number = signal.SIGTERM if signal.Signals(number).name == WARNING else number
        if is_now:
            self.deliver()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _nothing() -> None:
    """Before the first step there is nothing to save."""
