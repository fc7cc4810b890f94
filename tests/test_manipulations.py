"""Embedding manipulations: both faces against closed forms, what is learnt, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Generator, Tensor
from torch.nn import functional as F

from singleout.config import validated
from singleout.errors import ConfigError, ModelError
from singleout.query.manipulations import (
    AnyManipulation,
    Chain,
    Dropout,
    Examples,
    Manipulation,
    Manipulator,
    MeanShift,
    Neighbours,
    Noise,
    NoManipulation,
    Pca,
    Pls,
    Projection,
    Retrieval,
)

DIM = 32

RANDOM = st.one_of(
    st.builds(Dropout, p=st.floats(0, 0.9), renormalise=st.booleans()),
    st.builds(
        Noise,
        relative_norm=st.floats(0, 3),
        kind=st.sampled_from(["gaussian", "ball"]),
        renormalise=st.booleans(),
    ),
    st.builds(Neighbours, p=st.floats(0.1, 1), reach=st.floats(0.01, 1)),
)
MAPS = st.one_of(
    st.just(NoManipulation()),
    st.builds(MeanShift, renormalise=st.booleans()),
    st.builds(
        Pca,
        k=st.integers(1, 3),
        keep=st.sampled_from(["first", "rest"]),
        centre=st.sampled_from(["own", "audio", "none"]),
        renormalise=st.booleans(),
    ),
    st.builds(Pls, k=st.integers(4, 9), renormalise=st.booleans()),
    st.builds(Retrieval, nearest=st.integers(1, 3), memory=st.integers(3, 40)),
    st.builds(
        Projection,
        onto=st.sampled_from(["audio", "text"]),
        temperature=st.floats(1e-3, 1),
        blend=st.floats(0.1, 1),
        memory=st.integers(1, 40),
    ),
    st.builds(
        Neighbours,
        p=st.just(0.0),
        sounds=st.integers(1, 4),
        candidates=st.integers(1, 40),
        diversity=st.floats(0, 1),
        memory=st.integers(1, 40),
    ),
)


def leaves_captions(chosen: list[Manipulation]) -> bool:
    """Whether no step puts few sounds in the place of all captions before several are retrieved."""
    collapsed = False
    for step in chosen:
        if isinstance(step, Retrieval) and step.nearest > 1 and collapsed:
            return False
        collapsed |= isinstance(step, Projection | Neighbours)
        # In one dimension all of unit norm are 1 or -1.
        collapsed |= isinstance(step, Pca) and step.keep == "first" and step.k == 1
    return True


def chains(steps: st.SearchStrategy[Manipulation], longest: int = 4) -> st.SearchStrategy[Chain]:
    """With one step at most that shortens, so that enough dimensions are left for it."""
    lists = st.lists(steps, max_size=longest)
    few = lists.filter(lambda chosen: sum(isinstance(step, Pca | Pls) for step in chosen) <= 1)
    return few.filter(leaves_captions).map(lambda chosen: Chain(steps=tuple(chosen)))


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def embeddings(batch: int = 64, dim: int = 256, seed: int = 7) -> Tensor:
    return F.normalize(torch.randn(batch, dim, generator=seeded(seed)), dim=-1)


def corpus(sounds: int = 80, captions: int = 60, dim: int = DIM, seed: int = 3) -> Examples:
    """Sounds and captions in two cones; some sounds have several captions, some none."""
    generator = seeded(seed)
    audio = torch.randn(sounds, dim, generator=generator)
    pairs = torch.randint(max(1, sounds // 2), (captions,), generator=generator)
    text = audio[pairs] + 0.3 * torch.randn(captions, dim, generator=generator)
    away = 1.5 * torch.randn(2, dim, generator=generator)
    return Examples(
        F.normalize(audio + away[0], dim=-1), F.normalize(text + away[1], dim=-1), pairs
    )


EXAMPLES = corpus()


def fitted(*steps: Manipulation, examples: Examples = EXAMPLES) -> Manipulator:
    manipulator = Manipulator(Chain(steps=steps), examples.audio.shape[1])
    manipulator.fit(examples)
    return manipulator


def trained(step: Manipulation, given_: Tensor, seed: int = 0) -> Tensor:
    """Of audio, by a step that learns nothing."""
    return Manipulator(Chain(steps=(step,)), given_.shape[1]).train(given_, False, seeded(seed))


def close(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


# What holds for every chain.


@settings(deadline=None, max_examples=60)
@given(chain=chains(RANDOM | MAPS), seed=st.integers(0, 2**31), text_share=st.floats(0, 1))
def test_every_chain_follows_its_generator_and_spares_its_input_and_text(
    chain: Chain, seed: int, text_share: float
) -> None:
    state = torch.get_rng_state()
    manipulator = fitted(*chain.steps)
    given_ = torch.cat([EXAMPLES.audio[:8], EXAMPLES.text[:8]])
    before = given_.clone()
    learnt = {name: tensor.clone() for name, tensor in (manipulator.state or {}).items()}
    is_text = torch.rand(16, generator=seeded(seed)) < text_share

    result = manipulator.train(given_, is_text, seeded(seed))
    assert result.shape == (16, manipulator.dim)
    assert result.dtype == given_.dtype
    assert torch.isfinite(result).all()
    assert torch.equal(result, manipulator.train(given_, is_text, seeded(seed)))

    inferred = manipulator.infer(given_, is_text)
    assert inferred.shape == result.shape
    assert torch.equal(inferred, manipulator.infer(given_, is_text))
    assert torch.equal(result[is_text], inferred[is_text])  # text is never corrupted

    assert torch.equal(given_, before)
    assert manipulator.state is not None
    assert learnt.keys() == manipulator.state.keys()
    assert all(torch.equal(tensor, manipulator.state[name]) for name, tensor in learnt.items())
    assert torch.equal(torch.get_rng_state(), state)


@settings(deadline=None, max_examples=30)
@given(chain=chains(MAPS), seed=st.integers(0, 2**31))
def test_without_randomness_both_faces_are_one(chain: Chain, seed: int) -> None:
    generator = seeded(seed)
    state = generator.get_state()
    manipulator = fitted(*chain.steps, Dropout(p=0), Noise(relative_norm=0, renormalise=False))
    for is_text in (False, True):
        given_ = EXAMPLES.text if is_text else EXAMPLES.audio
        face = manipulator.train(given_, is_text, generator)
        assert torch.equal(face, manipulator.infer(given_, is_text))
    without = fitted(*chain.steps)
    generator.set_state(state)
    without.train(EXAMPLES.audio, False, generator)
    assert torch.equal(generator.get_state(), state)  # what is deterministic draws nothing


@settings(deadline=None, max_examples=30)
@given(chain=chains(MAPS, longest=1))
def test_rows_do_not_depend_on_each_other(chain: Chain) -> None:
    manipulator = fitted(*chain.steps)
    is_text = torch.arange(12) % 3 == 0
    given_ = EXAMPLES.audio[:12]
    whole = manipulator.infer(given_, is_text)
    for row in range(12):
        alone = manipulator.infer(given_[row : row + 1], is_text[row : row + 1])
        close(alone[0], whole[row], atol=1e-4)
    for value in (False, True):
        mask = torch.full((12,), value)
        assert torch.equal(manipulator.infer(given_, value), manipulator.infer(given_, mask))


@settings(deadline=None, max_examples=30)
@given(chain=chains(RANDOM | MAPS))
def test_every_chain_learns_alike_and_survives_json_and_its_state(chain: Chain) -> None:
    assert Chain.model_validate_json(chain.model_dump_json()) == chain
    first, again = fitted(*chain.steps), fitted(*chain.steps)
    assert first.state is not None
    assert again.state is not None
    assert first.state.keys() == again.state.keys()
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)
    assert all(tensor.is_contiguous() for tensor in first.state.values())
    restored = Manipulator(chain, DIM, first.state)
    assert restored.dim == first.dim
    for is_text in (False, True):
        given_ = embeddings(5, DIM)
        assert torch.equal(restored.infer(given_, is_text), first.infer(given_, is_text))


def test_an_empty_chain_and_no_manipulation_are_the_identity() -> None:
    given_ = embeddings(8, DIM)
    for chain in (Chain(), Chain(steps=(NoManipulation(),))):
        manipulator = Manipulator(chain, DIM)
        assert manipulator.state == {}
        assert manipulator.dim == DIM
        for is_text in (False, True):
            assert torch.equal(manipulator.train(given_, is_text, seeded()), given_)
            assert torch.equal(manipulator.infer(given_, is_text), given_)


def test_a_chain_runs_in_order_from_one_generator() -> None:
    dropout, noise = Dropout(p=0.5), Noise(relative_norm=1, renormalise=False)
    given_ = embeddings()
    generator = seeded()
    expected = noise.corrupt(dropout.corrupt(given_, generator, {}), generator, {})
    found = Manipulator(Chain(steps=(dropout, noise)), 256).train(given_, False, seeded())
    assert torch.equal(found, expected)
    # Noise last leaves no zeros, dropout last does.
    assert not (expected == 0).any()
    other = Manipulator(Chain(steps=(noise, dropout)), 256).train(given_, False, seeded())
    assert (other == 0).float().mean() > 0.4


def test_later_steps_learn_from_what_earlier_ones_make() -> None:
    steps = (MeanShift(), Pca(k=10, renormalise=False), Pls(k=4, renormalise=False))
    manipulator = fitted(*steps)
    assert manipulator.dim == 4
    assert manipulator.state is not None
    seen = EXAMPLES
    for number, step in enumerate(steps):
        alone = fitted(step, examples=seen)
        assert alone.state is not None
        for name, tensor in alone.state.items():
            assert torch.equal(manipulator.state[f"{number}{name[1:]}"], tensor), (number, name)
        seen = Examples(
            alone.infer(seen.audio, False), alone.infer(seen.text, True), EXAMPLES.pairs
        )
    assert torch.equal(manipulator.infer(EXAMPLES.text, True), seen.text)
    # The random part of an earlier step is not learnt from.
    noisy = fitted(Noise(relative_norm=3), steps[1])
    quiet = fitted(NoManipulation(), steps[1])
    assert noisy.state is not None
    assert quiet.state is not None
    assert all(torch.equal(noisy.state[name], quiet.state[name]) for name in quiet.state)


def test_training_mixes_modalities_row_by_row() -> None:
    manipulator = fitted(MeanShift(renormalise=False), Dropout(p=0.5))
    is_text = torch.arange(40) % 2 == 0
    given_ = EXAMPLES.audio[:40]
    result = manipulator.train(given_, is_text, seeded())
    assert torch.equal(result[is_text], manipulator.infer(given_[is_text], True))
    heard = manipulator.infer(given_[~is_text], False)
    kept = result[~is_text] != 0
    close(result[~is_text], torch.where(kept, 2 * heard, 0.0))
    assert 0.4 < kept.float().mean() < 0.6


# Dropout.


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.75, 0.9])
def test_dropout_zeroes_a_share_and_keeps_the_mean(p: float) -> None:
    given_ = torch.ones(400, 256)
    dropped = trained(Dropout(p=p), given_)
    share = (dropped == 0).float().mean()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / given_.numel()) ** 0.5 + 1e-9)
    kept = dropped[dropped != 0]
    close(kept, torch.full_like(kept, 1 / (1 - p)))
    variance = p / (1 - p)
    assert dropped.mean() == pytest.approx(1, abs=4 * (variance / given_.numel()) ** 0.5 + 1e-6)
    assert dropped.var() == pytest.approx(variance, rel=0.05, abs=1e-9)
    # Entries fall one by one, neither whole embeddings nor whole dimensions.
    assert (dropped == 0).float().mean(0).std() < 0.05
    assert (dropped == 0).float().mean(1).std() < 0.05


@pytest.mark.parametrize("p", [0.25, 0.75])
def test_a_dropped_embedding_points_where_it_should(p: float) -> None:
    """Squared norm 1 / (1 - p), cosine to the whole sqrt(1 - p), in the mean of many draws."""
    given_ = embeddings(1, 512).expand(4000, -1)
    dropped = trained(Dropout(p=p), given_)
    assert dropped.square().sum(-1).mean() == pytest.approx(1 / (1 - p), rel=0.01)
    cosine = F.cosine_similarity(dropped, given_, dim=-1)
    assert cosine.mean() == pytest.approx((1 - p) ** 0.5, abs=0.01)


def test_dropout_agrees_with_torch_in_its_moments() -> None:
    given_ = embeddings(2000, 64)
    ours = trained(Dropout(p=0.5), given_).norm(dim=-1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = F.dropout(given_, 0.5).norm(dim=-1)
    assert ours.mean() == pytest.approx(float(theirs.mean()), abs=0.01)
    assert ours.std() == pytest.approx(float(theirs.std()), abs=0.01)


def test_an_embedding_that_lost_everything_is_zero_and_finite() -> None:
    dropped = trained(Dropout(p=0.99, renormalise=True), embeddings(500, 4))
    assert torch.isfinite(dropped).all()
    assert (dropped == 0).all(-1).any()


@pytest.mark.parametrize("step", [Dropout(), Noise(), Noise(kind="ball")])
def test_randomness_moves_on(step: Manipulation) -> None:
    manipulator = Manipulator(Chain(steps=(step,)), 256)
    generator = seeded()
    first = manipulator.train(embeddings(), False, generator)
    assert not torch.equal(first, manipulator.train(embeddings(), False, generator))
    assert not torch.equal(first, manipulator.train(embeddings(), False, seeded(1)))


# Noise.


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("relative_norm", [0.1, 1.0, 2.9])
def test_gaussian_noise_has_the_norm_it_says(relative_norm: float, scale: float) -> None:
    given_ = scale * embeddings(2000)
    noise = trained(Noise(relative_norm=relative_norm, renormalise=False), given_) - given_
    root_mean_square = noise.square().sum(-1).mean().sqrt()
    assert root_mean_square == pytest.approx(relative_norm * scale, rel=0.01)
    sigma = relative_norm * scale / 256**0.5
    assert noise.std() == pytest.approx(sigma, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=4 * sigma / noise.numel() ** 0.5)
    # Normal, not merely of that variance.
    assert (noise.abs() < sigma).float().mean() == pytest.approx(0.6827, abs=0.005)
    along = (F.normalize(noise, dim=-1) * F.normalize(given_, dim=-1)).sum(-1)
    assert along.mean() == pytest.approx(0, abs=0.01)
    assert along.std() == pytest.approx(256**-0.5, rel=0.1)


@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize("relative_norm", [0.3, 2.0])
def test_ball_noise_is_uniform_in_the_ball(relative_norm: float, dim: int) -> None:
    given_ = 3 * embeddings(4000, dim)
    noise = trained(Noise(relative_norm=relative_norm, kind="ball", renormalise=False), given_)
    noise = (noise - given_) / (3 * relative_norm)
    radius = noise.norm(dim=-1)
    assert radius.max() <= 1 + 1e-4
    # P(radius <= r) = r^dim, so that radius^dim is uniform.
    filled = (radius**dim).sort().values
    uniform = torch.linspace(0, 1, 4000)
    assert (filled - uniform).abs().max() < 1.95 / 4000**0.5  # Kolmogorov and Smirnov, 0.1 %
    assert noise.mean(0).norm() < 0.06
    assert radius.square().mean() == pytest.approx(dim / (dim + 2), rel=0.05)


@pytest.mark.parametrize(
    "step",
    [
        Dropout(p=0.9, renormalise=True),
        Noise(relative_norm=2),
        Noise(relative_norm=2, kind="ball"),
    ],
)
def test_renormalised_embeddings_have_unit_norm(step: Manipulation) -> None:
    close(trained(step, embeddings()).norm(dim=-1), torch.ones(64))


LEARNING = (
    MeanShift(),
    Pca(k=5),
    Pca(k=5, keep="rest", centre="none"),
    Pls(k=5),
    Retrieval(nearest=3),
    Projection(),
    Projection(onto="text", blend=0.4),
)


@pytest.mark.parametrize("step", LEARNING)
def test_what_is_learnt_gives_unit_norms(step: Manipulation) -> None:
    manipulator = fitted(step)
    for is_text in (False, True):
        norms = manipulator.infer(embeddings(20, DIM), is_text).norm(dim=-1)
        close(norms, torch.ones(20))


# Mean shift.


def test_shifted_means_are_zero_for_each_modality() -> None:
    manipulator = fitted(MeanShift(renormalise=False))
    for given_, is_text in ((EXAMPLES.audio, False), (EXAMPLES.text, True)):
        assert given_.mean(0).norm() > 0.2
        shifted = manipulator.infer(given_, is_text)
        close(shifted.mean(0), torch.zeros(DIM))
        close(shifted, given_ - given_.mean(0))
        unit = fitted(MeanShift()).infer(given_, is_text)
        close(unit, F.normalize(given_ - given_.mean(0), dim=-1))


def test_c3_is_a_chain() -> None:
    """Connect, collapse, corrupt: v = 0.016 in each of 512 dimensions."""
    given_ = corpus(dim=512)
    manipulator = fitted(
        MeanShift(renormalise=False),
        Noise(relative_norm=(0.016 * 512) ** 0.5, renormalise=False),
        examples=given_,
    )
    connected = manipulator.infer(given_.audio, False)
    close(connected, given_.audio - given_.audio.mean(0))
    noise = manipulator.train(given_.audio, False, seeded()) - connected
    per_row = noise / connected.norm(dim=-1, keepdim=True)
    assert per_row.var() == pytest.approx(0.016, rel=0.03)


# PCA.

CENTRES: dict[str, Callable[[Examples], tuple[Tensor, Tensor]]] = {
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
        projected = manipulator.infer(given_, is_text)
        close(projected, (given_ - mean) @ basis.T)
        unit = fitted(Pca(k=6, keep=keep, centre=centre)).infer(given_, is_text)
        close(unit, F.normalize(projected, dim=-1), atol=1e-4)


@pytest.mark.parametrize("is_text", [False, True])
def test_all_components_uncentred_are_an_isometry(is_text: bool) -> None:
    manipulator = fitted(Pca(k=DIM, centre="none", renormalise=False))
    given_ = embeddings(30, DIM)
    found = manipulator.infer(given_, is_text)
    close(found @ found.T, given_ @ given_.T)
    close(found.norm(dim=-1), torch.ones(30))


def test_the_rest_is_the_complement_of_the_first() -> None:
    first, rest = (fitted(Pca(k=9, keep=keep)).state for keep in ("first", "rest"))
    assert first is not None
    assert rest is not None
    close(first["0.basis"] @ rest["0.basis"].T, torch.zeros(9, DIM - 9))
    both = torch.cat([first["0.basis"], rest["0.basis"]])
    close(both.T @ both, torch.eye(DIM))


def test_first_components_explain_most_and_in_falling_order() -> None:
    """Against numpy's own decomposition and random subspaces."""
    manipulator = fitted(Pca(k=5, renormalise=False))
    variance = manipulator.infer(EXAMPLES.audio, False).var(0)
    assert torch.equal(variance, variance.sort(descending=True).values)
    centred = EXAMPLES.audio - EXAMPLES.audio.mean(0)
    singular = torch.linalg.svdvals(centred.double())
    close(variance.double(), singular[:5] ** 2 / (len(centred) - 1))
    for seed in range(20):
        other = torch.linalg.qr(torch.randn(DIM, 5, generator=seeded(seed)))[0]
        assert (centred @ other).var(0).sum() < variance.sum()


