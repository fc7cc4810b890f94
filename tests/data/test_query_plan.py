"""Plans of queries: their shares, and what makes a sound absent."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from singleout.data.clips import Clip
from singleout.data.plan import MixtureConfig, MixtureSpec, Planner
from singleout.data.query_plan import (
    MAX_TRIES,
    NUM_QUERIES,
    PlannedQuery,
    QueriesConfig,
    QueryPlanner,
)
from tests.data.sounds import MANY_CLIPS, PAIRS, SHORT, clip_of


def draw_queries(
    config: QueriesConfig, number: int = 400, mixtures: MixtureConfig = SHORT, **options: Any
) -> list[tuple[MixtureSpec, tuple[PlannedQuery, ...]]]:
    planner, query_planner = Planner(MANY_CLIPS, mixtures, 2), QueryPlanner(MANY_CLIPS, config, 0.5)
    specs = [planner.plan(0, i) for i in range(number)]
    rng = np.random.default_rng(0)
    return [(spec, query_planner.draw(spec, rng, **options)) for spec in specs]


def kind_of(query: PlannedQuery) -> str:
    if query.absent is not None:
        assert query.positive is query.negative is None
        return "absent"
    if query.positive is None:
        assert query.negative is not None
        return "removal"
    return "plain" if query.negative is None else "contrast"


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**40))
def test_by_default_each_query_names_one_sound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = Planner(MANY_CLIPS, SHORT, seed).plan(0, 0)
    queries = QueryPlanner(MANY_CLIPS, QueriesConfig(), 0.5).draw(spec, rng)
    assert queries == (PlannedQuery(positive=0), PlannedQuery(positive=1))
    assert NUM_QUERIES == 2


def test_kinds_of_queries_are_as_frequent_as_configured() -> None:
    config = QueriesConfig(absent_share=0.25, removal_share=0.15, contrast_share=0.35)
    mixtures = draw_queries(config)
    kinds = Counter(kind_of(query) for _, queries in mixtures for query in queries)
    shares = {kind: count / 800 for kind, count in kinds.items()}
    expected = {"absent": 0.25, "removal": 0.15, "contrast": 0.35, "plain": 0.25}
    assert shares == pytest.approx(expected, abs=4 * (0.25 / 800) ** 0.5)
    # Kinds are drawn query by query, not mixture by mixture.
    assert len({tuple(kind_of(query) for query in queries) for _, queries in mixtures}) == 16
    others: Counter[int | None] = Counter()
    for spec, queries in mixtures:
        assert len(queries) == 2
        for number, query in enumerate(queries):
            if kind_of(query) == "removal":
                assert query.negative == number
            elif kind_of(query) != "absent":
                assert query.positive == number
            if kind_of(query) == "contrast":
                assert query.negative != number
                assert 0 <= query.negative < len(spec.sources)  # type: ignore[operator]
                others[query.negative] += 1
    assert set(others) == {0, 1, 2}


@pytest.mark.parametrize("near_miss_share", [0.0, 0.5, 1.0])
def test_absent_sounds_are_absent_and_near_misses_are_of_the_family(
    near_miss_share: float,
) -> None:
    config = QueriesConfig(absent_share=1.0, near_miss_share=near_miss_share)
    near = []
    for spec, queries in draw_queries(config, mixtures=PAIRS):
        present = [MANY_CLIPS[source.clip] for source in spec.sources]
        for query in queries:
            assert query.absent is not None
            clip = MANY_CLIPS[query.absent]
            assert clip.label not in {other.label for other in present}
            assert clip.group not in {other.group for other in present}
            near.append(clip.family in {other.family for other in present})
    if near_miss_share == 1:  # except where every try gave a present sound
        assert np.mean(near) > 0.98
    else:  # by chance, as there are only three families
        by_chance = np.mean(near) - near_miss_share
        assert 0.3 * (1 - near_miss_share) < by_chance < 0.75 * (1 - near_miss_share)


@pytest.mark.parametrize("near_miss_share", [0.0, 1.0])
def test_a_query_alone_does_not_tell_whether_the_sound_is_present(near_miss_share: float) -> None:
    """A class is as frequent among absent sounds as among present ones, whatever its size."""
    sizes = [40] * 10 + [2] * 50
    many = [
        clip_of(100 * c + i, 1.0, f"family {c % 2}/class {c}", f"group {c} {i}")
        for c, size in enumerate(sizes)
        for i in range(size)
    ]
    config = QueriesConfig(absent_share=0.5, near_miss_share=near_miss_share)
    query_planner = QueryPlanner(many, config, PAIRS.class_balance)
    planner = Planner(many, PAIRS, 0)
    large: dict[bool, list[bool]] = {True: [], False: []}
    for i in range(1_500):
        spec = planner.plan(0, i)
        for query in query_planner.draw(spec, np.random.default_rng([9, i])):
            clip = query.absent
            if clip is None:
                assert query.positive is not None
                clip = spec.sources[query.positive].clip
            large[query.absent is None].append(clip < 400)
    present, absent = (float(np.mean(large[is_present])) for is_present in (True, False))
    assert present == pytest.approx(10 * 40**0.5 / (10 * 40**0.5 + 50 * 2**0.5), abs=0.03)
    # Present sounds cannot be drawn as absent ones, which makes a frequent class a little rarer.
    assert absent == pytest.approx(present, abs=0.05)


def test_sounds_alike_are_not_contrasted() -> None:
    """The same words may describe both."""
    for _, queries in draw_queries(
        QueriesConfig(contrast_share=1.0), 50, sounds_alike=lambda a, b: True
    ):
        assert all(query.negative is None for query in queries)


def test_a_sound_that_is_like_a_present_one_is_not_absent() -> None:
    """Here, clips are alike if their numbers are both even or both odd."""

    def alike(clip: int, other: int) -> bool:
        return clip % 2 == other % 2

    config = QueriesConfig(absent_share=1.0)
    kinds = []
    for spec, queries in draw_queries(config, sounds_alike=alike):
        parities = {source.clip % 2 for source in spec.sources}
        for number, query in enumerate(queries):
            if len(parities) == 2:  # no clip is certainly absent
                assert query == PlannedQuery(positive=number)
            else:
                assert query.absent is not None
                assert {query.absent % 2} != parities
            kinds.append(kind_of(query))
    assert set(kinds) == {"plain", "absent"}


def test_a_family_of_one_class_has_absent_sounds_of_other_families() -> None:
    """In a folder without manifest, each file is its own class and family."""
    clips = [clip_of(i, 1.0, f"{i}.wav", f"{i}.wav") for i in range(12)]
    query_planner = QueryPlanner(clips, QueriesConfig(absent_share=1.0, near_miss_share=1.0), 0.5)
    for i in range(20):
        spec = Planner(clips, SHORT, 0).plan(0, i)
        assert query_planner.absent(spec, True, np.random.default_rng(i)) is None
        for query in query_planner.draw(spec, np.random.default_rng(i)):
            assert query.absent is not None
            assert query.absent not in {source.clip for source in spec.sources}


def test_without_absent_sounds_queries_name_present_sounds() -> None:
    few = [clip_of(i, 1.0, f"family/{i}", f"group {i}") for i in range(2)]
    config = QueriesConfig(absent_share=1.0)
    for i in range(5):
        spec = Planner(few, PAIRS, 0).plan(0, i)
        queries = QueryPlanner(few, config, 0.5).draw(spec, np.random.default_rng(i))
        assert queries == (PlannedQuery(positive=0), PlannedQuery(positive=1))


def test_a_single_sound_has_no_contrast() -> None:
    single = SHORT.model_copy(update={"num_sources": (1, 1)})
    for _, queries in draw_queries(QueriesConfig(contrast_share=1.0), 20, single):
        assert queries == (PlannedQuery(positive=0),)
    for _, queries in draw_queries(QueriesConfig(removal_share=1.0), 20, single):
        assert queries == (PlannedQuery(negative=0),)


def test_every_kind_of_query_makes_the_same_number_of_draws() -> None:
    """So the second query does not depend on the kind of the first."""
    spec = Planner(MANY_CLIPS, SHORT, 2).plan(0, 0)
    after = set()
    for config in (
        QueriesConfig(),
        QueriesConfig(removal_share=1.0),
        QueriesConfig(contrast_share=1.0),
        QueriesConfig(removal_share=0.5, contrast_share=0.2),
    ):
        rng = np.random.default_rng(3)
        QueryPlanner(MANY_CLIPS, config, 0.5).draw(spec, rng)
        after.add(rng.random())
    assert len(after) == 1


@pytest.mark.parametrize(
    "shares",
    [
        {"absent_share": 0.5, "removal_share": 0.4, "contrast_share": 0.2},
        {"absent_share": 1.1},
        {"near_miss_share": -0.1},
    ],
)
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="share"):
        QueriesConfig(**shares)


def test_the_config_tells_whether_there_are_negative_prompts() -> None:
    assert not QueriesConfig(absent_share=1.0).has_negative
    assert QueriesConfig(removal_share=0.1).has_negative
    assert QueriesConfig(contrast_share=0.1).has_negative


def absent_from_lists(
    clips: list[Clip], spec: MixtureSpec, is_near: bool, rng: np.random.Generator
) -> int | None:
    """A search through lists, which recorded runs made."""
    sizes = Counter(clip.label for clip in clips)
    weights = np.array([float(sizes[clip.label]) ** -0.5 for clip in clips])
    present = [clips[source.clip] for source in spec.sources]
    for _ in range(MAX_TRIES):
        numbers = np.arange(len(clips))
        if is_near:
            family = present[int(rng.integers(len(present)))].family
            numbers = np.array([i for i, clip in enumerate(clips) if clip.family == family])
        shares = weights[numbers] / weights[numbers].sum()
        place = int(np.searchsorted(np.cumsum(shares), rng.random()))
        number = int(numbers[min(place, len(numbers) - 1)])
        is_present = any(
            clips[number].label == clip.label or clips[number].group == clip.group
            for clip in present
        )
        if not is_present:
            return number
    return None


@settings(deadline=None, max_examples=30)
@given(
    labels=st.lists(st.sampled_from(["a/x", "a/y", "b/x", "c", ""]), min_size=8, max_size=20),
    seed=st.integers(0, 2**40),
    is_near=st.booleans(),
)
def test_absent_sounds_are_drawn_as_from_lists(labels: list[str], seed: int, is_near: bool) -> None:
    clips = [clip_of(i, 1.0, label) for i, label in enumerate([*labels, "d", "e", "f"])]
    spec = Planner(clips, PAIRS, seed).plan(0, 0)
    planner = QueryPlanner(clips, QueriesConfig(), PAIRS.class_balance)
    query = planner.absent(spec, is_near, np.random.default_rng(seed))
    expected = absent_from_lists(clips, spec, is_near, np.random.default_rng(seed))
    assert (None if query is None else query.absent) == expected
