"""Embedding manipulations: their statistics, their order and their determinism."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Generator, Tensor
from torch.nn import functional as F

from singleout.config import validated
from singleout.errors import ConfigError
from singleout.query.manipulations import (
    AnyManipulation,
    Chain,
    Dropout,
    Manipulation,
    Noise,
    NoManipulation,
)

manipulations = st.one_of(
    st.just(NoManipulation()),
    st.builds(Dropout, p=st.floats(0, 0.9), renormalise=st.booleans()),
    st.builds(Noise, relative_norm=st.floats(0, 3), renormalise=st.booleans()),
)
chains = st.builds(Chain, steps=st.lists(manipulations, max_size=3).map(tuple))


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def embeddings(batch: int = 64, dim: int = 256, seed: int = 7) -> Tensor:
    return F.normalize(torch.randn(batch, dim, generator=seeded(seed)), dim=-1)


@settings(deadline=None, max_examples=50)
@given(manipulation=st.one_of(manipulations, chains), seed=st.integers(0, 2**31))
def test_every_manipulation_follows_its_generator_and_spares_its_input(
    manipulation: Manipulation, seed: int
) -> None:
    given_ = embeddings(8, 32)
    before = given_.clone()
    state = torch.get_rng_state()
    trained = manipulation.train(given_, seeded(seed))
    assert trained.shape == given_.shape
    assert trained.dtype == given_.dtype
    assert torch.isfinite(trained).all()
    assert torch.equal(trained, manipulation.train(given_, seeded(seed)))
    inferred = manipulation.infer(given_)
    assert torch.equal(inferred, manipulation.infer(given_))
    assert torch.equal(inferred, before)  # true of all that exist so far
    assert torch.equal(given_, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("manipulation", [Dropout(), Noise()])
def test_randomness_moves_on(manipulation: Manipulation) -> None:
    generator = seeded()
    first = manipulation.train(embeddings(), generator)
    assert not torch.equal(first, manipulation.train(embeddings(), generator))
    assert not torch.equal(first, manipulation.train(embeddings(), seeded(1)))


def test_no_manipulation_is_the_identity() -> None:
    given_ = embeddings()
    assert torch.equal(NoManipulation().train(given_, seeded()), given_)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.75, 0.9])
def test_dropout_zeroes_a_share_and_keeps_the_mean(p: float) -> None:
    given_ = torch.ones(400, 256)
    dropped = Dropout(p=p).train(given_, seeded())
    share = (dropped == 0).float().mean()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / given_.numel()) ** 0.5 + 1e-9)
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)))
    assert dropped.mean() == pytest.approx(1, abs=0.04)
    # Entries fall one by one, neither whole embeddings nor whole dimensions.
    assert (dropped == 0).float().mean(0).std() < 0.05
    assert (dropped == 0).float().mean(1).std() < 0.05


def test_dropout_of_nothing_is_the_identity() -> None:
    given_ = embeddings()
    assert torch.equal(Dropout(p=0).train(given_, seeded()), given_)


def test_dropout_agrees_with_torch_in_its_moments() -> None:
    given_ = embeddings(2000, 64)
    ours = Dropout(p=0.5).train(given_, seeded()).norm(dim=-1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = F.dropout(given_, 0.5).norm(dim=-1)
    assert ours.mean() == pytest.approx(float(theirs.mean()), abs=0.01)
    assert ours.std() == pytest.approx(float(theirs.std()), abs=0.01)


@pytest.mark.parametrize("relative_norm", [0.1, 1.0, 2.9])
def test_noise_has_the_norm_it_says(relative_norm: float) -> None:
    given_ = embeddings(2000)
    noise = Noise(relative_norm=relative_norm, renormalise=False).train(given_, seeded()) - given_
    assert noise.norm(dim=-1).mean() == pytest.approx(relative_norm, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=1e-3 * relative_norm)
    along = (F.normalize(noise, dim=-1) * given_).sum(-1)
    assert along.mean() == pytest.approx(0, abs=0.01)
    assert along.std() == pytest.approx(256**-0.5, rel=0.1)


@pytest.mark.parametrize(
    "manipulation", [Dropout(p=0.9, renormalise=True), Noise(relative_norm=2, renormalise=True)]
)
def test_renormalised_embeddings_have_unit_norm(manipulation: Manipulation) -> None:
    norms = manipulation.train(embeddings(), seeded()).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(64), atol=1e-5, rtol=0)


def test_an_embedding_that_lost_everything_is_zero_and_finite() -> None:
    dropped = Dropout(p=0.99, renormalise=True).train(embeddings(500, 4), seeded())
    assert torch.isfinite(dropped).all()
    assert (dropped == 0).all(-1).any()


def test_a_chain_runs_in_order_from_one_generator() -> None:
    dropout, noise = Dropout(p=0.5), Noise(relative_norm=1, renormalise=False)
    given_ = embeddings()
    generator = seeded()
    expected = noise.train(dropout.train(given_, generator), generator)
    assert torch.equal(Chain(steps=(dropout, noise)).train(given_, seeded()), expected)
    # Noise last leaves no zeros, dropout last does.
    assert not (expected == 0).any()
    assert (Chain(steps=(noise, dropout)).train(given_, seeded()) == 0).float().mean() > 0.4


def test_an_empty_chain_is_the_identity() -> None:
    given_ = embeddings()
    assert torch.equal(Chain().train(given_, seeded()), given_)
    assert torch.equal(Chain().infer(given_), given_)


@settings(deadline=None)
@given(chain=chains)
def test_a_chain_survives_json(chain: Chain) -> None:
    assert Chain.model_validate_json(chain.model_dump_json()) == chain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "dropout", "p": 1.0}, "p'.*less than 1"),
        ({"type": "dropout", "p": -0.1}, "greater than or equal to 0"),
        ({"type": "dropout", "p": float("nan")}, "p'"),
        ({"type": "noise", "relative_norm": -1}, "greater than or equal to 0"),
        ({"type": "noise", "sigma": 1}, "unknown key 'steps.0.noise.sigma'"),
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
