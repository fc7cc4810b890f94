"""Fits of presence and gate to similarities, against known distributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singleout.model.calibration import (
    Calibration,
    auroc,
    calibration_error,
    fit_calibration,
    fit_gate,
    fit_presence,
)
from singleout.model.level_gate import Gate
from singleout.model.similarity import PresenceCalibration

scores = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


@settings(deadline=None, max_examples=50)
@given(scores, scores)
def test_auroc_is_the_share_of_ordered_pairs(positive: list[int], negative: list[int]) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in positive for b in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))
    assert auroc(negative, positive) == pytest.approx(1 - np.mean(pairs))


def test_presence_is_the_posterior_of_two_gaussians() -> None:
    """The numbers of present and absent sounds make no difference."""
    rng = np.random.default_rng(0)
    present, absent = rng.normal(2, 1.5, 4_000), rng.normal(-1, 1.5, 9_000)
    # Two Gaussians of one width: the log-odds are (2 - -1) / 1.5² x - (2² - 1²) / (2 · 1.5²).
    fitted = fit_presence(present.tolist(), absent.tolist())
    assert fitted.scale == pytest.approx(3 / 2.25, rel=0.06)
    assert fitted.bias == pytest.approx(-3 / 4.5, abs=0.06)
    probabilities = fitted.probability(present).tolist(), fitted.probability(absent).tolist()
    assert calibration_error(*probabilities) < 0.02
    shifted = fit_presence((10 * present + 3).tolist(), (10 * absent + 3).tolist())
    assert shifted.scale == pytest.approx(fitted.scale / 10, rel=1e-3)
    certain = [1.0] * len(present), [1.0] * len(absent)
    assert calibration_error(*certain) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("present", "absent"),
    [([1.0, 2.0], [-1.0, -2.0]), ([1.0], [1.0]), ([0.0, 0.0], [5.0])],
    ids=["separable", "equal", "reversed"],
)
def test_presence_stays_finite(present: list[float], absent: list[float]) -> None:
    fitted = fit_presence(present, absent)
    assert np.isfinite([fitted.scale, fitted.bias]).all()
    sides = [float(fitted.probability(np.mean(side))) for side in (present, absent)]
    assert sides[0] >= sides[1]
    assert np.mean(sides) == pytest.approx(0.5, abs=0.05)


def test_a_calibration_needs_present_and_absent_sounds() -> None:
    present, absent, levels_db = [0.5, 0.6], [0.0, 0.1], [-1.0, -2.0]
    fitted = fit_calibration(present, absent, levels_db)
    assert fitted.presence == fit_presence(present, absent)
    assert fitted.presence is not None
    assert fitted.gate == fit_gate(fitted.presence, present, levels_db)
    assert fit_calibration([], absent, []) == Calibration(None, None)
    assert fit_calibration(present, [], levels_db) == Calibration(None, None)


def levels_of(similarity: Sequence[float], gain_db: float, high: float) -> list[float]:
    """Levels (dB) of targets for which a gate of that gain restores the level of the sound."""
    gate = Gate(low=high - 0.1, high=high, floor_db=-20, gain_db=gain_db)
    return [-float(gate.decibels(value)) for value in similarity]


def test_a_gate_is_fitted_to_presence_and_level() -> None:
    presence = PresenceCalibration(scale=4.0, bias=-1.0)
    similarity = np.linspace(0.2, 0.9, 50).tolist()
    levels = levels_of(similarity, 4.5, 0.15)
    levels[10:20] = [level - 30 for level in levels[10:20]]  # failures
    # Targets for which the gate is closed do not count.
    gate = fit_gate(presence, [*similarity, *[-0.5] * 80], [*levels, *[-12.0] * 80])
    assert gate is not None
    edges = presence.probability([gate.low, gate.high])
    assert edges.tolist() == pytest.approx([0.3, 0.4], abs=1e-6)
    assert gate.gain_db == pytest.approx(4.5, abs=0.25)
    assert gate.floor_db == -20


@pytest.mark.parametrize(("scale", "bias"), [(0.0, 0.0), (-3.0, 0.0), (3.0, -4.0), (3.0, -3.0)])
def test_no_gate_is_fitted_where_similarity_does_not_separate(scale: float, bias: float) -> None:
    """The last two gates would open above 1, or above every measured similarity."""
    assert fit_gate(PresenceCalibration(scale=scale, bias=bias), [0.5], [0.0]) is None
