"""Losses of an estimate against its target."""

from __future__ import annotations

import torch
from torch import Tensor

from singleout.audio.silence import SILENT_ENERGY

CEILING = 1e-3
"""Errors 30 dB below the target earn no further reward."""
SILENCE_CEILING = 1e-3
"""Of an absent target: an estimate 30 dB below the mixture is good enough for the loss. It is not a
limit of silence (``audio.silence``)."""


def negative_snr_db(estimate: Tensor, target: Tensor) -> Tensor:
    """Soft-thresholded negative SNR in dB: -30 for a perfect estimate, 0 for silence.

    10 log10((|s - e|^2 + 0.001 |s|^2) / |s|^2), after Wisdom et al., "Unsupervised sound
    separation using mixture invariant training", 2020.

    Args:
        estimate, target: [..., samples].

    Returns:
        One value per item, [...].

    Example:
        >>> import torch
        >>> target = torch.randn(2, 1_000)
        >>> negative_snr_db(target, target).round().tolist()
        [-30.0, -30.0]
    """
    power = target.square().sum(-1) + 1e-7
    error = (target - estimate).square().sum(-1)
    return 10 * ((error + CEILING * power) / power).log10()


def negative_si_sdr_db(estimate: Tensor, target: Tensor) -> Tensor:
    """Soft-thresholded negative SI-SDR in dB, between -27 and 30. The level does not count.

    With the squared cosine r of estimate and target, it is
    10 log10((1 - r + 0.001 r) / (r + 0.001 (1 - r))). SI-SDR is from Le Roux et al., "SDR -
    half-baked or well done?", 2019; the lower threshold is that of ``negative_snr_db``. The upper
    threshold is ours. Without it, an estimate that has nothing of its target would outweigh all
    others. An estimate 30 dB below the target also counts as such, because a small step changes its
    direction entirely.

    Args:
        estimate, target: [..., samples].

    Returns:
        One value per item, [...].

    Example:
        >>> import torch
        >>> target = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
        >>> error = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
        >>> negative_si_sdr_db(5 * (target + 0.1 * error), target).round().tolist()
        [-20.0]
    """
    power = target.square().sum(-1) + 1e-7
    estimate_power = estimate.square().sum(-1) + CEILING * power
    correct = (estimate * target).sum(-1).square() / (estimate_power * power)
    wrong = 1 - correct
    return 10 * ((wrong + CEILING * correct) / (correct + CEILING * wrong)).log10()


def separation_loss_db(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """``negative_snr_db``; for a silent target, the level of the estimate relative to the mixture.

    10 log10((|e|^2 + 0.001 |x|^2) / |x|^2), after Wisdom et al., "What's all the fuss about free
    universal sound separation data?", 2021. Both parts are -30 dB at best. They are 0 dB for the
    trivial output: silence for a target, the mixture for a silent target.

    Args:
        estimate, target, mixture: [..., samples].

    Returns:
        One value per item, [...].

    Example:
        >>> import torch
        >>> mixture, silence = torch.randn(1, 1_000), torch.zeros(1, 1_000)
        >>> separation_loss_db(0.1 * mixture, silence, mixture).round().tolist()
        [-20.0]
    """
    power = mixture.square().sum(-1) + SILENT_ENERGY
    residual = estimate.square().sum(-1)
    silence = 10 * ((residual + SILENCE_CEILING * power) / power).log10()
    is_silent = target.square().sum(-1) < SILENT_ENERGY
    return torch.where(is_silent, silence, negative_snr_db(estimate, target))
