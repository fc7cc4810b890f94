"""Where a process stands among the processes of a run, and whether a config fits them.

A launcher starts the processes and tells each its number in environment variables: ``torchrun``,
SLURM's ``srun``, Ray Train, or ``singleout.train.launching`` for the devices of one machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from singleout.errors import ConfigError
from singleout.train.config import TrainConfig

Device = Literal["cpu", "cuda"]
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""Environment variables by which a launcher tells a process its number."""


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


def _translate_slurm() -> None:
    try:
        slurm = SLURMEnvironment()
    except RuntimeError:  # several tasks, whose number on each node is unknown
        raise ConfigError(
            f"SLURM starts {os.environ['SLURM_NTASKS']} tasks, and does not tell how many on each "
            "node: start the job with --ntasks-per-node instead of --ntasks"
        ) from None
    per_node = os.environ.get("SLURM_NTASKS_PER_NODE", "1")
    os.environ |= {
        "RANK": str(slurm.global_rank()),
        "WORLD_SIZE": str(slurm.world_size()),
        "LOCAL_RANK": str(slurm.local_rank()),
        "LOCAL_WORLD_SIZE": per_node,
        "MASTER_ADDR": slurm.main_address,
        "MASTER_PORT": str(slurm.main_port),
    }


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
