"""One run of the study: train, score on the fixed mixtures, say all about it in one line."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from recipes.paper.encoder import PaperEncoder
from recipes.paper.study import Line, Run, SetConfig, Study
from singleout.data.manifest import read_manifest
from singleout.evaluate.run import QUERY_KINDS, EvaluationConfig, evaluate
from singleout.model import QueriedSeparator
from singleout.train.config import TrainConfig
from singleout.train.run import train


def evaluation(config: TrainConfig, scored: SetConfig) -> EvaluationConfig:
    """The mixtures of a set: two sounds at -5 to 5 dB, as long as those of training."""
    return EvaluationConfig(
        num_mixtures=scored.num_mixtures, seed=scored.seed, mixtures=config.validation.mixtures
    )


def run_one(study: Study, run: Run, encoder: PaperEncoder, folder: Path, manifest: Path) -> Line:
    """Train (or go on with) a run in its folder and score what it saved."""
    config = study.train_config(run, folder)
    started = time.monotonic()
    model_folder = train(config, encoder)
    trained = time.monotonic()
    model = QueriedSeparator.from_pretrained(model_folder, encoder)
    scores: dict[str, dict[str, list[float]]] = {}
    for name, scored in study.config.sets.items():
        clips = read_manifest(manifest, scored.split)
        rows = evaluate(model, clips, evaluation(config, scored), references={})
        scores[name] = {
            kind: [round(row["si_sdri_db"], 2) for row in rows if row["system"] == kind]
            for kind in QUERY_KINDS
        }
    return {
        "row": run.row,
        "setting": run.setting,
        "seed": run.seed,
        "config_hash": study.hash_of(run),
        "encoder": encoder.fingerprint,
        "git": revision(),
        "machine": machine(),
        "steps": config.steps,
        "parameters": sum(p.numel() for p in model.separator.parameters()),  # type: ignore[attr-defined]
        "embedding_dim": model.manipulator.dim,
        "training_s": round(trained - started, 1),
        "evaluation_s": round(time.monotonic() - trained, 1),
        "curve": curve(config.output / "logs"),
        "si_sdri_db": scores,
    }


def curve(logs: Path) -> list[dict[str, float]]:
    """Validation scores along the training, of all sessions of a resumed run.

    Steps that a session logged before it was broken off are repeated by the next, to the bit.
    """
    points: dict[int, dict[str, float]] = {}
    for path in logs.glob("version_*/metrics.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row.get("text_si_sdri"):
                    scores = {kind: round(float(row[f"{kind}_si_sdri"]), 3) for kind in QUERY_KINDS}
                    points[int(row["step"])] = {"step": int(row["step"]), **scores}
    return [points[step] for step in sorted(points)]


def revision() -> str:
    """Of the code; '+' where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "../../src", "../../configs", "."],
        capture_output=True,
        text=True,
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def machine() -> dict[str, Any]:
    """What the times were taken on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
