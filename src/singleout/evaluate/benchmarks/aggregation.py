"""From the scores of many items to one number, as each benchmark defines it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from singleout.evaluate.statistics import Floats, Statistic, mean, median


@dataclass(frozen=True)
class Aggregation:
    """How the scores of items become one number.

    Attributes:
        name: in words.
        statistic: from the labels of the items to a statistic of their scores.

    Example:
        >>> labels, scores = ["violin", "violin", "tuba"], np.array([1.0, 3.0, 8.0])
        >>> MEAN.statistic(labels)(scores, np.ones((1, 3)))
        array([4.])
        >>> MEAN_OF_CLASS_MEANS.statistic(labels)(scores, np.ones((1, 3)))
        array([5.])
    """

    name: str
    statistic: Callable[[Sequence[str]], Statistic]


def _over_classes(within: Statistic, labels: Sequence[str]) -> Statistic:
    """The mean over classes of a statistic within each; classes without weight do not count."""
    classes, class_of_item = np.unique(labels, return_inverse=True)

    def statistic(values: Floats, weights: Floats) -> Floats:
        per_class = np.full((len(classes), len(weights)), np.nan)
        for number in range(len(classes)):
            is_member = class_of_item == number
            class_weights = weights[:, is_member]
            is_drawn = class_weights.any(axis=1)  # a bootstrap resample may miss a whole class
            per_class[number, is_drawn] = within(values[is_member], class_weights[is_drawn])
        means: Floats = np.nanmean(per_class, axis=0)
        return means

    return statistic


MEAN = Aggregation("mean over items", lambda labels: mean)
MEAN_OF_CLASS_MEANS = Aggregation(
    "mean over classes of the mean over items", lambda labels: _over_classes(mean, labels)
)
MEAN_OF_CLASS_MEDIANS = Aggregation(
    "mean over classes of the median over items", lambda labels: _over_classes(median, labels)
)