def test_pca_centred_on_sounds_or_nothing_needs_no_captions() -> None:
    mute = replace(EXAMPLES, text=torch.zeros(0, DIM), pairs=torch.zeros(0, dtype=torch.long))
    for centre in ("audio", "none"):
        assert fitted(Pca(k=3, centre=centre), examples=mute).dim == 3  # type: ignore[arg-type]


# PLS.


def shared_subspace(noise: float, rank: int = 4) -> tuple[Examples, Tensor, Tensor]:
    """Both modalities hold the same few factors, each in directions of its own, and much else."""
    generator = seeded(11)
    directions = [torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0] for _ in range(2)]
    factors = torch.randn(6000, rank, generator=generator) * torch.tensor([2.0, 1.7, 1.4, 1.2])
    sides = []
    for turned in directions:
        alone = noise * torch.randn(6000, DIM - rank, generator=generator)
        sides.append(torch.cat([factors, alone], 1) @ turned.T + 0.3)
    examples = Examples(sides[0], sides[1], torch.arange(6000))
    return examples, directions[0][:, :rank], directions[1][:, :rank]


def test_pls_finds_the_subspace_that_both_share() -> None:
    """Where PCA is led astray: what only one of them has is louder."""
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
    heard, said = manipulator.infer(examples.audio, False), manipulator.infer(examples.text, True)
    close(heard.mean(0), torch.zeros(4), atol=1e-4)
    close(said.mean(0), torch.zeros(4), atol=1e-4)
    correlation = torch.corrcoef(torch.cat([heard, said], 1).T)[:4, 4:]
    assert correlation.diagonal().min() > 0.95
    assert (correlation - torch.diag(correlation.diagonal())).abs().max() < 0.1


