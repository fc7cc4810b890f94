"""Draws by class are those of a search through all clips."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from singleout.data.class_index import ClassIndex, CodeIndex
from tests.data.sounds import clip_of

pairs = st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("abcd")), min_size=1)


@given(pairs=pairs, seed=st.integers(0, 2**32))
def test_another_clip_of_the_class_is_drawn_as_from_a_list(
    pairs: list[tuple[str, str]], seed: int
) -> None:
    clips = [clip_of(i, 1.0, label, group) for i, (label, group) in enumerate(pairs)]
    index = ClassIndex(clips)
    for i, clip in enumerate(clips):
        others = [
            number
            for number, other in enumerate(clips)
            if other.label == clip.label and other.group != clip.group
        ]
        rng, expected = np.random.default_rng([seed, i]), np.random.default_rng([seed, i])
        drawn = index.draw_other(i, rng)
        assert drawn == (int(expected.choice(others)) if others else None)
        assert rng.random() == expected.random()


@given(codes=st.lists(st.integers(0, 4), min_size=1))
def test_clips_of_a_code_are_in_order(codes: list[int]) -> None:
    index = CodeIndex(np.array(codes, np.int32))
    for code in range(max(codes) + 1):
        assert index.of(code).tolist() == [i for i, other in enumerate(codes) if other == code]
