"""Small corpora for the tests of the built-in model's recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from singleout.data.clips import Clip
from tests.conftest import TINY_SEPARATOR


def clip(path: Path, label: str = "animal/dog", group: str = "g") -> Clip:
    return Clip(path, 1.0, "a dog barking", (), label, group, "train")


def write_corpus(folder: Path, held_out: str = "validation") -> Path:
    """Tones of three families, enough in each split for mixtures of three; three quarters free."""
    rows = []
    for i in range(18):
        time = np.arange(32_000) / 32_000
        tone = 0.3 * np.sin(2 * np.pi * 200 * 1.25**i * time).astype(np.float32)
        soundfile.write(folder / f"{i}.wav", tone, 32_000)
        split = "train" if i < 9 else held_out
        rows.append(
            {
                "path": f"{i}.wav",
                "seconds": 1.0,
                "caption": f"tone {i}",
                "class": f"family {i % 3}/{i}",
                "group": f"g{i}",
                "split": split,
                "redistributable": i % 4 != 0,
                "license": "CC0-1.0",
                "origin": {"package": f"package{i % 2}"},
            }
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "manifest.jsonl"


def tiny_config(folder: Path, encoder: Path, output: str = "unused", **model: Any) -> Path:
    """A config that trains on the corpus in ``folder``."""
    mixtures = {"segment_seconds": 0.5, "crop_hop_seconds": 0.25}
    values = {
        "manifest": str(write_corpus(folder)),
        "output": output,
        "model": {
            "separator": TINY_SEPARATOR.model_dump(mode="json"),
            "negative": True,
            "encoder": {"name": str(encoder)},
            **model,
        },
        "mixtures": mixtures,
        "validation": {"num_mixtures": 8, "mixtures": mixtures | {"num_sources": [2, 2]}},
        "queries": {"absent_share": 0.2, "removal_share": 0.1, "contrast_share": 0.2},
        "num_workers": 0,
        "batch_size": 2,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(values))
    return path
