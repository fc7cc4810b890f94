"""Run ``singleout`` in this process, and check how it refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner, Result

from singleout.cli import app

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX processes")


def run(*arguments: object) -> Result:
    """Run ``singleout`` with these arguments."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def extract(*arguments: object) -> Result:
    """Run ``singleout extract`` with these arguments."""
    return run("extract", *arguments)


def check_refused(result: Result, reason: str) -> None:
    """The command ended with code 1, one line of error that holds ``reason``, and no output."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert reason in line


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond ``num_bytes``, as on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
