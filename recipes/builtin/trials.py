"""Short trials of the training of version 4.

Command: ``python -m recipes.builtin.trials NAME [key=value ...] [--steps N] [--mixtures N]``.

A trial continues from the ``init`` of ``configs/v4.yaml``, on one thread, with a cosine schedule.
Then it is scored on mixtures of validation sounds, with text and audio queries of the packaged
encoder and without the gate. Each trial adds a line to ``results/v4_trials.jsonl``, with the paired
difference to ``init`` itself.
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
from singleout.evaluate.evaluation import EvaluationConfig, evaluate, summary
from singleout.evaluate.rows import Row, paired_differences
from singleout.evaluate.statistics import bootstrap_interval
from singleout.model import QueriedSeparator
from singleout.train.config import TrainConfig
from singleout.train.run import train

RESULTS = Path("results/v4_trials.jsonl")
CONFIG = Path("configs/v4.yaml")


def scored(folder: Path, manifest: Path, num_mixtures: int) -> list[Row]:
    """Rows of scores of a model without its gate. They are stored in the folder of the model."""
    stored = folder / f"rows-{num_mixtures}.json"
    if not stored.exists():
        model = QueriedSeparator.from_pretrained(folder, "builtin")
        model.config = model.config.model_copy(update={"gate": None})
        config = EvaluationConfig(num_mixtures=num_mixtures, seed=SEED)
        stored.write_text(
            json.dumps(evaluate(model, read_manifest(manifest, "validation"), config))
        )
    rows: list[Row] = json.loads(stored.read_text())
    return rows


def trial(name: str, overrides: list[str], steps: int, num_mixtures: int) -> dict[str, Any]:
    """Train and score a trial.

    Returns:
        The line of the trial.
    """
    folder = load_config(TrainConfig, CONFIG).output.parent / "trials" / name
    short = [f"steps={steps}", f"warmup_steps={steps // 10}", "schedule=cosine"]
    fixed = [*short, "validation.num_mixtures=0", f"output={folder}"]
    config = load_config(TrainConfig, CONFIG, [*fixed, *overrides])
    assert config.init is not None
    assert config.manifest is not None
    started = time.perf_counter()
    rows = scored(train(config), config.manifest, num_mixtures)
    initial_rows = scored(config.init, config.manifest, num_mixtures)
    results = {}
    for system in ("text", "audio"):
        ours, initial = (
            [row for row in side if row["system"] == system] for side in (rows, initial_rows)
        )
        results[system] = summary(rows)["systems"][system]["si_sdri_db"]
        difference = bootstrap_interval(*paired_differences(ours, initial, "si_sdri_db"))
        results[system]["over_init"] = difference
    return {
        "name": name,
        "changes": overrides,
        "steps": steps,
        "seconds": round(time.perf_counter() - started),
        "num_mixtures": num_mixtures,
        "found": results,
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
    args = parser.parse_intermixed_args()  # allows overrides after options
    torch.set_num_threads(1)
    line = trial(args.name, args.overrides, args.steps, args.mixtures)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line["found"], indent=1))


if __name__ == "__main__":
    main()
