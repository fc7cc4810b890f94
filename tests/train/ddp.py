"""Functions that the processes of the tests of DDP run. They record what each process does."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from singleout.condition import Condition
from singleout.data.dataset import TrainingExample
from singleout.errors import AudioError
from singleout.storage import atomic
from singleout.train import run
from singleout.train.checkpoint import FILE_NAME
from singleout.train.conditioning import Conditioning
from singleout.train.config import TrainConfig
from singleout.train.module import TrainingModule
from singleout.train.processes import joined


def recorded_run(store: Any, config: TrainConfig, folder: Path) -> None:
    """Train, and write ``rank-….pt``: batches, conditions, gradients, validation and calls.

    The checkpoint of step 2 is copied to ``folder``.
    """
    record: dict[str, Any] = {
        "indices": [], "conditions": [], "gradients": {}, "validated": [], "calibrations": 0,
        "written": [], "statistics": {},
    }  # fmt: skip
    condition, validate = Conditioning.__call__, TrainingModule.validation_step
    calibrate, replacing = run.calibrate, atomic.replacing
    step = TrainingModule.optimizer_step

    def recorded_condition(self: Conditioning, batch: TrainingExample) -> Condition:
        result = condition(self, batch)
        record["indices"].append(batch["index"].tolist())
        queries = batch["has_positive"].shape[1]
        record["conditions"].append(result.embeddings[:, 0].unflatten(0, (queries, -1)))
        return result

    def recorded_step(self: TrainingModule, *args: Any, **kwargs: Any) -> None:
        closure = kwargs.pop("optimizer_closure", None) or args[3]

        def with_gradients() -> Any:
            result = closure()
            if not record["gradients"]:
                for name, weight in self.model.named_parameters():
                    assert weight.grad is not None
                    record["gradients"][name] = weight.grad.clone()
                for name, values in self.model.separator.named_buffers():
                    if "running" in name:
                        record["statistics"][name] = values.clone()
            return result

        step(self, *args[:3], optimizer_closure=with_gradients)
        if self.step_index == 3 and self.processes.is_first:
            shutil.copy(config.output / FILE_NAME, folder)

    def recorded_validation(self: TrainingModule, batch: TrainingExample, index: int) -> None:
        record["validated"].append(batch["index"].tolist())
        validate(self, batch, index)

    def recorded_calibration(*args: Any) -> None:
        record["calibrations"] += 1
        calibrate(*args)

    def recorded_writing(path: Path, *args: Any, **kwargs: Any) -> Any:
        record["written"].append(path.name)
        return replacing(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conditioning, "__call__", recorded_condition)
        patch.setattr(TrainingModule, "optimizer_step", recorded_step)
        patch.setattr(TrainingModule, "validation_step", recorded_validation)
        patch.setattr(run, "calibrate", recorded_calibration)
        patch.setattr(run, "MIN_CALIBRATION_MIXTURES", 3)
        for module in ("storage.tensors", "train.run", "train.curve", "train.checkpoint"):
            patch.setattr(f"singleout.{module}.replacing", recorded_writing)
        run._train_here(store, config, None)
    torch.save(record, folder / f"rank-{os.environ.get('RANK', 0)}.pt")


def failing(store: Any, config: TrainConfig, how: str, ready: Path) -> None:
    """Fail in the second process, while the first one waits for it."""
    with joined(config, "cpu", store) as processes:
        if not processes.is_first:
            if how == "error":
                raise AudioError("rain.wav: cannot be read")
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
        ready.touch()
        processes.wait()
        if how == "stopped":
            signal.pause()
