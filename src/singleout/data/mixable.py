"""Which clips can be mixed: clips of different classes and of different groups.

Classes and groups are the two sides of a graph, and each clip joins its class to its group. Clips
that can be mixed are a matching of this graph: edges without a common end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SOME_CLIPS = 10_000
"""Clips among which a matching is sought before it is sought among all."""
Edges = NDArray[np.int64]
"""[edges, 2], a class and a group each."""


def edges_of(labels: NDArray[np.int32], groups: NDArray[np.int32]) -> Edges:
    """The distinct pairs of class and group of clips.

    Args:
        labels, groups: [clips], numbers from 0.

    Example:
        >>> edges_of(np.array([0, 0, 1], np.int32), np.array([2, 2, 0], np.int32))
        array([[0, 2],
               [1, 0]])
    """
    width = int(groups.max(initial=0)) + 1
    return np.stack(np.divmod(np.unique(labels.astype(np.int64) * width + groups), width), axis=1)


def edges_with_matching(
    labels: NDArray[np.int32], groups: NDArray[np.int32], count: int
) -> tuple[Edges, int]:
    """Edges of clips that hold a largest matching, or one of ``count`` edges.

    Args:
        labels, groups: [clips], numbers from 0.
        count: largest number of edges that is of interest.

    Returns:
        The edges, of some clips if these have ``count`` edges without a common end, otherwise of
        all. And the size of the matching.

    Example:
        >>> edges_with_matching(np.array([0, 0, 1], np.int32), np.array([2, 2, 0], np.int32), 2)[1]
        2
    """
    step = max(1, len(labels) // SOME_CLIPS)
    edges = edges_of(labels[::step], groups[::step])
    size = len(matching(edges, count))
    if size == count or step == 1:
        return edges, size
    edges = edges_of(labels, groups)
    return edges, len(matching(edges, count))


def matching(edges: Edges, count: int) -> Edges:
    """A largest matching, or one of ``count`` edges if there are so many.

    A vertex with more edges than ``count`` is never short of a free one, so the others can be left
    out. Then few edges remain, or so many that ``count`` of them are a matching anyway. So the
    time is that of a sort of the edges, and of a search in ``2 * count**2`` edges.

    Args:
        edges: see ``edges_of``.
        count: largest number of edges that is of interest.

    Example:
        >>> matching(np.array([[0, 0], [0, 1], [1, 0]]), count=3)
        array([[0, 1],
               [1, 0]])
    """
    for side in (0, 1):
        edges = edges[_place_among_equals(edges[:, side]) < count]
    edges = edges[: 2 * count * count]
    groups_of: dict[int, list[int]] = {}
    for label, group in edges.tolist():
        groups_of.setdefault(label, []).append(group)
    label_of: dict[int, int] = {}
    for label in groups_of:
        if len(label_of) < count:
            _extend(label, groups_of, label_of)
    pairs = sorted((label, group) for group, label in label_of.items())
    return np.array(pairs, np.int64).reshape(-1, 2)


def _place_among_equals(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """[values], how many equal values stand before each."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    places = np.empty(len(values), np.int64)
    places[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return places


def _extend(label: int, groups_of: dict[int, list[int]], label_of: dict[int, int]) -> None:
    """Match one more class, if need be by other groups for matched classes: a search in width."""
    came_from: dict[int, int] = {}
    queue = [label]
    for current in queue:
        for group in groups_of[current]:
            if group in came_from:
                continue
            came_from[group] = current
            if group in label_of:
                queue.append(label_of[group])
                continue
            _switch(group, came_from, label_of)
            return


def _switch(group: int, came_from: dict[int, int], label_of: dict[int, int]) -> None:
    """Give a free group to the class that found it, and the group of that class to the next."""
    group_of = {label: matched for matched, label in label_of.items()}
    free: int | None = group
    while free is not None:
        label = came_from[free]
        label_of[free], free = label, group_of.get(label)


def unmixable(edges: Edges, count: int) -> NDArray[np.bool_]:
    """[edges], whether no matching of ``count`` edges has the edge.

    An edge is in some largest matching if it is in a given one, or on a path or a circle that
    takes every second edge from the given one: the decomposition of Dulmage and Mendelsohn (1958).

    Args:
        edges: see ``edges_of``.
        count: size of the matchings. There is one.

    Example:
        >>> unmixable(np.array([[0, 0], [0, 1], [1, 0]]), count=2)
        array([ True, False, False])
    """
    pairs = matching(edges, count + 1)
    if len(pairs) > count:  # without the ends of an edge, two edges less at most
        return np.zeros(len(edges), bool)
    # Node i is the matched pair i. The last node is all classes and groups without a partner.
    nodes = np.stack([_numbers_in(pairs[:, side], edges[:, side]) for side in (0, 1)], axis=1)
    is_reached = np.eye(count + 1, dtype=bool)
    is_reached[nodes[:, 0], nodes[:, 1]] = True
    for node in range(count + 1):
        is_reached |= is_reached[:, [node]] & is_reached[node]
    label, group = nodes.T
    is_in_none: NDArray[np.bool_] = ~(
        is_reached[group, label] | is_reached[count, label] | is_reached[group, count]
    )
    return is_in_none


def _numbers_in(values: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """[items], the place of each item in ``values``, and their number if it is not among them."""
    numbers = np.full(max(items.max(), values.max()) + 1, len(values))
    numbers[values] = np.arange(len(values))
    return numbers[items]
