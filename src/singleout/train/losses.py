"""Losses of an estimate against its target."""

from __future__ import annotations

import torch
from torch import Tensor

CEILING = 1e-3
"""Errors 30 dB below the target are no longer rewarded."""
SILENCE_CEILING = 1e-3
"""What is left where nothing should be: 30 dB below the mixture is as good as silence."""
SILENT_POWER = 1e-7
"""Of a whole item: there is no target below it."""


def negative_snr_db(estimate: Tensor, target: Tensor) -> Tensor:
    """Soft-thresholded negative SNR in dB of [..., samples], one value per item.

    -10 log10(|s|^2 / (|s - e|^2 + 0.001 |s|^2)), after Wisdom et al., "Unsupervised sound
    separation using mixture invariant training", 2020.
    """
    power = target.square().sum(-1) + 1e-7
    error = (target - estimate).square().sum(-1)
    return 10 * ((error + CEILING * power) / power).log10()


def negative_si_sdr_db(estimate: Tensor, target: Tensor) -> Tensor:
    """Negative SI-SDR in dB of [..., samples], one value per item, between -27 and 30.

    With the squared cosine r of the two, 10 log10((1 - r + 0.001 r) / (r + 0.001 (1 - r))):
    thresholded as ``negative_snr_db``, and likewise where an estimate has nothing of the target,
    which would else outweigh all others. An estimate 30 dB below the target counts as none: there a
    small step turns it anywhere.
    """
    power = target.square().sum(-1) + 1e-7
    size = estimate.square().sum(-1) + CEILING * power
    right = (estimate * target).sum(-1).square() / (size * power)
    wrong = 1 - right
    return 10 * ((wrong + CEILING * right) / (right + CEILING * wrong)).log10()


def separation_loss_db(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """``negative_snr_db`` of a target; where it is silence, the level of what is left.

    10 log10((|e|^2 + 0.001 |x|^2) / |x|^2), after Wisdom et al., "What's all the fuss about free
    universal sound separation data?", 2021. Both are 0 dB for an output that does nothing right,
    and -30 dB at best.

    Args:
        estimate, target, mixture: [..., samples].

    Returns:
        One value per item.
    """
    power = mixture.square().sum(-1) + SILENT_POWER
    left = estimate.square().sum(-1)
    silence = 10 * ((left + SILENCE_CEILING * power) / power).log10()
    is_silent = target.square().sum(-1) < SILENT_POWER
    return torch.where(is_silent, silence, negative_snr_db(estimate, target))
