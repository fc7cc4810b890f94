"""CSV tables of benchmarks, read strictly."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from singleout.errors import ManifestError, QueryError
from singleout.evaluate.benchmarks.protocol import Item
from singleout.types import Query

Row = Mapping[str, str]
"""Cells by column. The second column of one name is called ``name.2``, as Clotho's table needs."""

ItemReader = Callable[[str, Row, Path], Item]
"""From where a row is written, the row and the folder of the audio to the item."""


@dataclass(frozen=True)
class Table:
    """A set that lists its items in a CSV file.

    Attributes:
        file: name of the CSV file.
        columns: it must have, alternatives divided by ``|``.
        key: columns that together tell rows apart; empty for all of them.
        audio: folders that may hold the audio, relative to the set's; the first that is there.
        item: reads a row; raises ``ValueError`` if it holds what it must not.
    """

    file: str
    columns: Sequence[str]
    key: Sequence[str]
    audio: Sequence[str]
    item: ItemReader

    def __call__(self, data: Path) -> list[Item]:
        """The items of the set in ``data``, in the order of its table.

        The table lies in ``data``, in ``data/metadata`` or in ``data/../../metadata``: a folder
        of its own, or the folder ``evaluation`` of a checkout of AudioSep, or the set's below it.

        Raises:
            ManifestError: no folder or table there, no rows, a column is missing, a row has
                another number of cells than the header or holds what it must not, or is there
                twice.
        """
        if not data.is_dir():
            raise ManifestError(f"{data}: not a folder")
        places = (data, data / "metadata", data.parent.parent / "metadata")
        path = next((p / self.file for p in places if (p / self.file).is_file()), None)
        if path is None:
            raise ManifestError(f"{data}: holds no {self.file}, nor does {places[1]}")
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
        """Rows with the lines they end on."""
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
                        + f", its header is {','.join(names)}"
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
            raise ManifestError(f"{origin}: its caption cannot be asked for: {error}") from None
        except ValueError as error:
            raise ManifestError(f"{origin}: {error}") from None
        return item


def _numbered(header: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    columns = []
    for name in header:
        seen[name] += 1
        columns.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return columns
