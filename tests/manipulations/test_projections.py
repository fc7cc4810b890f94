"""Mean shift, PCA and PLS against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from singleout.manipulations import (
    AnyManipulation,
    FitEmbeddings,
    MeanShift,
    Noise,
    Pca,
    Pls,
)
from tests.manipulations.examples import (
    DIM,
    EXAMPLES,
    LEARNING,
    close,
    corpus,
    draws_for,
    embeddings,
    fitted,
    seeded,
)


@pytest.mark.parametrize("step", LEARNING)
def test_steps_that_learn_give_unit_norms(step: AnyManipulation) -> None:
    manipulator = fitted(step)
    for is_text in (False, True):
        norms = manipulator.for_inference(embeddings(20, DIM), is_text).norm(dim=-1)
        close(norms, torch.ones(20))


# Mean shift.


def test_shifted_means_are_zero_for_each_modality() -> None:
    manipulator = fitted(MeanShift(renormalise=False))
    for given_, is_text in ((EXAMPLES.audio, False), (EXAMPLES.text, True)):
        assert given_.mean(0).norm() > 0.2
        shifted = manipulator.for_inference(given_, is_text)
        close(shifted.mean(0), torch.zeros(DIM))
        close(shifted, given_ - given_.mean(0))
        unit = fitted(MeanShift()).for_inference(given_, is_text)
        close(unit, F.normalize(given_ - given_.mean(0), dim=-1))


def test_c3_is_a_chain() -> None:
    """Connect, collapse, corrupt: v = 0.016 in each of 512 dimensions."""
    given_ = corpus(dim=512)
    manipulator = fitted(
        MeanShift(renormalise=False),
        Noise(relative_norm=(0.016 * 512) ** 0.5, renormalise=False),
        examples=given_,
    )
    connected = manipulator.for_inference(given_.audio, False)
    close(connected, given_.audio - given_.audio.mean(0))
    noise = manipulator.for_training(given_.audio, False, draws_for(given_.audio)) - connected
    per_row = noise / connected.norm(dim=-1, keepdim=True)
    assert per_row.var() == pytest.approx(0.016, rel=0.03)


# PCA.

CENTRES: dict[str, Callable[[FitEmbeddings], tuple[Tensor, Tensor]]] = {
    "own": lambda e: (e.audio.mean(0), e.text.mean(0)),
    "audio": lambda e: (e.audio.mean(0), e.audio.mean(0)),
    "none": lambda e: (torch.zeros(DIM), torch.zeros(DIM)),
}


@pytest.mark.parametrize("keep", ["first", "rest"])
@pytest.mark.parametrize("centre", CENTRES)
def test_pca_projects_on_an_orthonormal_basis(centre: Any, keep: Any) -> None:
    manipulator = fitted(Pca(k=6, keep=keep, centre=centre, renormalise=False))
    assert manipulator.dim == (6 if keep == "first" else DIM - 6)
    assert manipulator.state is not None
    basis = manipulator.state["0.basis"]
    close(basis @ basis.T, torch.eye(manipulator.dim))
    for given_, is_text, mean in zip(
        (EXAMPLES.audio, EXAMPLES.text), (False, True), CENTRES[centre](EXAMPLES), strict=True
    ):
        projected = manipulator.for_inference(given_, is_text)
        close(projected, (given_ - mean) @ basis.T)
        unit = fitted(Pca(k=6, keep=keep, centre=centre)).for_inference(given_, is_text)
        close(unit, F.normalize(projected, dim=-1), atol=1e-4)


@pytest.mark.parametrize("is_text", [False, True])
def test_all_components_uncentred_are_an_isometry(is_text: bool) -> None:
    manipulator = fitted(Pca(k=DIM, centre="none", renormalise=False))
    given_ = embeddings(30, DIM)
    result = manipulator.for_inference(given_, is_text)
    close(result @ result.T, given_ @ given_.T)
    close(result.norm(dim=-1), torch.ones(30))


def test_the_rest_is_the_complement_of_the_first() -> None:
    first, rest = (fitted(Pca(k=9, keep=keep)).state for keep in ("first", "rest"))
    assert first is not None
    assert rest is not None
    close(first["0.basis"] @ rest["0.basis"].T, torch.zeros(9, DIM - 9))
    both = torch.cat([first["0.basis"], rest["0.basis"]])
    close(both.T @ both, torch.eye(DIM))


def test_first_components_explain_most_of_the_variance() -> None:
    """Against numpy's own decomposition and random subspaces."""
    manipulator = fitted(Pca(k=5, renormalise=False))
    variance = manipulator.for_inference(EXAMPLES.audio, False).var(0)
    assert torch.equal(variance, variance.sort(descending=True).values)
    centred = EXAMPLES.audio - EXAMPLES.audio.mean(0)
    singular = torch.linalg.svdvals(centred.double())
    close(variance.double(), singular[:5] ** 2 / (len(centred) - 1))
    for seed in range(20):
        other = torch.linalg.qr(torch.randn(DIM, 5, generator=seeded(seed)))[0]
        assert (centred @ other).var(0).sum() < variance.sum()


