"""Rows of scores, one per mixture and system, and what the summaries of them have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Row = dict[str, Any]
"""Scores of one estimate with the names of its mixture, ready for JSON."""


def finite_or_none(score: Tensor) -> float | None:
    """A score as a number; None where it is not defined, such as the SI-SDR of a silent target.

    Example:
        >>> import torch
        >>> finite_or_none(torch.tensor(1.5)), finite_or_none(torch.tensor(torch.nan))
        (1.5, None)
    """
    value = float(score)
    return value if math.isfinite(value) else None


def recording_numbers(rows: Sequence[Row]) -> NDArray[np.intp]:
    """Number of the recording of each row's target, int [rows].

    Rows of one recording are not independent, so a bootstrap draws them together.

    Example:
        >>> recording_numbers([{"recording": "b"}, {"recording": "a"}, {"recording": "b"}])
        array([1, 0, 1])
    """
    names = [row["recording"] for row in rows]
    numbers: NDArray[np.intp] = np.unique(names, return_inverse=True)[1]
    return numbers


def paired_differences(
    rows: Sequence[Row], others: Sequence[Row], key: str
) -> tuple[list[float], NDArray[np.intp]]:
    """Differences of a score between two systems on the same mixtures.

    Args:
        rows, others: of the two systems, in the order of the mixtures.
        key: of the score. Pairs in which a score is None are left out.

    Returns:
        ``rows`` minus ``others``, and the numbers of their recordings.

    Example:
        >>> text = [{"recording": "a", "sdr_db": 3.0}, {"recording": "b", "sdr_db": None}]
        >>> audio = [{"recording": "a", "sdr_db": 4.5}, {"recording": "b", "sdr_db": 2.0}]
        >>> paired_differences(audio, text, "sdr_db")
        ([1.5], array([0]))
    """
    pairs = [
        (row, other)
        for row, other in zip(rows, others, strict=True)
        if row[key] is not None and other[key] is not None
    ]
    differences = [row[key] - other[key] for row, other in pairs]
    return differences, recording_numbers([row for row, _ in pairs])
