"""Random streams: what is drawn follows from counters alone."""

from __future__ import annotations

import numpy as np
import torch

from singleout.data.seeds import Stream, mixture_stream, random_stream, row_draws


def test_numbers_of_the_streams_stay_the_same() -> None:
    """Other numbers would change every recorded run."""
    assert {stream.name: int(stream) for stream in Stream} == {
        "QUERY": 1,
        "SCENE": 2,
        "KIND": 3,
        "ABSENT": 4,
        "TARGET": 5,
        "POSITIVE": 6,
        "NEGATIVE": 7,
    }
    assert random_stream(5, 0, 7, Stream.SCENE, 2).random() == (
        np.random.default_rng([5, 0, 7, 2, 2]).random()
    )
    assert mixture_stream(5, 0, 7).random() == np.random.default_rng([5, 0, 7]).random()


def test_streams_of_other_counters_differ() -> None:
    first = [
        random_stream(seed, epoch, index, stream, counter).random()
        for seed in (0, 1)
        for epoch in (0, 1)
        for index in (0, 1)
        for stream in Stream
        for counter in (1, 2)
    ]
    first += [mixture_stream(seed, 0, index).random() for seed in (0, 1) for index in (0, 1)]
    assert len(set(first)) == len(first)


def test_every_query_of_every_example_draws_for_itself() -> None:
    """Whatever batch the example is in."""
    whole = row_draws(0, range(8), 2, Stream.POSITIVE).uniform(3)
    assert whole.shape == (16, 3)
    assert len(torch.unique(whole)) == 48
    part = row_draws(0, [5, 2], 2, Stream.POSITIVE).uniform(3)
    assert torch.equal(part, whole[[5, 2, 13, 10]])
    for seed, stream in ((1, Stream.POSITIVE), (0, Stream.NEGATIVE)):
        assert not (row_draws(seed, range(8), 2, stream).uniform(3) == whole).any()
    rng = random_stream(0, 0, 5, Stream.POSITIVE, 1)
    assert torch.equal(whole[13], torch.from_numpy(rng.random(3, dtype=np.float32)))