def test_pls_is_the_svd_of_the_cross_covariance_of_pairs() -> None:
    manipulator = fitted(Pls(k=DIM, renormalise=False))
    state = manipulator.state
    assert state is not None
    heard = EXAMPLES.audio[EXAMPLES.pairs]
    close(state["0.audio_mean"], heard.mean(0))  # of captioned sounds, as often as captioned
    close(state["0.text_mean"], EXAMPLES.text.mean(0))
    covariance = (heard - heard.mean(0)).T @ (EXAMPLES.text - EXAMPLES.text.mean(0))
    diagonal = state["0.audio_basis"] @ covariance @ state["0.text_basis"].T
    singular = torch.linalg.svdvals(covariance)
    close(diagonal, torch.diag(singular), atol=1e-4)
    few = fitted(Pls(k=3, renormalise=False))
    close(few.infer(heard, False), manipulator.infer(heard, False)[:, :3], atol=1e-4)


# Retrieval.


def test_the_nearest_caption_is_returned_as_it_is() -> None:
    manipulator = fitted(Retrieval())
    found = manipulator.infer(EXAMPLES.audio, False)
    nearest = (EXAMPLES.audio @ EXAMPLES.text.T).argmax(1)
    close(found, EXAMPLES.text[nearest], atol=1e-6)
    # A caption's nearest is itself, whoever asks; text passes untouched.
    close(manipulator.infer(EXAMPLES.text, False), EXAMPLES.text, atol=1e-6)
    close(manipulator.infer(found, False), found, atol=1e-6)
    other = embeddings(5, DIM)
    assert torch.equal(manipulator.infer(other, True), other)


