"""Facts of the clips: caption rows, splits, records of finished packages, and manifests.

Each finished package has a record next to the audio, and manifests are made only from records. So a
second run only prepares the missing packages, and leakage is checked over all packages together.
"""

import csv
import hashlib
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")  # a later one wins where they share a recording
Entry = dict[str, Any]


@dataclass(frozen=True)
class CaptionRow:
    """A row of captions.csv."""

    package: str
    source_path: str
    caption: str
    alternatives: tuple[str, ...]
    sound_class: str
    license: str
    redistributable: bool
    loopable: bool
    group: str
    bandwidth_hz: int


@dataclass
class Record:
    """The sounds of one package. Entries have `audio_hash` in addition to the manifest's keys."""

    package: str
    version: str
    recipe: str
    entries: list[Entry] = field(default_factory=list)
    files: int = 0
    not_found: list[str] = field(default_factory=list)
    not_decodable: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    hashes: list[str] = field(default_factory=list)
    broken_archives: list[str] = field(default_factory=list)


def read_captions(path: Path) -> dict[str, list[CaptionRow]]:
    """Caption rows by package."""
    rows: dict[str, list[CaptionRow]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["package"]].append(
                CaptionRow(
                    row["package"],
                    row["source_path"],
                    row["caption"],
                    tuple(filter(None, row["alternatives"].split("|"))),
                    row["class"],
                    row["license"],
                    row["redistributable"] == "1",
                    row["loopable"] == "1",
                    row["group"],
                    int(float(row["bandwidth_hz"] or 0)),
                )
            )
    return dict(rows)


def read_splits(path: Path) -> dict[str, str]:
    """Split of each held-out package; every other package is train."""
    splits = json.loads(path.read_text(encoding="utf-8"))
    return {package: split for split in ("validation", "test") for package in splits[split]}


def read_same_recordings(path: Path) -> dict[str, str]:
    """For groups that have the same recording: the name of the first group of each list."""
    groups = json.loads(path.read_text(encoding="utf-8"))["groups"]
    return {name: names[0] for names in groups for name in names}


def fingerprint(*parts: object) -> str:
    """A hash of the rows and the code version that a record was made from."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def write_atomically(path: Path, text: str) -> None:
    """Write a file; an interrupted call leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_record(path: Path, record: Record) -> None:
    """Mark a package as finished, after all its audio has been written."""
    write_atomically(path, json.dumps(asdict(record), indent=0))


def read_record(path: Path, recipe: str) -> Record | None:
    """Record of a finished package, unless it was made by another version of the recipe."""
    if not path.is_file():
        return None
    fields = json.loads(path.read_text(encoding="utf-8"))
    return Record(**fields) if fields["recipe"] == recipe else None


def settle(
    entries: Iterable[Entry], taken: Collection[str] = ()
) -> tuple[list[Entry], Counter[str]]:
    """Drop exact duplicates, and clips whose recording or group is also in a higher split.

    Args:
        entries: of all packages.
        taken: audio hashes and groups of other sounds; entries that repeat one are dropped.

    Returns:
        The entries that are kept, and the number of dropped ones by reason.
    """
    entries = sorted(entries, key=_place)
    rank = {split: i for i, split in enumerate(SPLITS)}
    highest: dict[tuple[str, str], str] = {}

    def raise_split(key: tuple[str, str], split: str) -> None:
        highest[key] = max(highest.get(key, split), split, key=rank.__getitem__)

    for entry in entries:
        raise_split(("hash", entry["audio_hash"]), entry["split"])
        raise_split(("group", entry["group"]), entry["split"])

    kept: list[Entry] = []
    dropped: Counter[str] = Counter()
    seen: set[tuple[str, int]] = set()
    for entry in entries:
        key = (entry["audio_hash"], entry["origin"]["segment"])
        if entry["audio_hash"] in taken or entry["group"] in taken:
            dropped["same as a captioned sound"] += 1
        elif highest["hash", entry["audio_hash"]] != entry["split"]:
            dropped["same audio in a higher split"] += 1
        elif highest["group", entry["group"]] != entry["split"]:
            dropped["same group in a higher split"] += 1
        elif key in seen:
            dropped["exact duplicate"] += 1
        else:
            seen.add(key)
            kept.append(entry)
    return kept, dropped


def _place(entry: Entry) -> tuple[str, str, int]:
    origin = entry["origin"]
    return origin["package"], origin["source_path"], origin["segment"]


def write_manifest(path: Path, entries: Iterable[Entry]) -> None:
    """Write a manifest, one JSON object per line."""
    lines = (
        json.dumps({key: value for key, value in entry.items() if key != "audio_hash"})
        for entry in entries
    )
    write_atomically(path, "".join(line + "\n" for line in lines))


def summarise(entries: list[Entry]) -> dict[str, Any]:
    """Clips and hours per split, clips per family."""
    splits = {}
    for split in SPLITS:
        chosen = [entry for entry in entries if entry["split"] == split]
        families = Counter(entry["class"].split("/")[0] for entry in chosen if entry["class"])
        splits[split] = {
            "clips": len(chosen),
            "hours": round(sum(entry["seconds"] for entry in chosen) / 3600, 3),
            "classes": len({entry["class"] for entry in chosen if entry["class"]}),
            "families": dict(families.most_common()),
        }
    return {
        "clips": len(entries),
        "hours": round(sum(entry["seconds"] for entry in entries) / 3600, 3),
        "splits": splits,
    }
