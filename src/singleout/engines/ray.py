"""The engine that runs on a Ray cluster. Ray Data schedules; it reads and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from singleout.engines.engine import Engine, Item, Result


class RayEngine(Engine):
    """Runs on the workers of a Ray cluster."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address

    def run(
        self, make_worker: Callable[[], Callable[[Item], Result]], items: Sequence[Item]
    ) -> Iterator[Result]:
        raise NotImplementedError
