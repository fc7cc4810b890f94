"""One experiment of the search for a better recipe: train for a fixed time and score on validation.

Command: ``python -m recipes.builtin.experiment NAME [key=value ...] [--minutes M]``.

The overrides change ``configs/builtin.yaml``. The training runs on one thread, with as many steps
as fit into ``--minutes``. All kinds of queries are scored on mixtures of the validation packages.
Each experiment adds a line to ``results/experiments.jsonl``, and ``docs/experiments.md`` shows the
lines as a table. Test packages are never used.
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
from singleout.separators import AnySeparator, Separator
from singleout.storage.atomic import replacing
from singleout.train.config import TrainConfig
from singleout.train.corpus import split_clips
from singleout.train.run import calibrate, train

FROM_NOTHING = ("init=null", "learning_rate=1e-3")
"""Overrides for configs that continue from an earlier model, with a lower rate."""
RESULTS = Path("results/experiments.jsonl")
DOCUMENT = Path("docs/experiments.md")
TRIALS, TRIAL_S = (1, 3, 15), 20.0
"""Number of steps of the trials that measure the time of a step. The trials end as soon as the
additional steps take ``TRIAL_S`` seconds."""
SEED = 7
"""Of the scored mixtures."""


def size(separator: Separator, embedding_dim: int, seconds: int = 10) -> dict[str, float]:
    """Parameters of a separator, and its GFLOP per second of audio for one query.

    A multiply-add counts twice. Only convolutions and matrix products count.
    """
    clip = torch.zeros(1, 1, seconds * separator.sample_rate)
    separator.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        separator(clip, torch.zeros(1, embedding_dim))
    return {
        "parameters_millions": round(sum(p.numel() for p in separator.parameters()) / 1e6, 3),
        "gflop_per_second": round(counter.get_total_flops() / seconds / 1e9, 3),
    }


def cost(config: AnySeparator, embedding_dim: int) -> dict[str, float]:
    """``size`` and times of a separator.

    The times are seconds of inference per second of audio, and seconds for forward and backward of
    a batch.
    """
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
    """Scores of all kinds of queries on mixtures of two and of three validation sounds."""
    clips = read_manifest(manifest, "validation")
    by_sources = {}
    for sources in (2, 3):
        mixtures = SCORED_MIXTURES.model_copy(update={"num_sources": (sources, sources)})
        config = EvaluationConfig(num_mixtures=num_mixtures, seed=SEED, mixtures=mixtures)
        rows = evaluate_scenarios(model, clips, config)
        by_sources[f"{sources} sources"] = scenario_summary(rows)
    return by_sources


def seconds_per_step(config: TrainConfig) -> float:
    """Time of a step of real training, with its data and optimiser.

    It is the additional time of a longer trial, so that the start of the training does not count.
    """
    shorter, shorter_s = 0, 0.0
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
            longer_s = time.perf_counter() - started
        per_step = (longer_s - shorter_s) / (steps - shorter)
        if shorter and longer_s - shorter_s > TRIAL_S:
            break
        shorter, shorter_s = steps, longer_s
    return max(per_step, 1e-3)


def planned(folder: Path, config: TrainConfig, minutes: float) -> dict[str, Any]:
    """The plan of an experiment: its config, its time of a step and its number of steps.

    The plan is stored in the folder, so that a repeated command continues the same experiment.

    Raises:
        SystemExit: the folder has a plan with other settings.
    """
    path = folder / "plan.json"
    settings = {"config": config.model_dump(mode="json"), "minutes": minutes}
    if path.exists():
        plan: dict[str, Any] = json.loads(path.read_text())
        if {key: plan[key] for key in settings} != settings:
            raise SystemExit(
                f"error: {folder}: an experiment of this name began with other settings: take "
                "another name"
            )
        return plan
    step = seconds_per_step(config)
    plan = {**settings, "seconds_per_step": round(step, 4)}
    plan["steps"] = max(1, round(60 * minutes / step))
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(plan))
    return plan


def run(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train an experiment in its folder, or continue its training, and score it.

    Returns:
        The line of the experiment.
    """
    folder = args.folder.expanduser() / name
    validation = f"validation.num_mixtures={min(200, args.mixtures)}"
    fixed = [*FROM_NOTHING, f"output={folder}", validation]
    config = load_config(TrainConfig, args.config, [*fixed, *args.overrides])
    plan = planned(folder, config, args.minutes)
    steps = plan["steps"]
    budget = [f"steps={steps}", f"warmup_steps={steps // 10}", f"validation.every_steps={steps}"]
    config = load_config(TrainConfig, args.config, [*fixed, *budget, *args.overrides])
    started = time.perf_counter()
    model = QueriedSeparator.from_pretrained(train(config), args.encoder)
    trained_s = time.perf_counter() - started
    calibrate(model, split_clips(config)[1], config.validation)  # with the encoder that embeds
    assert config.manifest is not None
    return {
        "name": name,
        "changes": args.overrides,
        "tried": args.tried,
        "minutes": args.minutes,
        "steps": config.steps,
        "last_session_s": round(trained_s, 1),
        "seconds_per_step": plan["seconds_per_step"],
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
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown table with a row per experiment, in the order of the lines."""
    rows = [
        "| experiment | changes | steps in minutes | GFLOP per second | two sources: text "
        "| improved | audio | text + negative | absent, dB below | presence AUROC | three: text |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        two, three = line["found"]["2 sources"], line["found"]["3 sources"]
        text = two["questions"]["text"]

        auroc = two.get("presence_auroc", {}).get("absent")
        cells = [
            f"**{line['name']}** {line['tried']}".strip(),
            "<br>".join(f"`{change}`" for change in line["changes"]),
            f"{line['steps']:,} in {line['steps'] * line['seconds_per_step'] / 60:.1f}",
            f"{line['cost']['gflop_per_second']:.1f}",
            _mean(two, "text"),
            f"{100 * text['si_sdri_db']['share_improved']['estimate']:.0f} %",
            _mean(two, "audio"),
            _mean(two, "text, not the other"),
            f"{two['questions']['absent']['suppression_db']['estimate']:.1f}",
            "" if auroc is None else f"{auroc['estimate']:.3f}",
            _mean(three, "text"),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _mean(summary: dict[str, Any], kind: str) -> str:
    """Mean SI-SDRi of a kind of query in dB; empty where it was not scored."""
    entry = summary["questions"].get(kind)
    return "" if entry is None else f"{entry['si_sdri_db']['mean']['estimate']:.2f}"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of all experiments so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    """Make one experiment; without a name, only write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "name", nargs="?", help="of the experiment; without it, only the table is written"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--tried", default="", help="purpose of the experiment, in a few words")
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--mixtures", type=int, default=300)
    parser.add_argument(
        "--encoder",
        default="builtin",
        help="encoder of the queries; that of the config may have an untrained audio tower",
    )
    parser.add_argument("--folder", type=Path, default=Path("~/.cache/singleout/builtin/search"))
    args = parser.parse_intermixed_args()  # allows overrides after options
    torch.set_num_threads(1)
    if args.name is not None:
        if args.name in [line["name"] for line in read_lines(RESULTS)]:
            raise SystemExit(
                f"error: {RESULTS} has an experiment '{args.name}' already: take another name"
            )
        line = run(args.name, args)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    fill_in(DOCUMENT, {"experiments": table(read_lines(RESULTS))})


if __name__ == "__main__":
    main()
