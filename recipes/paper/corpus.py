"""The sounds of the study: those of `make sounds TIER=full`.

A CLAP has not been trained on the sounds that an extractor trains on. So our query encoder must
not be, either: otherwise its audio embeddings lie closer to the captions than those of recordings
of users. The training packages are therefore divided: 40 % of the clips are for the encoder, the
others for the extractor. Some recordings of the extractor's packages are held out. These are the
test set in domain. The test set out of domain has packages on which nothing was trained or chosen.
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
"""Share of the training recordings with captions in the rows `captioned` and `captioned_audio`."""

HIDDEN = ("caption", "alternatives", "class")
"""Keys that an uncaptioned sound lacks."""

Row = dict[str, Any]


def package_of(row: Mapping[str, Any]) -> str:
    """The Debian package that a sound comes from."""
    return str(row["origin"]["package"])


def encoder_packages(rows: Iterable[Row]) -> set[str]:
    """Training packages of the encoder, drawn until they hold its share of the clips."""
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

    Recordings (groups) stay whole: a recording of the encoder is in no other split.
    """
    packages = encoder_packages(rows)
    encoder_groups = {
        row["group"] for row in rows if row["split"] == "train" and package_of(row) in packages
    }
    splits: list[str] = []
    for row in rows:
        if row["split"] == "train":
            splits.append("encoder" if row["group"] in encoder_groups else held_out(row["group"]))
        else:
            splits.append("test_out_of_domain" if row["split"] == "test" else row["split"])
    return splits


def held_out(group: str) -> str:
    """Split of a recording of the extractor's packages."""
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
    """Write the sounds at 16 kHz and three manifests.

    ``manifest.jsonl`` has all splits. ``captioned.jsonl`` has a quarter of its training
    recordings and the validation sounds. ``uncaptioned.jsonl`` has the other three quarters, with
    neither captions nor classes.

    Args:
        sounds: manifest of ``make sounds``.
        output: folder of the new sounds and manifests.
        jobs: number of processes.

    Returns:
        Path of ``manifest.jsonl``.
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
