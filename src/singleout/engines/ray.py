"""The engine that runs on a Ray cluster. Ray Data schedules; it reads and writes nothing.

Items and results are pickled here, so Ray and Arrow only pass bytes on. Ray starts one process per
core, and it repeats the items of a process or machine that dies. An item that ends its process
again is not repeated for ever: it counts as lost.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from singleout.engines.engine import Engine, Item, Result
from singleout.errors import MissingExtraError, SingleoutError, one_line, shortened

OBJECT_STORE_BYTES = 256 << 20
"""Shared memory of a cluster on this machine. Items and results are small."""
MAX_ATTEMPTS = 2
"""Times that an item is tried, if its process dies."""
MAX_BLOCKS = 10_000
"""More items share blocks, so that Ray's own tables stay small."""
CONNECT_SECONDS = 10
"""How long a cluster may take to answer."""
STANDARD_ERROR = 2
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would send statistics to its makers
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_TQDM_PATCH_PRINT": "0",  # Ray would replace print
}
"""Settings of Ray that it reads when it starts. Variables that the user has set stay."""


class RayEngine(Engine):
    """Runs on the workers of a Ray cluster.

    Args:
        address: of the cluster, such as ``10.0.0.1:6379``; ``auto`` finds the one that runs on
            this machine. None starts a cluster on this machine for the time of a run.
        cpus_per_worker: cores of each process; all cores of the largest machine, if it has fewer.
        gpus_per_worker: GPUs of each process, such as 1 or 0.25. A cluster without GPUs uses its
            cores.

    Example:
        >>> RayEngine("10.0.0.1:6379").address
        '10.0.0.1:6379'
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus_per_worker: int = 1,
        gpus_per_worker: float = 0.0,
    ) -> None:
        self.address = address
        self.cpus_per_worker, self.gpus_per_worker = cpus_per_worker, gpus_per_worker

    def run(
        self,
        make_worker: Callable[[], Callable[[Item], Result]],
        items: Sequence[Item],
        lost: Callable[[Item], Result] | None = None,
    ) -> Iterator[Result]:
        """See ``Engine.run``.

        Raises:
            MissingExtraError: Ray is not installed.
            SingleoutError: there is no such cluster; Ray cannot start; or the function failed.
        """
        if not items:
            return
        with _cluster(self.address) as ray:
            try:
                for number, result in self._results(ray, make_worker, items):
                    if result is _LOST and lost is None:
                        raise SingleoutError(
                            f"the process of {shortened(items[number])} was killed "
                            f"{MAX_ATTEMPTS} times: out of memory?"
                        )
                    yield lost(items[number]) if result is _LOST and lost else result
            except (GeneratorExit, SingleoutError):
                raise
            except Exception as error:
                raise SingleoutError(
                    f"Ray stopped: {_reason(error)}: repeat the command to go on"
                ) from None

    def _results(
        self, ray: Any, make_worker: Callable[[], Callable[[Item], Result]], items: Sequence[Item]
    ) -> Iterator[tuple[int, Any]]:
        """The number of each item with its result, or with ``_LOST``."""
        rows = [
            {"number": number, "item": ray.cloudpickle.dumps(item)}
            for number, item in enumerate(items)
        ]
        attempts = ray.remote(_Attempts).options(num_cpus=0).remote()
        cpus, gpus = self._shares(ray)
        results = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map(
            _Worker,
            fn_constructor_args=(ray.cloudpickle.dumps(make_worker), attempts),
            num_cpus=cpus,
            num_gpus=gpus or None,
            # One at a time: an item lasts long, and none should wait while other cores are idle.
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=len(rows), max_tasks_in_flight_per_actor=1
            ),
        )
        # Without the prefetch of rows, which would hold each result back until the next one comes.
        for batch in results.iter_batches(
            prefetch_batches=0, batch_size=None, batch_format="pyarrow"
        ):
            for row in batch.to_pylist():
                result = _LOST if row["result"] is None else pickle.loads(row["result"])
                if isinstance(result, _Failure):
                    result.error.add_note(result.details)
                    raise result.error
                yield row["number"], result

    def _shares(self, ray: Any) -> tuple[float, float]:
        """Cores and GPUs of each process. Ray would wait for ever for more than a machine has."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores, gpus = (max(each.get(kind, 0) for each in machines) for kind in ("CPU", "GPU"))
        if gpus and self.gpus_per_worker > gpus:
            raise SingleoutError(
                f"no machine of the cluster has {self.gpus_per_worker:g} GPUs: give "
                f"{gpus:g} or fewer for each process"
            )
        cores = cores or self.cpus_per_worker  # machines that are still to come
        return min(self.cpus_per_worker, cores), self.gpus_per_worker if gpus else 0


