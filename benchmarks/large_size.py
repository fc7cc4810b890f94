"""The larger separator with a small batch on the CPU: memory, speed, and loss of a short training.

Command: ``python -m benchmarks.large_size``, after ``python -m recipes.builtin.embed``.

``configs/large.yaml`` needs a GPU and a CLAP that no package registry has. Here its separator
trains for a few steps on the real corpus, conditioned on embeddings of the built-in encoder. That
takes an hour or more. A repeated command continues an interrupted one. So few steps with new
mixtures show little: ``--one-mixture`` repeats the same mixture with queries for two of its sounds.
"""

from __future__ import annotations

import argparse
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
from singleout.condition import Condition
from singleout.config import load_config
from singleout.data.dataset import MixtureDataset
from singleout.data.embeddings import given_embeddings
from singleout.encoders import load_encoder
from singleout.model import QueriedSeparator
from singleout.progress import track
from singleout.train.config import TrainConfig
from singleout.train.corpus import split_clips
from singleout.train.curve import read_curve
from singleout.train.losses import separation_loss_db
from singleout.train.module import TrainingModule
from singleout.train.run import train

CLIP_SECONDS = 4


def _mean(values: list[float]) -> dict[str, float]:
    """Mean with its standard error; every step has other mixtures."""
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return {"mean": round(float(np.mean(values)), 2), "standard_error": round(error, 2)}


def meta(config: TrainConfig, command: str, num_threads: int) -> dict[str, Any]:
    """Command, machine, version and seed of a result."""
    return {
        "command": command,
        "machine": f"{platform.machine()}, {num_threads} threads",
        "torch": torch.__version__,
        "seed": config.seed,
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON and print it."""
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def losses_of(run: Path) -> list[float]:
    """Losses along the training of a run."""
    return [row["loss"] for row in read_curve(run) if "loss" in row]


def on_one_mixture(config: TrainConfig, steps: int) -> list[float]:
    """Loss of every step in dB, with the same mixture and its two queries in all steps."""
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
    model.separator.train()
    optimizer = TrainingModule(model, config).configure_optimizers()
    mixture, targets = example["mixture"][None], example["targets"]
    condition = model.combine(Condition.single(example["audio_embedding"]))
    losses = []
    for _ in track(range(steps), "stepping", steps):
        with torch.autocast("cpu", torch.bfloat16):
            estimate = model(mixture, condition)
        loss = separation_loss_db(estimate.float(), targets, mixture.expand_as(targets)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        losses.append(round(loss.item(), 3))
    return losses


def main() -> None:
    """Train and write ``large_size.json``, or ``large_size_one_mixture.json`` of one mixture."""
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
    write(args.output, train_and_measure(config, args.jobs))


def train_and_measure(config: TrainConfig, num_threads: int) -> dict[str, Any]:
    """Train to the end, then measure the speed and memory of the separator."""
    train(config)
    losses = losses_of(config.output)
    part = max(2, len(losses) // 4)
    step_s = seconds_per_step(config)
    model = QueriedSeparator(config.model, load_encoder(config.model.encoder.name)).eval()
    clip = torch.randn(1, 1, CLIP_SECONDS * model.sample_rate) * 0.1
    condition = model.combine(Condition.single(torch.randn(1, model.manipulator.dim)))
    with torch.inference_mode():
        started = time.perf_counter()
        model(clip, condition)
        inference_s = time.perf_counter() - started
        with FlopCounterMode(display=False) as counter:
            model(clip, condition)
    command = f"python -m benchmarks.large_size --steps {config.steps}"
    command += f" --batch-size {config.batch_size} --jobs {num_threads}"
    return {
        "meta": meta(config, command, num_threads),
        "parameters_millions": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
        "gflop_per_second": round(counter.get_total_flops() / CLIP_SECONDS / 1e9, 1),
        "real_time_factor": round(inference_s / CLIP_SECONDS, 3),
        "seconds_per_training_step": round(step_s, 2),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "steps": config.steps,
        "batch_size": config.batch_size,
        "loss": {
            "first quarter": _mean(losses[:part]),
            "last quarter": _mean(losses[-part:]),
        },
    }


if __name__ == "__main__":
    main()
