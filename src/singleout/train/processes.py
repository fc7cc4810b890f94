"""The processes of a run: what they do together, and how one failure ends them all.

All processes run the same program. Only the first one writes files.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic, sleep
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from singleout import progress
from singleout.encoders import QueryEncoder
from singleout.errors import SingleoutError, TrainingError, one_line, shortened
from singleout.train.config import TrainConfig
from singleout.train.places import Device, Place, check_fit, launched_place

T = TypeVar("T")
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
    """Another process of the run failed, and reports why. Only that report is worth a line.

    Example:
        >>> issubclass(EndedElsewhereError, TrainingError)
        True
    """


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
    """

    place: Place = field(default_factory=Place)
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and messages."""
        return self.place.is_first

    def described(self, device: Device, num_parts: int = 1) -> str:
        """The processes in words, for a message.

        Args:
            device: of each process.
            num_parts: into which each process cuts its share of a batch.

        Example:
            >>> Processes(Place(size=4, local_size=4)).described("cuda", num_parts=2)
            '4 processes on cuda, 2 parts'
        """
        size = self.place.size
        parts = f", {num_parts} parts" if num_parts > 1 else ""
        return f"{size} process{'es' if size > 1 else ''} on {device}{parts}"

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

    Example:
        >>> model = {"separator": {"type": "identity"}}
        >>> config = TrainConfig(audio="sounds", output="run", model=model)
        >>> with joined(config, "cpu") as processes:
        ...     processes.is_first
        True
    """
    place = launched_place() or Place()
    if place.size == 1:
        check_fit(config, place, device)
        yield Processes()
        return
    is_ours = not dist.is_initialized()  # Ray Train has connected its workers
    if is_ours:
        store = _connected(place, device, store)
    try:
        with _one_failure(store, place), nullcontext() if place.is_first else _silence():
            check_fit(config, place, device)
            processes = Processes(place, dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT))
            yield processes
            processes.wait()  # for the files of the first process
    except BaseException:
        if is_ours and device == "cpu":  # NCCL would wait for the others
            dist.destroy_process_group()
        raise
    if is_ours:
        dist.destroy_process_group()


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

    Example:
        >>> announced_failure(dist.HashStore()) is None
        True
    """
    from singleout import errors

    if not store.check([FAILURE]) or (known := _news(store)) is None:
        return None
    kind = getattr(errors, known[1], None)
    if isinstance(kind, type) and issubclass(kind, SingleoutError):
        return kind(known[2])
    return None
