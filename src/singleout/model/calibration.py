"""Fits the presence and the gate of a model from similarities and levels, in plain NumPy.

Similarity tells a target that is in the mixture (present) from one that is not (absent). It is
measured on validation mixtures (``singleout.evaluate.scenarios.calibrate``). Two things are fitted
to it: the probability that a sound is present, and the gain of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from singleout.model.level_gate import HIGHEST, Gate
from singleout.model.similarity import PresenceCalibration

CLOSED, OPEN = 0.3, 0.4
"""Probabilities of presence at which a gate is closed and open.

Both are below a half, because calibration assumes that half of the sounds are present. Of the
sounds that users query, most are."""
FLOOR_DB = -20.0
"""Gain of a closed gate."""
GAINS_DB = tuple(float(gain) for gain in np.arange(0.0, 6.01, 0.25))
"""Candidates for the gain of an open gate."""
LEVEL_TOLERANCE_DB = 3.0
"""A target has the right level if it differs by no more than this."""
PRIOR = 1e-3
"""Weight of the prior of Platt's scaling."""


class Calibration(NamedTuple):
    """How a model uses similarity; see ``fit_calibration``.

    Attributes:
        presence: None where present and absent sounds were not both measured.
        gate: None where similarity does not tell present sounds from absent ones.

    Example:
        >>> Calibration(PresenceCalibration(scale=4.0, bias=-1.0), gate=None).presence.scale
        4.0
    """

    presence: PresenceCalibration | None
    gate: Gate | None


