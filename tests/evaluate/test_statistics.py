"""Bootstrap intervals: against plain resampling and known distributions."""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from singleout.errors import InputError
from singleout.evaluate import statistics
from singleout.evaluate.statistics import (
    Interval,
    Statistic,
    bootstrap_interval,
    mean,
    median,
    summarise,
)


def width(interval: Interval) -> float:
    return interval["high"] - interval["low"]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1, max_size=12).filter(
        lambda pairs: any(weight for _, weight in pairs)
    )
)
def test_weighted_statistics_equal_those_of_repeated_values(pairs: list[tuple[int, int]]) -> None:
    values, weights = np.array(pairs, dtype=np.float64).T
    repeated = np.repeat(values, weights.astype(int))
    assert mean(values, weights[None])[0] == pytest.approx(repeated.mean())
    assert median(values, weights[None])[0] == np.median(repeated)


@pytest.mark.parametrize(("statistic", "reference"), [(mean, np.mean), (median, np.median)])
def test_interval_agrees_with_plain_resampling(
    statistic: Statistic, reference: Callable[..., Any]
) -> None:
    generator = np.random.default_rng(0)
    values = generator.gamma(2.0, size=300)
    resamples = reference(generator.choice(values, (2000, 300)), axis=1)
    interval = bootstrap_interval(values, statistic=statistic)
    assert interval["estimate"] == pytest.approx(reference(values))
    assert interval["low"] == pytest.approx(np.quantile(resamples, 0.025), abs=0.03)
    assert interval["high"] == pytest.approx(np.quantile(resamples, 0.975), abs=0.03)


@pytest.mark.parametrize(
    ("statistic", "truth"), [(mean, 1.0), (median, np.log(2.0))], ids=["mean", "median"]
)
def test_coverage_on_the_exponential_distribution(statistic: Statistic, truth: float) -> None:
    samples = np.random.default_rng(0).exponential(size=(200, 100))
    intervals = [bootstrap_interval(row, None, statistic, num_resamples=300) for row in samples]
    covered = np.mean([interval["low"] <= truth <= interval["high"] for interval in intervals])
    assert 0.90 < covered < 0.98


def test_coverage_of_a_share() -> None:
    samples = np.random.default_rng(1).random((200, 100)) < 0.3
    intervals = [bootstrap_interval(row, num_resamples=300) for row in samples]
    covered = np.mean([interval["low"] <= 0.3 <= interval["high"] for interval in intervals])
    assert 0.90 < covered < 0.98


def clustered(seed: int, num_groups: int, size: int) -> tuple[ArrayLike, ArrayLike]:
    """Values of unit variance between groups and 0.3² within, with their group ids."""
    generator = np.random.default_rng([7, seed])
    values = generator.normal(size=(num_groups, 1)) + generator.normal(0, 0.3, (num_groups, size))
    return values.ravel(), np.repeat([f"clip{i}" for i in range(num_groups)], size)


@pytest.mark.parametrize("statistic", [mean, median])
def test_cluster_bootstrap_is_wider_when_values_are_clustered(statistic: Statistic) -> None:
    values, groups = clustered(0, num_groups=40, size=10)
    naive = bootstrap_interval(values, None, statistic)
    assert width(bootstrap_interval(values, groups, statistic)) > 2 * width(naive)


def test_cluster_bootstrap_covers_where_the_naive_one_does_not() -> None:
    covered = np.zeros(2)
    for seed in range(200):
        values, groups = clustered(seed, num_groups=40, size=10)
        for which, ids in enumerate([None, groups]):
            interval = bootstrap_interval(values, ids, num_resamples=300)
            covered[which] += interval["low"] <= 0 <= interval["high"]
    naive, cluster = covered / 200
    assert naive < 0.7
    assert 0.88 < cluster < 0.98


def test_groups_may_have_different_sizes() -> None:
    values, groups = [0.0, 1.0, 1.0, 1.0, 5.0], ["a", "b", "b", "b", "c"]
    weights = statistics._weights(statistics._factors(groups, 5), range(500), seed=0)
    assert (weights[:, 1] == weights[:, 2]).all()
    assert (weights[:, [0, 1, 4]].sum(axis=1) == 3).all()
    assert bootstrap_interval(values, groups)["estimate"] == pytest.approx(1.6)


def test_two_crossed_factors_count_the_variance_of_both() -> None:
    generator = np.random.default_rng(3)
    by_seed, by_clip = generator.normal(0, 0.5, (10, 1)), generator.normal(0, 1, (1, 50))
    values = (by_seed + by_clip + generator.normal(0, 0.1, (10, 50))).ravel()
    run, clip = np.divmod(np.arange(500), 50)
    standard_error = np.sqrt(by_seed.var() / 10 + by_clip.var() / 50)
    both = bootstrap_interval(values, [run, clip])
    assert width(both) == pytest.approx(2 * 1.96 * standard_error, rel=0.15)
    assert width(both) > max(
        width(bootstrap_interval(values, factor)) for factor in (run, clip, None)
    )


def test_factors_that_are_not_crossed_are_refused() -> None:
    with pytest.raises(InputError, match="not crossed"):
        bootstrap_interval([1.0, 2.0], [["a", "b"], ["c", "d"]])


def test_resamples_depend_only_on_the_seed_and_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).normal(size=50)
    interval = bootstrap_interval(values, seed=1)
    assert interval == bootstrap_interval(values, seed=1)
    assert interval != bootstrap_interval(values, seed=2)
    monkeypatch.setattr(statistics, "_CHUNK_WEIGHTS", 170)
    assert interval == pytest.approx(bootstrap_interval(values, seed=1), abs=1e-12)


def test_more_confidence_is_wider_and_one_value_has_no_width() -> None:
    values = np.random.default_rng(0).normal(size=50)
    widths = [width(bootstrap_interval(values, confidence=share)) for share in (0.5, 0.95, 0.99)]
    assert widths == sorted(widths)
    assert bootstrap_interval([3.0]) == Interval(estimate=3.0, low=3.0, high=3.0)


def test_summary_is_three_intervals_and_a_count_ready_for_json() -> None:
    values, groups = clustered(0, num_groups=30, size=4)
    improved = np.asarray(values) > 0
    summary = summarise(values, improved, groups, seed=5)
    assert summary["mean"] == bootstrap_interval(values, groups, mean, seed=5)
    assert summary["median"] == bootstrap_interval(values, groups, median, seed=5)
    assert summary["share_improved"] == bootstrap_interval(improved, groups, seed=5)
    assert summary["share_improved"]["estimate"] == pytest.approx(improved.mean())
    assert summary["count"] == 120
    assert json.loads(json.dumps(summary)) == summary


def test_thousands_of_values_are_fast() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    start = time.process_time()
    bootstrap_interval(values, np.arange(5000) // 2, median)
    assert time.process_time() - start < 3  # about 0.4 s; room for slow machines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, r"values must have shape \[count >= 1\], got \[0\]"),
        ({"values": [[1.0]]}, r"got \[1, 1\]"),
        ({"values": [1.0, np.nan, np.inf]}, "finite, 2 are not"),
        ({"values": [1.0, 2.0], "groups": ["a"]}, r"groups must have shape \[2\]"),
        ({"values": [1.0], "num_resamples": 0}, "num_resamples"),
        ({"values": [1.0], "confidence": 1.0}, "confidence"),
    ],
)
def test_errors_name_the_cause(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bootstrap_interval(**arguments)


def test_summary_refuses_columns_of_different_length() -> None:
    with pytest.raises(InputError, match="differ in length: 2 and 1"):
        summarise([1.0, 2.0], [True])
