"""One experiment of the search: train for a fixed time, ask on validation, write down what it gave.

``python -m recipes.builtin.experiment NAME [key=value ...]`` changes ``configs/builtin.yaml`` by
the overrides, trains on one thread for ``--minutes``, as many steps as fit, and scores all kinds of
questions on mixtures of the validation packages. Each adds a line to ``results/experiments.jsonl``,
of which ``docs/experiments.md`` shows a table. Test packages are never looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from recipes.documents import fill_in
from singleout.config import load_config
from singleout.data.manifest import read_manifest
from singleout.data.plan import SCORED_MIXTURES
from singleout.evaluate.evaluation import EvaluationConfig
from singleout.evaluate.scenarios import evaluate_scenarios, scenario_summary
from singleout.model import QueriedSeparator
from singleout.separators import AnySeparator
from singleout.storage.atomic import replacing
from singleout.train.config import TrainConfig
from singleout.train.run import calibrate, split_clips, train

FROM_NOTHING = ("init=null", "learning_rate=1e-3")
"""Where the config goes on from an earlier model, at a lower rate."""
RESULTS = Path("results/experiments.jsonl")
DOCUMENT = Path("docs/experiments.md")
TRIALS, TRIAL_S = (1, 3, 15), 20.0
"""Steps of the trials that tell how long a step takes, and what more steps are to take at least."""
SEED = 7
"""Of the mixtures that are asked."""


def size(separator: torch.nn.Module, embedding_dim: int, seconds: int = 10) -> dict[str, float]:
    """Parameters, and GFLOP per second of audio of one query: a multiply-add counts twice;
    convolutions and matrix products only."""
    clip = torch.zeros(1, 1, seconds * separator.sample_rate)  # type: ignore[operator]
    separator.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        separator(clip, torch.zeros(1, embedding_dim))
    return {
        "parameters_millions": round(sum(p.numel() for p in separator.parameters()) / 1e6, 3),
        "gflop_per_second": round(counter.get_total_flops() / seconds / 1e9, 3),
    }


def cost(config: AnySeparator, embedding_dim: int) -> dict[str, float]:
    """``size``, inference seconds per second of audio, and seconds for forward and backward of a
    batch."""
    separator = config.build(embedding_dim)
    separator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    embedding = F.normalize(torch.randn(16, embedding_dim), dim=-1)
    rate = config.sample_rate
    batch, clip = torch.randn(8, 1, 4 * rate) * 0.1, torch.randn(1, 1, 10 * rate) * 0.1
    steps, runs = [], []
    for _ in range(4):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = separator(batch, embedding).float().square().mean()
        loss.backward()
        steps.append(time.perf_counter() - started)
    separator.eval()
    with torch.inference_mode():
        for _ in range(4):
            started = time.perf_counter()
            separator(clip, embedding[:1])
            runs.append(time.perf_counter() - started)
    return {
        **size(separator, embedding_dim),
        "real_time_factor": round(min(runs) / 10, 5),
        "seconds_per_step": round(min(steps), 4),
    }


def scores(model: QueriedSeparator, manifest: Path, num_mixtures: int) -> dict[str, Any]:
    """Findings on mixtures of two and of three validation sounds."""
    clips = read_manifest(manifest, "validation")
    found = {}
    for sources in (2, 3):
        mixtures = SCORED_MIXTURES.model_copy(update={"num_sources": (sources, sources)})
        config = EvaluationConfig(num_mixtures=num_mixtures, seed=SEED, mixtures=mixtures)
        found[f"{sources} sources"] = scenario_summary(evaluate_scenarios(model, clips, config))
    return found


def seconds_per_step(config: TrainConfig) -> float:
    """Of real training, with its data and its optimiser: what more steps take longer."""
    shorter, took = 0, 0.0
    per_step = 0.0
    for steps in TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            changes = {
                "output": Path(folder),
                "steps": steps,
                "validation": config.validation.model_copy(update={"num_mixtures": 0}),
            }
            started = time.perf_counter()
            train(config.model_copy(update=changes))
            longer = time.perf_counter() - started
        per_step = (longer - took) / (steps - shorter)
        if shorter and longer - took > TRIAL_S:
            break
        shorter, took = steps, longer
    return max(per_step, 1e-3)


def run(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train (or go on) in a folder of its own, score, and give the line."""
    folder = args.folder.expanduser() / name
    validated = f"validation.num_mixtures={min(200, args.mixtures)}"
    given = [*FROM_NOTHING, f"output={folder}", validated]
    config = load_config(TrainConfig, args.config, [*given, *args.overrides])
    plan = folder / "plan.json"
    wanted = {"config": config.model_dump(mode="json"), "minutes": args.minutes}
    if plan.exists():
        planned = json.loads(plan.read_text())
        if {key: planned[key] for key in wanted} != wanted:
            raise SystemExit(f"error: {folder}: began with other settings: take another name")
    else:
        step = seconds_per_step(config)
        planned = {**wanted, "seconds_per_step": round(step, 4), "steps": 0}
        planned["steps"] = max(1, round(60 * args.minutes / step))
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(plan) as partial:
            partial.write_text(json.dumps(planned))
    steps = planned["steps"]
    budget = [f"steps={steps}", f"warmup_steps={steps // 10}", f"validation.every_steps={steps}"]
    config = load_config(TrainConfig, args.config, [*given, *budget, *args.overrides])
    started = time.perf_counter()
    model = QueriedSeparator.from_pretrained(train(config), args.encoder)
    trained_s = time.perf_counter() - started
    calibrate(model, split_clips(config)[1], config.validation)  # of what asks
    assert config.manifest is not None
    return {
        "name": name,
        "changes": args.overrides,
        "tried": args.tried,
        "minutes": args.minutes,
        "steps": config.steps,
        "last_session_s": round(trained_s, 1),
        "seconds_per_step": planned["seconds_per_step"],
        "cost": cost(config.model.separator, model.condition_dim),
        "found": scores(model, config.manifest, args.mixtures),
        "num_mixtures": args.mixtures,
        "config": config.model_dump(mode="json", exclude={"output"}),
        "encoder": model.encoder.fingerprint,
        "git": _git("rev-parse", "--short=12", "HEAD") + ("+" if _git("diff", "--stat") else ""),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "torch": torch.__version__,
    }


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def table(lines: list[dict[str, Any]]) -> str:
    """One row per experiment, in the order in which they were made."""
    rows = [
        "| experiment | changes | steps in minutes | GFLOP per second | two sources: text "
        "| improved | audio | text + negative | absent, dB below | presence AUROC | three: text |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        two, three = line["found"]["2 sources"], line["found"]["3 sources"]
        text = two["questions"]["text"]

        def mean(found: dict[str, Any], question: str) -> str:
            entry = found["questions"].get(question)
            return "" if entry is None else f"{entry['si_sdri_db']['mean']['estimate']:.2f}"

        auroc = two.get("presence_auroc", {}).get("absent")
        cells = [
            f"**{line['name']}** {line['tried']}".strip(),
            "<br>".join(f"`{change}`" for change in line["changes"]),
            f"{line['steps']:,} in {line['steps'] * line['seconds_per_step'] / 60:.1f}",
            f"{line['cost']['gflop_per_second']:.1f}",
            mean(two, "text"),
            f"{100 * text['si_sdri_db']['share_improved']['estimate']:.0f} %",
            mean(two, "audio"),
            mean(two, "text, not the other"),
            f"{two['questions']['absent']['suppression_db']['estimate']:.1f}",
            "" if auroc is None else f"{auroc['estimate']:.3f}",
            mean(three, "text"),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All experiments so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    """Make one experiment, or write the table again where none is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", help="none: write the table again")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--tried", default="", help="what for, in a few words")
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--mixtures", type=int, default=300)
    parser.add_argument(
        "--encoder",
        default="builtin",
        help="what asks: the config's may not hear, only its teachers",
    )
    parser.add_argument("--folder", type=Path, default=Path("~/.cache/singleout/builtin/search"))
    args = parser.parse_intermixed_args()  # overrides may stand after options
    torch.set_num_threads(1)
    if args.name is not None:
        if args.name in [line["name"] for line in read_lines(RESULTS)]:
            raise SystemExit(f"error: {args.name} has a line in {RESULTS}: take another name")
        line = run(args.name, args)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    fill_in(DOCUMENT, {"experiments": table(read_lines(RESULTS))})


if __name__ == "__main__":
    main()
