"""Fixtures of all recipes."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def few_calibration_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are calibrated on 8 mixtures: the default takes longer than the training of a test."""
    monkeypatch.setattr("singleout.train.run.MIN_CALIBRATION_MIXTURES", 8)
