"""Time of a training step of the packaged recipe's separator, on synthetic data.

    python -m benchmarks.training_step [--config FILE] [--steps 10] [--threads 1]

A step is forward, loss, backward, clipping and the optimiser's update of a whole batch: the
separator, batch size, precision and optimiser are those of the config. Mixtures are noise and
conditions are random, so neither sounds nor embeddings are necessary, and rendering does not count.
Prints the result and writes ``results/training_step.json``. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.extract_speed import machine
from singleout.condition import Condition
from singleout.config import load_config
from singleout.encoders import load_encoder
from singleout.manipulations import Chain
from singleout.model import QueriedSeparator
from singleout.storage.tensors import has_fast_bfloat16
from singleout.train.config import TrainConfig
from singleout.train.losses import separation_loss_db
from singleout.train.module import TrainingModule

QUERIES_PER_MIXTURE = 2
WARM_UP_STEPS = 2


class SyntheticTraining:
    """Training of the separator of a config on one random batch.

    Args:
        config: of the run. Its encoder is replaced by the packaged one, its manipulation by none.
        seed: of the weights and of the batch.
    """

    def __init__(self, config: TrainConfig, seed: int = 0) -> None:
        torch.manual_seed(seed)
        model_config = config.model.model_copy(update={"manipulation": Chain()})
        self.config = config
        self.model = QueriedSeparator(model_config, load_encoder("builtin"))
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.separator.train()
        self.optimizer = TrainingModule(self.model, config).configure_optimizers()
        samples = round(config.mixtures.segment_seconds * self.model.sample_rate)
        number = QUERIES_PER_MIXTURE * config.batch_size
        self.targets = 0.1 * torch.randn(number, 1, samples)
        self.mixture: Tensor = sum(torch.split(self.targets, config.batch_size), torch.zeros(()))
        embeddings = F.normalize(torch.randn(number, self.model.manipulator.dim), dim=-1)
        self.condition = self.model.combine(Condition.single(embeddings))

    def step(self) -> float:
        """Make one step; its loss in dB."""
        is_bfloat16 = self.config.precision != "float32" and has_fast_bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            estimate = self.model(self.mixture, self.condition)
        mixture = self.mixture.repeat(QUERIES_PER_MIXTURE, 1, 1)
        loss = separation_loss_db(estimate.float(), self.targets, mixture).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return float(loss.detach())


def step_seconds(training: SyntheticTraining, steps: int) -> list[float]:
    """Seconds of each of ``steps`` steps, after some that do not count."""
    for _ in range(WARM_UP_STEPS):
        training.step()
    durations = []
    for _ in range(steps):
        started = time.perf_counter()
        training.step()
        durations.append(time.perf_counter() - started)
    return durations


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("results/training_step.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = load_config(TrainConfig, arguments.config)
    durations = step_seconds(SyntheticTraining(config), arguments.steps)
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.training_step --steps {arguments.steps}"
        f" --threads {arguments.threads}",
        "machine": machine(),
        "config": str(arguments.config),
        "separator": config.model.separator.model_dump(mode="json"),
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "threads": arguments.threads,
        "median_seconds": statistics.median(durations),
        "all_seconds": durations,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['median_seconds']:.3f} s per step (median of {arguments.steps})")


if __name__ == "__main__":
    main()
