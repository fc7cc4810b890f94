"""Limits of silence agree with each other and with the rooms that use them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from singleout.audio import silence
from singleout.evaluate.metrics import is_silent
from singleout.manipulations.audio import Mixup
from singleout.model import level_gate
from singleout.train.losses import separation_loss_db


def test_the_limits_are_as_published_models_have_them() -> None:
    """A new value would change results of saved models: it needs a decision, not a slip."""
    assert silence.SILENT_RMS == 1e-5
    assert silence.MIN_AMPLIFIED_RMS == 1e-6
    assert silence.SILENT_ENERGY == 1e-7
    assert silence.SILENT_WINDOW_RATIO == 1e-3
    assert silence.SILENT_BELOW_MIXTURE_DB == 40.0


def test_a_closed_gate_is_still_an_answer() -> None:
    """The metrics must not count a target that the gate lowers as silent."""
    assert level_gate.LOWEST_TARGET_DB > -silence.SILENT_BELOW_MIXTURE_DB
    mixture = torch.ones(1, 100)
    lowest = 10 ** (level_gate.LOWEST_TARGET_DB / 20) * mixture
    assert not is_silent(lowest, mixture)


@pytest.mark.parametrize(("factor", "is_mixed"), [(0.9, False), (1.1, True)])
def test_mixup_amplifies_no_rounding_errors(factor: float, is_mixed: bool) -> None:
    target = np.full(100, 0.1, np.float32)
    other = np.full(100, factor * silence.MIN_AMPLIFIED_RMS, np.float32)
    mixed = Mixup().mixed(target, other, np.random.default_rng(0))
    assert (mixed is not target) == is_mixed


def test_the_loss_of_a_silent_target_is_the_level_of_the_estimate() -> None:
    mixture = torch.full((1, 100), 0.1)
    for factor, is_absent in ((0.9, True), (1.1, False)):
        target = torch.full((1, 100), (factor * silence.SILENT_ENERGY / 100) ** 0.5)
        loss = separation_loss_db(mixture, target, mixture)
        assert (abs(float(loss)) < 0.1) == is_absent
