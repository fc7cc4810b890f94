"""Small prepared corpora that tests share."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.shards import Crops, Sample, ShardWriter, write_corpus
from singleout.shards.tars import TarWriter
from singleout.storage.locations import Location

RATE = 32_000
SHARD = 3
"""Sounds in a shard."""
Kind = Literal["wav", "flac"]


def noise(number: int, seconds: float) -> NDArray[np.int16]:
    """Noise of 16 bits."""
    rng = np.random.default_rng([number])
    return (3_000 * rng.normal(size=round(RATE * seconds))).astype(np.int16)


def encoded(audio: NDArray[np.int16], kind: str, rate: int = RATE) -> bytes:
    """The content of an audio file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=kind.upper(), subtype="PCM_16")
    return file.getvalue()


def descriptions(number: int) -> list[dict[str, Any]]:
    """Of sounds of 0.3 s and more: every other one has a class, every fifth is for validation."""
    return [
        {
            "seconds": 0.3 + 0.2 * i,
            "caption": f"sound number {i}",
            "alternatives": [f"other words {i}"] if i % 2 else [],
            "class": f"family/{i}" if i % 2 else None,
            "group": f"recording {i}" if i % 3 else None,
            "split": "validation" if i % 5 == 4 else "train",
        }
        for i in range(number)
    ]


def samples(rows: Sequence[Mapping[str, Any]], kind: Kind = "wav", crops: int = 0) -> list[Sample]:
    """Noises as they are described."""
    made = []
    for i, row in enumerate(rows):
        audio = noise(i, row["seconds"])
        embeddings = np.random.default_rng(i).normal(size=(1 + i % max(crops, 1), 4))
        made.append(
            Sample(
                f"{i:09d}",
                encoded(audio, kind),
                kind,
                RATE,
                len(audio),
                row,
                embeddings.astype(np.float16) if crops else None,
            )
        )
    return made


def write_shards(out: Location, made: Sequence[Sample]) -> list[str]:
    """Shards of a few samples each; their names."""
    names = []
    for first in range(0, len(made), SHARD):
        names.append(f"{first:016x}")
        with ShardWriter(out / "shards", names[-1]) as shard:
            for sample in made[first : first + SHARD]:
                shard.add(sample)
            shard.report({"row": first, "note": "first"})
    return names


def prepare(
    out: Location | Path, number: int = 7, kind: Kind = "wav", crops: Crops | None = None
) -> Location:
    """A prepared corpus of noises."""
    out = out if isinstance(out, Location) else Location(out)
    names = write_shards(out, samples(descriptions(number), kind, 3 if crops else 0))
    write_corpus(out, names, {"kind": kind}, crops)
    return out


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar file of our writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        tar = TarWriter(file)
        for name, content in members.items():
            tar.add(name, content)
        tar.finish()
    return path
