"""Trainings in processes of their own, which are killed at a given moment, as by ``kill -9``."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from functools import cache
from itertools import count
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from singleout.data.dataset import MixtureDataset
from singleout.model import QueriedSeparator
from singleout.storage import atomic
from singleout.storage.disk import sync_file
from singleout.train import run
from singleout.train.checkpoint import FILE_NAME, PREVIOUS_NAME
from singleout.train.config import TrainConfig
from singleout.train.module import TrainingModule

Moment = Callable[[], None]
"""Changes this process so that it kills itself at some moment of a training."""


@cache
def _server() -> ForkServerContext:
    """A process without threads, which has imported all that a training needs.

    A fork of the process that tests run in may wait for ever, for a lock of one of its threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def ends_with(config: TrainConfig, *moments: Moment) -> int:
    """Train in another process; its exit code, negative for a signal.

    Such a process has no time to clean up, and starts in no time. It has none of the attributes
    that a test has patched.
    """
    work = cloudpickle.dumps((config, moments))
    process = _server().Process(target=_train, args=(work, dict(os.environ)))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _train(work: bytes, environment: dict[str, str]) -> None:
    code = 1
    try:
        os.environ |= environment
        torch.set_num_threads(1)
        multiprocessing.set_start_method("fork", force=True)  # of processes that render mixtures
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores Ctrl-C
        config, moments = pickle.loads(work)
        for moment in moments:
            moment()
        run.train(config)
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def refusing_notes() -> None:
    """A warning of the run becomes an error."""

    def refuse(*message: object) -> None:
        raise AssertionError(message)

    setattr(logging.getLogger("singleout"), "warning", refuse)  # noqa: B010


def kill() -> None:
    """End this process on the spot."""
    os.kill(os.getpid(), signal.SIGKILL)


def sending(*names: str) -> Callable[[], None]:
    """Send signals to this process."""

    def send() -> None:
        for name in names:
            signal.raise_signal(getattr(signal, name))

    return send


def before(method: str, step: int, act: Callable[[], None]) -> Moment:
    """``act`` before a method of the module is called, when ``step`` steps have ended."""
    original = getattr(TrainingModule, method)

    def call(self: TrainingModule, *args: Any, **kwargs: Any) -> Any:
        if self.step_index == step:
            act()
        return original(self, *args, **kwargs)

    return lambda: setattr(TrainingModule, method, call)


def in_step(step: int, act: Callable[[], None] = kill) -> Moment:
    """After the backward pass of the step after ``step`` steps."""
    return before("on_after_backward", step, act)


def in_validation(step: int, act: Callable[[], None] = kill) -> Moment:
    """When the model of ``step`` steps is scored."""
    return before("validation_step", step, act)


def in_loading(number: int, act: Callable[[], None]) -> Moment:
    """When the mixture of this number is rendered."""
    original = MixtureDataset.__getitem__

    def render(self: MixtureDataset, index: int) -> Any:
        if self.first + index == number:
            act()
        return original(self, index)

    return lambda: setattr(MixtureDataset, "__getitem__", render)


def in_checkpoint(number: int) -> Moment:
    """Killed when half of the ``number``-th checkpoint of a session is on the disk, from 1."""
    numbers = count(1)

    def cut(path: Path) -> None:
        if FILE_NAME in path.name and next(numbers) == number:
            os.truncate(path, path.stat().st_size // 2)
            kill()
        sync_file(path)

    return lambda: setattr(atomic, "sync_file", cut)


def between_names(number: int) -> Moment:
    """Killed after the ``number``-th checkpoint has its name, before the one before has its own."""
    original, renamed = Path.replace, list[str]()

    def rename(path: Path, target: Path) -> Path:
        if target.name == PREVIOUS_NAME and renamed.count(FILE_NAME) == number:
            kill()
        renamed.append(target.name)
        return original(path, target)

    return lambda: setattr(Path, "replace", rename)


def while_saving() -> None:
    """Killed when the training is over, before the model is saved."""
    setattr(QueriedSeparator, "save_pretrained", lambda *_: kill())  # noqa: B010


def stopped_in_second(store: Any, config: TrainConfig) -> None:
    """Train in one of several processes. Only the second one gets SIGTERM, in its third step."""
    if os.environ["RANK"] == "1":
        in_step(2, sending("SIGTERM"))()
    run._train_here(store, config, None)
