"""The interface of all engines, and the one that uses this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
EngineName = Literal["local", "ray"]


class Engine(ABC):
    """Runs one function over many items.

    Example:
        >>> sorted(LocalEngine().run(lambda: str.upper, ["dog", "rain"]))
        ['DOG', 'RAIN']
    """

    @abstractmethod
    def run(
        self,
        make_worker: Callable[[], Callable[[Item], Result]],
        items: Sequence[Item],
        lost: Callable[[Item], Result] | None = None,
    ) -> Iterator[Result]:
        """Run a function over items.

        Args:
            make_worker: makes the function; called once in every process, for example to load a
                model. It must pickle.
            items: what the function is called with. They must pickle.
            lost: gives the result of an item whose process was killed each time it was tried, such
                as by a system without memory. None: that is an error.

        Yields:
            The results, in any order, as they come.
        """


class LocalEngine(Engine):
    """Runs in this process, one item after the other.

    Example:
        >>> list(LocalEngine().run(lambda: len, ["dog", "rain"]))
        [3, 4]
    """

    def run(
        self,
        make_worker: Callable[[], Callable[[Item], Result]],
        items: Sequence[Item],
        lost: Callable[[Item], Result] | None = None,
    ) -> Iterator[Result]:
        worker = make_worker()
        for item in items:
            yield worker(item)
