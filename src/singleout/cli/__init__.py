"""The command line: thin shells over the public API.

This module and those of the commands import typer only; what a command needs is imported when it
runs, so that ``singleout --help`` is instant. An error raised on purpose becomes one line on
stderr and exit code 1, wrong usage exits with 2, Ctrl-C with 130.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from singleout.cli.benchmark import benchmark
from singleout.cli.evaluate import evaluate
from singleout.cli.extract import extract
from singleout.cli.formats import formats
from singleout.cli.gap import gap
from singleout.cli.messages import printed_messages
from singleout.cli.train import train
from singleout.errors import SingleoutError

INTERRUPTED = 130
TERMINATED = 143
HUNG_UP = 129
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of the parameters in malloc.h."""
MMAP_THRESHOLD_BYTES = 32 << 20


class Commands(TyperGroup):
    """Turns the errors that users can mend into one line each."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with printed_messages():
                return super().invoke(ctx)
        except SingleoutError as error:
            typer.echo("error: " + " ".join(str(error).splitlines()), err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            typer.echo("error: stdout cannot be written: no space is left", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Commands,
    help="Single out a sound by describing it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        from singleout import __version__

        typer.echo(f"singleout {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Single out a sound by describing it."""


app.command()(extract)
app.command()(train)
app.command()(evaluate)
app.command()(benchmark)
app.command()(gap)
app.command()(formats)


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
    # Torch reads the variable at its first allocation. Its maps are large and short-lived: in huge
    # pages they cost a fraction of the page faults, up to a third of the time
    # (results/resunet30*.json).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _fix_malloc_thresholds()
    # Partial files vanish as with Ctrl-C, and when a terminal closes, unless nohup is used.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(HUNG_UP))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # The name of a file may hold bytes that are no text: they are printed escaped.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
