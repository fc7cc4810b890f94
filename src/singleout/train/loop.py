"""The loop of a run: Lightning's trainer, with logs, progress, checkpoints and clear errors."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from singleout.data.dataset import MixtureDataset
from singleout.data.loader import MixtureLoader
from singleout.errors import ConfigError, OutputError, TrainingError, one_line
from singleout.storage.tensors import has_fast_bfloat16
from singleout.train.batch_norm import JointBatchNorm
from singleout.train.checkpoint import Checkpoint, restore
from singleout.train.config import TrainConfig
from singleout.train.curve import Curve
from singleout.train.module import TrainingModule
from singleout.train.places import Device
from singleout.train.processes import Processes
from singleout.train.progress import RunProgress

Precision = Literal["float32", "bfloat16"]


def chosen_device(config: TrainConfig) -> Device:
    """The device of a run; ``auto`` is CUDA if there is a CUDA device, else the CPU.

    Lightning's own choice would be a GPU of Apple, which lacks operations that scoring needs.

    Raises:
        ConfigError: the config names CUDA, and this machine has no CUDA device.

    Example:
        >>> model = {"separator": {"type": "identity"}}
        >>> chosen_device(TrainConfig(audio="sounds", output="run", model=model, device="cpu"))
        'cpu'
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: this machine has no CUDA device: take 'cpu' or 'auto'")
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def chosen_precision(config: TrainConfig, device: Device) -> Precision:
    """The precision of a run; ``auto`` is bfloat16 if the device has instructions for it.

    Example:
        >>> model = {"separator": {"type": "identity"}}
        >>> config = TrainConfig(audio="sounds", output="run", model=model, precision="float32")
        >>> chosen_precision(config, "cpu")
        'float32'
    """
    if config.precision != "auto":
        return config.precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if has_fast_bfloat16() else "float32"


def run_loop(
    module: TrainingModule,
    training: MixtureDataset,
    validation: MixtureDataset | None,
    start: int,
    device: Device,
    checkpoints: Checkpoint,
) -> None:
    """Take the steps of a run that are left.

    The model is scored after the same steps as in a run that was never stopped. If the session
    before was stopped when the model of its last step was to be scored, this is done first.

    Args:
        module: the model with its optimiser. Weights of a checkpoint are restored into it.
        training: the mixtures of the steps that are left.
        validation: mixtures to score; None without validation.
        start: steps that earlier sessions have taken.
        device: where to train.
        checkpoints: restores the run and saves it.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        SingleoutError: a sound cannot be read, the loss is not finite, or the folder of the run
            cannot be written.
    """
    config = module.run
    place = module.processes.place
    share: dict[str, Any] = {
        "batch_size": config.batch_size,
        "rank": place.rank,
        "num_ranks": place.size,
        "num_parts": config.accumulate,
        "pin_memory": device == "cuda",
    }
    batches = MixtureLoader(training, num_workers=config.num_workers, **share)
    if validation is not None and len(validation) < place.size:
        # Lightning refuses a process without a mixture. The means of equal copies are the same.
        share |= {"rank": 0, "num_ranks": 1}
    scored = None if validation is None else MixtureLoader(validation, **share)
    interval = min(config.validation.every_steps, config.steps)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings(), _clear_errors(module), checkpoints.stops:
        # Hints about the number of workers and the intervals of logs, which the config sets.
        warnings.filterwarnings("ignore", module="lightning")
        curve = Curve(config.output, start, max(1, min(20, config.steps // 100)))
        is_due = scored is not None and start > 0 and start % interval == 0
        is_due = is_due and not curve.has_scores(start)
        if start == config.steps or is_due:
            restore(module, None, checkpoints.path)
        trainer = _trainer(module, start, device, [curve, checkpoints], interval)
        if is_due:
            trainer.validate(module, scored, verbose=False)
        if start < config.steps:
            trainer.fit(module, batches, scored)


def _trainer(
    module: TrainingModule,
    start: int,
    device: Device,
    callbacks: list[Callback],
    interval: int,
) -> lightning.Trainer:
    """A trainer that goes on after ``start`` steps, and validates every ``interval`` steps."""
    config = module.run
    is_bfloat16 = chosen_precision(config, device) == "bfloat16"
    progress = [RunProgress(start, config.steps)] if module.processes.is_first else []
    trainer = lightning.Trainer(
        accelerator=device,
        **_several(module.processes, device),
        accumulate_grad_batches=config.accumulate,
        precision="bf16-mixed" if is_bfloat16 else "32-true",
        max_steps=config.steps - start,
        gradient_clip_val=config.clip_norm,
        logger=False,
        callbacks=[*callbacks, *progress],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=interval * config.accumulate,
        check_val_every_n_epoch=None,
        inference_mode=False,
    )
    # Lightning counts the batches of this session, and validates by their number.
    trainer.fit_loop.epoch_loop.batch_progress.total.ready = start * config.accumulate
    return trainer


def _several(processes: Processes, device: Device) -> dict[str, Any]:
    """Options of a trainer for the processes of a run, which are connected already."""
    if processes.place.size == 1:
        return {"devices": 1}
    layers = [] if device == "cuda" else [JointBatchNorm(processes.group, processes.place.size)]
    return {
        "devices": processes.place.local_size,
        "num_nodes": processes.place.num_nodes,
        # Batch norms keep the statistics of all processes, so that no buffer has to be sent.
        "strategy": DDPStrategy(broadcast_buffers=False),
        "sync_batchnorm": device == "cuda",
        "plugins": [TorchElasticEnvironment(), *layers],
        "use_distributed_sampler": False,
    }


@contextmanager
def _errors_once() -> Iterator[None]:
    """Keep errors of files in other threads off the terminal.

    TensorBoard writes its logs in a thread, and raises an error of this thread in the main one.
    """
    hook = threading.excepthook
    threading.excepthook = lambda e: None if issubclass(e.exc_type, OSError) else hook(e)
    try:
        yield
    finally:
        threading.excepthook = hook


@contextmanager
def _clear_errors(module: TrainingModule) -> Iterator[None]:
    """Errors of Lightning and of its libraries become clear ones.

    Lightning turns Ctrl-C into exit code 1.
    """
    others = set(multiprocessing.active_children())
    try:
        with _errors_once():
            yield
    except SystemExit as error:
        if error.code != 1 or not isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from None
    except OSError as error:
        if error.errno is None:  # an error of a library, and none of the system
            raise
        raise OutputError(
            f"{error.filename or module.run.output}: cannot be written ({error.strerror}), so the "
            "training stopped: the last checkpoint is intact"
        ) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that renders mixtures died ({one_line(error)[:120]}): check that there is "
            "enough memory; num_workers=0 renders in the main process"
        ) from None
    finally:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
            child.join()
