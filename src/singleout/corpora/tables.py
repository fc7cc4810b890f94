"""Tables of corpora: CSV with and without a header, and JSON, each failure in one line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from singleout.documents import DocumentError, parse_json, read_lines, read_text
from singleout.errors import ManifestError, shortened

MAX_JSON_BYTES = 2_000_000_000
"""Size of the largest JSON table. The largest one of WavCaps has 147 MB."""
LFS_POINTER = "version https://git-lfs"
"""Start of what Git leaves in the place of a file that it has not fetched."""


def read_table(
    path: Path,
    columns: Sequence[str] = (),
    encodings: Sequence[str] = ("utf-8-sig",),
    delimiter: str = ",",
) -> Iterator[dict[str, str]]:
    """The rows of a table with a header.

    Args:
        path: the table.
        columns: that it must have; every row must reach them.
        encodings: the first one that fits the whole file is taken.
        delimiter: between two values.

    Raises:
        ManifestError: the table cannot be read, lacks a column, or has a row that is too short.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "esc50.csv")
        ...     _ = path.write_text("filename,fold\\n1-17-A-0.wav,1\\n")
        ...     list(read_table(path, ["fold"]))
        [{'filename': '1-17-A-0.wav', 'fold': '1'}]
    """
    encoding = _encoding(path, encodings)
    try:
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            names = [name for name in reader.fieldnames or () if name]
            lacking = [name for name in columns if name not in names]
            if lacking:
                raise ManifestError(
                    f"{path}: lacks the column '{lacking[0]}': it has {_shown(names)}, so it is "
                    "another table or another version"
                )
            for row in reader:
                if any(row[name] is None for name in columns):
                    raise ManifestError(f"{path}:{reader.line_num}: too few columns")
                yield row
    except (OSError, UnicodeError, csv.Error) as error:
        raise _unreadable(path, error) from None


def read_columns(path: Path, count: int, comment: str | None = None) -> Iterator[list[str]]:
    """The rows of a table without a header.

    Args:
        path: the table, in UTF-8. Spaces after a comma are left out.
        count: number of columns of every row.
        comment: start of lines that are left out.

    Raises:
        ManifestError: the table cannot be read, or a row has another number of columns.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "segments.csv")
        ...     _ = path.write_text('# a comment\\nabc, 30.000, 40.000, "/m/1,/m/2"\\n')
        ...     list(read_columns(path, 4, "#"))
        [['abc', '30.000', '40.000', '/m/1,/m/2']]
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines: Iterable[str] = file
            if comment is not None:
                lines = (line for line in file if not line.startswith(comment))
            for row in csv.reader(lines, skipinitialspace=True):
                if not row:
                    continue
                if len(row) != count:
                    raise ManifestError(
                        f"{path}: a row has {len(row)} columns and not {count}: "
                        f"{shortened(', '.join(row))}"
                    )
                yield row
    except (OSError, UnicodeError, csv.Error) as error:
        raise _unreadable(path, error) from None


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        ManifestError: the file cannot be read, or is not JSON.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "sb_final.json")
        ...     _ = path.write_text('{"data": []}')
        ...     read_json(path)
        {'data': []}
    """
    try:
        text = read_text(path, MAX_JSON_BYTES)
        if text.startswith(LFS_POINTER):
            raise DocumentError("is a pointer of Git LFS, not the file: run git lfs pull")
        return parse_json(text)
    except DocumentError as error:
        raise ManifestError(f"{path}: cannot be read as JSON: {error}") from None


def read_records(path: Path, key: str, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The objects of a list in a JSON file.

    Args:
        path: a JSON file with one object.
        key: of the list in the object.
        fields: that each object of the list must have.

    Raises:
        ManifestError: the file cannot be read, or is of another form.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "sb_final.json")
        ...     _ = path.write_text('{"data": [{"id": "49"}]}')
        ...     list(read_records(path, "data", ["id"]))
        [{'id': '49'}]
    """
    content = read_json(path)
    records = content.get(key) if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise ManifestError(f"{path}: lacks the list '{key}', so it is another file or version")
    for number, record in enumerate(records):
        for field in fields:
            if not isinstance(record, dict) or field not in record:
                raise ManifestError(
                    f"{path}: item {number:,} of '{key}' lacks '{field}': {shortened(record)}"
                )
        yield record


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object per line.

    Raises:
        ManifestError: the file cannot be read, or a line is no JSON object.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "metadata.jsonl")
        ...     _ = path.write_text('{"file_name": "1.wav"}\\n')
        ...     list(read_json_lines(path))
        [{'file_name': '1.wav'}]
    """
    number = 0
    try:
        for line in read_lines(path):
            number += 1
            if line.strip():
                row = parse_json(line)
                if not isinstance(row, dict):
                    raise DocumentError(f"a line is an object, not {shortened(line)}")
                yield row
    except DocumentError as error:
        raise ManifestError(f"{path}:{number}: cannot be read: {error}") from None


def _encoding(path: Path, encodings: Sequence[str]) -> str:
    """The first encoding that fits a whole file; the last one if none does."""
    for encoding in encodings[:-1]:
        try:
            with path.open(encoding=encoding, newline="") as file:
                while file.read(1 << 20):
                    pass
            return encoding
        except UnicodeError:
            continue
        except OSError as error:
            raise _unreadable(path, error) from None
    return encodings[-1]


def _unreadable(path: Path, error: Exception) -> ManifestError:
    if isinstance(error, UnicodeError):
        reason = "it is not UTF-8 text: download it again, or convert it to UTF-8"
    else:
        reason = shortened((isinstance(error, OSError) and error.strerror) or error)
    return ManifestError(f"{path}: cannot be read as a table: {reason}")


def _shown(names: Sequence[str]) -> str:
    return shortened(", ".join(names)) or "no columns"
