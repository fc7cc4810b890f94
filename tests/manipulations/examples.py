"""Embeddings of a small corpus, and manipulators that are fitted on it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from singleout.manipulations import (
    AnyManipulation,
    Chain,
    FitEmbeddings,
    Manipulator,
    MeanShift,
    Pca,
    Pls,
    Projection,
    Retrieval,
    RowDraws,
)

DIM = 32


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def draws_for(given: Tensor, seed: int = 0) -> RowDraws:
    """Draws for the rows of a batch."""
    return RowDraws.seeded(seed, len(given))


def embeddings(batch: int = 64, dim: int = 256, seed: int = 7) -> Tensor:
    return F.normalize(torch.randn(batch, dim, generator=seeded(seed)), dim=-1)


def corpus(sounds: int = 80, captions: int = 60, dim: int = DIM, seed: int = 3) -> FitEmbeddings:
    """Sounds and captions in two cones; some sounds have several captions, some none."""
    generator = seeded(seed)
    audio = torch.randn(sounds, dim, generator=generator)
    pairs = torch.randint(max(1, sounds // 2), (captions,), generator=generator)
    text = audio[pairs] + 0.3 * torch.randn(captions, dim, generator=generator)
    away = 1.5 * torch.randn(2, dim, generator=generator)
    return FitEmbeddings(
        F.normalize(audio + away[0], dim=-1), F.normalize(text + away[1], dim=-1), pairs
    )


EXAMPLES = corpus()


def fitted(*steps: AnyManipulation, examples: FitEmbeddings = EXAMPLES) -> Manipulator:
    manipulator = Manipulator(Chain(steps=steps), examples.audio.shape[1])
    manipulator.fit(examples)
    return manipulator


def trained(step: AnyManipulation, given_: Tensor, seed: int = 0) -> Tensor:
    """Of audio, by a step that learns nothing."""
    return Manipulator(Chain(steps=(step,)), given_.shape[1]).for_training(
        given_, False, draws_for(given_, seed)
    )


def close(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


LEARNING = (
    MeanShift(),
    Pca(k=5),
    Pca(k=5, keep="rest", centre="none"),
    Pls(k=5),
    Retrieval(nearest=3),
    Projection(),
    Projection(onto="text", blend=0.4),
)
"""Steps that learn."""
