"""The processes of a run: their numbers, what they do together, and how one failure ends them all.

A launcher starts the processes and tells each its number in environment variables: ``torchrun``,
SLURM's ``srun``, Ray Train, or ``singleout.train.launching`` for the devices of one machine. All
processes run the same program. The first one alone writes files.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, sleep
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from singleout import progress
from singleout.encoders import QueryEncoder
from singleout.errors import ConfigError, SingleoutError, TrainingError, one_line, shortened
from singleout.train.config import TrainConfig

T = TypeVar("T")
Device = Literal["cpu", "cuda"]
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""Environment variables by which a launcher tells a process its number."""
JOIN_TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others to start."""
WAIT_TIMEOUT = timedelta(days=100)
"""How long processes wait for the first one, which may embed a large corpus. A process that ends
closes its connections, so that the others do not wait for it."""
NEWS_SECONDS, POLL_SECONDS = 5.0, 0.1
"""How long, and how often, a process that lost its connections looks for the reason."""
FAILURE = "singleout/failure"
"""Key, in the store of the processes, of the first failure."""


class EndedElsewhereError(TrainingError):
    """Another process of the run failed, and reports why. Only that report is worth a line."""


@dataclass(frozen=True)
class Place:
    """Where a process stands among the processes of a run.

    Attributes:
        rank, size: number of this process, from 0, and of all processes.
        local_rank, local_size: the same among the processes of this machine.

    Example:
        >>> Place(rank=3, size=4, local_rank=1, local_size=2).num_nodes
        2
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and messages."""
        return self.rank == 0

    @property
    def num_nodes(self) -> int:
        """Number of machines."""
        return self.size // self.local_size


def launched_place() -> Place | None:
    """The place that a launcher gave to this process; None without a launcher.

    The variables of SLURM are translated to those of ``torchrun``, which PyTorch reads.

    Raises:
        ConfigError: the variables contradict each other.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1"):
        ...     launched_place()
        Place(rank=1, size=2, local_rank=1, local_size=2)
    """
    if not all(name in os.environ for name in VARIABLES):
        if "SLURM_NTASKS" not in os.environ or not SLURMEnvironment.detect():
            return None
        _translate_slurm()
    names = (*VARIABLES, "LOCAL_WORLD_SIZE")
    values = {name: os.environ.get(name, os.environ["WORLD_SIZE"]) for name in names}
    try:
        rank, size, local_rank, local_size = (int(value) for value in values.values())
    except ValueError:
        raise ConfigError(f"the variables of the launcher are no numbers: {values}") from None
    if not (0 <= rank < size and 0 <= local_rank < local_size and size % local_size == 0):
        raise ConfigError(
            f"the variables of the launcher contradict each other: {values}: start the same number "
            "of processes on every node"
        )
    return Place(rank, size, local_rank, local_size)


def needs_launch(config: TrainConfig) -> int:
    """The number of processes that this process has to start; 1 if it trains itself.

    Raises:
        ConfigError: the config names several nodes, and no launcher started this process.

    Example:
        >>> model = {"separator": {"type": "identity"}}
        >>> needs_launch(TrainConfig(audio="sounds", output="run", model=model, devices=2))
        2
    """
    if launched_place() is not None:
        return 1
    if config.num_nodes not in ("auto", 1):
        raise ConfigError(
            f"num_nodes: {config.num_nodes}, but this process was started alone: start the "
            "processes of every node by a launcher, such as torchrun or srun"
        )
    return 1 if config.devices == "auto" else config.devices


def _translate_slurm() -> None:
    slurm = SLURMEnvironment()
    num_nodes = int(os.environ.get("SLURM_NNODES", "1"))
    per_node = os.environ.get("SLURM_NTASKS_PER_NODE", str(max(1, slurm.world_size() // num_nodes)))
    os.environ |= {
        "RANK": str(slurm.global_rank()),
        "WORLD_SIZE": str(slurm.world_size()),
        "LOCAL_RANK": str(slurm.local_rank()),
        "LOCAL_WORLD_SIZE": per_node,
        "MASTER_ADDR": slurm.main_address,
        "MASTER_PORT": str(slurm.main_port),
    }


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them. By default there is only this one.

    Attributes:
        place: of this process.
        group: connects all processes, on their CPUs; None for one process.

    Example:
        >>> processes = Processes()
        >>> processes.from_first(lambda: 3), processes.first_then_others(lambda: 4)
        (3, 4)
        >>> processes.any(False)
        False
    """

    place: Place = Place()
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and messages."""
        return self.place.is_first

    def described(self, device: Device) -> str:
        """The processes in words, for a message.

        Example:
            >>> Processes(Place(size=4, local_size=4)).described("cuda")
            '4 processes on cuda'
        """
        size = self.place.size
        return f"{size} process{'es' if size > 1 else ''} on {device}"

    @contextmanager
    def moved(self, encoder: QueryEncoder, device: Device) -> Iterator[None]:
        """A context in which a query encoder runs on the device of this process."""
        if device == "cpu":
            yield
            return
        encoder.to(torch.device(device, self.place.local_rank))
        try:
            yield
        finally:
            encoder.to("cpu")

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.group is not None:
            dist.all_reduce(torch.zeros(1), group=self.group)

    def from_first(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which only the first process does. The others wait.

        Args:
            work: returns what can be pickled.
        """
        if self.group is None:
            return work()
        results = [work() if self.is_first else None]
        dist.broadcast_object_list(results, src=0, group=self.group)
        result: T = results[0]  # type: ignore[assignment]
        return result

    def first_then_others(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which the first process does before all others.

        So the others find what ``work`` of the first process has put into a cache.
        """
        if self.is_first:
            result = work()
        self.wait()
        if not self.is_first:
            result = work()
        return result

    def total(self, values: Tensor) -> Tensor:
        """The sum of the values of all processes, of any shape, on the CPU."""
        values = values.detach().cpu()
        if self.group is not None:
            values = values.clone()
            dist.all_reduce(values, group=self.group)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The mean of the values of all processes, of any shape, on the CPU."""
        return self.total(values) / self.place.size

    def any(self, is_true: bool) -> bool:
        """Whether a flag is set in any process. Every process gets the same answer."""
        return bool(self.total(torch.tensor(float(is_true))))


@contextmanager
def joined(config: TrainConfig, device: Device, store: Any = None) -> Iterator[Processes]:
    """Join the other processes of the run.

    If a process fails, the connections of the others break. Then only the process that failed first
    reports its error.

    Args:
        config: of the run.
        device: where to train.
        store: connects the processes of ``launching``; None for those of other launchers.

    Raises:
        ConfigError: the config does not fit the processes that were started.
        TrainingError: a process did not start, or ended without a message.
        EndedElsewhereError: another process failed.
    """
    place = launched_place() or Place()
    if place.size == 1:
        check_fit(config, place, device)
        yield Processes()
        return
    is_ours = not dist.is_initialized()  # Ray Train has connected its workers
    if is_ours:
        store = _connected(place, device, store)
    with _one_failure(store, place), nullcontext() if place.is_first else _silence():
        check_fit(config, place, device)
        group = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
        yield Processes(place, group)
        Processes(place, group).wait()  # for the files of the first process
    if is_ours:
        dist.destroy_process_group()


def check_fit(config: TrainConfig, place: Place, device: Device) -> None:
    """Refuse a config that does not fit the processes that were started.

    Args:
        config: of the run.
        place: of this process.
        device: where to train.

    Raises:
        ConfigError: names the key and the way out.

    Example:
        >>> model = {"separator": {"type": "identity"}}
        >>> config = TrainConfig(audio="sounds", output="run", model=model, batch_size=8)
        >>> check_fit(config, Place(rank=0, size=3, local_size=3), "cpu")
        Traceback (most recent call last):
        singleout.errors.ConfigError: batch_size: 8 mixtures cannot be shared equally by 3 ...
    """
    started = {"devices": place.local_size, "num_nodes": place.num_nodes}
    for name, number in started.items():
        value = getattr(config, name)
        if value not in ("auto", number):
            raise ConfigError(
                f"{name}: {value}, but the launcher started {place.local_size} processes on each "
                f"of {place.num_nodes} nodes: leave '{name}' out, or change the launcher's numbers"
            )
    parts = place.size * config.accumulate
    if config.batch_size % parts:
        fitting = max(1, round(config.batch_size / parts)) * parts
        raise ConfigError(
            f"batch_size: {config.batch_size} mixtures cannot be shared equally by {place.size} "
            f"processes with {config.accumulate} accumulated parts each: take a multiple of "
            f"{parts}, such as {fitting}"
        )
    if device == "cuda" and torch.cuda.device_count() < place.local_size:
        raise ConfigError(
            f"devices: {place.local_size} processes run on this node, and each sees "
            f"{torch.cuda.device_count()} CUDA devices: let every process see one device for each "
            "process of its node, or start fewer processes"
        )


def _connected(place: Place, device: Device, store: Any) -> Any:
    """Connect this process with the others; the store that all of them share."""
    try:
        if store is None:
            store = next(iter(rendezvous("env://", timeout=JOIN_TIMEOUT)))[0]
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=PrefixStore("singleout", store),
            rank=place.rank,
            world_size=place.size,
        )
        # Every process is here, or the waiting ends after a while.
        joining = dist.new_group(backend="gloo", timeout=JOIN_TIMEOUT)
        dist.all_reduce(torch.zeros(1), group=joining)
    except (RuntimeError, ValueError, OSError) as error:
        raise TrainingError(
            f"process {place.rank} of {place.size} cannot reach the others "
            f"({shortened(one_line(error), 200)}): check that all were started, and that "
            "MASTER_ADDR and MASTER_PORT name the machine of the first one"
        ) from None
    return store


