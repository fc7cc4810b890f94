"""Manifests: one JSON object per line, one sound each.

Keys: ``path`` (relative to the manifest, required), ``seconds`` (required), ``caption``,
``alternatives``, ``class``, ``group``, ``split``; any other key (licence, origin, …) is carried
along unread. A sound without caption or class is fine: training needs neither.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from singleout.audio import MEDIA_SUFFIXES, SOUND_SUFFIXES, sndfile_name
from singleout.errors import ManifestError
from singleout.types import Query

NEARLY = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
"""What splits are called, and what is meant."""


@dataclass(frozen=True)
class Clip:
    """One sound.

    Attributes:
        path: absolute path of its audio file.
        seconds: length.
        caption: what it is, in the words of a query; None where nobody said.
        alternatives: other ways to say it.
        label: its class; two sounds of one class are never mixed. Falls back to the path, so
            that a clip without class only excludes itself.
        group: same recording or near-duplicate; never split between train and test, never mixed.
        split: train, validation or test.
        has_class: whether somebody said which class it is.
    """

    path: Path
    seconds: float
    caption: str | None
    alternatives: tuple[str, ...]
    label: str
    group: str
    split: str
    has_class: bool = True

    @property
    def family(self) -> str:
        """What its class is a kind of, where that is written ``family/kind``: sounds of one family
        are near misses of each other. One without a class is a family alone."""
        return self.label.split("/")[0] if self.has_class else self.label

    @property
    def captions(self) -> tuple[str, ...]:
        """All ways to say it."""
        return (() if self.caption is None else (self.caption,)) + self.alternatives


def read_manifest(path: Path, split: str | None = None, may_be_empty: bool = False) -> list[Clip]:
    """The clips of a manifest, or of one of its splits, in its order.

    Raises:
        ManifestError: unreadable, a line that is no JSON object or lacks a key, a file that does
            not exist, or nothing left (unless it ``may_be_empty``).
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold other line breaks
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read as a manifest: {error}") from None
    clips = []
    there: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            audio = path.parent / row["path"]
            seconds = float(row["seconds"])
            _check(row, seconds)
        except (ValueError, TypeError) as error:
            raise ManifestError(f"{path}:{number}: not a manifest line: {error}") from None
        except KeyError as error:
            raise ManifestError(f"{path}:{number}: the key {error} is missing") from None
        there[row.get("split", "train")] += 1
        if split is not None and row.get("split", "train") != split:
            continue
        if not _is_file(audio):
            raise ManifestError(f"{path}:{number}: names a missing file: {audio}")
        clips.append(
            Clip(
                path=audio,
                seconds=seconds,
                caption=_said(row.get("caption")),
                alternatives=tuple(filter(_said, row.get("alternatives") or ())),
                label=row.get("class") or row["path"],
                group=row.get("group") or row["path"],
                split=row.get("split", "train"),
                has_class=bool(row.get("class")),
            )
        )
    if not clips and not may_be_empty:
        which = "sounds" if split is None else f"sounds of the split '{split}'"
        others = ", ".join(f"{number:,} of '{name}'" for name, number in there.items())
        raise ManifestError(f"{path}: holds no {which}" + (f", but {others}" if others else ""))
    return clips


def check_splits(path: Path) -> None:
    """Refuse a manifest, that can be read, whose splits training would take for others than meant.

    Raises:
        ManifestError: a split's name is nearly ``train`` or ``validation``; or a group is in
            ``train`` and in another split.
    """
    trained: dict[str, str] = {}
    others: dict[str, tuple[str, str]] = {}
    for row in _rows(path):
        split, group = row.get("split", "train"), row.get("group") or row["path"]
        meant = NEARLY.get(split.strip().lower(), split)
        if split != meant:
            raise ManifestError(
                f"{path}: {row['path']} is of the split '{split}', which training does not know: "
                f"call it '{meant}'"
            )
        if split == "train":
            trained.setdefault(group, row["path"])
        else:
            others.setdefault(group, (row["path"], split))
    for group, (name, split) in others.items():
        if group in trained:
            raise ManifestError(
                f"{path}: {trained[group]} (train) and {name} ({split}) are of one group, "
                f"'{group}': what is scored would have been trained on"
            )


def held_out(path: Path) -> tuple[set[Path], set[str]]:
    """Files and groups of a manifest, that can be read, that are not to be trained on."""
    own = [row for row in _rows(path) if row.get("split", "train") != "train"]
    files = {(path.parent / row["path"]).resolve() for row in own}
    return files, {row["group"] for row in own if row.get("group")}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.strip():
            yield json.loads(line)


def _said(text: str | None) -> str | None:
    """Nothing where it is blank."""
    return text if text and text.strip() else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _check(row: dict[str, Any], seconds: float) -> None:
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds is {seconds}")
    for key in ("caption", "class", "group", "split"):
        if not isinstance(row.get(key), str | None):
            raise ValueError(f"{key} is not text: {row[key]!r}")
    alternatives = row.get("alternatives") or []
    if not isinstance(alternatives, list) or not all(isinstance(a, str) for a in alternatives):
        raise ValueError(f"alternatives is not a list of texts: {alternatives!r}")
    for text in filter(_said, (row.get("caption"), *alternatives)):
        Query.of(text)  # it can be asked


def scan_folder(folder: Path) -> list[Clip]:
    """Every audio file below ``folder`` as an uncaptioned clip, sorted by path.

    Hidden ones, such as those that macOS leaves on other disks, are left out, and so are media that
    only FFmpeg reads (``needing_ffmpeg``).

    Raises:
        ManifestError: not a folder, a file that cannot be read, or no audio files.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: not a folder of audio files")
    paths = _below(folder, SOUND_SUFFIXES)
    if not paths:
        raise ManifestError(f"{folder}: holds no audio files ({', '.join(SOUND_SUFFIXES)})")
    clips = []
    for path in paths:
        try:
            seconds = soundfile.info(sndfile_name(path)).duration
        except soundfile.SoundFileError as error:
            raise ManifestError(f"{path}: cannot be read as audio: {error}") from None
        if not seconds:
            raise ManifestError(f"{path}: has no samples")
        name = path.relative_to(folder).as_posix()
        clips.append(Clip(path, seconds, None, (), name, name, "train", has_class=False))
    return clips


def needing_ffmpeg(folder: Path) -> list[Path]:
    """Media below ``folder`` that are no clips as they are: training reads crops at random places,
    which takes a file that libsndfile reads."""
    return _below(folder, [suffix for suffix in MEDIA_SUFFIXES if suffix not in SOUND_SUFFIXES])


def _below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files that are not hidden, sorted."""

    def is_wanted(path: Path) -> bool:
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        return path.suffix.lower() in suffixes and not is_hidden

    return sorted(filter(is_wanted, folder.rglob("*")))


def share_of(*names: str) -> float:
    """In [0, 1), drawn by the names alone: the same on every machine, in whatever corpus."""
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def total_seconds(clips: Iterable[Clip]) -> float:
    """Sum of the lengths."""
    return sum(clip.seconds for clip in clips)
