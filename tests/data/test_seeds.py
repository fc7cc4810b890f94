"""Random streams: what is drawn follows from counters alone."""

from __future__ import annotations

import numpy as np
import torch

from singleout.data.seeds import Stream, batch_generator, mixture_stream, random_stream


def test_numbers_of_the_streams_stay_the_same() -> None:
    """Other numbers would change every recorded run."""
    assert {stream.name: int(stream) for stream in Stream} == {
        "QUERY": 1,
        "SCENE": 2,
        "KIND": 3,
        "ABSENT": 4,
        "TARGET": 5,
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


def test_every_batch_has_its_own_generator() -> None:
    def first_number(seed: int, first_index: int) -> float:
        return float(torch.rand((), generator=batch_generator(seed, first_index, 8)))

    assert first_number(0, 16) == first_number(0, 16)
    assert len({first_number(seed, index) for seed in (0, 1) for index in (0, 8, 16)}) == 6
