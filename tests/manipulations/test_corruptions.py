"""Dropout and noise against their closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from singleout.manipulations import (
    AnyManipulation,
    Chain,
    Dropout,
    Manipulator,
    Noise,
)
from tests.manipulations.examples import (
    close,
    draws_for,
    embeddings,
    trained,
)

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
    # Entries are dropped one by one, neither whole embeddings nor whole dimensions.
    assert (dropped == 0).float().mean(0).std() < 0.05
    assert (dropped == 0).float().mean(1).std() < 0.05


@pytest.mark.parametrize("p", [0.25, 0.75])
def test_a_dropped_embedding_has_the_expected_norm_and_direction(p: float) -> None:
    """The mean squared norm is 1 / (1 - p), the mean cosine to the original sqrt(1 - p)."""
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


def test_an_embedding_without_any_entry_left_is_zero_and_finite() -> None:
    dropped = trained(Dropout(p=0.99, renormalise=True), embeddings(500, 4))
    assert torch.isfinite(dropped).all()
    assert (dropped == 0).all(-1).any()


@pytest.mark.parametrize("step", [Dropout(), Noise(), Noise(kind="ball")])
def test_every_call_draws_other_numbers(step: AnyManipulation) -> None:
    manipulator = Manipulator(Chain(steps=(step,)), 256)
    draws = draws_for(embeddings())
    first = manipulator.for_training(embeddings(), False, draws)
    assert not torch.equal(first, manipulator.for_training(embeddings(), False, draws))
    other = draws_for(embeddings(), seed=1)
    assert not torch.equal(first, manipulator.for_training(embeddings(), False, other))


# Noise.


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("relative_norm", [0.1, 1.0, 2.9])
def test_gaussian_noise_has_the_relative_norm(relative_norm: float, scale: float) -> None:
    given_ = scale * embeddings(2000)
    noise = trained(Noise(relative_norm=relative_norm, renormalise=False), given_) - given_
    root_mean_square = noise.square().sum(-1).mean().sqrt()
    assert root_mean_square == pytest.approx(relative_norm * scale, rel=0.01)
    sigma = relative_norm * scale / 256**0.5
    assert noise.std() == pytest.approx(sigma, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=4 * sigma / noise.numel() ** 0.5)
    # A normal distribution, and not only one of that variance.
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
def test_renormalised_embeddings_have_unit_norm(step: AnyManipulation) -> None:
    close(trained(step, embeddings()).norm(dim=-1), torch.ones(64))
