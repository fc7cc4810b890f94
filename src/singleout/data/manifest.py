"""Manifests: one JSON object per line, one sound each.

Keys: ``path`` (relative to the manifest, required), ``seconds`` (required), ``caption``,
``alternatives``, ``class``, ``group``, ``split``. Other keys (licence, origin, …) are ignored. A
sound needs neither a caption nor a class: training uses the sounds themselves.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from os.path import realpath
from pathlib import Path
from typing import Any

from singleout.audio import MEDIA_SUFFIXES, SOUND_SUFFIXES
from singleout.config import is_path
from singleout.data.clips import Clip
from singleout.data.sound_files import open_sound
from singleout.documents import DocumentError, parse_json, read_lines
from singleout.errors import AudioError, ManifestError, shortened
from singleout.storage.folders import list_files
from singleout.types import checked_text

MAX_LINE_CHARACTERS = 1_000_000
"""Length of the longest line of a manifest. A manifest may have any number of lines."""
MAX_SECONDS = 10_000_000
"""Length of the longest sound: 115 days."""
TEXT_OR_NONE = (str, type(None))
"""Types of the values of most keys."""

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
"""Usual names of the splits, and the names that training expects."""


OnBad = Callable[[Path, str], None]
"""Gets a file that cannot be used, and the reason."""


def read_manifest(
    path: Path,
    split: str | None = None,
    may_be_empty: bool = False,
    on_bad: OnBad | None = None,
) -> list[Clip]:
    """The clips of a manifest, or of one of its splits, in the order of the lines.

    Args:
        path: the manifest.
        split: name of the split; all by default.
        may_be_empty: return an empty list instead of an error if there are no clips.
        on_bad: gets every audio file that does not exist, whose clip is then left out.

    Raises:
        ManifestError: the manifest cannot be read or has no clips; a line is not a JSON object or
            lacks a key; an audio file does not exist, unless ``on_bad`` is given.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "rex.wav").write_bytes(b"")
        ...     manifest = Path(folder, "manifest.jsonl")
        ...     _ = manifest.write_text('{"path": "rex.wav", "seconds": 1.5, "caption": "a dog"}')
        ...     [clip.caption for clip in read_manifest(manifest, "train")]
        ['a dog']
    """
    clips = []
    sizes: Counter[str] = Counter()
    for number, row in _rows(path):
        sizes[_split(row)] += 1
        if split is not None and _split(row) != split:
            continue
        clip = _clip(row, path)
        if _is_file(clip.path):
            clips.append(clip)
        elif on_bad is None:
            missing = shortened(clip.path, 500)
            raise ManifestError(f"{path}:{number}: names a missing file: {missing}")
        else:
            on_bad(clip.path, f"no such file, named by {path}:{number}")
            may_be_empty = True
    if not clips and not may_be_empty:
        which = "sounds" if split is None else f"sounds of the split '{split}'"
        common = sizes.most_common(10)
        others = ", ".join(f"{size:,} of '{shortened(name)}'" for name, size in common)
        raise ManifestError(f"{path}: holds no {which}" + (f", but {others}" if others else ""))
    return clips


def _clip(row: dict[str, Any], path: Path) -> Clip:
    """The clip of a row of the manifest ``path``."""
    return Clip(
        path=path.parent / row["path"],
        seconds=float(row["seconds"]),
        caption=_text_or_none(row.get("caption")),
        alternatives=tuple(filter(_text_or_none, row.get("alternatives") or ())),
        label=row.get("class") or row["path"],
        group=row.get("group") or row["path"],
        split=_split(row),
        has_class=bool(row.get("class")),
    )


def check_splits(path: Path) -> None:
    """Refuse a manifest whose splits training would misunderstand.

    Args:
        path: the manifest.

    Raises:
        ManifestError: the manifest cannot be read, or has a bad line; or the name of a split is
            nearly ``train`` or ``validation``; or a group is in ``train`` and in another split.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     manifest = Path(folder, "manifest.jsonl")
        ...     _ = manifest.write_text('{"path": "rex.wav", "seconds": 1.5, "split": "val"}')
        ...     try:
        ...         check_splits(manifest)
        ...     except ManifestError as error:
        ...         print(str(error).removeprefix(f"{manifest}: "))
        rex.wav has the split 'val', which training does not know: call it 'validation'
    """
    trained: dict[str, str] = {}
    others: dict[str, tuple[str, str]] = {}
    for _, row in _rows(path):
        split, group = _split(row), row.get("group") or row["path"]
        expected = SPLIT_NAMES.get(split.strip().lower(), split)
        if split != expected:
            raise ManifestError(
                f"{path}: {shortened(row['path'])} has the split '{shortened(split)}', which "
                f"training does not know: call it '{expected}'"
            )
        if split == "train":
            trained.setdefault(group, row["path"])
        else:
            others.setdefault(group, (row["path"], split))
    for group, (name, split) in others.items():
        if group in trained:
            raise ManifestError(
                f"{path}: {shortened(trained[group])} (train) and {shortened(name)} "
                f"({shortened(split)}) are of one group, '{shortened(group)}': training would see "
                "sounds that are scored. Give them one split"
            )


def held_out(path: Path) -> tuple[set[Path], set[str]]:
    """The files and groups of a manifest that must not be trained on.

    Args:
        path: the manifest.

    Returns:
        Resolved paths and names of groups of all sounds that are not of the split ``train``.

    Raises:
        ManifestError: the manifest cannot be read, or has a bad line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     manifest = Path(folder, "manifest.jsonl")
        ...     row = '{"path": "rex.wav", "seconds": 1.5, "group": "rex", "split": "test"}'
        ...     _ = manifest.write_text(row)
        ...     files, groups = held_out(manifest)
        >>> groups
        {'rex'}
    """
    rows = [row for _, row in _rows(path) if _split(row) != "train"]
    files = {Path(realpath(path.parent / row["path"])) for row in rows}
    return files, {row["group"] for row in rows if row.get("group")}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a manifest with the numbers of their lines; every value is checked."""
    try:
        for number, line in enumerate(read_lines(path, MAX_LINE_CHARACTERS), 1):
            if line and not line.isspace():
                yield number, _checked_row(line, f"{path}:{number}")
    except DocumentError as error:
        raise ManifestError(f"{path}: cannot be read as a manifest: {error}") from None


