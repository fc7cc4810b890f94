"""Bootstrap intervals for scores.

A bootstrap resample is a whole-number weight per value: how often it was drawn. So every statistic
is a weighted one, values that belong together share a weight, and thousands of resamples are a few
array operations.

Resample ``r`` draws from ``default_rng([seed, r])`` and from nothing else: equal groups and seeds
give equal resamples, whatever the score. For the difference of two systems, or of two kinds of
query, on the same mixtures, pass the differences per mixture.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from singleout.errors import InputError

Floats = NDArray[np.float64]

Statistic = Callable[[Floats, Floats], Floats]
"""Values ``[count]`` and weights ``[resamples, count]`` to statistics ``[resamples]``."""

_CHUNK_WEIGHTS = 2**21
"""Weights held at once: bounds the memory, does not change the result."""


class Interval(TypedDict):
    """An estimate and the bounds of its confidence interval, in the unit of the values.

    Example:
        >>> bootstrap_interval([3.0])
        {'estimate': 3.0, 'low': 3.0, 'high': 3.0}
    """

    estimate: float
    low: float
    high: float


class Summary(TypedDict):
    """The statistics of one score in a row of a table, ready for JSON; see `summarise`."""

    mean: Interval
    median: Interval
    share_improved: Interval
    count: int


def mean(values: Floats, weights: Floats) -> Floats:
    """Weighted mean; of booleans, the share that is true.

    Example:
        >>> mean(np.array([1.0, 4.0]), np.array([[1, 1], [2, 1]]))
        array([2.5, 2. ])
    """
    shares: Floats = (weights @ values) / weights.sum(axis=1)
    return shares


def median(values: Floats, weights: Floats) -> Floats:
    """Median with each value repeated as often as its whole-number weight says.

    Example:
        >>> median(np.array([1.0, 4.0]), np.array([[1, 1], [2, 1]]))
        array([2.5, 1. ])
    """
    order = np.argsort(values)
    cumulative = weights[:, order].cumsum(axis=1)
    half = cumulative[:, -1:] / 2
    lower = (cumulative >= half).argmax(axis=1)
    upper = (cumulative > half).argmax(axis=1)
    medians: Floats = (values[order[lower]] + values[order[upper]]) / 2
    return medians


def bootstrap_interval(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    statistic: Statistic = mean,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic.

    Args:
        values: finite numbers or booleans ``[count]``, at least one.
        groups: what is drawn with replacement; by default each value by itself.
            Ids ``[count]``, such as target clips: whole groups (cluster bootstrap).
            Ids ``[factors, count]``, such as training seeds and target clips, crossed: the groups
            of each factor independently, a value's weight being the product (Owen's pigeonhole
            bootstrap). Three seeds give only a rough idea of how much seeds matter, one none.
        statistic: `mean`, `median` or any other `Statistic`.
        num_resamples: number of bootstrap resamples.
        confidence: probability mass between the bounds, between 0 and 1.
        seed: not negative; equal seeds give equal intervals.

    Raises:
        InputError: values empty, not one-dimensional or not finite; groups of another length;
            factors so far from crossed that a resample is empty; an impossible setting.

    Example:
        >>> sdri_db = [3.0, 5.0, 4.0, 8.0]
        >>> interval = bootstrap_interval(sdri_db, groups=["a", "a", "b", "c"])
        >>> interval["estimate"], interval["low"], interval["high"]
        (5.0, 4.0, 8.0)
    """
    samples = _checked(values, "values")
    if num_resamples < 1:
        raise InputError(f"num_resamples must be at least 1, got {num_resamples}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be between 0 and 1, got {confidence}")
    factors = _factors(groups, len(samples))
    resamples = range(num_resamples)
    chunk = max(1, _CHUNK_WEIGHTS // len(samples))
    resampled = np.concatenate(
        [
            statistic(samples, _weights(factors, resamples[start : start + chunk], seed))
            for start in resamples[::chunk]
        ]
    )
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    estimate = statistic(samples, np.ones((1, len(samples))))[0]
    return Interval(estimate=float(estimate), low=float(low), high=float(high))


def summarise(
    values: ArrayLike,
    improved: ArrayLike,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Summary:
    """Mean, median and share improved with 95 % intervals, all three over the same resamples.

    Args:
        values: scores ``[count]``, such as SI-SDRi in dB; leave absent targets (NaN) out.
        improved: booleans ``[count]``, see `singleout.evaluate.metrics.Scores`.
        groups: see `bootstrap_interval`.
        seed: see `bootstrap_interval`.

    Raises:
        InputError: see `bootstrap_interval`; or values and improved differ in length.

    Example:
        >>> result = summarise([3.0, -1.0, 4.0], [True, False, True])
        >>> result["mean"]["estimate"], result["median"]["estimate"], result["count"]
        (2.0, 3.0, 3)
    """
    scores, wins = _checked(values, "values"), _checked(improved, "improved")
    if len(scores) != len(wins):
        raise InputError(f"values and improved differ in length: {len(scores)} and {len(wins)}")
    return Summary(
        mean=bootstrap_interval(scores, groups, mean, seed=seed),
        median=bootstrap_interval(scores, groups, median, seed=seed),
        share_improved=bootstrap_interval(wins, groups, mean, seed=seed),
        count=len(scores),
    )


def _checked(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{name} must have shape [count >= 1], got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, {(~np.isfinite(array)).sum()} are not")
    return array


def _factors(groups: ArrayLike | None, count: int) -> list[NDArray[np.intp]]:
    """Per factor the group of each value, numbered from zero."""
    if groups is None:
        return [np.arange(count)]
    ids = np.atleast_2d(np.asarray(groups))
    if ids.ndim != 2 or ids.shape[1] != count:
        shape = list(np.shape(groups))
        raise InputError(f"groups must have shape [{count}] or [factors, {count}], got {shape}")
    return [np.unique(factor, return_inverse=True)[1] for factor in ids]


def _weights(factors: list[NDArray[np.intp]], resamples: range, seed: int) -> Floats:
    """How often each value is drawn in each of the resamples ``[resamples, count]``."""
    sizes = tuple(int(factor.max()) + 1 for factor in factors)
    weights = np.ones((len(resamples), len(factors[0])))
    for factor, counts in zip(factors, _draws(sizes, resamples, seed), strict=True):
        weights *= counts[:, factor]
    if not weights.any(axis=1).all():
        raise InputError("a resample is empty: the factors of groups are not crossed")
    return weights


@lru_cache(maxsize=8)
def _draws(sizes: tuple[int, ...], resamples: range, seed: int) -> list[NDArray[np.int32]]:
    """How often each group of each factor is drawn, ``[resamples, size]`` per factor.

    The last few results are kept, because a table draws the same resamples for every score and
    system. They take 8 MB each at most.
    """
    generators = [np.random.default_rng([seed, resample]) for resample in resamples]
    return [
        np.stack(
            [np.bincount(g.integers(size, size=size), minlength=size) for g in generators]
        ).astype(np.int32)
        for size in sizes
    ]
