"""Losses of an estimate against its target."""

from __future__ import annotations

from torch import Tensor

CEILING = 1e-3
"""Errors 30 dB below the target are no longer rewarded."""


def negative_snr_db(estimate: Tensor, target: Tensor) -> Tensor:
    """Soft-thresholded negative SNR in dB of [..., samples], one value per item.

    -10 log10(|s|^2 / (|s - e|^2 + 0.001 |s|^2)), after Wisdom et al., "Unsupervised sound
    separation using mixture invariant training", 2020.
    """
    power = target.square().sum(-1) + 1e-7
    error = (target - estimate).square().sum(-1)
    return 10 * ((error + CEILING * power) / power).log10()
