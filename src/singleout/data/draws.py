"""Weighted draws of clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from singleout.data.clips import Clip, Clips


def clip_weights(clips: Sequence[Clip], class_balance: float) -> NDArray[np.float64]:
    """Relative probabilities of drawing each clip.

    Args:
        clips: the clips.
        class_balance: see ``MixtureConfig``.

    Returns:
        [clips], not normalised.

    Example:
        >>> from pathlib import Path
        >>> clips = [
        ...     Clip(Path(f"{i}.wav"), 1.0, None, (), label, f"{i}.wav", "train")
        ...     for i, label in enumerate(["dog", "dog", "rain"])
        ... ]
        >>> clip_weights(clips, class_balance=1.0)
        array([0.5, 0.5, 1. ])
    """
    codes = Clips.of(clips).label_codes
    sizes, place = np.unique(np.bincount(codes), return_inverse=True)
    # Powers of Python's floats: those of arrays may differ in their last bit from other machines'.
    of_size = np.array([float(size) ** -class_balance for size in sizes.tolist()], np.float64)
    return of_size[place][codes]


def cumulative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the normalised weights up to each, in place of the weights.

    Args:
        weights: [clips], positive. They are overwritten.

    Example:
        >>> cumulative(np.array([1.0, 3.0]))
        array([0.25, 1.  ])
    """
    weights /= weights.sum()
    return np.cumsum(weights, out=weights)


def draw(sums: NDArray[np.float64], rng: np.random.Generator) -> int:
    """Draw an index by its weight.

    Args:
        sums: see ``cumulative``.
        rng: gives one draw.

    Example:
        >>> draw(np.array([0.0, 1.0]), np.random.default_rng(0))
        1
    """
    number = int(np.searchsorted(sums, rng.random()))
    return min(number, len(sums) - 1)  # sums of shares may end below 1
