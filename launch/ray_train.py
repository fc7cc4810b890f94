"""Train on a Ray cluster with Ray Train, one worker for each device.

::

    pip install 'singleout[train,scale]' 'ray[train]'
    python launch/ray_train.py CONFIG [KEY=VALUE ...] --workers 8 --gpu --address auto

The folder of the run, the sounds and ``$SINGLEOUT_CACHE`` lie where all nodes see them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from singleout.config import load_config, validated
from singleout.train import TrainConfig, train


def work(settings: dict[str, Any]) -> None:
    """Train in a worker. Ray Train has connected it with the other workers.

    Args:
        settings: config of the run.
    """
    train(validated(TrainConfig, settings, "the config of the run"))


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="one GPU for each worker")
    parser.add_argument("--address", help="of a cluster; by default a new one on this machine")
    options = parser.parse_args()

    config = load_config(TrainConfig, options.config, options.overrides)
    output = config.output.absolute()
    if options.address is None:
        ray.init(num_cpus=options.workers + 1, include_dashboard=False, logging_level="ERROR")
    else:
        ray.init(options.address)
    trainer = TorchTrainer(
        work,
        train_loop_config={**config.model_dump(mode="json"), "output": str(output)},
        torch_config=TorchConfig(backend="nccl" if options.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpu),
        run_config=RunConfig(
            name="ray",
            storage_path=str(output),
            failure_config=FailureConfig(max_failures=0),  # a repeated command resumes
        ),
    )
    trainer.fit()
    print(f"model: {output / 'model'}")


if __name__ == "__main__":
    main()