def test_pca_centred_on_sounds_or_nothing_needs_no_captions() -> None:
    no_captions = replace(
        EXAMPLES, text=torch.zeros(0, DIM), pairs=torch.zeros(0, dtype=torch.long)
    )
    for centre in ("audio", "none"):
        assert fitted(Pca(k=3, centre=centre), examples=no_captions).dim == 3


# PLS.


def shared_subspace(noise: float, rank: int = 4) -> tuple[FitEmbeddings, Tensor, Tensor]:
    """Both modalities hold the same few factors, in different directions, and other noise."""
    generator = seeded(11)
    directions = [torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0] for _ in range(2)]
    factors = torch.randn(6000, rank, generator=generator) * torch.tensor([2.0, 1.7, 1.4, 1.2])
    sides = []
    for rotation in directions:
        rest = noise * torch.randn(6000, DIM - rank, generator=generator)
        sides.append(torch.cat([factors, rest], 1) @ rotation.T + 0.3)
    examples = FitEmbeddings(sides[0], sides[1], torch.arange(6000))
    return examples, directions[0][:, :rank], directions[1][:, :rank]


def test_pls_finds_the_subspace_that_both_share() -> None:
    """PCA fails here: the noise of one modality is louder than the shared factors."""
    examples, audio_directions, text_directions = shared_subspace(noise=1.6)
    state = fitted(Pls(k=4), examples=examples).state
    assert state is not None
    for basis, directions in (
        (state["0.audio_basis"], audio_directions),
        (state["0.text_basis"], text_directions),
    ):
        close(basis @ basis.T, torch.eye(4))
        assert torch.linalg.svdvals(basis @ directions).min() > 0.95  # cosines of the angles
    pca = fitted(Pca(k=4), examples=examples).state
    assert pca is not None
    assert torch.linalg.svdvals(pca["0.basis"] @ audio_directions).min() < 0.7


def test_pls_gives_both_modalities_the_same_coordinates() -> None:
    """Neither signs nor rotations differ between them."""
    examples, _, _ = shared_subspace(noise=0.1)
    manipulator = fitted(Pls(k=4, renormalise=False), examples=examples)
    audio = manipulator.for_inference(examples.audio, False)
    text = manipulator.for_inference(examples.text, True)
    close(audio.mean(0), torch.zeros(4), atol=1e-4)
    close(text.mean(0), torch.zeros(4), atol=1e-4)
    correlation = torch.corrcoef(torch.cat([audio, text], 1).T)[:4, 4:]
    assert correlation.diagonal().min() > 0.95
    assert (correlation - torch.diag(correlation.diagonal())).abs().max() < 0.1


def test_pls_is_the_svd_of_the_cross_covariance_of_pairs() -> None:
    manipulator = fitted(Pls(k=DIM, renormalise=False))
    state = manipulator.state
    assert state is not None
    audio = EXAMPLES.audio[EXAMPLES.pairs]
    close(state["0.audio_mean"], audio.mean(0))  # of captioned sounds, once for each caption
    close(state["0.text_mean"], EXAMPLES.text.mean(0))
    covariance = (audio - audio.mean(0)).T @ (EXAMPLES.text - EXAMPLES.text.mean(0))
    diagonal = state["0.audio_basis"] @ covariance @ state["0.text_basis"].T
    singular = torch.linalg.svdvals(covariance)
    close(diagonal, torch.diag(singular), atol=1e-4)
    few = fitted(Pls(k=3, renormalise=False))
    close(
        few.for_inference(audio, False), manipulator.for_inference(audio, False)[:, :3], atol=1e-4
    )
