"""Resumable checkpoints in safetensors: weights, averaged weights, optimiser state, step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import safetensors
import torch
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError
from torch import Tensor

from singleout.errors import ModelError, TrainingError
from singleout.storage.tensors import write_safetensors
from singleout.train.module import TrainingModule

FILE_NAME = "checkpoint.safetensors"
MARKED = {
    "encoder": "another query encoder, whose embeddings are not those of now",
    "sounds": "other sounds than there are now",
}


class Checkpoint(Callback):
    """Writes ``checkpoint.safetensors`` every so many steps, and restores it at the start."""

    def __init__(self, folder: Path, every_steps: int, marks: Mapping[str, str]) -> None:
        self.path, self.every_steps, self.marks = folder / FILE_NAME, every_steps, dict(marks)

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self.path.exists():
            assert isinstance(module, TrainingModule)
            restore(module, trainer.optimizers[0], self.path)

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # Before the next step rather than after this one: callbacks run before the module's own
        # hook, which still has to update the averaged weights.
        assert isinstance(module, TrainingModule)
        if batch_idx and module.step_index % self.every_steps == 0:
            save(module, trainer.optimizers[0], self.path, self.marks)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        save(module, trainer.optimizers[0], self.path, self.marks)


def save(
    module: TrainingModule,
    optimizer: torch.optim.Optimizer,
    path: Path,
    marks: Mapping[str, str],
) -> None:
    """Everything that the next step depends on, and by which marks the run is known again.

    Raises:
        TrainingError: a weight is not finite; the checkpoint that stands is kept.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        tensors[f"module.{name}"] = tensor.detach().clone().contiguous()
    for name, tensor in (module.model.manipulator.state or {}).items():
        tensors[f"manipulation.{name}"] = tensor.detach().clone().contiguous()
    for index, state in optimizer.state_dict()["state"].items():
        for name, tensor in state.items():
            tensors[f"optimizer.{index}.{name}"] = tensor.detach().clone().contiguous()
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise TrainingError(
            f"the weights are not finite at step {module.step_index}: lower the learning rate; the "
            "last checkpoint is intact"
        )
    write_safetensors(tensors, path, {"step": str(module.step_index), **marks})


def saved_step(
    path: Path, key: str, marks: Mapping[str, str] | None = None, changes: Callable[[], str] = str
) -> int:
    """The step a checkpoint stands at; 0 where there is none.

    Args:
        path: of the checkpoint.
        key: of the run that it must be of.
        marks: ``encoder`` and ``sounds`` that it must have begun with; a checkpoint without them,
            of an earlier version, is not asked.
        changes: says what is not as it was, where it is of another.

    Raises:
        ModelError: corrupt, or of a run with another config.
    """
    if not path.exists():
        return 0
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: corrupt or truncated checkpoint ({error})") from None
    if metadata.get("key") != key:
        raise ModelError(
            f"{path}: belongs to a run with another config ({changes()}): choose another "
            "output folder (init goes on from the model in this one) or delete it to start anew"
        )
    for name, mark in (marks or {}).items():
        if metadata.get(name, mark) != mark:
            raise ModelError(
                f"{path}: its run began with {MARKED[name]}: choose another output folder (init "
                "goes on from the model in this one) or delete it to start anew"
            )
    return int(metadata["step"])


def restore(module: TrainingModule, optimizer: torch.optim.Optimizer | None, path: Path) -> None:
    """Bring back what ``save`` wrote; without an optimiser, the weights alone."""
    restored: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    learnt: dict[str, Tensor] = {}
    with safetensors.safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            part, rest = name.split(".", 1)
            tensor = file.get_tensor(name).clone()  # not mapped: the file is to be replaced
            if part == "module":
                weights[rest] = tensor
            elif part == "manipulation":
                learnt[rest] = tensor
            else:
                index, entry = rest.split(".", 1)
                restored.setdefault(int(index), {})[entry] = tensor
        module.step_index = int(file.metadata()["step"])
    module.load_state_dict(weights)
    if learnt:  # of the sounds that the run began with
        module.model.manipulator.state = learnt
        module.model.manipulator.to(module.device)
    if optimizer is not None:
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": restored, "param_groups": groups})
