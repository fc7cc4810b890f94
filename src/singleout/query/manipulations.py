"""Embedding manipulations: what keeps a separator from overfitting to audio queries.

Each has two faces. ``train`` is applied to the embeddings (of audio, as a rule) that condition
training; ``infer`` to the embeddings (of text, as a rule) that condition inference. Manipulations
compose: ``Chain`` runs them in order on both faces. Randomness comes from the generator that is
handed in, so a run is reproducible to the bit.

Source: Saijo et al., "Leveraging Audio-Only Data for Text-Queried Target Sound Extraction", 2024.
Rates and variances here are our choices unless said otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from singleout.config import StrictConfig


class Manipulation(Protocol):
    """Maps embeddings [batch, dim] to embeddings [batch, dim]."""

    def train(self, embedding: Tensor, generator: Generator) -> Tensor:
        """What the separator sees in training."""

    def infer(self, embedding: Tensor) -> Tensor:
        """What the separator sees at inference; deterministic."""


class NoManipulation(StrictConfig):
    """Embeddings pass unchanged (the paper's plain audio-query training)."""

    type: Literal["none"] = "none"

    def train(self, embedding: Tensor, generator: Generator) -> Tensor:
        return embedding

    def infer(self, embedding: Tensor) -> Tensor:
        return embedding


class Dropout(StrictConfig):
    """Each entry is zeroed with probability ``p``, the others are scaled by 1 / (1 - p).

    Args:
        p: in [0, 1).
        renormalise: bring the result back to unit norm.
    """

    type: Literal["dropout"] = "dropout"
    p: Annotated[float, Field(ge=0, lt=1)] = 0.5
    renormalise: bool = False

    def train(self, embedding: Tensor, generator: Generator) -> Tensor:
        drawn = torch.rand(embedding.shape, generator=generator)
        kept = embedding * (drawn >= self.p).to(embedding) / (1 - self.p)
        return F.normalize(kept, dim=-1) if self.renormalise else kept

    def infer(self, embedding: Tensor) -> Tensor:
        return embedding


class Noise(StrictConfig):
    """Gaussian noise is added.

    Args:
        relative_norm: expected norm of the noise over the norm of the embedding, that is
            sigma * sqrt(dim) for unit embeddings.
        renormalise: bring the result back to unit norm.
    """

    type: Literal["noise"] = "noise"
    relative_norm: Annotated[float, Field(ge=0)] = 1.0
    renormalise: bool = True

    def train(self, embedding: Tensor, generator: Generator) -> Tensor:
        sigma = self.relative_norm / embedding.shape[-1] ** 0.5
        noisy = embedding + sigma * torch.randn(embedding.shape, generator=generator)
        return F.normalize(noisy, dim=-1) if self.renormalise else noisy

    def infer(self, embedding: Tensor) -> Tensor:
        return embedding


AnyManipulation = Annotated[NoManipulation | Dropout | Noise, Field(discriminator="type")]


class Chain(StrictConfig):
    """Manipulations one after the other; an empty chain changes nothing."""

    steps: tuple[AnyManipulation, ...] = ()

    def train(self, embedding: Tensor, generator: Generator) -> Tensor:
        for step in self.steps:
            embedding = step.train(embedding, generator)
        return embedding

    def infer(self, embedding: Tensor) -> Tensor:
        for step in self.steps:
            embedding = step.infer(embedding)
        return embedding
