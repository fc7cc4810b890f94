"""Engines run one function over many items: here, one after the other, or on a cluster.

A function that an engine runs returns failures as values, and its result depends on its item
alone. So every engine gives the same results, and a lost machine costs only time.
"""

from __future__ import annotations

from singleout.engines.engine import Engine, EngineName, LocalEngine

__all__ = ["Engine", "EngineName", "LocalEngine", "load_engine"]


def load_engine(
    name: EngineName = "local",
    address: str | None = None,
    *,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0.0,
) -> Engine:
    """The engine of a name.

    Args:
        name: ``local`` or ``ray``.
        address: of a Ray cluster; ``auto`` finds a running one, None starts one on this machine.
        cpus_per_worker, gpus_per_worker: see ``RayEngine``.

    Example:
        >>> type(load_engine("local")).__name__
        'LocalEngine'
    """
    if name == "local":
        return LocalEngine()
    from singleout.engines.ray import RayEngine

    return RayEngine(address, cpus_per_worker=cpus_per_worker, gpus_per_worker=gpus_per_worker)
