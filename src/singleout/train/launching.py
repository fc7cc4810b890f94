"""Starts the processes of a run on this machine, one for each of its devices."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from singleout.data.loader import die_with_parent
from singleout.errors import SingleoutError, TrainingError
from singleout.train.processes import announced_failure
from singleout.train.stops import WARNING

HOST = "127.0.0.1"
STOP_SECONDS = 60.0
"""Time of the processes to end after a signal, with a checkpoint. Then they are killed."""
POLL_SECONDS = 0.5


def launched(work: Callable[..., object], number: int, *arguments: object) -> None:
    """Do ``work`` in several new processes of this machine, and wait for them.

    A process that fails ends all of them. A signal that stops this process stops them, too.

    Args:
        work: a function of a module. Its first argument is the store that connects the processes.
        number: of processes.
        *arguments: the further arguments of ``work``. They can be pickled.

    Raises:
        SingleoutError: of the process that failed first.
        TrainingError: a process ended without a message.
        KeyboardInterrupt: a signal stopped this process.

    Example:
        >>> launched(print, 0)  # no process prints
    """
    # Which processes end, and why, is told by the error that is raised here.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    context: Any = start_processes(  # type: ignore[no-untyped-call]
        _run,
        args=(number, store.port, torch.get_num_threads(), work, arguments),
        nprocs=number,
        join=False,
        start_method="spawn",
    )
    try:
        with _warned():
            while not context.join(timeout=POLL_SECONDS):
                pass
    except ProcessExitedException as error:
        if (failure := announced_failure(store)) is not None:
            raise failure from None
        ending = error.signal_name or f"exit code {error.exit_code}"
        raise TrainingError(
            f"process {error.error_index} of the run ended without a message ({ending}): check "
            "that there is enough memory, and repeat the command to go on from the last checkpoint"
        ) from None
    finally:
        _stop(context)


@contextmanager
def _warned() -> Iterator[None]:
    """A context in which the warning of a cluster interrupts this process, unless it is handled."""
    number = getattr(signal, WARNING, None)
    is_main = threading.current_thread() is threading.main_thread()
    if number is None or not is_main or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)


def _stop(context: Any) -> None:
    """End all processes that still run."""
    for process in context.processes:
        if process.is_alive():
            process.terminate()
    for process in context.processes:
        process.join(STOP_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _run(
    rank: int,
    number: int,
    port: int,
    num_threads: int,
    work: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    """The main function of a process."""
    die_with_parent()
    # Processes that render mixtures start as they do without a launcher. Python would spawn them.
    multiprocessing.set_start_method(None, force=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the parent gets, too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(max(1, num_threads // number))
    logging.basicConfig(format="warning: %(message)s")
    try:
        work(TCPStore(HOST, port, is_master=False, timeout=timedelta(minutes=1)), *arguments)
    except (SingleoutError, KeyboardInterrupt):  # the parent reports both
        sys.exit(1)
