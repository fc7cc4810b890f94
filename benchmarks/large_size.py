"""The larger size at small batch on the CPU: memory, speed, and whether its loss falls.

``configs/large.yaml`` is meant for a GPU and a CLAP that no registry carries. Here its separator
trains a few steps on the real corpus, conditioned on the built-in encoder's embeddings: run
``python -m benchmarks.large_size`` after ``python -m recipes.builtin.embed``. It takes an hour or
more; started again, it goes on where it was stopped. So few steps of new mixtures show little;
``--one-mixture`` steps on the same mixture, asked for two of its sounds, again and again.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from recipes.builtin.experiment import seconds_per_step
from singleout.config import load_config
from singleout.data.dataset import MixtureDataset
from singleout.data.embeddings import given_embeddings
from singleout.encoders import load_encoder
from singleout.model import QueriedSeparator
from singleout.progress import track
from singleout.train.config import TrainConfig
from singleout.train.corpus import split_clips
from singleout.train.losses import separation_loss_db
from singleout.train.module import TrainingModule
from singleout.train.run import train

CLIP_SECONDS = 4


def _mean(values: list[float]) -> dict[str, float]:
    """With its standard error: every step has mixtures of its own."""
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return {"mean": round(float(np.mean(values)), 2), "standard_error": round(error, 2)}


def meta(config: TrainConfig, command: str, num_threads: int) -> dict[str, Any]:
    """What a result must say about how it came about."""
    return {
        "command": command,
        "machine": f"{platform.machine()}, {num_threads} threads",
        "torch": torch.__version__,
        "seed": config.seed,
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """As JSON, to a file and the screen."""
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def losses_of(run: Path) -> list[float]:
    """Of all steps that were logged; a run that went on has a log for each of its parts, and may
    have taken the steps since its last checkpoint again."""
    found: dict[int, float] = {}
    parts = sorted(run.glob("logs/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    for part in parts:
        with part.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["loss"]]
        found |= {int(row["step"]): float(row["loss"]) for row in rows}
    return [found[step] for step in sorted(found)]


def on_one_mixture(config: TrainConfig, steps: int) -> list[float]:
    """Loss at every step, in dB, where all are on one mixture and its two questions."""
    encoder = load_encoder(config.model.encoder.name)
    assert config.embeddings is not None
    clips = split_clips(config)[0]
    table = given_embeddings(
        clips, config.mixtures, encoder.fingerprint, encoder.dim, config.embeddings
    )
    rate = config.model.separator.sample_rate
    dataset = MixtureDataset(clips, config.mixtures, rate, table, None, config.seed, 0, 1)
    example = dataset[0]
    torch.manual_seed(config.seed)
    model = QueriedSeparator(config.model, encoder)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.separator.train()  # type: ignore[attr-defined]
    optimizer = TrainingModule(model, config).configure_optimizers()
    mixture, targets = example["mixture"][None], example["targets"]
    condition = model.joined(example["audio"], torch.zeros_like(example["audio"]))
    losses = []
    for _ in track(range(steps), "stepping", steps):
        with torch.autocast("cpu", torch.bfloat16):
            estimate = model(mixture, condition)
        loss = separation_loss_db(estimate.float(), targets, mixture.expand_as(targets)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        losses.append(round(loss.item(), 3))
    return losses


def main() -> None:
    """Train, print and write ``results/large_size.json``, or of one mixture
    ``results/large_size_one_mixture.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/large.yaml"))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--one-mixture", type=int, metavar="STEPS")
    parser.add_argument("--output", type=Path, default=Path("results/large_size.json"))
    parser.add_argument("--folder", type=Path, default=Path("~/.cache/singleout/large-size"))
    args = parser.parse_args()
    torch.set_num_threads(args.jobs)
    builtin = load_config(TrainConfig, args.config.with_name("builtin.yaml"))
    assert builtin.uncaptioned is not None
    overrides = [
        f"output={args.folder}",
        f"steps={args.steps}",
        f"batch_size={args.batch_size}",
        "warmup_steps=20",
        "checkpoint_every=5",
        "num_workers=0",
        "validation.num_mixtures=0",
        f"embeddings={builtin.embeddings}",
        f"uncaptioned.manifest={builtin.uncaptioned.manifest}",
        f"model.encoder.name={builtin.model.encoder.name}",
    ]
    config = load_config(TrainConfig, args.config, overrides)
    if args.one_mixture is not None:
        losses = on_one_mixture(config, args.one_mixture)
        command = f"python -m benchmarks.large_size --one-mixture {args.one_mixture}"
        write(
            args.output.with_stem(f"{args.output.stem}_one_mixture"),
            {"meta": meta(config, command, args.jobs), "loss_db": losses},
        )
        return
    train(config)
    losses = losses_of(config.output)
    part = max(2, len(losses) // 4)
    step_s = seconds_per_step(config)
    model = QueriedSeparator(config.model, load_encoder(config.model.encoder.name)).eval()
    clip = torch.randn(1, 1, CLIP_SECONDS * model.sample_rate) * 0.1
    condition = torch.randn(1, model.condition_dim)
    with torch.inference_mode():
        started = time.perf_counter()
        model(clip, condition)
        inference = time.perf_counter() - started
        with FlopCounterMode(display=False) as counter:
            model(clip, condition)
    command = f"python -m benchmarks.large_size --steps {args.steps}"
    command += f" --batch-size {args.batch_size} --jobs {args.jobs}"
    result = {
        "meta": meta(config, command, args.jobs),
        "parameters_millions": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
        "gflop_per_second": round(counter.get_total_flops() / CLIP_SECONDS / 1e9, 1),
        "real_time_factor": round(inference / CLIP_SECONDS, 3),
        "seconds_per_training_step": round(step_s, 2),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "steps": args.steps,
        "batch_size": args.batch_size,
        "loss": {
            "first quarter": _mean(losses[:part]),
            "last quarter": _mean(losses[-part:]),
        },
    }
    write(args.output, result)


if __name__ == "__main__":
    main()