_LOST = object()


class _Attempts:
    """Counts, in a process that no item runs in, how often each item was begun."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, number: int) -> int:
        self._begun[number] = self._begun.get(number, 0) + 1
        return self._begun[number]

    def end(self, number: int) -> None:
        self._begun.pop(number, None)


class _Failure:
    """An exception that the function raised. Ray would retry it, or print pages."""

    def __init__(self, error: Exception) -> None:
        self.details = traceback.format_exc()
        if not isinstance(error, SingleoutError):
            kind = type(error).__name__
            error = SingleoutError(f"a worker on the cluster failed: {kind}: {one_line(error)}")
        self.error = error


class _Worker:
    """The function in a process of the cluster."""

    def __init__(self, make_worker: bytes, attempts: Any) -> None:
        self._make_worker, self._attempts = make_worker, attempts
        self._function: Callable[[Any], Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        number = row["number"]
        if ray.get(self._attempts.begin.remote(number)) > MAX_ATTEMPTS:
            return {"number": number, "result": None}
        result = self._result(row["item"])
        self._attempts.end.remote(number)
        return {"number": number, "result": result}

    def _result(self, item: bytes) -> bytes:
        from ray import cloudpickle

        try:
            if self._function is None:
                self._function = pickle.loads(self._make_worker)()
            return cloudpickle.dumps(self._function(pickle.loads(item)))  # type: ignore[no-any-return]
        except Exception as error:
            return cloudpickle.dumps(_Failure(error))  # type: ignore[no-any-return]


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Join or start a cluster, and give the module of Ray. A cluster started here is stopped."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError(
            "the engine 'ray' needs the scale extra: pip install 'singleout[scale]'"
        ) from None
    with _quiet(ray):
        if ray.is_initialized():  # the caller has joined a cluster
            yield ray
            return
        options = {} if address else {"object_store_memory": OBJECT_STORE_BYTES}
        try:
            _check_answer(address)
            with _own_signals(), _silent():
                ray.init(
                    address=address, include_dashboard=None if address else False,
                    logging_level=logging.ERROR, log_to_driver=False, **options,
                )  # fmt: skip
        except Exception as error:
            ray.shutdown()
            raise SingleoutError(_no_cluster(address, error)) from None
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_answer(address: str | None) -> None:
    """Raise an ``OSError`` if nothing answers at an address. Ray would try for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _no_cluster(address: str | None, error: Exception) -> str:
    if address is None:
        return f"Ray cannot start on this machine: {_reason(error)}: use the engine 'local'"
    place = "on this machine" if address == "auto" else f"at {shortened(address)}"
    return (
        f"no Ray cluster answers {place}: {_reason(error)}: start one with 'ray start --head', or "
        "leave the address out"
    )


def _reason(error: Exception) -> str:
    """The first sentence of Ray's message, whose rest is advice on Ray."""
    return one_line(error).split(". ")[0].rstrip(".")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of this process. Ray would replace the one of SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what Ray's C++ libraries write to the terminal. Their failures are exceptions, too."""
    try:
        terminal = os.dup(STANDARD_ERROR)
    except OSError:  # the caller has closed it
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STANDARD_ERROR)
        yield
    finally:
        os.dup2(terminal, STANDARD_ERROR)
        os.close(terminal)
        os.close(nowhere)


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Keep Ray's bars and reports from the terminal; its log files have them."""
    context = ray.data.DataContext.get_current()
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    before = context.enable_progress_bars, [logger.level for logger in loggers]
    context.enable_progress_bars = False
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        for logger, level in zip(loggers, before[1], strict=True):
            logger.setLevel(level)
