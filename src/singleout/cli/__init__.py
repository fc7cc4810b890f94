"""The command line: thin shells over the public API.

This module is what the process imports first. It sees to signals and streams before anything that
takes time is imported.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from typing import Any

from singleout.cli.signals import stop_signals
from singleout.cli.streams import open_streams, output_error

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of the parameters in malloc.h."""
MMAP_THRESHOLD_BYTES = 32 << 20


def __getattr__(name: str) -> Any:
    """``app``, the typer application, is imported when it is used."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from singleout.cli.commands import app

    return app


def _fix_malloc_thresholds() -> None:
    """Keep the limits fixed at which the C library returns freed memory to the system.

    By default glibc moves them with the blocks that it sees, up to these values. The heap of a long
    extraction then fragments, and its peak memory grows with the length of the recording
    (results/long_recordings.json). Lower limits save more memory and cost time for page faults.
    """
    if sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        with suppress(AttributeError, OSError):  # another C library
            library = ctypes.CDLL(None)
            library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
            library.mallopt(M_TRIM_THRESHOLD, 2 * MMAP_THRESHOLD_BYTES)


def main() -> None:
    """Entry point of the command ``singleout``; never returns."""
    code: int | str | None = None
    try:
        stop_signals.install()
        code = _run()
    except KeyboardInterrupt:
        stop_signals.report()
    # A statement without a call, so that no signal comes between it and the one before.
    stop_signals.is_over = True
    stop_signals.finish()
    if stop_signals.number is not None:
        # The usual exit frees the memory of all libraries first, which may take seconds.
        sys.stdout.flush()
        os._exit(stop_signals.exit_code)
    if (error := output_error()) is not None:
        print(f"error: {error}", file=sys.stderr)
        code = code or 1
    sys.exit(code)


def _run() -> int | str | None:
    open_streams()
    # Torch reads the variable at its first allocation. Its maps are large and short-lived: in huge
    # pages they cost a fraction of the page faults, up to a third of the time
    # (results/resunet30*.json).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _fix_malloc_thresholds()
    from singleout.cli.commands import app

    try:
        app()
    except SystemExit as end:
        return end.code
    return 0