@contextmanager
def _silence() -> Iterator[None]:
    """Leave warnings and progress to the first process."""
    logger = logging.getLogger("singleout")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with progress.hidden():
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _one_failure(store: Any, place: Place) -> Iterator[None]:
    """Let the failure that came first be the only one that is reported."""
    try:
        yield
    except BaseException as error:
        if store is None:  # a launcher that reports the failure of a worker itself
            raise
        if not _is_lost_connection(error):
            known = _announced(store, place, error)
            if known is None:
                raise
        elif (known := _news(store)) is None:
            raise TrainingError(
                "another process of the run ended without a message, such as for lack of memory: "
                "repeat the command to go on from the last checkpoint"
            ) from None
        raise EndedElsewhereError(f"process {known[0]} of the run failed: {known[2]}") from None


def _is_lost_connection(error: BaseException) -> bool:
    """Whether an error tells that another process is gone. Gloo raises plain runtime errors."""
    words = ("gloo", "connection", "nccl")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _announced(store: Any, place: Place, error: BaseException) -> tuple[int, str, str] | None:
    """Tell all processes of a failure; None if it is the first one, else the first one."""
    mine = (place.rank, type(error).__name__, shortened(error, 1_000))
    text = json.dumps(mine)
    try:
        first = store.compare_set(FAILURE, "", text).decode()
    except RuntimeError:  # the store was in a process that is gone
        return None
    return None if first == text else tuple(json.loads(first))


def _news(store: Any) -> tuple[int, str, str] | None:
    """The first failure that a process told of; None if there is none."""
    end = monotonic() + NEWS_SECONDS
    with suppress(RuntimeError):  # the store was in a process that is gone
        while not store.check([FAILURE]):
            if monotonic() > end:
                return None
            sleep(POLL_SECONDS)
        return tuple(json.loads(store.get(FAILURE).decode()))
    return None


def announced_failure(store: Any) -> SingleoutError | None:
    """The first failure of the processes that share a store, as it was raised there.

    Args:
        store: of ``launching``.

    Returns:
        None if no process told of an error of ours.
    """
    from singleout import errors

    if not store.check([FAILURE]) or (known := _news(store)) is None:
        return None
    kind = getattr(errors, known[1], None)
    if isinstance(kind, type) and issubclass(kind, SingleoutError):
        return kind(known[2])
    return None