@pytest.mark.parametrize("nearest", [2, 5])
def test_several_nearest_captions_are_averaged(nearest: int) -> None:
    found = fitted(Retrieval(nearest=nearest)).infer(EXAMPLES.audio, False)
    order = (EXAMPLES.audio @ EXAMPLES.text.T).argsort(1, descending=True)[:, :nearest]
    close(found, F.normalize(EXAMPLES.text[order].mean(1), dim=-1))


def test_a_caption_that_is_there_twice_counts_once() -> None:
    twice = replace(
        EXAMPLES,
        text=torch.cat([EXAMPLES.text, EXAMPLES.text[:20], EXAMPLES.text[:20]]),
        pairs=torch.cat([EXAMPLES.pairs, EXAMPLES.pairs[:20], EXAMPLES.pairs[:20]]),
    )
    for step in (Retrieval(nearest=3), Projection(onto="text", temperature=0.5)):
        once, more = fitted(step), fitted(step, examples=twice)
        (memory,) = (once.state or {}).values()
        assert len(memory) == 60
        assert torch.equal(once.infer(EXAMPLES.audio, False), more.infer(EXAMPLES.audio, False))


@pytest.mark.parametrize(
    ("kind", "kept_from"),
    [
        (lambda memory: Retrieval(memory=memory), EXAMPLES.text),
        (lambda memory: Projection(onto="text", memory=memory), EXAMPLES.text),
        (lambda memory: Projection(onto="audio", memory=memory), EXAMPLES.audio),
    ],
)
def test_the_memory_is_bounded_and_drawn_alike_each_time(
    kind: Callable[[int], Manipulation], kept_from: Tensor
) -> None:
    def kept(memory: int) -> Tensor:
        state = fitted(kind(memory)).state
        assert state is not None
        (tensor,) = state.values()
        return tensor

    with torch.random.fork_rng():
        torch.manual_seed(1)
        few = kept(25)
        torch.manual_seed(2)
        assert torch.equal(kept(25), few)
    assert few.shape == (25, DIM)
    known = {tuple(row) for row in kept_from.tolist()}
    assert len({tuple(row) for row in few.tolist()} & known) == 25
    for enough in (len(kept_from), 1000):
        assert {tuple(row) for row in kept(enough).tolist()} == known


