"""Fixtures of all recipes."""

from __future__ import annotations

from functools import partial

import pytest

from recipes.paper import claims
from singleout.evaluate import statistics

NUM_RESAMPLES = 200


@pytest.fixture(autouse=True)
def few_calibration_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are calibrated on 8 mixtures: the default takes longer than the training of a test."""
    monkeypatch.setattr("singleout.train.run.MIN_CALIBRATION_MIXTURES", 8)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of 200 bootstrap resamples: the default of 2,000 takes most of a test's time."""
    quick = partial(statistics.bootstrap_interval, num_resamples=NUM_RESAMPLES)
    for module in (statistics, claims):
        monkeypatch.setattr(module, "bootstrap_interval", quick)
