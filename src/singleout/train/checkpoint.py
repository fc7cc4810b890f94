"""Resumable checkpoints in safetensors: weights, averaged weights, optimiser state, step.

A checkpoint names the run that it belongs to in its metadata: the ``key`` of the run's settings,
and the identity of its ``encoder``, its ``sounds`` and the ``precision`` of its numbers. It has a
checksum. The checkpoint before the last one is kept, and a run whose last checkpoint is damaged
goes on from it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from singleout.errors import ModelError, OutputError, TrainingError, shortened
from singleout.storage.atomic import replacing
from singleout.storage.tensors import read_safetensors, write_safetensors
from singleout.train.module import TrainingModule
from singleout.train.stops import Stops

FILE_NAME = "checkpoint.safetensors"
"""Name of the checkpoint in the folder of a run."""
PREVIOUS_NAME = "checkpoint.previous.safetensors"
"""Name of the checkpoint before it."""
METADATA = {"step", "key", "encoder", "sounds", "precision", "devices"}
"""Names of the metadata. A damaged name would hide its entry."""
DIFFERENCES = {
    "encoder": "this run was started with another query encoder, whose embeddings are different",
    "sounds": "this run was started with a different set of sounds: put back what was changed",
    "precision": "this run was started in {old}, and would go on in {new}: set precision={old}",
}
"""What it means that a part of the identity differs."""
WAY_OUT = (
    "choose another output folder (with init, its run can start from the model in this one), or "
    "delete the checkpoint to start anew"
)


class DamagedError(ModelError):
    """A checkpoint is damaged, so that the one before is needed."""


class Checkpoint(Callback):
    """Writes ``checkpoint.safetensors`` at regular steps, and restores it at the start.

    The last step has a checkpoint, and so has the step in which a signal stopped the run. With
    several processes, only the first one writes.

    Args:
        folder: of the run.
        every_steps: steps from one checkpoint to the next.
        metadata: ``key`` of the run's settings (``run_key``), and the identity of the run.
        stops: signals that stop the run.

    Example:
        >>> checkpoints = Checkpoint(Path("run"), 200, {"key": "k", "encoder": "a", "sounds": "b"})
        >>> checkpoints.path.as_posix()
        'run/checkpoint.safetensors'
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        metadata: Mapping[str, str],
        stops: Stops | None = None,
    ) -> None:
        self.path, self.every_steps = folder / FILE_NAME, every_steps
        self.metadata, self.stops = metadata, stops or Stops()
        self._saved = self._ended = 0
        """Steps of the last checkpoint, and steps that have ended."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        if self.path.exists():
            restore(module, trainer.optimizers[0], self.path)
        self._saved = self._ended = module.step_index
        self.stops.hold()  # Lightning has set a handler of SIGTERM
        self._let_stop(trainer, module)

    def on_train_batch_start(self, *_: Any) -> None:
        self.stops.begin_step()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        assert isinstance(module, TrainingModule)
        if module.step_index == self._ended:
            return  # a part of a step, whose gradients are accumulated
        self._ended = module.step_index
        if self._ended % self.every_steps == 0 or self._ended == module.run.steps:
            self._save(trainer, module)
        self._let_stop(trainer, module)

    def on_validation_start(self, *_: Any) -> None:
        self.stops.hold()

    def _let_stop(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Let a signal end the run here, after a checkpoint."""
        if trainer.world_size == 1:
            self.stops.end_step(lambda: self._save(trainer, module))
        # All processes stop after the same step, in which they wait for each other.
        elif trainer.strategy.reduce_boolean_decision(self.stops.is_requested, all=False):
            self._save(trainer, module)
            self.stops.deliver()

    def _save(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        if trainer.is_global_zero and trainer.optimizers and self._saved != module.step_index:
            save(module, trainer.optimizers[0], self.path, self.metadata)
        self._saved = module.step_index


def save(
    module: TrainingModule,
    optimizer: torch.optim.Optimizer,
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write everything that the next step depends on; ``restore`` reads it.

    Tensors are named ``module.…`` (weights and averaged weights), ``manipulation.…`` (what the
    manipulation has learned) and ``optimizer.…``.

    Args:
        module: the model with its averaged weights.
        optimizer: of the weights.
        path: of the checkpoint. It appears whole or not at all.
        metadata: names the run; the step is added to it.

    Raises:
        TrainingError: a weight is not finite. The checkpoints stay as they are.
        OutputError: the file cannot be written. The checkpoints stay as they are.

    Example:
        >>> import tempfile
        >>> from singleout.encoders import load_encoder
        >>> from singleout.model import QueriedSeparator
        >>> from singleout.train.config import TrainConfig
        >>> small = {"channels": [4, 4], "time_strides": [2], "bottleneck": 8, "dilations": [1]}
        >>> model = {"separator": {"type": "conditioned_unet", **small}}
        >>> config = TrainConfig(audio="sounds", output="run", model=model)
        >>> module = TrainingModule(QueriedSeparator(config.model, load_encoder()), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / FILE_NAME
        ...     module.step_index = 7
        ...     save(module, module.configure_optimizers(), path, {"key": "0123"})
        ...     module.step_index = 0
        ...     restore(module, None, path)
        >>> module.step_index
        7
    """
    tensors = _tensors_of(module, optimizer)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise TrainingError(
            f"the weights are not finite at step {module.step_index}: lower the learning rate; the "
            "last checkpoint is intact"
        )
    metadata = {"step": str(module.step_index), **metadata}
    try:
        with _also_named(path, path.with_name(PREVIOUS_NAME)):
            write_safetensors(tensors, path, metadata)
    except OutputError as error:
        raise OutputError(
            f"{error}: the training stopped after step {module.step_index}, and the checkpoint "
            "before is intact: make room, and repeat the command"
        ) from None


def _tensors_of(module: TrainingModule, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of all tensors of a checkpoint by name."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        tensors[f"module.{name}"] = tensor
    for name, tensor in (module.model.manipulator.state or {}).items():
        tensors[f"manipulation.{name}"] = tensor
    for index, state in optimizer.state_dict()["state"].items():
        for name, tensor in state.items():
            tensors[f"optimizer.{index}.{name}"] = tensor
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


@contextmanager
def _also_named(path: Path, other: Path) -> Iterator[None]:
    """Give a file, if it exists, a second name at the end, which another file may have had."""
    if not path.exists():
        yield
        return
    with replacing(other) as partial:
        try:
            os.link(path, partial)
        except OSError:  # a file system without links
            shutil.copyfile(path, partial)
        yield


def saved_step(
    folder: Path,
    key: str,
    identity: Mapping[str, str] | None = None,
    changes: Callable[[], str] = str,
    equal_keys: Callable[[bool], Collection[str]] = lambda _: (),
) -> int:
    """The step of the checkpoint in a folder; 0 if there is no checkpoint.

    If the checkpoint is damaged, the one before takes its place, with a warning.

    Args:
        folder: of the run.
        key: of the run that continues it.
        identity: of that run: ``encoder``, ``sounds``, ``precision`` and ``devices``. What a
            checkpoint of an earlier version does not have is not compared. Other ``devices`` are
            allowed, with a note.
        changes: describes which settings differ, for the message of the error.
        equal_keys: gives further keys that settings of the same meaning have. Its argument says
            whether the precision is compared by itself, so that its name may differ.

    Raises:
        ModelError: the checkpoint and the one before are damaged, or belong to another run.
        OutputError: the folder cannot be written.

    Example:
        >>> saved_step(Path("no-run"), "key")
        0
    """
    path, previous = folder / FILE_NAME, folder / PREVIOUS_NAME
    if not path.exists():
        return 0
    run = key, identity or {}, changes, equal_keys
    try:
        return _step_of(path, *run)
    except DamagedError as error:
        damage = error
    if not previous.exists():
        raise ModelError(f"{damage}; there is no checkpoint before it: {WAY_OUT}")
    try:
        step = _step_of(previous, *run)
    except DamagedError as error:
        raise ModelError(f"{damage}; {error}: {WAY_OUT}") from None
    with _also_named(previous, path):
        pass
    logging.getLogger("singleout").warning(
        "%s: the run goes on from the checkpoint before it, of step %d", damage, step
    )
    return step


def _step_of(
    path: Path,
    key: str,
    identity: Mapping[str, str],
    changes: Callable[[], str],
    equal_keys: Callable[[bool], Collection[str]],
) -> int:
    """The step of a checkpoint of this run."""
    metadata = _read(path)[1]
    differing = [
        name
        for name in DIFFERENCES.keys() & identity.keys() & metadata.keys()
        if metadata[name] != identity[name]
    ]
    is_known = metadata["key"] == key or metadata["key"] in equal_keys("precision" in metadata)
    if not is_known and "precision" not in differing:
        raise ModelError(f"{path}: belongs to a run with another config ({changes()}): {WAY_OUT}")
    for name in differing:
        difference = DIFFERENCES[name].format(old=shortened(metadata[name]), new=identity[name])
        raise ModelError(f"{path}: {difference}; or {WAY_OUT}")
    devices = identity.get("devices", "")
    if (before := metadata.get("devices", devices)) != devices:
        logging.getLogger("singleout").warning(
            "%s: the run goes on with %s (before: %s): its results differ by rounding from those "
            "of a run that stays there",
            path,
            devices,
            shortened(before),
        )
    return int(metadata["step"])


def restore(module: TrainingModule, optimizer: torch.optim.Optimizer | None, path: Path) -> None:
    """Load what ``save`` wrote.

    Args:
        module: receives the weights, the learned part of the manipulation and the step.
        optimizer: receives its state; None loads the module only.
        path: of the checkpoint.

    Raises:
        ModelError: the file is damaged.
    """
    weights: dict[str, Tensor] = {}
    learned: dict[str, Tensor] = {}
    states: dict[int, dict[str, Tensor]] = {}
    tensors, metadata = _read(path)
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        if part == "module":
            weights[rest] = tensor
        elif part == "manipulation":
            learned[rest] = tensor
        else:
            index, entry = rest.split(".", 1)
            states.setdefault(int(index), {})[entry] = tensor
    module.step_index = int(metadata["step"])
    module.load_state_dict(weights)
    if learned:  # from the sounds that the run was started with
        module.model.manipulator.state = learned
        module.model.manipulator.to(module.device)
    if optimizer is not None:
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})
        _lay_out_like_weights(optimizer)


def _lay_out_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give the state the memory order of its weights, as in a run that was never stopped.

    Another order may round differently.
    """
    for weight, state in optimizer.state.items():
        for name, tensor in state.items():
            if tensor.shape == weight.shape and tensor.stride() != weight.stride():
                state[name] = torch.empty_like(weight).copy_(tensor)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a checkpoint that is whole."""
    try:
        tensors, metadata = read_safetensors(path)
    except ModelError as error:
        raise DamagedError(str(error)) from None
    if not {"step", "key"} <= metadata.keys() <= METADATA or not metadata["step"].isdecimal():
        raise DamagedError(f"{path}: corrupt checkpoint (its metadata are damaged)")
    return tensors, metadata
