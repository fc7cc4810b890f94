"""Random numbers for the rows of a batch, each row from its own generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class RowDraws:
    """Random numbers for a batch. Each row draws from a generator that no other row uses.

    So the numbers of a row depend neither on the rows next to it nor on the size of the batch.
    Several processes that share a batch draw what one process would draw for the whole batch.

    Args:
        generators: one per row. ``data.seeds.row_draws`` makes those of training examples.

    Example:
        >>> import torch
        >>> both, second = RowDraws.seeded(0, rows=2), RowDraws.seeded(0, rows=2).of([1])
        >>> torch.equal(both.uniform(3)[1], second.uniform(3)[0])
        True
    """

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = generators

    def __len__(self) -> int:
        return len(self._generators)

    @classmethod
    def seeded(cls, seed: int, rows: int) -> RowDraws:
        """Draws of a seed and the number of each row.

        Args:
            seed: at least 0.
            rows: number of rows.
        """
        return cls([np.random.default_rng([seed, row]) for row in range(rows)])

    def of(self, rows: Sequence[int]) -> RowDraws:
        """The draws of some rows. Both objects share the generators of these rows.

        Args:
            rows: numbers of the rows.
        """
        return RowDraws([self._generators[row] for row in rows])

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), float32 [rows, *shape], on the CPU."""
        return self._filled(shape, lambda rng, out: rng.random(dtype=np.float32, out=out))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32 [rows, *shape], on the CPU."""
        return self._filled(shape, lambda rng, out: rng.standard_normal(dtype=np.float32, out=out))

    def _filled(
        self,
        shape: tuple[int, ...],
        fill: Callable[[np.random.Generator, NDArray[np.float32]], object],
    ) -> Tensor:
        values = np.empty((len(self), prod(shape)), np.float32)
        for generator, row in zip(self._generators, values, strict=True):
            fill(generator, row)
        return torch.from_numpy(values).view(len(self), *shape)