def _checked_row(line: str, origin: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
        if not isinstance(row, dict):
            raise ValueError(f"a line is an object, not {shortened(line)}")
        _check_row(row)
    except ValueError as error:
        raise ManifestError(f"{origin}: not a manifest line: {error}") from None
    except KeyError as error:
        raise ManifestError(f"{origin}: the key {error} is missing") from None
    return row


def _split(row: dict[str, Any]) -> str:
    """The split of a sound; ``train`` where the manifest names none."""
    split: str | None = row.get("split")
    return "train" if split is None else split


def _text_or_none(text: str | None) -> str | None:
    """None if the text is blank."""
    return text if text and text.strip() else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _check_row(row: dict[str, Any]) -> None:
    if not is_path(row["path"]):
        raise ValueError(f"path is not the name of a file: {shortened(repr(row['path']))}")
    try:
        seconds = float(row["seconds"])
    except (OverflowError, TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds <= MAX_SECONDS:
        value = shortened(repr(row["seconds"]))
        raise ValueError(f"seconds is {value}: give a number above 0, {MAX_SECONDS:,} at most")
    for key in ("caption", "class", "group", "split"):
        if not isinstance(row.get(key), TEXT_OR_NONE):
            raise ValueError(f"{key} is not text: {shortened(repr(row[key]))}")
    alternatives = row.get("alternatives") or ()
    if alternatives and not (
        isinstance(alternatives, list) and all(isinstance(a, str) for a in alternatives)
    ):
        raise ValueError(f"alternatives is not a list of texts: {shortened(repr(alternatives))}")
    for text in (row.get("caption"), *alternatives):
        if _text_or_none(text):
            checked_text(text)  # raises if the text cannot be a query


def scan_folder(folder: Path, on_bad: OnBad | None = None) -> list[Clip]:
    """Every audio file below ``folder`` as a clip without caption, sorted by path.

    Links are followed, and each file counts once. Hidden files, such as those that macOS leaves on
    other disks, are left out. So are media that only FFmpeg reads (``needing_ffmpeg``).

    Args:
        folder: of the files.
        on_bad: gets every file that cannot be read, which is then left out.

    Raises:
        ManifestError: ``folder`` is not a folder or holds no audio files; or a file cannot be
            read, unless ``on_bad`` is given.

    Example:
        >>> import tempfile, numpy as np, soundfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(4_000), 8_000)
        ...     [(clip.label, clip.seconds) for clip in scan_folder(Path(folder))]
        [('rain.wav', 0.5)]
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: not a folder of audio files")
    paths = _files_below(folder, SOUND_SUFFIXES)
    if not paths:
        raise ManifestError(f"{folder}: holds no audio files ({', '.join(SOUND_SUFFIXES)})")
    clips = []
    for path in paths:
        try:
            seconds = _stated_seconds(path)
        except AudioError as error:
            if on_bad is None:
                raise ManifestError(str(error)) from None
            on_bad(path, str(error).removeprefix(f"{path}: "))
            continue
        name = path.relative_to(folder).as_posix()
        clips.append(Clip(path, seconds, None, (), name, name, "train", has_class=False))
    return clips


def _stated_seconds(path: Path) -> float:
    """Length of a sound by its header."""
    with open_sound(path) as file:
        if not file.frames:
            raise AudioError(f"{path}: has no samples")
        return float(file.frames / file.samplerate)


def needing_ffmpeg(folder: Path) -> list[Path]:
    """Media below ``folder`` that training cannot use before FFmpeg has converted them.

    Training reads crops at random positions, so it needs files that libsndfile can read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "film.mp4").touch()
        ...     [path.name for path in needing_ffmpeg(Path(folder))]
        ['film.mp4']
    """
    suffixes = [suffix for suffix in MEDIA_SUFFIXES if suffix not in SOUND_SUFFIXES]
    return _files_below(folder, suffixes)


def _files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return [path for path in list_files([folder]).files if path.suffix.lower() in suffixes]


def share_of(*names: str) -> float:
    """A number in [0, 1) that depends on the names alone, on every machine and in any corpus.

    Example:
        >>> share_of("rex.wav") == share_of("rex.wav")
        True
    """
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def total_seconds(clips: Iterable[Clip]) -> float:
    """The sum of the lengths of clips.

    Example:
        >>> total_seconds([Clip(Path("rex.wav"), 1.5, None, (), "dog", "rex", "train")])
        1.5
    """
    return sum(clip.seconds for clip in clips)
