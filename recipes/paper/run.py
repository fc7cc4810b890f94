"""One run of the study: train it, score it on the fixed mixtures, and describe it in one line."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from recipes.paper.study import Line, Run, SetConfig, Study, write_json
from singleout.data.manifest import read_manifest
from singleout.encoders import QueryEncoder
from singleout.evaluate.evaluation import QUERY_KINDS, EvaluationConfig, evaluate, tasks
from singleout.evaluate.metrics import score
from singleout.evaluate.references import REFERENCES
from singleout.model import QueriedSeparator
from singleout.progress import track
from singleout.storage.tensors import has_fast_bfloat16
from singleout.train.checkpoint import FILE_NAME
from singleout.train.config import TrainConfig
from singleout.train.curve import read_curve
from singleout.train.run import train


def evaluation(config: TrainConfig, scored: SetConfig) -> EvaluationConfig:
    """Config of the mixtures of a set: two sounds at -5 to 5 dB, as long as those of training."""
    return EvaluationConfig(
        num_mixtures=scored.num_mixtures, seed=scored.seed, mixtures=config.validation.mixtures
    )


def run_one(study: Study, run: Run, encoder: QueryEncoder) -> Line:
    """Train a run in its folder, or continue its training, and score its model.

    A run that is trained already is only scored.

    Returns:
        The line of the run.
    """
    folder = study.folder_of(run)
    config = study.train_config(run).model_copy(update={"output": folder})
    sessions = trained(config, encoder)
    started = time.monotonic()
    model = QueriedSeparator.from_pretrained(folder / "model", encoder)
    scores: dict[str, dict[str, list[float]]] = {}
    digests: dict[str, str] = {}
    for name, scored in study.config.sets.items():
        clips = read_manifest(study.manifest, scored.split)
        rows = evaluate(model, clips, evaluation(config, scored), references={})
        by_kind = {kind: [row for row in rows if row["system"] == kind] for kind in QUERY_KINDS}
        scores[name] = {
            kind: [round(row["si_sdri_db"], 2) for row in kind_rows]
            for kind, kind_rows in by_kind.items()
        }
        digests[name] = digest(
            (row["target"], row["interference"]) for row in by_kind[QUERY_KINDS[0]]
        )
    return {
        "row": run.row,
        "setting": run.setting,
        "seed": run.seed,
        "config_hash": study.hash_of(run),
        "encoder": encoder.fingerprint,
        "git": " ".join(sorted({session["git"] for session in sessions})),
        "machine": machine(),
        "steps": config.steps,
        "parameters": sum(p.numel() for p in model.separator.parameters()),
        "embedding_dim": model.manipulator.dim,
        "training_s": round(sum(session["ended"] - session["started"] for session in sessions), 1),
        "evaluation_s": round(time.monotonic() - started, 1),
        "curve": curve(folder),
        "mixtures": digests,
        "si_sdri_db": scores,
    }


def trained(config: TrainConfig, encoder: QueryEncoder) -> list[dict[str, Any]]:
    """Train to the end, unless that is done already.

    Returns:
        The sessions of the training: when, and by which revision of the code. An interrupted
        session counts until its last checkpoint, because the next session repeats the rest.
    """
    config.output.mkdir(parents=True, exist_ok=True)
    record = config.output / "sessions.json"
    stored: dict[str, Any] = {"finished": False, "sessions": []}
    if record.exists():
        stored = json.loads(record.read_text(encoding="utf-8"))
    sessions: list[dict[str, Any]] = stored["sessions"]
    if stored["finished"]:
        return sessions
    checkpoint = config.output / FILE_NAME
    if sessions and "ended" not in sessions[-1]:
        kept = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
        sessions[-1]["ended"] = max(kept, sessions[-1]["started"])
    sessions.append({"git": revision(), "started": time.time()})
    write_json(record, {"finished": False, "sessions": sessions})
    train(config, encoder)
    sessions[-1]["ended"] = time.time()
    write_json(record, {"finished": True, "sessions": sessions})
    return sessions


def digest(names: Iterable[tuple[str, str]]) -> str:
    """Digest of the targets and interferences of a set, in order.

    Scores compare only between runs with the same digest.
    """
    text = "\n".join("\t".join(pair) for pair in names)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fixed_mixtures(study: Study) -> dict[str, Any]:
    """The mixtures that every run is scored on, by set.

    Of each mixture: target, interference, query, whether the query is also a training caption, and
    SI-SDRi of the references.
    """
    config = study.reference
    rate = config.model.separator.sample_rate
    known = {c for clip in read_manifest(study.manifest, "train") for c in clip.captions}
    sets: dict[str, Any] = {}
    for name, scored in study.config.sets.items():
        clips = read_manifest(study.manifest, scored.split)
        names: dict[str, list[Any]] = {"target": [], "interference": [], "query": []}
        references: dict[str, list[float]] = {reference: [] for reference in REFERENCES}
        drawn = tasks(clips, evaluation(config, scored), rate)
        for task in track(drawn, f"mixtures {name}", scored.num_mixtures):
            names["target"].append(task.target.path.name)
            names["interference"].append(task.interference.path.name)
            names["query"].append(task.target.caption)
            mixture = torch.from_numpy(task.rendered.mixture)
            target = torch.from_numpy(task.rendered.sources[0])
            for reference, estimate in REFERENCES.items():
                scores = score(estimate(mixture, target), target, mixture)
                references[reference].append(round(float(scores.si_sdr_improvement), 2))
        sets[name] = {
            "digest": digest(zip(names["target"], names["interference"], strict=True)),
            **names,
            "seen_caption": [query in known for query in names["query"]],
            "references": references,
        }
    return {"command": "python -m recipes.paper", "sets": sets}


def curve(folder: Path) -> list[dict[str, float]]:
    """Validation scores along the training of a run."""
    return [
        {
            "step": int(row["step"]),
            **{kind: round(row[f"{kind}_si_sdri"], 3) for kind in QUERY_KINDS},
        }
        for row in read_curve(folder)
        if "text_si_sdri" in row
    ]


def revision() -> str:
    """Git revision of the code, with a '+' if files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "../../src", "../../configs", "../builtin", "."],
        capture_output=True,
        text=True,
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def machine() -> dict[str, Any]:
    """Description of the machine that the times were measured on."""
    info = Path("/proc/cpuinfo")  # only on Linux
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16": has_fast_bfloat16(),
        "torch": torch.__version__,
    }
