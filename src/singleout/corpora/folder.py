"""Any folder of recordings: captions from a table, from sidecar files, or from names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from singleout.corpora.columns import SPLITS, Columns, read_rows, split_named
from singleout.corpora.entries import Entry
from singleout.corpora.files import CorpusFiles, stem_of
from singleout.corpora.tables import read_json
from singleout.documents import DocumentError, read_text
from singleout.errors import ManifestError, shortened

DIGITS = re.compile(r"\d+")
WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def folder_entries(
    files: CorpusFiles, captions: Path | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[Entry]:
    """Every recording of a folder, or of a table.

    With a table, its rows are the clips. Otherwise the captions of ``rain.wav`` are the lines of
    ``rain.txt``, or ``rain.json`` gives caption, class, group and split, or the caption is the
    words of the name. A folder with the name of a split gives the split. The last two other folders
    are the class, as ``family/kind``.

    Args:
        files: of the folder.
        captions: a CSV, TSV, JSONL or JSON file.
        columns: names of its columns, by the key of the manifest.

    Raises:
        ManifestError: a table or sidecar file cannot be read, or lacks a column.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "animal", "dog").mkdir(parents=True)
        ...     Path(folder, "animal", "dog", "dog_barking-03.wav").touch()
        ...     [entry] = folder_entries(CorpusFiles(Path(folder)))
        >>> entry.caption, entry.label
        ('dog barking', 'animal/dog')
    """
    if captions is not None:
        yield from table_entries(files, captions, Columns(columns))
        return
    sidecars = set(files.named(".txt", ".json"))
    for path in files.media():
        about = _sidecar(files, path, sidecars)
        if about is None:
            about = {"caption": caption_of(stem_of(path))}
        yield _entry(path, path, about, Columns(columns), list(PurePosixPath(path).parts[:-1]))


def table_entries(files: CorpusFiles, table: Path, columns: Columns) -> Iterator[Entry]:
    """The rows of a table of captions.

    The path of a recording is relative to the folder or to the table. A name alone is found
    wherever the file is, if one folder has it.

    Args:
        files: of the folder.
        table: a CSV, TSV, JSONL or JSON file.
        columns: what its columns mean.

    Raises:
        ManifestError: the table cannot be read, lacks a column, or names a recording without its
            folder, and several folders have it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "1.wav").touch()
        ...     table = Path(folder, "metadata.csv")
        ...     _ = table.write_text("file_name,text\\n1.wav,a dog\\n")
        ...     [entry] = table_entries(CorpusFiles(Path(folder)), table, Columns())
        >>> entry.path, entry.caption
        ('1.wav', 'a dog')
    """
    for number, row in enumerate(read_rows(table)):
        if not number:
            columns.check(table, row)
        name = columns.value(row, "path")
        if name is None:
            raise ManifestError(f"{table}: row {number + 1:,} names no file")
        yield _entry(name, _located(files, table, name), row, columns, [])


def caption_of(stem: str) -> str | None:
    """The words of a name, if it has any.

    Example:
        >>> caption_of("042_DogBarking-far.away (2)"), caption_of("IMG_0042")
        ('dog barking far away', 'img')
        >>> caption_of("0001")
    """
    words = WORDS.findall(CAMEL.sub(" ", DIGITS.sub(" ", stem)))
    return " ".join(words).lower() or None


def _located(files: CorpusFiles, table: Path, name: str) -> str | None:
    """The file that a table names; None if there is none."""
    below = f"{os.path.realpath(table.parent)}/{name}"
    for path in (name, below):
        if (recording := files.recording(path)) is not None:
            return recording
    if not {"/", "\\"} & set(name):
        paths = sorted(files.namesakes(stem_of(name)))
        if len({path.rpartition("/")[0] for path in paths}) > 1:
            raise ManifestError(
                f"{table}: {shortened(name)} may be {shortened(paths[0])} or "
                f"{shortened(paths[1])}: write the path in the table"
            )
        if paths:
            return files.audio(stem_of(name))
    elsewhere = table.absolute().parent / name
    try:
        return str(elsewhere) if elsewhere.is_file() else None
    except (OSError, ValueError):  # such as a name that is too long
        return None


def _sidecar(files: CorpusFiles, path: str, sidecars: set[str]) -> dict[str, Any] | None:
    """What the file next to a recording says of it."""
    base = path[: -len(PurePosixPath(path).suffix)]
    if f"{base}.json" in sidecars:
        about = read_json(Path(files.absolute(f"{base}.json")))
        if not isinstance(about, dict):
            raise ManifestError(f"{files.absolute(base)}.json: is not a JSON object")
        return about
    if f"{base}.txt" not in sidecars:
        return None
    try:
        text = read_text(Path(files.absolute(f"{base}.txt")))
    except DocumentError as error:
        raise ManifestError(f"{files.absolute(base)}.txt: cannot be read: {error}") from None
    return {"caption": [line for line in text.splitlines() if line.strip()]}


def _entry(
    name: str, path: str | None, row: Mapping[str, Any], columns: Columns, folders: list[str]
) -> Entry:
    """The entry of a row, with what the folders say where the row says nothing."""
    texts = columns.captions(row)
    split = columns.value(row, "split")
    split = split_named([split], split) if split else split_named(folders)
    kinds = [folder for folder in folders if folder.lower() not in SPLITS]
    return Entry(
        split,
        split,
        name,
        path,
        group=columns.value(row, "group"),
        caption=texts[0] if texts else None,
        alternatives=tuple(texts[1:]),
        label=columns.value(row, "class") or "/".join(kinds[-2:]) or None,
        license=columns.value(row, "license"),
    )
