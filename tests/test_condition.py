"""``Condition``: parts, weights and masks of queries."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from singleout.condition import Condition

sizes = st.integers(1, 4)
seeds = st.integers(0, 1_000)


def random_side(batch: int, parts: int, dim: int, seed: int, has_missing: bool = True) -> Condition:
    """One side of a batch of queries, with positive weights; some queries may lack the side.

    Queries without the side have arbitrary embeddings, which must not matter.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(batch, parts, dim, generator=generator)
    weights = torch.rand(batch, parts, generator=generator) + 0.1
    mask = torch.ones(batch, 1, dtype=torch.bool)
    if has_missing:
        mask = torch.rand(batch, 1, generator=generator) < 0.5
    return Condition(embeddings, weights / weights.sum(1, keepdim=True), mask)


def assert_equal(actual: Condition, expected: Condition) -> None:
    """The conditions are equal, bit for bit."""
    for name in ("embeddings", "weights", "mask"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name


def test_single_has_one_part_of_weight_1() -> None:
    embeddings = torch.randn(3, 4)
    condition = Condition.single(embeddings)
    assert torch.equal(condition.embeddings, embeddings[:, None])
    assert condition.weights.tolist() == [[1.0]] * 3
    assert condition.mask.tolist() == [[True]] * 3
    assert condition.mask.dtype == torch.bool


def test_single_takes_a_mask() -> None:
    mask = torch.tensor([True, False, True])
    condition = Condition.single(torch.randn(3, 4), mask)
    assert condition.mask.tolist() == [[True], [False], [True]]
    assert not condition.has_positive


def test_single_keeps_the_type_of_the_embeddings() -> None:
    condition = Condition.single(torch.randn(2, 4, dtype=torch.float16))
    assert condition.embeddings.dtype == condition.weights.dtype == torch.float16


def test_missing_is_a_side_of_zeros() -> None:
    condition = Condition.missing(4, batch=2)
    assert condition.embeddings.shape == (2, 1, 4)
    assert not condition.embeddings.any()
    assert condition.weights.tolist() == [[1.0]] * 2
    assert condition.mask.tolist() == [[False]] * 2
    assert_equal(Condition.missing(4), Condition.missing(4, batch=1))


def test_combine_puts_the_positive_side_first() -> None:
    dog, rain = torch.full((1, 2), 3.0), torch.full((1, 2), 5.0)
    condition = Condition.combine(Condition.single(dog), Condition.single(rain))
    assert condition.embeddings.tolist() == [[[3, 3, 5, 5]]]
    assert condition.weights.tolist() == [[1.0]]
    assert condition.mask.tolist() == [[True, True]]


def test_combine_fills_a_missing_side_with_zeros() -> None:
    """Whatever the embeddings of a missing side are: they may even be infinite or NaN."""
    spoilt = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")]])
    side = Condition.single(spoilt, torch.tensor([True, False]))
    for combined, start in (
        (Condition.combine(side, Condition.missing(2, batch=2)), 0),
        (Condition.combine(Condition.missing(2, batch=2), side), 2),
    ):
        expected = torch.zeros(2, 1, 4)
        expected[0, 0, start : start + 2] = spoilt[0]
        assert torch.equal(combined.embeddings, expected)
        assert combined.mask.sum().item() == 1


def test_combine_pairs_parts_by_number() -> None:
    positive = Condition(
        torch.tensor([[[1.0], [2.0]]]), torch.tensor([[0.25, 0.75]]), torch.tensor([[True]])
    )
    negative = Condition(
        torch.tensor([[[3.0], [4.0]]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[True]])
    )
    condition = Condition.combine(positive, negative)
    assert condition.embeddings.tolist() == [[[1, 3], [2, 4]]]
    assert condition.weights.tolist() == [[0.25, 0.75]]


def test_combine_refuses_sides_of_different_numbers_of_parts() -> None:
    with pytest.raises(RuntimeError):
        Condition.combine(random_side(1, 2, 4, 0), random_side(1, 3, 4, 1))


@given(batch=sizes, parts=sizes, dim=sizes, seed=seeds, is_positive=st.booleans())
def test_a_side_of_one_part_is_paired_with_every_part(
    batch: int, parts: int, dim: int, seed: int, is_positive: bool
) -> None:
    many = random_side(batch, parts, dim, seed, has_missing=False)
    single = Condition.single(torch.randn(batch, dim, generator=torch.Generator().manual_seed(1)))
    sides = (single, many) if is_positive else (many, single)
    condition = Condition.combine(*sides)
    assert condition.embeddings.shape == (batch, parts, 2 * dim)
    expected = torch.cat([side.embeddings.expand(-1, parts, -1) for side in sides], -1)
    assert torch.equal(condition.embeddings, expected)
    torch.testing.assert_close(condition.weights, many.weights)


@given(batch=sizes, parts=sizes, dim=sizes, seed=seeds)
def test_combined_weights_sum_to_1_and_are_proportional_to_the_product(
    batch: int, parts: int, dim: int, seed: int
) -> None:
    positive, negative = (random_side(batch, parts, dim, seed + i) for i in (0, 5_000))
    condition = Condition.combine(positive, negative)
    torch.testing.assert_close(condition.weights.sum(1), torch.ones(batch))
    product = positive.weights * negative.weights
    ratio = condition.weights / product
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


@given(batch=sizes, parts=sizes, dim=sizes, seed=seeds)
def test_the_mask_tells_which_sides_a_query_has(
    batch: int, parts: int, dim: int, seed: int
) -> None:
    sides = [random_side(batch, parts, dim, seed + i) for i in (0, 5_000)]
    condition = Condition.combine(*sides)
    assert condition.mask.dtype == torch.bool
    assert torch.equal(condition.mask, torch.cat([side.mask for side in sides], 1))
    by_side: list[Tensor] = list(condition.embeddings.chunk(2, -1))
    for number, (embeddings, side) in enumerate(zip(by_side, sides, strict=True)):
        has_side = condition.mask[:, number]
        assert torch.equal(embeddings[has_side], side.embeddings[has_side])
        assert not embeddings[~has_side].any()
    assert condition.has_positive == bool(sides[0].mask.all())


@given(batch=sizes, parts=sizes, dim=sizes, seed=seeds)
def test_combine_changes_neither_side(batch: int, parts: int, dim: int, seed: int) -> None:
    sides = [random_side(batch, parts, dim, seed + i) for i in (0, 5_000)]
    before = [
        Condition(side.embeddings.clone(), side.weights.clone(), side.mask.clone())
        for side in sides
    ]
    Condition.combine(*sides)
    for side, expected in zip(sides, before, strict=True):
        assert_equal(side, expected)


@given(batch=sizes, parts=sizes, dim=sizes, seed=seeds)
def test_positive_is_the_positive_side(batch: int, parts: int, dim: int, seed: int) -> None:
    side = random_side(batch, parts, dim, seed, has_missing=False)
    assert_equal(side.positive, side)
    with_negative = Condition.combine(side, Condition.missing(dim, batch)).positive
    assert torch.equal(with_negative.embeddings, side.embeddings)
    assert torch.equal(with_negative.mask, side.mask)
    torch.testing.assert_close(with_negative.weights, side.weights)


def test_has_positive_needs_the_positive_side_of_every_query() -> None:
    embeddings = torch.ones(2, 4)
    some = Condition.single(embeddings, torch.tensor([True, False]))
    every = Condition.single(embeddings)
    assert every.has_positive
    assert not some.has_positive
    assert not Condition.missing(4).has_positive
    assert Condition.combine(every, some).has_positive
    assert not Condition.combine(some, every).has_positive
    assert isinstance(every.has_positive, bool)


def test_to_moves_all_tensors() -> None:
    condition = Condition.combine(random_side(2, 3, 4, 0), Condition.missing(4, 2))
    moved = condition.to(torch.device("meta"))
    for name in ("embeddings", "weights", "mask"):
        tensor = getattr(moved, name)
        assert tensor.device.type == "meta"
        assert tensor.shape == getattr(condition, name).shape
        assert tensor.dtype == getattr(condition, name).dtype
    assert_equal(condition.to(torch.device("cpu")), condition)


def test_a_condition_cannot_be_changed() -> None:
    condition = Condition.missing(4)
    with pytest.raises(FrozenInstanceError):
        condition.mask = torch.ones(1, 1, dtype=torch.bool)  # type: ignore[misc]


def test_conditions_compare_by_identity() -> None:
    """A comparison of their tensors would have no single truth value."""
    condition = Condition.missing(4)
    assert condition == condition
    assert condition != Condition.missing(4)
    assert len({condition, condition}) == 1
