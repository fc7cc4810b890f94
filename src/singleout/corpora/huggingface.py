"""Audio data sets in the layouts of Hugging Face's ``datasets``, which need not be installed.

Facts: https://huggingface.co/docs/hub/en/datasets-audio and
https://huggingface.co/docs/datasets/audio_dataset. A plain layout has recordings, folders of splits
and of classes, and ``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet`` with a column
``file_name``, relative to it. Parquet files, and the Arrow files of ``save_to_disk``, hold the
recordings themselves in a column of ``bytes`` and ``path``; they become files first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from singleout.corpora.arrow import ArrowTable, extracted
from singleout.corpora.columns import SPLITS, Columns, read_rows, split_named
from singleout.corpora.entries import Entry
from singleout.corpora.files import CorpusFiles

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SEPARATORS = re.compile(r"[-_./]")


def huggingface_entries(
    files: CorpusFiles, audio: Path | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[Entry]:
    """The clips of an audio data set.

    Args:
        files: of the folder.
        audio: folder for recordings that Parquet and Arrow files hold; by default
            ``extracted_audio`` in the folder. Files with the right bytes are kept.
        columns: names of columns, by the key of the manifest.

    Raises:
        ManifestError: a table cannot be read, or lacks a column.
        MissingExtraError: a Parquet or Arrow file is read, and pyarrow is not installed.
        OutputError: a recording cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "test", "dog").mkdir(parents=True)
        ...     Path(folder, "test", "dog", "1.wav").touch()
        ...     [entry] = huggingface_entries(CorpusFiles(Path(folder)))
        >>> entry.split, entry.label, entry.caption
        ('test', 'dog', None)
    """
    meaning = Columns(columns)
    tables = [path for path in files.named(*METADATA) if PurePosixPath(path).name in METADATA]
    if tables:
        for path in tables:
            yield from _metadata_entries(files, path, meaning)
        return
    held = [path for path in files.named(".parquet", ".arrow") if not _is_cache(path)]
    if held:
        folder = audio if audio is not None else Path(files.root, "extracted_audio")
        for path in held:
            yield from _held_entries(files, path, folder, meaning)
        return
    for path in files.media():
        folders = PurePosixPath(path).parts[:-1]
        kinds = [name for name in folders if name.lower() not in SPLITS and name != "data"]
        split = split_named(folders)
        yield Entry(split, split, path, path, label="/".join(kinds[-2:]) or None)


def _is_cache(path: str) -> bool:
    """Whether a file is a cache of ``datasets``, whose rows are copies of those of other files."""
    return PurePosixPath(path).name.startswith("cache-") and path.endswith(".arrow")


def _metadata_entries(files: CorpusFiles, name: str, columns: Columns) -> Iterator[Entry]:
    """The rows of a metadata file; its folders name the split."""
    path = Path(files.root, name)
    rows = ArrowTable(path).rows() if path.suffix == ".parquet" else read_rows(path)
    parent = PurePosixPath(name).parent
    for number, row in enumerate(rows):
        if not number:
            columns.check(path, row)
        audio = (parent / (columns.value(row, "path") or "")).as_posix()
        split = split_named(PurePosixPath(audio).parts[:-1])
        yield _row_entry(row, columns, audio, files.recording(audio), split)


def _held_entries(files: CorpusFiles, name: str, folder: Path, columns: Columns) -> Iterator[Entry]:
    """The rows of a file that holds the recordings, which become files."""
    table = ArrowTable(Path(files.root, name))
    split = split_named(SEPARATORS.split(name))
    stem = "-".join(PurePosixPath(name).with_suffix("").parts)
    for number, row, sound in table.rows_with_audio():
        if not number:
            columns.check(table.path, row, holds_sounds=True)
        path = None
        if sound is not None:
            path = extracted(folder / stem, number, sound)
            if path is None and sound.path:
                path = files.audio(PurePosixPath(sound.path).stem)
        yield _row_entry(row, columns, f"{name}:{number}", path, split)


def _row_entry(
    row: Mapping[str, Any], columns: Columns, name: str, path: str | None, split: str
) -> Entry:
    texts = columns.captions(row)
    stated = columns.value(row, "split")
    split = split_named([stated], stated) if stated else split
    return Entry(
        split,
        split,
        name,
        path,
        group=columns.value(row, "group"),
        caption=texts[0] if texts else None,
        alternatives=tuple(texts[1:]),
        label=columns.value(row, "class"),
        license=columns.value(row, "license"),
    )
