"""Which clips can be mixed, compared with a search through all choices."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from singleout.data.mixable import SOME_CLIPS, Edges, edges_of, edges_with_matching, unmixable
from singleout.data.mixable import matching as matching_of

graphs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


def is_matching(edges: Edges) -> bool:
    return all(len(set(side)) == len(side) for side in edges.T.tolist())


def matchings(pairs: list[tuple[int, int]], count: int) -> list[set[tuple[int, int]]]:
    """All matchings of ``count`` edges."""
    chosen = itertools.combinations(sorted(set(pairs)), count)
    return [set(edges) for edges in chosen if is_matching(np.array(edges).reshape(-1, 2))]


def edges_from(pairs: list[tuple[int, int]]) -> Edges:
    labels, groups = np.array(pairs, np.int32).T
    return edges_of(labels, groups)


@given(pairs=graphs, count=st.integers(1, 6))
def test_the_matching_is_a_largest_one(pairs: list[tuple[int, int]], count: int) -> None:
    edges = matching_of(edges_from(pairs), count)
    assert is_matching(edges)
    assert {*map(tuple, edges.tolist())} <= set(pairs)
    assert len(edges) == max(size for size in range(count + 1) if matchings(pairs, size))


@given(pairs=graphs, data=st.data())
def test_edges_of_no_matching_are_unmixable(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    largest = len(matching_of(edges_from(pairs), 6))
    count = data.draw(st.integers(1, largest))
    possible = set().union(*matchings(pairs, count))
    edges = edges_from(pairs)
    assert unmixable(edges, count).tolist() == [
        tuple(edge) not in possible for edge in edges.tolist()
    ]


def star(size: int) -> list[tuple[int, int]]:
    """One class with many groups, and one group with many classes."""
    return [(0, i) for i in range(size)] + [(i, 0) for i in range(size)]


def test_many_clips_of_which_few_can_be_mixed() -> None:
    """A search through all choices of three would take days."""
    edges = edges_from(star(30_000))
    assert len(matching_of(edges, 64)) == 2
    assert np.flatnonzero(unmixable(edges, 2)).tolist() == [0]
    assert len(matching_of(edges_from([*star(30_000), (5, 5), (6, 6)]), 64)) == 4


def test_a_large_sparse_matching_needs_paths() -> None:
    """Class i has the groups i and i + 1, and the last class has only the first group."""
    count = 64
    pairs = [(i, i + j) for i in range(count - 1) for j in (0, 1)] + [(count - 1, 0)]
    assert len(matching_of(edges_from(pairs), count)) == count
    assert len(matching_of(edges_from(pairs[::-1]), count + 1)) == count


def test_all_clips_are_searched_if_some_do_not_suffice() -> None:
    labels = np.zeros(3 * SOME_CLIPS, np.int32)
    groups = np.arange(len(labels), dtype=np.int32)
    labels[1] = 1
    assert edges_with_matching(labels, groups, 3)[1] == 2
    labels[::2] = 2
    edges, size = edges_with_matching(labels, groups, 2)
    assert size == 2
    assert len(edges) <= SOME_CLIPS + 1
