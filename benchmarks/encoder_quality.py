"""Quality of the built-in joint embedding on packages that no part of it was trained on.

Command: ``python benchmarks/encoder_quality.py``, after ``make sounds``.

Pair accuracy is the share of ordered pairs of test clips, of different families, in which the
caption of the first clip is nearer to the first sound than to the second. It bounds the quality of
an extractor with text queries. Hit@k is the share of classes whose first caption has a sound of the
class among its k nearest sounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from singleout.data.clips import Clip
from singleout.data.manifest import read_manifest
from singleout.encoders import BuiltinEncoder
from singleout.evaluate.gap.measure import embed_pairs, pair_accuracy


def quality(sounds: torch.Tensor, captions: torch.Tensor, clips: list[Clip]) -> dict[str, Any]:
    """All scores of one split.

    Args:
        sounds, captions: embeddings, [clips, dim].
        clips: with their classes.
    """
    labels = [clip.label for clip in clips]
    families = [name.split("/")[0] for name in labels]
    label = np.array(labels)
    similarity = (captions @ sounds.T).numpy()
    matched = np.diag(similarity)
    hits: dict[int, list[bool]] = {1: [], 5: []}
    for name in np.unique(label):
        query = np.flatnonzero(label == name)[0]
        nearest = label[np.argsort(-similarity[query])]
        for k, is_hit in hits.items():
            is_hit.append(bool((nearest[:k] == name).any()))
    return {
        "pair_accuracy_families": pair_accuracy(sounds, captions, families)["estimate"],
        "pair_accuracy_classes": pair_accuracy(sounds, captions, labels)["estimate"],
        "hit_at_1": float(np.mean(hits[1])),
        "hit_at_5": float(np.mean(hits[5])),
        "matched_cosine": float(matched.mean()),
        "num_sounds": len(clips),
        "num_classes": len(np.unique(label)),
    }


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    home = os.environ.get("SINGLEOUT_SOUNDS", "~/.cache/singleout/sounds")
    parser.add_argument("--manifest", type=Path, default=Path(home).expanduser() / "manifest.jsonl")
    parser.add_argument("--output", type=Path, default=Path("results/encoder_quality.json"))
    parser.add_argument("--encoder", type=Path, default=None)
    args = parser.parse_args()
    encoder = BuiltinEncoder.from_pretrained(args.encoder)
    result: dict[str, Any] = {
        "meta": {
            "command": "python benchmarks/encoder_quality.py",
            "encoder": encoder.fingerprint,
            "machine": platform.machine(),
            "torch": torch.__version__,
        }
    }
    for split in ("validation", "test"):
        clips = [clip for clip in read_manifest(args.manifest, split) if clip.caption]
        result[split] = quality(*embed_pairs(encoder, clips), clips)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
