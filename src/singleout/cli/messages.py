"""Lines on stderr: what the package logs, and names that must stay on one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer


def printable(text: object) -> str:
    """The text with all control characters escaped, so that it stays on one line.

    Example:
        >>> printable("two\\nlines.wav")
        'two\\\\nlines.wav'
    """
    return "".join(c if c.isprintable() or c == " " else ascii(c)[1:-1] for c in str(text))


class _Lines(logging.Handler):
    """Prints each message on stderr, as soon as it comes."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        typer.echo(prefix + printable(record.getMessage()), err=True)


@contextmanager
def printed_messages() -> Iterator[None]:
    """Print what the package logs on stderr, one line each, and nowhere else.

    Example:
        >>> with printed_messages():
        ...     logging.getLogger("singleout").info("12 other files are left out")
    """
    logger, handler = logging.getLogger("singleout"), _Lines()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