# Projection.


@pytest.mark.parametrize("onto", ["audio", "text"])
def test_projection_is_a_mean_weighted_by_likeness_and_passes_the_other_side(onto: Any) -> None:
    memory = EXAMPLES.audio if onto == "audio" else EXAMPLES.text
    manipulator = fitted(Projection(onto=onto, temperature=0.1))
    given_ = embeddings(20, DIM)
    assert torch.equal(manipulator.infer(given_, onto == "text"), given_)
    found = manipulator.infer(given_, onto == "audio")
    weight = torch.exp(given_ @ memory.T / 0.1)
    close(found, F.normalize(weight @ memory, dim=-1))


@pytest.mark.parametrize("onto", ["audio", "text"])
def test_a_cold_projection_is_the_nearest_neighbour_and_a_hot_one_the_mean(onto: Any) -> None:
    memory = EXAMPLES.audio if onto == "audio" else EXAMPLES.text
    given_ = embeddings(20, DIM)

    def projected(temperature: float) -> Tensor:
        step = Projection(onto=onto, temperature=temperature)
        return fitted(step).infer(given_, onto == "audio")

    close(projected(1e-6), memory[(given_ @ memory.T).argmax(1)])
    close(projected(1e6), F.normalize(memory.mean(0), dim=0).expand(20, -1))
    retrieved = fitted(Retrieval()).infer(given_, False)
    if onto == "text":
        close(projected(1e-6), retrieved)


@given(blend=st.floats(0.01, 1))
@settings(deadline=None, max_examples=20)
def test_a_blend_lies_between_the_embedding_and_its_projection(blend: float) -> None:
    given_ = embeddings(20, DIM)
    projected = fitted(Projection()).infer(given_, True)
    found = fitted(Projection(blend=blend)).infer(given_, True)
    close(found, F.normalize(blend * projected + (1 - blend) * given_, dim=-1))


# Neighbours.


def test_words_are_answered_by_sounds_near_to_them_and_unlike_each_other() -> None:
    """As a plain loop chooses them."""
    memory = torch.unique(EXAMPLES.audio, dim=0)

    def chosen(words: Tensor, sounds: int, candidates: int, diversity: float) -> list[int]:
        pool = sorted(range(len(memory)), key=lambda i: -float(memory[i] @ words))[:candidates]
        found = [pool.pop(0)]

        def worth(i: int) -> float:
            closest = max(float(memory[i] @ memory[j]) for j in found)
            return float(memory[i] @ words) - diversity * closest

        while len(found) < sounds:
            found.append(max(pool, key=worth))
            pool.remove(found[-1])
        return found

    for sounds, candidates, diversity in ((1, 30, 0.5), (6, 30, 0.0), (6, 30, 0.7), (9, 9, 2.0)):
        step = Neighbours(
            sounds=sounds, candidates=candidates, diversity=diversity, temperature=0.2
        )
        manipulator = fitted(step)
        found, weights = manipulator.members(EXAMPLES.text, is_text=True)
        likeness = (found * EXAMPLES.text[:, None]).sum(-1)
        expected = torch.exp(likeness / 0.2)
        close(weights, expected / expected.sum(1, keepdim=True))
        assert found.shape == (len(EXAMPLES.text), sounds, DIM)
        assert torch.equal(found[:, 0], manipulator.infer(EXAMPLES.text, True))
        for row, words in zip(found, EXAMPLES.text, strict=True):
            close(row, memory[chosen(words, sounds, candidates, diversity)])


