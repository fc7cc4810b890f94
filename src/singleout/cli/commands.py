"""The commands, and what every failure of theirs becomes.

An error raised on purpose becomes one line on stderr and exit code 1, wrong usage exits with 2, and
a signal with 128 and its number. This module and those of the commands import typer only; what a
command needs is imported when it runs, so that ``singleout --help`` is instant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from singleout.cli.benchmark import benchmark
from singleout.cli.corpus import corpus
from singleout.cli.evaluate import evaluate
from singleout.cli.extract import extract
from singleout.cli.formats import formats
from singleout.cli.gap import gap
from singleout.cli.index import index
from singleout.cli.messages import printed_messages
from singleout.cli.prepare import prepare
from singleout.cli.signals import stop_signals
from singleout.cli.train import train
from singleout.errors import SingleoutError, one_line, shortened

MAX_OWN_MESSAGE = 10_000
"""Our own messages name up to ten files, with the way out at the end."""
MAX_MESSAGE = 200
"""Longer messages of other libraries are cut."""


class Commands(TyperGroup):
    """Turns a signal, and every failure that is no mistake of the program, into one line."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _failures_in_one_line():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _failures_in_one_line(), printed_messages():
            return super().invoke(ctx)


@contextmanager
def _failures_in_one_line() -> Iterator[None]:
    try:
        yield
    except typer.Exit:
        raise
    except Exception as error:
        if stop_signals.number is not None:  # a library made another error of the stop
            stop_signals.report()
            raise typer.Exit(stop_signals.exit_code) from None
        if (message := _message(error)) is None:
            raise
        typer.echo(f"error: {message}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as stop:
        stop_signals.report(*map(str, stop.args))
        raise typer.Exit(stop_signals.exit_code) from None


def _message(error: Exception) -> str | None:
    """The message of an error of the user or of the machine; None for a mistake of the program."""
    if isinstance(error, SingleoutError):
        return shortened(error, MAX_OWN_MESSAGE)
    reason = one_line(error)[:MAX_MESSAGE]
    if isinstance(error, MemoryError) or "can't allocate memory" in reason:
        return f"not enough memory: {reason}"
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return f"{error.filename or 'the system'}: {error.strerror or reason}"
    return None


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
app.command()(corpus)
app.command()(formats)
app.command()(prepare)
app.command()(index)
