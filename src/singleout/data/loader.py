"""Batches of mixtures, whose order depends on nothing but the seed and the number of the step.

Mixture number ``step * batch_size + position`` stands at ``position`` of the batch of ``step``. A
process of several takes one stretch of every batch. So the mixtures of a step are the same with any
number of processes, workers and parts, and a run goes on at any step.

A training loop of another project uses the loader so::

    dataset = MixtureDataset(
        clips, config, 32_000, table, captions=None, seed=0, first=0, length=80_000
    )
    loader = MixtureLoader(dataset, batch_size=8, rank=rank, num_ranks=world_size, num_workers=4)
    if checkpoint is not None:
        loader.load_state_dict(checkpoint["loader"])
    for batch in loader:
        ...  # batch["mixture"] [mixtures, 1, samples], batch["targets"], batch["audio_embedding"]
        checkpoint = {"loader": loader.state_dict()}  # the next step, and a fingerprint

The embeddings of ``table`` are of any encoder, and the model is any network (``TrainingExample``
says what is in a batch).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader

from singleout.config import differences
from singleout.data.dataset import MixtureDataset, TrainingExample
from singleout.errors import ConfigError, SingleoutError

MAX_DIFFERENCES = 3
"""Most differences of two fingerprints that a message names."""
PR_SET_PDEATHSIG = 1
"""Number of the option in prctl.h: the signal that a process gets when its parent dies."""


class MixtureLoader:
    """Iterates over the batches of one process.

    The first iteration after ``load_state_dict`` starts at the step of that state. Every other one
    starts at the first mixture of the data set.

    Args:
        dataset: the mixtures. Its first one begins a step: ``dataset.first`` is a multiple of
            ``batch_size``. The last step may have fewer mixtures.
        batch_size: mixtures in a step, over all processes and parts.
        rank, num_ranks: number of this process, from 0, and of all processes.
        num_parts: batches into which the share of a process is cut, to accumulate gradients.
        num_workers: processes that render; 0 renders in this process.
        pin_memory: whether batches lie in memory from which a GPU copies fast.

    Raises:
        ConfigError: ``batch_size`` cannot be cut into equal parts, or the data set begins inside
            a step.

    Example:
        >>> import tempfile, numpy as np, soundfile, torch
        >>> from pathlib import Path
        >>> from singleout.data.embeddings import build_table
        >>> from singleout.data.manifest import scan_folder
        >>> from singleout.data.plan import MixtureConfig
        >>> config = MixtureConfig(segment_seconds=0.5, crop_hop_seconds=0.5, num_sources=(2, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(2):
        ...         noise = np.random.default_rng(i).normal(0, 0.1, 4_000)
        ...         soundfile.write(f"{folder}/{i}.wav", noise, 8_000)
        ...     clips = scan_folder(Path(folder))
        ...     table = build_table(clips, config, lambda clip, crop: torch.eye(4)[clip])
        ...     dataset = MixtureDataset(
        ...         clips, config, 8_000, table, captions=None, seed=0, first=0, length=12
        ...     )
        ...     loader = MixtureLoader(dataset, batch_size=4, rank=1, num_ranks=2)
        ...     numbers = [batch["index"].tolist() for batch in loader]
        >>> numbers
        [[2, 3], [6, 7], [10, 11]]
        >>> loader.state_dict()["step"]
        3
    """

    def __init__(
        self,
        dataset: MixtureDataset,
        batch_size: int,
        *,
        rank: int = 0,
        num_ranks: int = 1,
        num_parts: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if batch_size % (num_ranks * num_parts):
            raise ConfigError(
                f"batch_size: {batch_size} mixtures cannot be cut into equal parts for {num_ranks} "
                f"processes with {num_parts} accumulated parts each: take a multiple of "
                f"{num_ranks * num_parts}"
            )
        if dataset.first % batch_size:
            raise ConfigError(
                f"batch_size: the data set begins at mixture {dataset.first}, inside a step of "
                f"{batch_size} mixtures: begin at a multiple of {batch_size}"
            )
        self.dataset, self.batch_size = dataset, batch_size
        self.rank, self.num_ranks, self.num_parts = rank, num_ranks, num_parts
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self._first = self._start = self._next = dataset.first // batch_size
        self._end = self._first + -(-len(dataset) // batch_size)

    def __len__(self) -> int:
        """Number of batches of the next iteration."""
        last = sum(1 for _ in self._batches(max(self._start, self._end - 1)))
        return last + self.num_parts * max(0, self._end - 1 - self._start)

    def __iter__(self) -> Generator[TrainingExample]:
        start, self._start = self._start, self._first
        self._next = start
        renderer = DataLoader(
            self.dataset,
            batch_sampler=([*numbers] for _, _, numbers in self._batches(start)),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            worker_init_fn=_follow_parent,
            generator=torch.Generator(),  # PyTorch draws from it: a run's generator must not care
        )
        with _clear_errors():
            for (step, part, _), batch in zip(self._batches(start), renderer, strict=True):
                self._next = step + (part == self.num_parts - 1)
                yield batch
        self._next = self._end

    def _batches(self, start: int) -> Iterator[tuple[int, int, range]]:
        """Step, part and indices of every batch from the step ``start`` on."""
        num_shares = self.num_ranks * self.num_parts
        for step in range(start, self._end):
            first = (step - self._first) * self.batch_size
            size = min(self.batch_size, len(self.dataset) - first)
            for part in range(self.num_parts):
                share = self.rank * self.num_parts + part
                stop = first + (share + 1) * size // num_shares
                if numbers := range(first + share * size // num_shares, stop):
                    yield step, part, numbers

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands.

        A step of which this process has not given all parts counts as not begun.

        Returns:
            ``step``, the next one, and ``fingerprint``, of the data and the settings. Both are
            numbers and texts, which JSON can hold. They depend neither on the number of
            processes, parts and workers nor on the step that the data set begins at.
        """
        return {"step": self._next, "fingerprint": self._fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration start where another one stood, of any number of processes.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            ConfigError: the state is damaged, is of other data or settings, or its step lies
                outside the data set.
        """
        step, fingerprint = state.get("step"), state.get("fingerprint")
        if type(step) is not int or not isinstance(fingerprint, dict):
            raise ConfigError(
                "the state of the loader is damaged: it needs an integer 'step' and a "
                "'fingerprint': take another checkpoint, or start anew without a state"
            )
        if changed := differences(fingerprint, self._fingerprint):
            more = len(changed) - MAX_DIFFERENCES
            shown = [*changed[:MAX_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
            raise ConfigError(
                f"the state of the loader is of other data or settings ({'; '.join(shown)}): take "
                "those of its run, or start anew without a state"
            )
        if not self._first <= step <= self._end:
            raise ConfigError(
                f"the state of the loader is of step {step}, and the data set has the steps "
                f"{self._first} to {self._end - 1}: make a data set that holds the step"
            )
        self._start = self._next = step

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, **self.dataset.fingerprint()}


def _follow_parent(_: int) -> None:
    """Let a process that renders mixtures live as long as its parent, and end without a word.

    Ctrl-C reaches all processes of a terminal, and ``timeout`` signals all of a group. The parent
    would report the death of such a process instead of the signal, unless it ends with code 0.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.set_wakeup_fd(-1)  # what the parent watches is for its own signals
    die_with_parent()


def die_with_parent() -> None:
    """Let the system kill this process when its parent dies, where the system can do so.

    Example:
        >>> import multiprocessing
        >>> process = multiprocessing.get_context("spawn").Process(target=die_with_parent)
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Raise an error in a process that renders mixtures without the traceback in its message."""
    try:
        yield
    except SingleoutError as error:
        if "in DataLoader worker process" not in str(error):
            raise
        last = str(error).strip().splitlines()[-1]
        raise type(error)(last.split(f"{type(error).__name__}: ", 1)[-1]) from None
