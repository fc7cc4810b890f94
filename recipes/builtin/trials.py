"""Short trials of what version 4 is trained with, one after the other on one thread.

``python -m recipes.builtin.trials NAME [key=value ...]`` goes on from the ``init`` of
``configs/v4.yaml`` for as many steps as every trial, with a cosine to the end, and scores mixtures
of validation sounds, asked in words and by sounds of the encoder that ships; no gate. Each adds a
line to ``results/v4_trials.jsonl``, with the paired difference to ``init`` itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from recipes.builtin.experiment import SEED
from singleout.config import load_config
from singleout.data.manifest import read_manifest
from singleout.evaluate.run import EvaluationConfig, evaluate, paired, summary
from singleout.evaluate.statistics import bootstrap_interval
from singleout.model import QueriedSeparator
from singleout.train.config import TrainConfig
from singleout.train.run import train

RESULTS = Path("results/v4_trials.jsonl")
CONFIG = Path("configs/v4.yaml")


def scored(folder: Path, manifest: Path, num_mixtures: int) -> list[dict[str, Any]]:
    """Rows of a model without its gate; kept beside it."""
    kept = folder / f"rows-{num_mixtures}.json"
    if not kept.exists():
        model = QueriedSeparator.from_pretrained(folder, "builtin")
        model.config = model.config.model_copy(update={"gate": None})
        asked = EvaluationConfig(num_mixtures=num_mixtures, seed=SEED)
        kept.write_text(json.dumps(evaluate(model, read_manifest(manifest, "validation"), asked)))
    rows: list[dict[str, Any]] = json.loads(kept.read_text())
    return rows


def trial(name: str, overrides: list[str], steps: int, num_mixtures: int) -> dict[str, Any]:
    """Train, score and give the line."""
    folder = load_config(TrainConfig, CONFIG).output.parent / "trials" / name
    short = [f"steps={steps}", f"warmup_steps={steps // 10}", "schedule=cosine"]
    given = [*short, "validation.num_mixtures=0", f"output={folder}", *overrides]
    config = load_config(TrainConfig, CONFIG, given)
    assert config.init is not None
    assert config.manifest is not None
    began = time.perf_counter()
    rows = scored(train(config), config.manifest, num_mixtures)
    first = scored(config.init, config.manifest, num_mixtures)
    found = {}
    for system in ("text", "audio"):
        ours, theirs = ([row for row in r if row["system"] == system] for r in (rows, first))
        found[system] = summary(rows)["systems"][system]["si_sdri_db"]
        found[system]["over_init"] = bootstrap_interval(*paired(ours, theirs, "si_sdri_db"))
    return {
        "name": name,
        "changes": overrides,
        "steps": steps,
        "seconds": round(time.perf_counter() - began),
        "num_mixtures": num_mixtures,
        "found": found,
        "config": config.model_dump(mode="json", exclude={"output"}),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "torch": torch.__version__,
    }


def main() -> None:
    """Make one trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--mixtures", type=int, default=150)
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    line = trial(args.name, args.overrides, args.steps, args.mixtures)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line["found"], indent=1))


if __name__ == "__main__":
    main()
