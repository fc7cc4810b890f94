"""Random streams: every draw in training and evaluation follows from counters.

A stream is seeded by the seed of the run, the epoch, the index of the example and the number of
the stream. So workers, ranks and a resume cannot change what is drawn, and a stream can be added
without a change of the others.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """Numbers of the streams of an example. A change would change every recorded run.

    Example:
        >>> [stream.value for stream in Stream]
        [1, 2, 3, 4, 5]
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


def batch_generator(seed: int, first_index: int, batch_size: int) -> torch.Generator:
    """The generator of the embeddings' manipulation in one batch.

    Examples have consecutive indices over all ranks, so that two ranks, and two steps, have
    different generators.

    Args:
        seed: of the run.
        first_index: index, in the whole run, of the first example of the batch.
        batch_size: examples in a full batch.

    Example:
        >>> first, second = batch_generator(0, 0, 8), batch_generator(0, 8, 8)
        >>> first.initial_seed(), second.initial_seed()
        (0, 1)
    """
    return torch.Generator().manual_seed(seed * 1_000_003 + first_index // batch_size)