def test_a_small_memory_has_as_many_members_as_it_can() -> None:
    manipulator = fitted(Neighbours(sounds=8, candidates=600, memory=5))
    found, weights = manipulator.members(EXAMPLES.text, is_text=True)
    assert found.shape[1] == weights.shape[1] == 5
    assert all(len(torch.unique(row, dim=0)) == 5 for row in found)
    assert manipulator.train(EXAMPLES.audio, False, seeded()).shape == EXAMPLES.audio.shape


def test_sounds_have_one_member_and_later_steps_are_for_each() -> None:
    manipulator = fitted(Neighbours(sounds=4), Pca(k=6, centre="none"))
    heard, weights = manipulator.members(EXAMPLES.audio, is_text=False)
    assert torch.equal(weights, torch.ones(len(heard), 1))
    assert torch.equal(heard[:, 0], manipulator.infer(EXAMPLES.audio, False))
    assert heard.shape[1:] == (1, 6)
    said, weights = manipulator.members(EXAMPLES.text, is_text=True)
    assert said.shape[1:] == (4, 6)
    near, expected = fitted(Neighbours(sounds=4)).members(EXAMPLES.text, is_text=True)
    close(weights, expected)
    twice = fitted(Neighbours(sounds=4), Neighbours(sounds=3))
    many, weights = twice.members(EXAMPLES.text, is_text=True)
    assert many.shape[1] == weights.shape[1] == 12
    close(weights.sum(1), torch.ones(len(many)))
    basis = (manipulator.state or {})["1.basis"]
    close(said, F.normalize(near @ basis.T, dim=-1))


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_a_share_of_the_sounds_is_replaced_by_near_ones(p: float) -> None:
    """Nearer ones are likelier: the rank over the reach is the cube of an even number."""
    generator = seeded()
    memory = F.normalize(torch.randn(500, DIM, generator=generator), dim=-1)
    given_ = embeddings(4_000, DIM)
    examples = Examples(memory, torch.zeros(0, DIM), torch.zeros(0, dtype=torch.long))
    found = fitted(Neighbours(p=p, reach=0.2), examples=examples).train(given_, False, generator)
    replaced = (found != given_).any(-1)
    assert float(replaced.float().mean()) == pytest.approx(p, abs=0.03)
    if not p:
        return
    likeness = given_ @ memory.T
    own = (given_ * found).sum(-1)[:, None]
    rank = (likeness > own + 1e-6).sum(-1)[replaced]
    assert int(rank.max()) < 100
    even = (rank.float() / 100) ** (1 / 3)
    assert float(even.mean()) == pytest.approx(0.5, abs=0.06)  # ranks are whole numbers
    assert float((rank == 0).float().mean()) == pytest.approx(0.01 ** (1 / 3), abs=0.04)


def test_on_condition_a_sound_stays_nearer_to_its_own_than_to_the_others() -> None:
    """Of the memory's near sounds those that are, by the same rank; without others, as ever."""
    generator = seeded()
    memory = F.normalize(torch.randn(400, DIM, generator=generator), dim=-1)
    examples = Examples(memory, torch.zeros(0, DIM), torch.zeros(0, dtype=torch.long))
    asked = embeddings(1_000, DIM)
    others = torch.stack([embeddings(1_000, DIM, seed=8), torch.zeros_like(asked)], 1)
    others[:500, 1] = F.normalize(asked[:500] + 0.5 * others[:500, 0], dim=-1)  # hardly another
    others[0, 1] = asked[0]
    plain = fitted(Neighbours(p=1.0, reach=0.5), examples=examples)
    chosen = fitted(Neighbours(p=1.0, reach=0.5, conditional=True), examples=examples)

    def nearer(found: Tensor) -> Tensor:
        most = (others @ found[:, :, None])[:, :, 0].masked_fill(~others.any(-1), -2).amax(1)
        return (found * asked).sum(-1) > most

    drawn = plain.train(asked, False, seeded(), others)
    assert torch.equal(drawn, chosen.train(asked, False, seeded()))
    assert float(nearer(drawn).float().mean()) < 0.8
    found = chosen.train(asked, False, seeded(), others)
    assert torch.equal(found[0], asked[0])  # where no sound fits
    assert nearer(found)[1:].all()
    rank = (asked @ memory.T > (asked * found).sum(-1)[:, None] + 1e-6).sum(-1)
    assert int(rank.max()) < 200
    assert float(rank[500:].float().mean()) > 20  # of one other alone, whom few are nearer to
    for row in (3, 700):  # rows do not depend on each other, and a padding of zeros is nobody
        fits = [
            place
            for place in (asked[row] @ memory.T).topk(200).indices.tolist()
            if all(memory[place] @ asked[row] > memory[place] @ o for o in others[row] if o.any())
        ]
        place = torch.rand((2, 1_000), generator=seeded())[1, row]
        assert torch.equal(found[row], memory[fits[int(len(fits) * place**3)]])


