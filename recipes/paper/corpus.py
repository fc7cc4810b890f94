"""The study's sounds: `make sounds TIER=full`, split so that every question has its own clips.

The query encoder must not have heard what the extractor is trained on, as a CLAP has not: its
audio would lie closer to its captions than anybody's own recordings do. So the training packages
are divided, 40 % of the clips for the encoder and the rest for the extractor; of the extractor's
packages some recordings are held out. In domain: those; out of domain: packages that nothing was
trained or chosen on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.progress import track

from singleout.audio import resample, write_wav
from singleout.data.manifest import share_of
from singleout.storage.atomic import replacing

SAMPLE_RATE_HZ = 16_000
ENCODER_SHARE = 0.4
HELD_OUT_SHARES = {"test_in_domain": 0.12, "validation": 0.06}
CAPTIONED_SHARE = 0.25
"""Of the training recordings, those that have captions in the rows 'captioned plus audio'."""

HIDDEN = ("caption", "alternatives", "class")
"""What an uncaptioned sound does not tell."""

Row = dict[str, Any]


def package_of(row: Mapping[str, Any]) -> str:
    """The Debian package that a sound comes from."""
    return str(row["origin"]["package"])


def encoder_packages(rows: Iterable[Row]) -> set[str]:
    """Training packages for the encoder: in a drawn order, until they hold their share of clips."""
    counts: dict[str, int] = {}
    for row in rows:
        if row["split"] == "train":
            counts[package_of(row)] = counts.get(package_of(row), 0) + 1
    chosen: set[str] = set()
    left = ENCODER_SHARE * sum(counts.values())
    for package in sorted(counts, key=lambda name: share_of("encoder", name)):
        if counts[package] <= left:
            chosen.add(package)
            left -= counts[package]
    return chosen


def new_splits(rows: list[Row]) -> list[str]:
    """The split of every row: encoder, train, validation, test_in_domain or test_out_of_domain.

    Recordings (groups) stay whole; one that the encoder has heard is nobody else's.
    """
    packages = encoder_packages(rows)
    heard = {
        row["group"] for row in rows if row["split"] == "train" and package_of(row) in packages
    }
    splits: list[str] = []
    for row in rows:
        if row["split"] == "train":
            splits.append("encoder" if row["group"] in heard else held_out(row["group"]))
        else:
            splits.append("test_out_of_domain" if row["split"] == "test" else row["split"])
    return splits


def held_out(group: str) -> str:
    """Where a recording of the extractor's packages goes."""
    drawn = share_of("held out", group)
    for split, share in HELD_OUT_SHARES.items():
        if drawn < share:
            return split
        drawn -= share
    return "train"


def _convert(source: Path, destination: Path) -> None:
    if destination.exists():
        return
    audio, rate = soundfile.read(source, dtype="float32", always_2d=True)
    audio = resample(np.ascontiguousarray(audio.mean(1)), rate, SAMPLE_RATE_HZ)
    destination.parent.mkdir(parents=True, exist_ok=True)
    write_wav(destination, audio[None], SAMPLE_RATE_HZ)


def _write(path: Path, rows: Iterable[Row]) -> None:
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prepare(sounds: Path, output: Path, jobs: int = 2) -> Path:
    """Write the sounds at 16 kHz and three manifests; returns the whole one.

    ``manifest.jsonl`` has all splits. ``captioned.jsonl`` has a quarter of its training
    recordings and the validation sounds, ``uncaptioned.jsonl`` the other three quarters, with
    neither captions nor classes.
    """
    rows = [json.loads(line) for line in sounds.read_text(encoding="utf-8").splitlines()]
    output.mkdir(parents=True, exist_ok=True)
    new = []
    for row, split in zip(rows, new_splits(rows), strict=True):
        path = str(Path(row["path"]).with_suffix(".wav"))
        new.append({**row, "path": path, "split": split, "sample_rate": SAMPLE_RATE_HZ})
    sources = [sounds.parent / row["path"] for row in rows]
    with ProcessPoolExecutor(jobs) as pool:
        done = pool.map(_convert, sources, [output / row["path"] for row in new], chunksize=32)
        for _ in track(done, "sounds at 16 kHz", total=len(rows)):
            pass
    train = [row for row in new if row["split"] == "train"]
    validation = [row for row in new if row["split"] == "validation"]
    captioned = [row for row in train if share_of("captioned", row["group"]) < CAPTIONED_SHARE]
    kept = {row["path"] for row in captioned}
    uncaptioned = [
        {key: value for key, value in row.items() if key not in HIDDEN}
        for row in train
        if row["path"] not in kept
    ]
    _write(output / "captioned.jsonl", [*captioned, *validation])
    _write(output / "uncaptioned.jsonl", uncaptioned)
    _write(output / "manifest.jsonl", new)
    return output / "manifest.jsonl"
