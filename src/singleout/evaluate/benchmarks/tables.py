"""CSV tables of benchmarks, read strictly."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from singleout.errors import ManifestError, QueryError
from singleout.evaluate.benchmarks.benchmark import Item
from singleout.types import Query

Row = Mapping[str, str]
"""Cells by column. The second column of a name is called ``name.2``, as in the table of Clotho."""

ItemReader = Callable[[str, Row, Path], Item]
"""From the origin of a row, the row and the folder of the audio to the item."""


@dataclass(frozen=True)
class Table:
    """Reads the items of a set from a CSV file.

    Attributes:
        file: name of the CSV file.
        columns: that it must have; alternative names are divided by ``|``.
        key: columns that together identify a row; empty for all of them.
        audio: folders that may hold the audio, relative to the folder of the set. The first that
            exists is used, or else the folder of the set.
        item: makes an item from a row; raises ``ValueError`` if a value of the row is wrong.

    Example:
        >>> import tempfile
        >>> def dog(origin, row, audio):
        ...     return Item(origin, row["caption"], "", row["wav"], (), (audio / row["wav"],), None)
        >>> table = Table("set.csv", ["wav", "caption"], ["wav"], ["audio"], dog)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "set.csv").write_text("wav,caption\\n1.wav,a dog\\n")
        ...     table(Path(folder))[0].caption
        'a dog'
    """

    file: str
    columns: Sequence[str]
    key: Sequence[str]
    audio: Sequence[str]
    item: ItemReader

    def __call__(self, data: Path) -> list[Item]:
        """Read the items of the set in the folder ``data``, in the order of the table.

        The table is in ``data``, in ``data/metadata`` or in ``data/../../metadata``. So ``data``
        may be a separate folder, the folder ``evaluation`` of a copy of the AudioSep repository, or
        the folder of the set below it.

        Raises:
            ManifestError: the folder or the table is missing; the table has no rows or lacks a
                column; or a row has a wrong number of cells or a wrong value, or is a duplicate.
        """
        if not data.is_dir():
            raise ManifestError(f"{data}: is not a folder")
        places = (data, data / "metadata", data.parent.parent / "metadata")
        path = next((p / self.file for p in places if (p / self.file).is_file()), None)
        if path is None:
            raise ManifestError(f"{data}: has no {self.file}, and neither has {places[1]}")
        folders = (data / folder for folder in self.audio)
        audio = next((folder for folder in folders if folder.is_dir()), data)
        lines: dict[tuple[str, ...], int] = {}
        items = []
        for line, row in self._rows(path):
            key = tuple(row[column] for column in self.key or row)
            if key in lines:
                raise ManifestError(
                    f"{path}:{line}: {', '.join(key)} is already in line {lines[key]}"
                )
            lines[key] = line
            items.append(self._item(f"{path}:{line}", row, audio))
        return items

    def _rows(self, path: Path) -> list[tuple[int, Row]]:
        """Rows with the numbers of their last lines."""
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                names = next(reader, [])
                header = _numbered(names)
                missing = [c for c in self.columns if not set(c.split("|")) & set(header)]
                if missing:
                    name, _, number = missing[0].replace("|", " or ").partition(".")
                    raise ManifestError(
                        f"{path}: the column {name} is missing"
                        + (f" (number {number} of that name)" if number else "")
                        + f", its header is {','.join(names) or 'empty'}"
                    )
                rows: list[tuple[int, Row]] = []
                for cells in reader:
                    if len(cells) != len(header):
                        raise ManifestError(
                            f"{path}:{reader.line_num}: has {len(cells)} cells, "
                            f"its header has {len(header)}"
                        )
                    rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ManifestError(f"{path}: cannot be read as CSV: {error}") from None
        if not rows:
            raise ManifestError(f"{path}: has no rows")
        return rows

    def _item(self, origin: str, row: Row, audio: Path) -> Item:
        try:
            item = self.item(origin, row, audio)
            Query((item.caption,))
        except QueryError as error:
            raise ManifestError(f"{origin}: its caption is not a valid query: {error}") from None
        except ValueError as error:
            raise ManifestError(f"{origin}: {error}") from None
        return item


def _numbered(header: Sequence[str]) -> list[str]:
    counts: Counter[str] = Counter()
    columns = []
    for name in header:
        counts[name] += 1
        columns.append(name if counts[name] == 1 else f"{name}.{counts[name]}")
    return columns
