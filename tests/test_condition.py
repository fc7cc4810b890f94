"""Conditions: parts, sides, weights, masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from singleout.condition import Condition

DIM = 3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def condition(parts: int, batch: int = 2, seed: int = 0) -> Condition:
    weights = drawn(batch, parts, seed=seed + 1).softmax(1)
    return Condition(
        drawn(batch, parts, DIM, seed=seed), weights, torch.ones(batch, 1, dtype=torch.bool)
    )


def test_a_single_embedding_has_one_part_of_weight_one() -> None:
    embeddings = drawn(2, DIM)
    single = Condition.single(embeddings)
    assert torch.equal(single.embeddings[:, 0], embeddings)
    assert torch.equal(single.weights, torch.ones(2, 1))
    assert single.mask.tolist() == [[True], [True]]
    assert single.has_positive
    partly = Condition.single(embeddings, torch.tensor([True, False]))
    assert partly.mask.tolist() == [[True], [False]]
    assert not partly.has_positive


@pytest.mark.parametrize(("positive", "negative"), [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_sides_are_paired_part_by_part(positive: int, negative: int) -> None:
    first, second = condition(positive), condition(negative, seed=5)
    both = Condition.combine(first, second)
    parts = max(positive, negative)
    assert both.embeddings.shape == (2, parts, 2 * DIM)
    assert both.mask.tolist() == [[True, True]] * 2
    torch.testing.assert_close(both.weights.sum(1), torch.ones(2))
    for part in range(parts):
        one, other = min(part, positive - 1), min(part, negative - 1)
        assert torch.equal(both.embeddings[:, part, :DIM], first.embeddings[:, one])
        assert torch.equal(both.embeddings[:, part, DIM:], second.embeddings[:, other])
    product = first.weights * second.weights
    torch.testing.assert_close(both.weights, product / product.sum(1, keepdim=True))


def test_a_missing_side_is_zero_whatever_it_holds() -> None:
    mask = torch.tensor([True, False])
    partly = Condition.single(torch.full((2, DIM), torch.nan).where(~mask[:, None], 1.0), mask)
    both = Condition.combine(partly, Condition.missing(DIM, batch=2))
    assert both.embeddings[0, 0].tolist() == [1, 1, 1, 0, 0, 0]
    assert not both.embeddings[1].any()
    assert both.mask.tolist() == [[True, False], [False, False]]


def test_the_positive_side_is_the_first() -> None:
    first, second = condition(3), condition(1, seed=5)
    positive = Condition.combine(first, second).positive
    assert torch.equal(positive.embeddings, first.embeddings)
    torch.testing.assert_close(positive.weights, first.weights)
    assert torch.equal(positive.mask, first.mask)
    single = condition(1)
    assert torch.equal(single.positive.embeddings, single.embeddings)


def test_all_tensors_move_to_a_device() -> None:
    moved = condition(2).to(torch.device("meta"))
    tensors = (moved.embeddings, moved.weights, moved.mask)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
