"""The lines of a manifest, checked and brought into columns."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from singleout.config import is_path
from singleout.data.columns import ColumnsBuilder
from singleout.documents import DocumentError, parse_json, read_lines
from singleout.errors import ManifestError, shortened
from singleout.types import checked_text

MAX_LINE_CHARACTERS = 1_000_000
"""Length of the longest line of a manifest. A manifest may have any number of lines."""
MAX_SECONDS = 10_000_000
"""Length of the longest sound: 115 days."""


def read_rows(path: Path) -> tuple[dict[str, NDArray[Any]], NDArray[np.int32]]:
    """The columns of all sounds of a manifest, see ``Clips``, and the numbers of their lines.

    Args:
        path: the manifest.

    Raises:
        ManifestError: the manifest cannot be read, or changes meanwhile; a line is not a JSON
            object, lacks a key or has a value of another kind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     manifest = Path(folder, "manifest.jsonl")
        ...     _ = manifest.write_text('\\n{"path": "rex.wav", "seconds": 1.5}')
        ...     columns, lines = read_rows(manifest)
        >>> columns["seconds"], lines
        (array([1.5]), array([2], dtype=int32))
    """
    builder, lines, folder = ColumnsBuilder(), array("i"), str(path.parent)
    for number, row in each_row(path):
        _add(builder, row, folder)
        lines.append(number)
    return builder.columns(), np.frombuffer(lines, np.int32)


def each_row(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a manifest with the numbers of their lines, one after the other.

    Args:
        path: the manifest.

    Raises:
        ManifestError: see ``read_rows``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     manifest = Path(folder, "manifest.jsonl")
        ...     _ = manifest.write_text('{"path": "rex.wav", "seconds": 1.5, "licence": "CC0"}')
        ...     list(each_row(manifest))
        [(1, {'path': 'rex.wav', 'seconds': 1.5, 'licence': 'CC0'})]
    """
    before = _state(path)
    try:
        for number, line in enumerate(read_lines(path, MAX_LINE_CHARACTERS), 1):
            if line and not line.isspace():
                try:
                    row = _checked_row(line)
                except UnicodeEncodeError:
                    problem = "class, group or split is not valid text: it has broken characters"
                    raise _refusal(path, number, problem) from None
                except ValueError as error:
                    raise _refusal(path, number, str(error)) from None
                except KeyError as error:
                    raise ManifestError(f"{path}:{number}: the key {error} is missing") from None
                yield number, row
    except DocumentError as error:
        raise ManifestError(f"{path}: cannot be read as a manifest: {error}") from None
    if _state(path) != before:
        raise ManifestError(f"{path}: was changed while it was read: repeat the command")


def _refusal(path: Path, number: int, problem: str) -> ManifestError:
    return ManifestError(f"{path}:{number}: not a manifest line: {problem}")


def _state(path: Path) -> tuple[int, ...]:
    """What changes if the file becomes another one."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # the reader says why
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _checked_row(line: str) -> dict[str, Any]:
    """The row of a line, whose values are of the right kinds."""
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError(f"a line is an object, not {shortened(line)}")
    path = row["path"]
    if not is_path(path):
        raise ValueError(f"path is not the name of a file: {shortened(repr(path))}")
    _checked_seconds(row["seconds"])
    for key in ("caption", "class", "group", "split"):
        if not isinstance(row.get(key), str | None):
            raise ValueError(f"{key} is not text: {shortened(repr(row[key]))}")
        if key != "caption":
            (row.get(key) or "").encode(errors="surrogateescape")  # as it goes into the columns
    alternatives = row.get("alternatives")
    if alternatives and not (
        isinstance(alternatives, list) and all(isinstance(text, str) for text in alternatives)
    ):
        raise ValueError(f"alternatives is not a list of texts: {shortened(repr(alternatives))}")
    for text in _captions(row):
        checked_text(text)  # raises if the text cannot be a query
    return row


def _add(builder: ColumnsBuilder, row: dict[str, Any], folder: str) -> None:
    """Append the sound of a checked row to the columns."""
    path, caption, split = row["path"], row.get("caption"), row.get("split")
    name = _plain_name(path, folder)
    default = None if name == path else path
    builder.add(
        name,
        float(row["seconds"]),
        root=folder,
        captions=_captions(row),
        has_caption=bool(caption and not caption.isspace()),
        label=row.get("class") or default,
        has_class=bool(row.get("class")),
        group=row.get("group") or default,
        split="train" if split is None else split,
    )


def _plain_name(path: str, folder: str) -> str:
    """The name of a file below the folder of the manifest: all lines of a file have the same."""
    if normpath(path) == path and not path.startswith("/"):
        return path
    full = Path(folder, path)
    return (full.relative_to(folder) if full.is_relative_to(folder) else full).as_posix()


def _checked_seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (OverflowError, TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(
            f"seconds is {shortened(repr(value))}: give a number above 0, {MAX_SECONDS:,} at most"
        )
    return seconds


def _captions(row: dict[str, Any]) -> list[str]:
    """All descriptions that are not blank."""
    texts = (row.get("caption"), *(row.get("alternatives") or ()))
    return [text for text in texts if text and not text.isspace()]
