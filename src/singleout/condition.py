"""``Condition``: what a separator is conditioned on, for a batch of queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """The embeddings of a batch of queries, with weights and a mask.

    A query may have several parts, such as the sounds that stand for its words. A separator
    estimates the target once for every part, and the estimates are averaged by the weights.

    A query has a positive side, and in models that take negative prompts a negative side as well.
    The sides follow each other in the last dimension of the embeddings. ``mask`` tells which sides
    a query has. A side that is missing is filled with zeros, and nothing reads a meaning into them.

    Attributes:
        embeddings: float32 [batch, parts, sides * dim].
        weights: float32 [batch, parts]; the weights of a query sum to 1.
        mask: bool [batch, sides]; True where the query has that side.

    Example:
        >>> import torch
        >>> dog = Condition.single(torch.ones(1, 4))
        >>> condition = Condition.combine(dog, Condition.missing(4))
        >>> condition.embeddings
        tensor([[[1., 1., 1., 1., 0., 0., 0., 0.]]])
        >>> condition.mask
        tensor([[ True, False]])
    """

    embeddings: Tensor
    weights: Tensor
    mask: Tensor

    @classmethod
    def single(cls, embeddings: Tensor, mask: Tensor | None = None) -> Condition:
        """One part per query.

        Args:
            embeddings: float32 [batch, dim].
            mask: bool [batch]; False where the query has no such side. By default all queries
                have it.

        Example:
            >>> import torch
            >>> Condition.single(torch.ones(2, 4)).embeddings.shape
            torch.Size([2, 1, 4])
        """
        if mask is None:
            mask = torch.ones(len(embeddings), dtype=torch.bool, device=embeddings.device)
        weights = torch.ones_like(embeddings[:, :1])
        return cls(embeddings[:, None], weights, mask[:, None])

    @classmethod
    def missing(cls, dim: int, batch: int = 1) -> Condition:
        """A side that no query of the batch has.

        Example:
            >>> Condition.missing(4).mask
            tensor([[False]])
        """
        return cls.single(torch.zeros(batch, dim), torch.zeros(batch, dtype=torch.bool))

    @classmethod
    def combine(cls, positive: Condition, negative: Condition) -> Condition:
        """Both sides of the same queries as one condition.

        Part number i of one side is paired with part number i of the other. A side of one part is
        paired with every part of the other.

        Args:
            positive, negative: of the same batch and dim. One of them has a single part, or both
                have the same number of parts.

        Example:
            >>> import torch
            >>> dog, traffic = (Condition.single(torch.full((1, 2), x)) for x in (1.0, 2.0))
            >>> Condition.combine(dog, traffic).embeddings
            tensor([[[1., 1., 2., 2.]]])
        """
        parts = max(positive.embeddings.shape[1], negative.embeddings.shape[1])
        sides = [
            torch.where(side.mask[:, :, None], side.embeddings, 0.0).expand(-1, parts, -1)
            for side in (positive, negative)
        ]
        weights = positive.weights * negative.weights
        return cls(
            torch.cat(sides, -1),
            weights / weights.sum(1, keepdim=True),
            torch.cat([positive.mask, negative.mask], 1),
        )

    @property
    def positive(self) -> Condition:
        """Only the positive side.

        Example:
            >>> import torch
            >>> dog = Condition.single(torch.ones(1, 4))
            >>> Condition.combine(dog, Condition.missing(4)).positive.embeddings.shape
            torch.Size([1, 1, 4])
        """
        dim = self.embeddings.shape[-1] // self.mask.shape[1]
        return Condition(self.embeddings[..., :dim], self.weights, self.mask[:, :1])

    @property
    def has_positive(self) -> bool:
        """Whether every query of the batch has a positive side."""
        return bool(self.mask[:, 0].all())

    def to(self, device: torch.device) -> Condition:
        """The same condition on ``device``.

        Example:
            >>> import torch
            >>> Condition.missing(4).to(torch.device("meta")).embeddings.device
            device(type='meta')
        """
        return Condition(self.embeddings.to(device), self.weights.to(device), self.mask.to(device))