def test_the_other_sounds_are_mapped_as_the_asked_one_is() -> None:
    """So that they are compared in the space of the step that compares."""
    chain = (Pca(k=6), Neighbours(p=1.0, reach=0.5, conditional=True))
    manipulator = fitted(*chain)
    asked = EXAMPLES.audio[:20]
    others = EXAMPLES.audio[20:40, None].repeat(1, 2, 1)
    others[:, 1] = 0
    found = manipulator.train(asked, False, seeded(), others)
    own, other = (fitted(*chain).infer(rows, False) for rows in (asked, others[:, 0]))
    assert ((found * own).sum(-1) > (found * other).sum(-1)).all()


@pytest.mark.parametrize("room", [500, 100])
def test_new_sounds_join_a_memory(room: int) -> None:
    """Those that are not in it already, however they were rounded."""
    known = fitted(Neighbours(memory=room), Dropout())
    before = (known.state or {})["0.memory"].clone()
    new = embeddings(30, DIM)
    rounded = F.normalize(EXAMPLES.audio.half().float(), dim=-1)
    known.extend(replace(EXAMPLES, audio=torch.cat([rounded, new, new[:3]])))
    after = (known.state or {})["0.memory"]
    assert len(after) == min(room, len(before) + 30)
    if room == 500:
        assert torch.equal(after[: len(before)], before)
        close((after[len(before) :] @ new.T).amax(0), torch.ones(30))
    near, _ = known.members(new, is_text=True)
    assert near.shape == (30, 4, DIM)


def test_what_the_weights_were_trained_on_stays_where_sounds_join() -> None:
    known = fitted(MeanShift(), Pca(k=5))
    before = {name: tensor.clone() for name, tensor in (known.state or {}).items()}
    known.extend(corpus(seed=8))
    assert (known.state or {}).keys() == before.keys()
    assert all(torch.equal((known.state or {})[name], before[name]) for name in before)


# What is refused.

MUTE = Examples(embeddings(20, DIM), torch.zeros(0, DIM), torch.zeros(0, dtype=torch.long))
NOTHING = replace(MUTE, audio=torch.zeros(0, DIM))


