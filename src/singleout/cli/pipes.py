"""``-`` as a recording and as an output: stdin and stdout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from singleout.cli.options import named
from singleout.errors import AudioError, OutputError, SingleoutError
from singleout.storage.locations import store_of
from singleout.storage.temporary import temporary_folder

if TYPE_CHECKING:
    from singleout.extract.batch import JobResult
    from singleout.types import Query

STDIN = "-"
STDOUT = Path("/dev/stdout")
"""What ``-`` means as an output. ``./-`` is a folder of that name."""


ONE_TARGET = "-o - writes one target to stdout"


def output_place(text: str | Path) -> Path:
    """Parse the output folder, which may be in a store, or ``-`` for stdout.

    Raises:
        typer.BadParameter: the text is empty, or the address of a web page.

    Example:
        >>> output_place("-") == STDOUT, output_place("out").name, output_place("s3://a/b").name
        (True, 'out', 'b')
    """
    if str(text) == "-":
        return STDOUT
    return named(text) if store_of(Path(text)) is None else Path(text)


def with_stdin(places: Sequence[str]) -> list[str | BinaryIO]:
    """The names of recordings, with standard input for ``-``.

    Raises:
        AudioError: stdin is a terminal.

    Example:
        >>> with_stdin(["street.wav"])
        ['street.wav']
    """
    if STDIN not in places:
        return list(places)
    if sys.stdin.isatty():
        raise AudioError("stdin is a terminal: send a recording through a pipe, or give a file")
    return [sys.stdin.buffer if place == STDIN else place for place in places]


def check_stdout(queries: Sequence[Query], **needing_folder: bool | None) -> None:
    """Refuse to write to stdout what is not one target.

    Args:
        queries: one.
        **needing_folder: options of which none may be given.

    Raises:
        OutputError: there are several targets or another file, or stdout is a terminal.

    Example:
        >>> from singleout import Query
        >>> try:
        ...     check_stdout([Query("rain")], plot=True)
        ... except OutputError as error:
        ...     print(error)
        -o - writes one target to stdout: --plot needs an output folder
    """
    refuse_several(queries, "query")
    for name, is_given in needing_folder.items():
        if is_given:
            option = name.replace("_", "-")
            raise OutputError(f"{ONE_TARGET}: --{option} needs an output folder")
    if sys.stdout.isatty():
        raise OutputError(f"{ONE_TARGET}, which is a terminal: send it to a file or a program")


def refuse_several(things: Sequence[object], name: str) -> None:
    """Refuse several recordings or queries for stdout.

    Raises:
        OutputError: there are several.

    Example:
        >>> refuse_several(["a.wav"], "recording")
    """
    if len(things) > 1:
        raise OutputError(f"{ONE_TARGET}: give one {name}, not {len(things)}, or an output folder")


def named_stdout(result: JobResult) -> JobResult:
    """The result of a job whose target goes to stdout.

    Example:
        >>> from singleout.extract.batch import Job, JobResult
        >>> named_stdout(JobResult(Job(Path("x.wav"), Path(), "x"))).written
        []
    """
    return replace(result, written=[replace(files, target=STDOUT) for files in result.written])


@contextmanager
def target_on_stdout() -> Iterator[Path]:
    """Give a temporary folder; the file that is written there goes to stdout at the end.

    The file is complete before its first byte is sent, so that its header is right. Everything
    that is printed meanwhile goes to stderr.

    Raises:
        OutputError: the temporary folder is full.
        OSError: stdout cannot be written, such as ``BrokenPipeError`` when its reader has stopped.

    Example:
        >>> with target_on_stdout() as folder:
        ...     print("this goes to stderr")
    """
    stdout = sys.stdout
    with temporary_folder() as folder:
        try:
            with redirect_stdout(sys.stderr):
                yield folder
        except SingleoutError as error:
            message = str(error).replace(str(folder), f"the temporary folder {folder.parent}")
            raise type(error)(message) from None
        for path in filter(Path.is_file, folder.rglob("*")):
            with path.open("rb") as file:
                shutil.copyfileobj(file, stdout.buffer)
            stdout.buffer.flush()
