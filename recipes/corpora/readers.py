"""Downloaded corpora as manifest rows: AudioCaps, Clotho and FSD50K in their official layouts.

Sounds of a table that the folder lacks are counted and are no error, because no copy of AudioCaps
is complete. ``group`` is the origin of a recording (``youtube/…``, ``freesound/…``), so that the
same recording is recognised in another corpus. The content of the recordings is not checked.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from singleout.audio import SOUND_SUFFIXES
from singleout.errors import ManifestError

Row = dict[str, Any]


@dataclass
class Corpus:
    """The sounds of a corpus.

    Attributes:
        rows: of the manifest; paths are relative to the corpus.
        missing: number of sounds that the tables name and the folder lacks.
        unreadable: number of files that are empty or not audio.
    """

    rows: list[Row] = field(default_factory=list)
    missing: int = 0
    unreadable: int = 0

    def add(self, folder: Path, audio: Path | None, **keys: Any) -> None:
        """Add a row for a file, or count it as missing or unreadable.

        Args:
            folder: of the corpus.
            audio: the file; None if the folder lacks it.
            keys: of the row; empty values are left out.
        """
        if audio is None or not audio.is_file():
            self.missing += 1
            return
        try:
            seconds = soundfile.info(audio).duration
        except soundfile.SoundFileError:
            seconds = 0.0
        if not seconds:
            self.unreadable += 1
            return
        path = audio.relative_to(folder).as_posix()
        row = {key: value for key, value in keys.items() if value}
        self.rows.append({"path": path, "seconds": seconds, **row})


def table(path: Path, *columns: str, encoding: str = "utf-8-sig") -> Iterator[dict[str, str]]:
    """Rows of a CSV file.

    Raises:
        ManifestError: the file cannot be read, or lacks one of the columns.
    """
    try:
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise ManifestError(f"{path}: lacks the column '{lacking[0]}'")
            for row in reader:
                if any(row[name] is None for name in columns):
                    raise ManifestError(f"{path}:{reader.line_num}: too few columns")
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read as a table: {error}") from None


def audiocaps(folder: Path) -> Corpus:
    """AudioCaps 1.0 or 2.0: ``{train,val,test}.csv`` and folders ``train``, ``val``, ``test``.

    The audio files have no official names. Download tools write ``<youtube_id>_<start_time>``,
    ``<youtube_id>`` or ``Y<youtube_id>``. Classes are the sets of AudioSet's
    labels, if the folder holds its ``*_segments.csv``.
    """
    labels = audioset_labels(folder)
    corpus = Corpus()
    for name, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        audio = {
            path.stem: path
            for path in sorted((folder / name).glob("*"))
            if path.suffix.lower() in SOUND_SUFFIXES
        }
        captions: dict[tuple[str, str], list[str]] = {}
        for row in table(folder / f"{name}.csv", "youtube_id", "start_time", "caption"):
            key = row["youtube_id"], row["start_time"]
            captions.setdefault(key, []).append(row["caption"].strip())
        for (video, start), texts in captions.items():
            stems = (f"{video}_{start}", video, f"Y{video}")
            corpus.add(
                folder,
                next((audio[stem] for stem in stems if stem in audio), None),
                caption=texts[0],
                alternatives=texts[1:],
                **{"class": labels.get(video)},
                group=f"youtube/{video}",
                split=split,
                license="of the video's owner",
                origin={"corpus": "audiocaps", "youtube_id": video, "start_time": start},
            )
    return corpus


def audioset_labels(folder: Path) -> dict[str, str]:
    """The sorted labels of every video in the AudioSet lists of a folder."""
    labels = {}
    for path in sorted(folder.glob("*_segments.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            lines = (line for line in file if not line.startswith("#"))
            for columns in csv.reader(lines, skipinitialspace=True):
                if len(columns) != 4:
                    raise ManifestError(f"{path}: not a list of AudioSet's: {columns}")
                labels[columns[0]] = ",".join(sorted(columns[3].split(",")))
    return labels


def clotho(folder: Path) -> Corpus:
    """Clotho 2.1: folders ``development``, ``validation`` and ``evaluation``.

    Each has its ``clotho_captions_*.csv`` and ``clotho_metadata_*.csv``.
    """
    corpus = Corpus()
    names = [f"caption_{number}" for number in range(1, 6)]
    splits = {"development": "train", "validation": "validation", "evaluation": "test"}
    for name, split in splits.items():
        metadata = {
            row["file_name"]: row
            for row in table(
                folder / f"clotho_metadata_{name}.csv",
                *("file_name", "sound_id", "manufacturer", "license"),
                encoding="latin-1",
            )
        }
        for row in table(folder / f"clotho_captions_{name}.csv", "file_name", *names):
            about = metadata.get(row["file_name"], {})
            number = about.get("sound_id", "").strip()
            known = number.isdecimal()  # some are "Not found"
            corpus.add(
                folder,
                folder / name / row["file_name"],
                caption=row[names[0]].strip(),
                alternatives=[row[key].strip() for key in names[1:]],
                group=f"freesound/{number}" if known else f"clotho/{row['file_name']}",
                split=split,
                license=about.get("license", "").strip(),
                origin={"corpus": "clotho", "freesound_id": number if known else None},
            )
    return corpus


def fsd50k(folder: Path) -> Corpus:
    """FSD50K 1.0: ``FSD50K.{dev,eval}_audio``, ``FSD50K.ground_truth`` and ``FSD50K.metadata``.

    The class of a clip is its first label, the most specific one.
    """
    corpus = Corpus()
    for part in ("dev", "eval"):
        about = clips_info(folder / f"FSD50K.metadata/{part}_clips_info_FSD50K.json")
        columns = ("fname", "labels", *(("split",) if part == "dev" else ()))
        for row in table(folder / f"FSD50K.ground_truth/{part}.csv", *columns):
            split = {"train": "train", "val": "validation"}.get(row.get("split", "test"), "test")
            info = about.get(row["fname"], {})
            corpus.add(
                folder,
                folder / f"FSD50K.{part}_audio/{row['fname']}.wav",
                **{"class": row["labels"].split(",")[0]},
                group=f"freesound/{row['fname']}",
                split=split,
                license=info.get("license"),
                origin={"corpus": "fsd50k", "uploader": info.get("uploader")},
            )
    return corpus


def clips_info(path: Path) -> Mapping[str, dict[str, Any]]:
    """Metadata of FSD50K by Freesound number."""
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(info, dict) or not all(isinstance(each, dict) for each in info.values()):
        raise ManifestError(f"{path}: not the metadata of clips")
    return info


READERS: Mapping[str, Callable[[Path], Corpus]] = {
    "audiocaps": audiocaps,
    "clotho": clotho,
    "fsd50k": fsd50k,
}
