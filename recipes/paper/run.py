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

from recipes.paper.study import Line, Run, SetConfig, Study
from singleout.data.manifest import read_manifest
from singleout.evaluate.metrics import score
from singleout.evaluate.references import REFERENCES
from singleout.evaluate.run import QUERY_KINDS, EvaluationConfig, evaluate, tasks
from singleout.model import QueriedSeparator
from singleout.progress import track
from singleout.query import QueryEncoder
from singleout.train.config import TrainConfig
from singleout.train.run import train
from singleout.weights import has_fast_bfloat16


def evaluation(config: TrainConfig, scored: SetConfig) -> EvaluationConfig:
    """The mixtures of a set: two sounds at -5 to 5 dB, as long as those of training."""
    return EvaluationConfig(
        num_mixtures=scored.num_mixtures, seed=scored.seed, mixtures=config.validation.mixtures
    )


def run_one(study: Study, run: Run, encoder: QueryEncoder, folder: Path) -> Line:
    """Train (or go on with) a run in its folder and score what it saved."""
    config = study.train_config(run, folder)
    started = time.monotonic()
    model_folder = train(config, encoder)
    trained = time.monotonic()
    model = QueriedSeparator.from_pretrained(model_folder, encoder)
    scores: dict[str, dict[str, list[float]]] = {}
    for name, scored in study.config.sets.items():
        clips = read_manifest(study.manifest, scored.split)
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


def fixed_mixtures(study: Study) -> dict[str, Any]:
    """What every run is scored on, by set: target, interference and SI-SDRi of the references."""
    config = study.reference
    rate = config.model.separator.sample_rate
    sets: dict[str, Any] = {}
    for name, scored in study.config.sets.items():
        clips = read_manifest(study.manifest, scored.split)
        found: dict[str, list[Any]] = {"target": [], "interference": []}
        references: dict[str, list[float]] = {reference: [] for reference in REFERENCES}
        drawn = tasks(clips, evaluation(config, scored), rate)
        for task in track(drawn, f"mixtures {name}", scored.num_mixtures):
            found["target"].append(task.target.path.name)
            found["interference"].append(task.interference.path.name)
            mixture = torch.from_numpy(task.rendered.mixture)
            target = torch.from_numpy(task.rendered.sources[0])
            for reference, estimate in REFERENCES.items():
                scores = score(estimate(mixture, target), target, mixture)
                references[reference].append(round(float(scores.si_sdr_improvement), 2))
        sets[name] = {**found, "references": references}
    return {"command": "python -m recipes.paper", "sets": sets}


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
    info = Path("/proc/cpuinfo")  # Linux alone has it
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16": has_fast_bfloat16(),
        "torch": torch.__version__,
    }
