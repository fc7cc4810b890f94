"""Random streams: every draw in training and evaluation follows from counters.

A stream is seeded by the seed of the run, the epoch, the index of the example and the number of
the stream. So workers, ranks and a resume cannot change what is drawn, and a stream can be added
without a change of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import numpy as np

from singleout.manipulations import RowDraws


class Stream(IntEnum):
    """Numbers of the streams of an example. A change would change every recorded run.

    Example:
        >>> [stream.value for stream in Stream]
        [1, 2, 3, 4, 5, 6, 7]
    """

    QUERY = 1
    """Which crop or caption is the query."""
    SCENE = 2
    """Silences, rooms, backgrounds and codecs of a mixture."""
    KIND = 3
    """Which kind of query a mixture gets: present, absent, removal, contrast."""
    ABSENT = 4
    """Absent sounds that an evaluation uses as queries."""
    TARGET = 5
    """Order in which all clips are targets. Its index is the number of passes over the clips."""
    POSITIVE = 6
    """Sound or caption for the positive side of a query, and how the embedding is manipulated."""
    NEGATIVE = 7
    """The same for the negative side."""


def random_stream(
    seed: int, epoch: int, index: int, stream: Stream, *counters: int
) -> np.random.Generator:
    """The generator of one stream of one example.

    Args:
        seed: of the run.
        epoch, index: of the example.
        stream: see ``Stream``.
        *counters: tell generators of one stream apart.

    Example:
        >>> first = random_stream(0, 0, 7, Stream.QUERY).integers(1_000)
        >>> int(first) == int(random_stream(0, 0, 7, Stream.QUERY).integers(1_000))
        True
    """
    return np.random.default_rng([seed, epoch, index, int(stream), *counters])


def mixture_stream(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of the sounds of a mixture, their levels and their places.

    It has no number, because it is older than the numbered streams.

    Args:
        seed: of the run.
        epoch, index: of the example.

    Example:
        >>> mixture_stream(0, 0, 7).random() == mixture_stream(0, 0, 8).random()
        False
    """
    return np.random.default_rng([seed, epoch, index])


def row_draws(seed: int, indices: Iterable[int], queries: int, stream: Stream) -> RowDraws:
    """The random numbers of every query of every example in a batch.

    Args:
        seed: of the run.
        indices: of the examples in the run.
        queries: number of queries of each example.
        stream: see ``Stream``.

    Returns:
        Rows [queries * batch]: the first query of every example, then the second, and so on.

    Example:
        >>> batch = row_draws(0, [6, 7], 2, Stream.POSITIVE).uniform()
        >>> part = row_draws(0, [7], 2, Stream.POSITIVE).uniform()
        >>> (batch[[1, 3]] == part).tolist()
        [True, True]
    """
    examples = list(indices)
    return RowDraws(
        [
            random_stream(seed, 0, index, stream, query)
            for query in range(queries)
            for index in examples
        ]
    )
