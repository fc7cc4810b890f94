"""The sounds to prepare: rows of a manifest, or the files below a folder, in groups."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from singleout.audio import MEDIA_SUFFIXES
from singleout.data.manifest_rows import each_row
from singleout.errors import ManifestError
from singleout.storage.folders import list_files
from singleout.storage.locations import Location
from singleout.storage.temporary import temporary_folder

Row = dict[str, Any]
"""A row of a manifest by its keys; of a file below a folder, the key ``path`` alone."""


@dataclass(frozen=True)
class RowGroup:
    """Rows that become one shard. They are compressed: a corpus has millions.

    Attributes:
        content: the rows with their numbers.

    Example:
        >>> group = RowGroup.of([(7, {"path": "rain.wav"})])
        >>> group.rows()
        [(7, {'path': 'rain.wav'})]
        >>> str(group)
        'rows 7 to 7'
    """

    content: bytes

    def __str__(self) -> str:
        rows = self.rows()
        return f"rows {rows[0][0]} to {rows[-1][0]}"

    @classmethod
    def of(cls, rows: Iterable[tuple[int, Row]]) -> RowGroup:
        """A group of rows with their numbers."""
        return cls(zlib.compress(json.dumps(list(rows)).encode(), level=1))

    def rows(self) -> list[tuple[int, Row]]:
        """The rows with their numbers."""
        return [(number, row) for number, row in json.loads(zlib.decompress(self.content))]


def row_groups(source: str | Path, size: int) -> list[RowGroup]:
    """The rows of a manifest or folder, in groups.

    Args:
        source: manifest, by path or address, or a folder. Paths in a manifest are relative to it,
            absolute, or addresses.
        size: number of rows in a group; the last group may have fewer.

    Raises:
        ManifestError: the manifest cannot be read, has a bad line or no rows; or the folder has no
            media.
        InputError: the address of the manifest cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "rain.wav").touch()
        ...     [group.rows() for group in row_groups(folder, size=10)]
        [[(1, {'path': 'rain.wav'})]]
    """
    rows, groups = _rows(Location(source)), []
    while some := list(islice(rows, size)):
        groups.append(RowGroup.of(some))
    if not groups:
        raise ManifestError(f"{source}: holds no sounds")
    return groups


def base_of(source: str | Path) -> str:
    """The folder, or its address, that the paths of the rows are relative to.

    Example:
        >>> base_of("s3://sounds/manifest.jsonl")
        's3://sounds'
    """
    location = Location(source)
    if not location.is_local:
        return str(location).rpartition("/")[0]
    path = location.path.absolute()
    return str(path if path.is_dir() else path.parent)


def place_of(row: Row, base: str) -> Location:
    """Where the recording of a row is.

    Example:
        >>> str(place_of({"path": "dogs/rex.wav"}, "s3://sounds"))
        's3://sounds/dogs/rex.wav'
    """
    place = Location(row["path"])
    if not place.is_local or place.path.is_absolute():
        return place
    return Location(base) / str(row["path"])


def _rows(source: Location) -> Iterator[tuple[int, Row]]:
    if not source.is_local:
        with temporary_folder() as folder:
            copy = folder / "manifest.jsonl"
            source.fetch(copy)
            yield from _named_after(source, copy)
    elif source.path.is_dir():
        files = list_files([source.path]).files
        media = [path for path in files if path.suffix.lower() in MEDIA_SUFFIXES]
        for number, path in enumerate(media, 1):
            yield number, {"path": path.relative_to(source.path).as_posix()}
    else:
        yield from each_row(source.path)


def _named_after(source: Location, copy: Path) -> Iterator[tuple[int, Row]]:
    """The rows of the copy of a manifest; messages name the manifest."""
    try:
        yield from each_row(copy)
    except ManifestError as error:
        raise ManifestError(str(error).replace(str(copy), str(source))) from None
