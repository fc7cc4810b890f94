"""Rows of a table that somebody made, as entries: which column means what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from singleout.corpora.tables import read_json, read_json_lines, read_table
from singleout.errors import ManifestError, shortened

USUAL = {
    "path": ("path", "file_name", "audio_file_name", "filename", "file", "fname", "audio", "wav",
             "audio_filepath", "audio_path", "location"),
    "caption": ("caption", "captions", "text", "sentence", "description"),
    "class": ("class", "label", "labels", "category"),
    "group": ("group",),
    "split": ("split", "subset", "set"),
    "alternatives": ("alternatives",),
    "license": ("license", "licence"),
}  # fmt: skip
"""Usual names of the columns, by the key of a manifest that they give; the first one counts."""
NUMBERED = re.compile(r"caption_\d+")
"""Columns of further captions. Columns such as ``caption_id`` hold none."""
SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""Usual names of the splits, which are also those of Hugging Face's ``datasets``."""


def split_named(names: Sequence[str], default: str = "train") -> str:
    """The split that the last name of a split among some names gives.

    Example:
        >>> split_named(["data", "valid", "dogs"]), split_named(["dogs"])
        ('validation', 'train')
    """
    known = [SPLITS[name.lower()] for name in names if name.lower() in SPLITS]
    return known[-1] if known else default


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV, TSV, JSONL or JSON file, by its suffix.

    Raises:
        ManifestError: the file cannot be read, or has another suffix.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "captions.tsv")
        ...     _ = path.write_text("file\\ttext\\n1.wav\\ta dog\\n")
        ...     list(read_rows(path))
        [{'file': '1.wav', 'text': 'a dog'}]
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from read_table(path, delimiter="," if suffix == ".csv" else "\t")
    elif suffix in (".jsonl", ".ndjson"):
        yield from read_json_lines(path)
    elif suffix == ".json":
        content = read_json(path)
        rows = content.get("data") if isinstance(content, dict) else content
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ManifestError(f"{path}: is not a list of objects, and has none in 'data'")
        yield from rows
    else:
        raise ManifestError(f"{path}: captions come in a .csv, .tsv, .jsonl or .json file")


class Columns:
    """Finds the values that a manifest has in the rows of a table.

    Args:
        names: names of columns, by the key of the manifest: ``path``, ``caption``, ``class``,
            ``group``, ``split``, ``alternatives`` or ``license``. Other keys have the usual names.

    Raises:
        ManifestError: a key is unknown.

    Example:
        >>> columns = Columns({"caption": "what"})
        >>> row = {"file": "1.wav", "what": "a dog", "caption_2": "a hound", "label": "dog"}
        >>> columns.value(row, "path"), columns.captions(row), columns.value(row, "class")
        ('1.wav', ['a dog', 'a hound'], 'dog')
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        for key in names or {}:
            if key not in USUAL:
                raise ManifestError(
                    f"the key '{shortened(key)}' is unknown: a column is one of {', '.join(USUAL)}"
                )
        self._names = {**USUAL, **{key: (name,) for key, name in (names or {}).items()}}
        self._required = set(names or {})

    def check(self, path: Path, row: Mapping[str, Any], holds_sounds: bool = False) -> None:
        """Refuse a table that lacks the names of the files, or a column that was named.

        Args:
            path: the table.
            row: its first row.
            holds_sounds: whether the rows hold the recordings, so that they need no names.

        Raises:
            ManifestError: it lacks one of them.
        """
        for key in sorted(self._required | (set() if holds_sounds else {"path"})):
            if not any(name in row for name in self._names[key]):
                has = shortened(", ".join(map(str, row)))
                raise ManifestError(
                    f"{path}: lacks the column '{self._names[key][0]}': it has {has}. Name the "
                    f"right one by --column {key}=NAME"
                )

    def value(self, row: Mapping[str, Any], key: str) -> str | None:
        """The text of a key; None if the row has none."""
        for name in self._names[key]:
            value = row.get(name)
            if isinstance(value, list):
                value = value[0] if value else None
            if value not in (None, "") and not isinstance(value, dict):
                return str(value).strip() or None
        return None

    def captions(self, row: Mapping[str, Any]) -> list[str]:
        """The caption and all alternatives: also those in ``caption_1``, ``caption_2``, …"""
        texts: list[str] = []
        for key in ("caption", "alternatives"):
            for name in self._names[key]:
                value = row.get(name)
                values = value if isinstance(value, list) else [value]
                texts += [str(each) for each in values if isinstance(each, str | int | float)]
        texts += [str(row[name] or "") for name in row if NUMBERED.fullmatch(str(name))]
        return list(dict.fromkeys(text.strip() for text in texts if text.strip()))
