"""Write the manifest of a corpus, and the list of what is not in it."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from singleout.corpora.reading import CorpusReader, Counts
from singleout.corpora.registry import ReadOptions
from singleout.documents import DocumentError, parse_json, read_lines
from singleout.errors import OutputError
from singleout.storage.atomic import replacing_all


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        corpus: its name.
        title: its name for people.
        version: see ``Corpus``.
        license: of the corpus as a whole.
        manifest, missing: the files.
        clips: number of rows of the manifest.
        seconds: of sound in the manifest.
        splits: number of rows by split.
        parts: numbers of clips by part of the corpus.
        notes: what else the user should know, one line each.

    Example:
        >>> Summary("esc50", "ESC-50", "2", "", "a.jsonl", "b.jsonl", 0, 0.0, {}, {}, []).clips
        0
    """

    corpus: str
    title: str
    version: str
    license: str
    manifest: str
    missing: str
    clips: int
    seconds: float
    splits: dict[str, int]
    parts: dict[str, Counts]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The attributes, for JSON."""
        return asdict(self)


def missing_path(manifest: Path) -> Path:
    """The usual place of the list of what a manifest lacks.

    Example:
        >>> missing_path(Path("esc50.jsonl")).name
        'esc50.missing.jsonl'
    """
    return manifest.with_suffix(".missing.jsonl")


def write_corpus(
    name: str,
    folder: Path,
    manifest: Path,
    missing: Path | None = None,
    options: ReadOptions | None = None,
) -> Summary:
    """Read a corpus, and write its manifest.

    Both files appear together, or none. Missing folders are made.

    Args:
        name, folder, options: see ``read_corpus``.
        manifest: JSON lines; paths are relative to its folder.
        missing: JSON lines, one for each clip that is not in the manifest; by default
            ``NAME.missing.jsonl`` for the manifest ``NAME.jsonl``.

    Raises:
        ConfigError, ManifestError, MissingExtraError: see ``read_corpus``.
        OutputError: a file cannot be written, or would replace one that is no earlier result.

    Example:
        >>> import tempfile, numpy as np, soundfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(4_000), 8_000)
        ...     summary = write_corpus("folder", Path(folder), Path(folder, "manifest.jsonl"))
        ...     print(Path(folder, "manifest.jsonl").read_text().strip())
        {"path": "rain.wav", "seconds": 0.5, "caption": "rain", "split": "train"}
    """
    missing = missing_path(manifest) if missing is None else missing
    _check_replaceable(manifest, "path")
    _check_replaceable(missing, "status")
    reader = CorpusReader(name, folder, options)
    _make_folders(manifest.parent, missing.parent)
    base = os.path.realpath(manifest.parent)
    with replacing_all([manifest, missing]) as (rows_file, problems_file):
        with (
            rows_file.open("w", encoding="utf-8", errors="replace") as rows,
            problems_file.open("w", encoding="utf-8", errors="replace") as problems,
        ):
            splits, seconds = _write(reader, base, rows, problems)
        reader.check_usable()
    return Summary(
        name,
        reader.published.title,
        reader.version,
        reader.published.license,
        str(manifest),
        str(missing),
        sum(splits.values()),
        round(seconds, 3),
        splits,
        reader.counts,
        reader.notes(),
    )


def _write(
    reader: CorpusReader, base: str, rows: TextIO, problems: TextIO
) -> tuple[dict[str, int], float]:
    """Write a line for every clip; the number of rows by split, and the seconds of sound."""
    splits: Counter[str] = Counter()
    seconds = 0.0
    for outcome in reader.outcomes():
        if outcome.status != "usable":
            print(json.dumps(outcome.problem(), ensure_ascii=False), file=problems)
            continue
        row = outcome.row() | {"path": _relative(outcome.path or "", base)}
        print(json.dumps(row, ensure_ascii=False), file=rows)
        splits[outcome.entry.split] += 1
        seconds += outcome.seconds
    return dict(splits), seconds


def _check_replaceable(path: Path, key: str) -> None:
    """Refuse to replace a file that is no earlier result, such as a table of the corpus."""
    if not path.exists():
        return
    try:
        line = next(read_lines(path), None)
        is_ours = line is None or key in parse_json(line)
    except (DocumentError, TypeError):
        is_ours = False
    if not is_ours:
        raise OutputError(f"{path}: exists, and is no earlier result: choose another name")


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made: {error.strerror or error}") from None


def _relative(path: str, base: str) -> str:
    """A path as seen from a folder, with slashes; the path itself on another drive of Windows."""
    folder, name = os.path.split(path)
    try:
        relative = os.path.relpath(os.path.realpath(folder), base)
    except ValueError:
        return path
    return Path(relative, name).as_posix()
