"""Orders without lists: each number has one place, and the places look random."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleout.data.permutation import MAX_SIZE, Permutation


def permutation(size: int, *key: int) -> Permutation:
    return Permutation(size, np.random.default_rng(key))


def whole(size: int, *key: int) -> tuple[int, ...]:
    order = permutation(size, *key)
    return tuple(order.at(place) for place in range(size))


@given(size=st.integers(1, 300), seed=st.integers(0, 2**40))
def test_every_number_has_one_place(size: int, seed: int) -> None:
    order = whole(size, seed)
    assert sorted(order) == list(range(size))
    assert order == whole(size, seed)


@given(
    size=st.integers(2**20, MAX_SIZE) | st.integers(0, 62).map(lambda bits: 2**bits + 1),
    places=st.sets(st.integers(0, 2**63), max_size=20),
    seed=st.integers(0, 2**40),
)
def test_places_of_large_orders_differ(size: int, places: set[int], seed: int) -> None:
    order = permutation(size, seed)
    places = {place % size for place in places} | {0, size - 1}
    numbers = {order.at(place) for place in places}
    assert len(numbers) == len(places)
    assert all(0 <= number < size for number in numbers)


def test_other_keys_give_other_orders() -> None:
    orders = {whole(30, seed, number) for seed in range(8) for number in range(8)}
    assert len(orders) == 64


@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_orders_of_few_numbers_are_about_equally_frequent(size: int) -> None:
    seen = Counter(whole(size, seed) for seed in range(1_500))
    orders = list(itertools.permutations(range(size)))
    expected = 1_500 / len(orders)
    chi_square = sum((seen[order] - expected) ** 2 / expected for order in orders)
    assert chi_square < 60  # of 23 degrees of freedom at most: p < 5e-5


@pytest.mark.parametrize("size", [7, 100, 257])
def test_any_number_may_be_at_any_place(size: int) -> None:
    """Also, neighbours do not stay neighbours."""
    orders = [permutation(size, seed) for seed in range(1_000)]
    expected = len(orders) / size
    steps = np.array([(order.at(1) - order.at(0)) % size for order in orders])
    places = [np.array([order.at(p) for order in orders]) for p in (0, size // 2, size - 1)]
    for values in (*places, steps):
        counts = np.bincount(values, minlength=size)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert chi_square < size + 6 * (2 * size) ** 0.5 + expected * (values is steps)


@pytest.mark.parametrize("size", [0, -1, MAX_SIZE + 1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="give a number from 1"):
        permutation(size, 0)


def test_places_outside_are_refused() -> None:
    for place in (-1, 5):
        with pytest.raises(IndexError):
            permutation(5, 0).at(place)