@pytest.mark.parametrize(
    ("step", "examples", "message"),
    [
        (MeanShift(), MUTE, "'mean_shift': learns from captions, and there are none"),
        (Pca(k=3), MUTE, "'pca': learns from captions, and there are none"),
        (Pls(k=3), MUTE, "'pls': learns from captioned sounds, and there are none"),
        (Retrieval(), MUTE, "'retrieval': learns from captions, and there are none"),
        (Projection(onto="text"), MUTE, "'projection': learns from captions, and there are none"),
        (MeanShift(), NOTHING, "'mean_shift': learns from sounds, and there are none"),
        (Pca(k=3, centre="none"), NOTHING, "'pca': learns from sounds, and there are none"),
        (Projection(), NOTHING, "'projection': learns from sounds, and there are none"),
        (Retrieval(nearest=61), EXAMPLES, "'retrieval': takes the 61 nearest of 60 captions"),
        (Retrieval(nearest=6, memory=5), EXAMPLES, "takes the 6 nearest of 5 captions"),
    ],
)
def test_what_cannot_be_learnt_is_one_line(
    step: Manipulation, examples: Examples, message: str
) -> None:
    manipulator = Manipulator(Chain(steps=(step,)), DIM)
    with pytest.raises(ConfigError, match=message) as caught:
        manipulator.fit(examples)
    assert "\n" not in str(caught.value)
    assert manipulator.state is None


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Pca(k=DIM + 1),), "'pca': k is 33, embeddings have length 32"),
        ((Pca(k=DIM, keep="rest"),), "'pca': k is 32, embeddings have length 32"),
        ((Pls(k=DIM + 1),), "'pls': k is 33, embeddings have length 32"),
        ((Pca(k=8), Pls(k=9)), "'pls': k is 9, embeddings have length 8"),
        ((Pca(k=30, keep="rest"), Pca(k=3)), "'pca': k is 3, embeddings have length 2"),
    ],
)
def test_too_many_components_are_refused_before_anything_is_learnt(
    steps: tuple[Manipulation, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Manipulator(Chain(steps=steps), DIM)


@pytest.mark.parametrize("step", LEARNING)
def test_what_is_not_fitted_is_not_used(step: Manipulation) -> None:
    manipulator = Manipulator(Chain(steps=(Dropout(), step)), DIM)
    assert manipulator.state is None
    for use in (
        lambda: manipulator.infer(embeddings(2, DIM), True),
        lambda: manipulator.train(embeddings(2, DIM), False, seeded()),
    ):
        with pytest.raises(ModelError, match="has not been fitted: train it first"):
            use()


WRONG: list[tuple[Callable[[dict[str, Tensor]], object], list[str]]] = [
    (lambda s: s.pop("1.text_mean"), ["'1.text_mean' is missing"]),
    (lambda s: s.clear(), ["'1.audio_mean' is missing", "'2.captions' is missing"]),
    (lambda s: s.update({"1.bases": torch.zeros(1)}), ["'1.bases' is unexpected"]),
    (lambda s: s.update({"0.basis": torch.zeros(1)}), ["'0.basis' is unexpected"]),
    (
        lambda s: s.update({"1.basis": torch.zeros(4, DIM)}),
        [r"'1.basis' is \[4, 32\], expected \[5, 32\]"],
    ),
    (
        lambda s: s.update({"1.basis": torch.zeros(5 * DIM)}),
        [r"'1.basis' is \[160\], expected \[5, 32\]"],
    ),
    (
        lambda s: s.update({"1.basis": s["1.basis"].half()}),
        [r"'1.basis' is torch.float16, expected torch.float32"],
    ),
    (
        lambda s: s.update({"2.captions": torch.zeros(0, 5)}),
        [r"'2.captions' is \[0, 5\], expected \[-1, 5\]"],
    ),
    (
        lambda s: [
            s.pop("1.text_mean"),
            s.update({"2.captions": torch.zeros(9, 4), "x": torch.zeros(1)}),
        ],
        ["'1.text_mean' is missing", r"'2.captions' is \[9, 4\]", "'x' is unexpected"],
    ),
]


@pytest.mark.parametrize(("damage", "messages"), WRONG)
def test_a_state_of_other_steps_is_one_line_that_names_every_tensor(
    damage: Callable[[dict[str, Tensor]], object], messages: list[str]
) -> None:
    chain = Chain(steps=(Dropout(), Pca(k=5), Retrieval()))
    state = dict(fitted(*chain.steps).state or {})
    Manipulator(chain, DIM, state)
    damage(state)
    with pytest.raises(ModelError, match="the manipulation's tensors are wrong") as caught:
        Manipulator(chain, DIM, state)
    assert "\n" not in str(caught.value)
    for message in messages:
        assert caught.match(message)


def test_a_chain_that_learns_nothing_takes_no_tensors() -> None:
    with pytest.raises(ModelError, match=r"'0\.basis' is unexpected"):
        Manipulator(Chain(steps=(Dropout(),)), DIM, {"0.basis": torch.zeros(2, 2)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "dropout", "p": 1.0}, "p'.*less than 1"),
        ({"type": "dropout", "p": -0.1}, "greater than or equal to 0"),
        ({"type": "dropout", "p": float("nan")}, "p'"),
        ({"type": "noise", "relative_norm": -1}, "greater than or equal to 0"),
        ({"type": "noise", "relative_norm": float("inf")}, "finite number"),
        ({"type": "noise", "sigma": 1}, "unknown key 'steps.0.noise.sigma'"),
        ({"type": "noise", "kind": "cube"}, "'gaussian' or 'ball'"),
        ({"type": "mean_shift", "k": 3}, "unknown key 'steps.0.mean_shift.k'"),
        ({"type": "pca", "k": 0}, "greater than 0"),
        ({"type": "pca", "k": 1.5}, "valid integer"),
        ({"type": "pca", "keep": "last"}, "'first' or 'rest'"),
        ({"type": "pca", "centre": "text"}, "'own', 'audio' or 'none'"),
        ({"type": "pls", "k": -1}, "greater than 0"),
        ({"type": "retrieval", "nearest": 0}, "greater than 0"),
        ({"type": "retrieval", "memory": 0}, "greater than 0"),
        ({"type": "projection", "temperature": 0}, "greater than 0"),
        ({"type": "projection", "onto": "both"}, "'audio' or 'text'"),
        ({"type": "projection", "blend": 0}, "greater than 0"),
        ({"type": "projection", "blend": 1.1}, "less than or equal to 1"),
        ({"type": "neighbours", "p": 1.1}, "less than or equal to 1"),
        ({"type": "neighbours", "reach": 0}, "greater than 0"),
        ({"type": "neighbours", "sounds": 0}, "greater than 0"),
        ({"type": "neighbours", "diversity": -1}, "greater than or equal to 0"),
        ({"type": "neighbours", "temperature": 0}, "greater than 0"),
        ({"type": "mixup"}, "'mixup'"),
        ({"p": 0.5}, "type"),
    ],
)
def test_wrong_values_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        validated(Chain, {"steps": [values]}, "here")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValidationError):
        TypeAdapter(AnyManipulation).validate_python(values)


@pytest.mark.parametrize(
    "steps",
    [
        (Dropout(p=0.3), Noise(), Noise(kind="ball")),
        (MeanShift(), Pca(k=8), Dropout()),
        (Pls(k=8), Retrieval(nearest=2)),
        (Projection(onto="audio"), Projection(onto="text")),
        (Neighbours(), Dropout()),
    ],
)
def test_nothing_stays_behind_on_another_device(steps: tuple[Manipulation, ...]) -> None:
    """The meta device refuses to meet tensors of the CPU, as a GPU does."""
    manipulator = Manipulator(Chain.model_validate({"steps": steps}), DIM)
    if manipulator.state is None:
        audio, text = embeddings(40, DIM), embeddings(40, DIM, seed=8)
        manipulator.fit(Examples(audio, text, torch.arange(40)))
    manipulator.to(torch.device("meta"))
    given_ = torch.empty(4, DIM, device="meta")
    is_text = torch.empty(4, dtype=torch.bool, device="meta")
    for which in (True, False, is_text):
        trained = manipulator.train(given_, which, seeded())
        assert trained.device.type == "meta"
        assert trained.shape == manipulator.infer(given_, which).shape == (4, manipulator.dim)
        if isinstance(which, bool):
            members, weights = manipulator.members(given_, which)
            assert members.device.type == weights.device.type == "meta"
            assert members.shape == (*weights.shape, manipulator.dim)


def test_text_is_corrupted_only_as_a_control() -> None:
    given_, is_text = embeddings(6, DIM), torch.tensor([True, False] * 3)
    for control in (False, True):
        chain = Chain(steps=(Dropout(p=0.5),), corrupt_text=control)
        trained = Manipulator(chain, DIM).train(given_, is_text, seeded())
        assert bool((trained[1::2] == 0).any(-1).all())
        assert torch.equal(trained[::2], given_[::2]) is not control