def fit_calibration(
    present: Sequence[float], absent: Sequence[float], levels_db: Sequence[float]
) -> Calibration:
    """Fit presence and gate.

    Args:
        present: similarities of targets that are in their mixture, -1 to 1.
        absent: similarities of targets that are not in their mixture.
        levels_db: level of each present target over the true one, dB.

    Returns:
        ``Calibration(None, None)`` if ``present`` or ``absent`` is empty.

    Example:
        >>> present, absent = [0.2, 0.5, 0.6], [-0.1, 0.0, 0.3]
        >>> presence, gate = fit_calibration(present, absent, levels_db=[-2.0, -2.0, -2.0])
        >>> presence.probability([0.0, 0.5]).round(2)
        array([0.08, 0.92], dtype=float32)
        >>> gate.decibels([0.0, 0.5]).round(1)
        array([-20. ,   2.1])
    """
    if not present or not absent:
        return Calibration(None, None)
    presence = fit_presence(present, absent)
    return Calibration(presence, fit_gate(presence, present, levels_db))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Area under the ROC curve: how often a positive has a higher score than a negative.

    A tie counts half.

    Args:
        positive, negative: scores, at least one of each.

    Example:
        >>> auroc([0.9, 0.4], [0.1, 0.4])
        0.875
    """
    scores = np.concatenate([positive, negative])
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    total = float(middle[ranks][: len(positive)].sum())
    pairs = len(positive) * len(negative)
    return (total - len(positive) * (len(positive) + 1) / 2) / pairs


def fit_presence(
    present: Sequence[float], absent: Sequence[float], num_steps: int = 50
) -> PresenceCalibration:
    """Fit Platt's scaling ("Probabilistic outputs for support vector machines", 1999).

    The scale and the bias minimise the cross-entropy, by Newton's method. Present and absent
    sounds have the same total weight, whatever their numbers. A weak prior keeps the scale finite
    where the two can be told apart without an error.

    Args:
        present, absent: similarities, at least one of each.
        num_steps: of Newton's method.

    Example:
        >>> presence = fit_presence([0.2, 0.5, 0.6], [-0.1, 0.0, 0.3])
        >>> presence.probability([0.0, 0.25, 0.5]).round(2)
        array([0.08, 0.5 , 0.92], dtype=float32)
    """
    values = np.concatenate([present, absent]).astype(np.float64)
    is_present, weight = _balanced(len(present), len(absent))
    middle, spread = values.mean(), max(float(values.std()), 1e-6)
    inputs = np.stack([(values - middle) / spread, np.ones_like(values)], 1)
    solution = np.zeros(2)
    for _ in range(num_steps):
        probability = 0.5 + 0.5 * np.tanh(0.5 * inputs @ solution)
        slope = inputs.T @ (weight * (probability - is_present)) + PRIOR * solution
        curve = inputs.T @ (inputs * (weight * probability * (1 - probability))[:, None])
        step = np.linalg.solve(curve + PRIOR * np.eye(2), slope)
        solution = solution - step / max(1.0, float(np.abs(step).max()))
    scale = float(solution[0]) / spread
    return PresenceCalibration(scale=scale, bias=float(solution[1]) - scale * float(middle))


def fit_gate(
    presence: PresenceCalibration, similarity: Sequence[float], levels_db: Sequence[float]
) -> Gate | None:
    """Fit the gate that attenuates targets that are probably absent.

    It closes and opens at the similarities whose probabilities are ``CLOSED`` and ``OPEN``. Its
    gain is the one of ``GAINS_DB`` that brings the targets for which it is open nearest to their
    true level.

    Args:
        presence: from similarity to probability.
        similarity: of targets that are in their mixture.
        levels_db: level of each of these targets over the true one; NaN for silent ones.

    Returns:
        None where a higher similarity is not a higher probability, or where no target is similar
        enough to open the gate.

    Example:
        >>> presence = fit_presence([0.2, 0.5, 0.6], [-0.1, 0.0, 0.3])
        >>> gate = fit_gate(presence, [0.5, 0.6], [-2.0, -2.0])
        >>> round(gate.low, 2), round(gate.high, 2), gate.gain_db
        (0.16, 0.21, 3.25)
    """
    if presence.scale <= 0:
        return None
    low, high = (
        (float(np.log(p / (1 - p))) - presence.bias) / presence.scale for p in (CLOSED, OPEN)
    )
    if high >= HIGHEST:
        return None
    is_open = (np.asarray(similarity) >= high) & np.isfinite(levels_db)
    if not is_open.any():
        return None
    open_similarity, open_db = np.asarray(similarity)[is_open], np.asarray(levels_db)[is_open]
    gates = [Gate(low=low, high=high, floor_db=FLOOR_DB, gain_db=gain) for gain in GAINS_DB]
    # An error above this bound is a failed separation, which no gain can correct.
    bound_db = 2 * LEVEL_TOLERANCE_DB
    errors = [
        np.minimum(np.abs(open_db + gate.decibels(open_similarity)), bound_db).mean()
        for gate in gates
    ]
    return gates[int(np.argmin(errors))]


def calibration_error(
    present: Sequence[float], absent: Sequence[float], num_bins: int = 10
) -> float:
    """Expected calibration error: how far probabilities are from the share of present sounds.

    The error of a bin is the distance between its mean probability and its share of present
    sounds. Bins are equally wide, and count by their weight. Present and absent sounds have the
    same total weight.

    Args:
        present, absent: probabilities of presence, 0 to 1, at least one of each.
        num_bins: between 0 and 1.

    Returns:
        From 0, perfectly calibrated, to 1.

    Example:
        >>> calibration_error([1.0, 1.0], [0.0])
        0.0
        >>> calibration_error([1.0, 1.0], [1.0])
        0.5
    """
    probability = np.concatenate([present, absent])
    is_present, weight = _balanced(len(present), len(absent))
    which = np.minimum((probability * num_bins).astype(int), num_bins - 1)
    errors = np.bincount(which, weight * (probability - is_present), minlength=num_bins)
    return float(np.abs(errors).sum())


def _balanced(num_present: int, num_absent: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """1 for present and 0 for absent sounds, and weights that sum to a half for each kind."""
    counts = [num_present, num_absent]
    return np.repeat([1.0, 0.0], counts), np.repeat([0.5 / n for n in counts], counts)
