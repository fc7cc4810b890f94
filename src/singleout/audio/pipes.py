"""Recordings that are no files here: pipes, standard input, file objects, and files in stores.

Decoders need a file that they can seek in, so these are copied to a temporary file first.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

from numpy.typing import NDArray

from singleout.audio.info import Note
from singleout.audio.reading import AudioReader, open_audio
from singleout.errors import AudioError, Cancelled, SingleoutError, one_line
from singleout.storage.addresses import address_of
from singleout.storage.locations import Location
from singleout.storage.temporary import temporary_folder

CHUNK_BYTES = 1 << 20
WAIT_SECONDS = 0.1
"""How long to wait for data before looking whether the work is cancelled."""


def media_name(source: str | Path | BinaryIO | Location) -> str:
    """The name of a recording in messages: its place, ``stdin``, or ``audio`` for a file object.

    Example:
        >>> import io
        >>> media_name(Path("street.wav")), media_name(io.BytesIO())
        ('street.wav', 'audio')
    """
    if isinstance(source, str | Path | Location):
        return str(source)
    return "stdin" if source is getattr(sys.stdin, "buffer", None) else "audio"


@contextmanager
def open_media(
    source: str | Path | BinaryIO | Location,
    *,
    strict: bool = False,
    track: int | None = None,
    cancel: Event | None = None,
) -> Iterator[AudioReader]:
    """Open a recording that is a file, a named pipe, a binary file object or in a store.

    Args:
        source: a path; an object with ``read``, which is read to its end, and not closed; or a
            ``Location``, of which a temporary copy is read.
        strict, track: see ``open_audio``.
        cancel: stops the wait for a pipe.

    Yields:
        A reader, which is closed at the end of the ``with`` block. Its name and notes, and all
        errors, name the source and no temporary file.

    Raises:
        AudioError: see ``open_audio``; or the path is an address, the file object gives text, or
            the temporary folder is full.
        Cancelled: ``cancel`` is set.

    Example:
        >>> import io, numpy as np, soundfile
        >>> soundfile.write(file := io.BytesIO(), np.zeros(800), 8_000, format="WAV")
        >>> _ = file.seek(0)
        >>> with open_media(file) as reader:
        ...     reader.name, sum(block.shape[1] for block in reader.blocks())
        ('audio', 800)
    """
    name = media_name(source)
    if isinstance(source, str | Path):
        if (address := address_of(source)) is not None:
            raise AudioError(
                f"{address}: is an address: fetch it first, for example with curl or yt-dlp, and "
                "give the file"
            )
        if not _is_pipe(Path(source)):
            with open_audio(source, strict=strict, track=track) as reader:
                yield reader
            return
    with temporary_folder() as folder:
        copy = folder / "audio"
        try:
            if isinstance(source, Location):
                copy = copy.with_suffix(source.path.suffix)
                source.fetch(copy)
            else:
                _copy(source, name, copy, cancel or Event())
            with open_audio(copy, strict=strict, track=track) as reader:
                yield _NamedReader(reader, copy, name)
        except SingleoutError as error:
            raise type(error)(str(error).replace(str(copy), name)) from None


class _NamedReader:
    """An ``AudioReader`` of a temporary file, under the name of its source."""

    def __init__(self, reader: AudioReader, path: Path, name: str) -> None:
        self._reader, self._path = reader, path
        self.name, self.info = name, reader.info
        self.notes: list[Note] = []

    def reopened(self) -> AbstractContextManager[AudioReader]:
        return self._reader.reopened()

    def blocks(self) -> Iterator[NDArray[Any]]:
        yield from self._reader.blocks()
        self.notes = [
            replace(note, text=note.text.replace(str(self._path), self.name))
            for note in self._reader.notes
        ]


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):  # opening the file tells what is wrong with it
        return False


def _copy(source: str | Path | BinaryIO, name: str, path: Path, cancel: Event) -> None:
    try:
        with path.open("wb") as file:
            for chunk in _chunks(source, name, cancel):
                file.write(chunk)
    except OSError as error:
        raise AudioError(
            f"{name}: cannot be copied to the temporary folder {tempfile.gettempdir()}: "
            f"{error.strerror}: set TMPDIR to another folder"
        ) from None


def _chunks(source: str | Path | BinaryIO, name: str, cancel: Event) -> Iterator[bytes]:
    try:
        if not isinstance(source, str | Path):
            yield from _chunks_of_file(source, name, cancel)
            return
        # Without the flag, opening a pipe waits for its writer, and nothing could end that.
        with open(os.open(source, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
            yield from _chunks_of_file(file, name, cancel)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None


def _chunks_of_file(file: Any, name: str, cancel: Event) -> Iterator[bytes]:
    read = getattr(file, "read1", file.read)  # of a pipe, what is in it by now
    is_pipe = _is_open_pipe(file)
    while True:
        while is_pipe and not select.select([file], [], [], WAIT_SECONDS)[0]:
            if cancel.is_set():
                raise Cancelled(f"{name}: cancelled")
        try:
            chunk = read(CHUNK_BYTES)
        except Exception as error:  # such as of zipfile or of a network
            raise AudioError(f"{name}: cannot be read: {one_line(error)[:200]}") from None
        if isinstance(chunk, str):
            raise AudioError(f"{name}: the file object gives text: open it with 'rb'")
        if not chunk:
            return
        yield chunk


def _is_open_pipe(file: Any) -> bool:
    """Whether ``select`` tells when an open file has data. A socket may have buffered some."""
    try:
        return os.name == "posix" and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):  # it has no descriptor
        return False
