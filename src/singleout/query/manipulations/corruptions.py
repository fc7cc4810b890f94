"""Manipulations that are random in training and nothing else; they learn nothing."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from singleout.query.manipulations.base import Manipulation, State


class NoManipulation(Manipulation):
    """Embeddings pass unchanged (the paper's plain audio-query training)."""

    type: Literal["none"] = "none"


class Dropout(Manipulation):
    """Each entry is zeroed with probability ``p``, the others are scaled by 1 / (1 - p).

    Args:
        p: in [0, 1).
        renormalise: bring the result back to unit norm.
    """

    type: Literal["dropout"] = "dropout"
    p: Annotated[float, Field(ge=0, lt=1)] = 0.5
    renormalise: bool = False

    def corrupt(
        self, embedding: Tensor, generator: Generator, state: State, others: Tensor | None = None
    ) -> Tensor:
        drawn = torch.rand(embedding.shape, generator=generator).to(embedding.device)
        kept = embedding * (drawn >= self.p).to(embedding) / (1 - self.p)
        return F.normalize(kept, dim=-1) if self.renormalise else kept


class Noise(Manipulation):
    """Noise is added: Gaussian (CapDec: Nukrai et al., 2022), or uniform in a ball.

    Args:
        relative_norm: of the noise over the embedding's norm: the root mean square of Gaussian
            noise, that is sigma * sqrt(dim) for unit embeddings; the radius of the ball.
        kind: ``gaussian`` or ``ball``.
        renormalise: bring the result back to unit norm.
    """

    type: Literal["noise"] = "noise"
    relative_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    kind: Literal["gaussian", "ball"] = "gaussian"
    renormalise: bool = True

    def corrupt(
        self, embedding: Tensor, generator: Generator, state: State, others: Tensor | None = None
    ) -> Tensor:
        dim = embedding.shape[-1]
        noise = torch.randn(embedding.shape, generator=generator)
        if self.kind == "ball":
            radius = torch.rand((*embedding.shape[:-1], 1), generator=generator) ** (1 / dim)
            noise = F.normalize(noise, dim=-1) * radius
        else:
            noise = noise / dim**0.5
        noise = noise.to(embedding.device)
        norm = embedding.norm(dim=-1, keepdim=True)
        noisy = embedding + self.relative_norm * norm * noise
        return F.normalize(noisy, dim=-1) if self.renormalise else noisy
