"""The loop of a run: Lightning's trainer, with logs, progress, checkpoints and clear errors."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from singleout.data.dataset import MixtureDataset
from singleout.data.loader import MixtureLoader
from singleout.errors import ConfigError, OutputError, TrainingError, one_line
from singleout.storage.tensors import has_fast_bfloat16
from singleout.train.checkpoint import Checkpoint
from singleout.train.config import TrainConfig
from singleout.train.module import TrainingModule
from singleout.train.progress import RunProgress

Device = Literal["cpu", "cuda"]


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


def run_loop(
    module: TrainingModule,
    training: MixtureDataset,
    validation: MixtureDataset | None,
    start: int,
    device: Device,
    checkpoints: Checkpoint,
) -> None:
    """Take the steps of a run that are left.

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
    batches = MixtureLoader(training, config.batch_size, num_workers=config.num_workers)
    scored = None if validation is None else MixtureLoader(validation, config.batch_size)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Hints about the number of workers and the intervals of logs, which the config sets.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = _trainer(config, start, device, checkpoints, validates=validation is not None)
        _fit(trainer, module, batches, scored)


def _trainer(
    config: TrainConfig, start: int, device: Device, checkpoints: Checkpoint, validates: bool
) -> lightning.Trainer:
    steps = config.steps - start
    uses_bfloat16 = config.precision == "bfloat16" or (
        config.precision == "auto" and _has_bfloat16(device)
    )
    return lightning.Trainer(
        accelerator=device,
        devices=1,
        precision="bf16-mixed" if uses_bfloat16 else "32-true",
        max_steps=steps,
        gradient_clip_val=config.clip_norm,
        logger=[
            CSVLogger(config.output, name="logs", flush_logs_every_n_steps=20),
            TensorBoardLogger(config.output, name="tensorboard"),
        ],
        callbacks=[checkpoints, RunProgress(start, config.steps)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=max(1, min(20, config.steps // 100)),
        num_sanity_val_steps=0,
        val_check_interval=min(config.validation.every_steps, steps) if validates else None,
        limit_val_batches=None if validates else 0,
    )


def _has_bfloat16(device: Device) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return has_fast_bfloat16()


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


def _fit(
    trainer: lightning.Trainer,
    module: TrainingModule,
    batches: MixtureLoader,
    scored: MixtureLoader | None,
) -> None:
    """``trainer.fit``, with clear errors. Lightning turns Ctrl-C into exit code 1."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    others = set(multiprocessing.active_children())
    try:
        with _errors_once():
            trainer.fit(module, batches, scored)
    except SystemExit as error:
        if error.code != 1 or not trainer.interrupted:  # such as SIGTERM
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
        if is_main and handler is not None:
            signal.signal(signal.SIGINT, handler)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
            child.join()
