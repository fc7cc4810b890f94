"""What every separator offers to training, evaluation and extraction."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Separator(Protocol):
    """A mixture and a query embedding to the target.

    ``encode`` does what does not depend on the query, once for several queries; ``decode`` the
    rest. ``forward(mixture, embedding)`` is ``decode(encode(mixture), embedding)``.

    Attributes:
        sample_rate: Hz.
        stride_samples: a chunk that starts at a multiple of it sees the same frames as the whole.
        context_samples: how far an output sample may look to either side.
    """

    sample_rate: int

    @property
    def stride_samples(self) -> int: ...

    @property
    def context_samples(self) -> int: ...

    def encode(self, mixture: Tensor) -> Any:
        """Mixture [batch, 1, samples] to whatever ``decode`` takes."""

    def decode(self, encoded: Any, embedding: Tensor) -> Tensor:
        """Embedding [queries * batch, dim] to target [queries * batch, 1, samples].

        The first query of every mixture comes first, then the second of every mixture, and so on.
        """

    def __call__(self, mixture: Tensor, embedding: Tensor) -> Tensor:
        """Mixture [batch, 1, samples], embedding [queries * batch, dim] to the targets."""
