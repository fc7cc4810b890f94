"""Folders of sounds, and hashes of what is prepared from them."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.storage.locations import Location

RATE = 8_000


def sound(
    seed: int, seconds: float = 1.5, level: float = 0.1, rate: int = RATE
) -> NDArray[np.float32]:
    """Noise [samples] whose level changes, as that of a recording does."""
    generator = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    edges = np.arange(0, seconds + 0.1, 0.1)
    levels = level * np.interp(times, edges, generator.uniform(0.1, 1, len(edges)))
    noise = levels * generator.normal(0, 1, len(times))
    return noise.clip(-0.99, 0.99).astype(np.float32)


def write_sounds(folder: Path, number: int, first_seed: int = 0) -> list[Path]:
    """Write different sounds, 0.wav, 1.wav and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03}.wav" for i in range(number)]
    for i, path in enumerate(paths):
        soundfile.write(path, sound(first_seed + i), RATE)
    return paths


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a manifest; a row without ``seconds`` gets some."""
    lines = [json.dumps({"seconds": 1.5, **row}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def hashes(corpus: Path) -> dict[str, str]:
    """SHA-256 of all files of a corpus by their names in it."""
    return {
        path.relative_to(corpus).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(corpus.rglob("*"))
        if path.is_file()
    }


def contents(corpus: Location) -> dict[str, bytes]:
    """All files of a corpus in any place by their names in it."""
    files = {name: (corpus / name).read() for name in corpus.names()}
    shards = corpus / "shards"
    return files | {f"shards/{name}": (shards / name).read() for name in shards.names()}


def report_of(corpus: Path) -> list[dict[str, Any]]:
    """The rows of the report of a corpus."""
    return [json.loads(line) for line in (corpus / "report.jsonl").read_text().splitlines()]
