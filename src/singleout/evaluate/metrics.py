"""How close an estimate is to its target, one score per waveform.

Waveforms are floating-point tensors ``[..., samples]`` of equal shape, full scale ±1. Scores are
float64 tensors ``[...]``, unreduced, in dB. The arithmetic is float64 whatever the input (move
tensors to the CPU first on devices without it). Nothing is clipped, rescaled or broadcast. Every
function raises `InputError` (a `ValueError`) when shapes differ, when there are no samples, or when
a waveform is not floating-point or not finite; a batch of no waveforms gives no scores.

Two scores are called "SDR" in the field. `sdr` is the plain signal-to-noise ratio of AudioSep and
DCASE 2024 Task 9, not the 512-tap BSS-eval SDR of CLAPSep (`singleout.evaluate.bss_eval`): never
compare the two.

An absent (all-zero) target has no direction to project on, so its SI-SDR is NaN and it is never
improved. Leave such items out of SI-SDR statistics; judge them by `Scores.is_silent`, by
`suppression` and by `sa_sdr`, which scores absent and present targets alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from singleout.audio.silence import SILENT_BELOW_MIXTURE_DB
from singleout.errors import InputError

POWER_FLOOR = 1e-10
"""Mean square (-100 dB re full scale) below which `sdr` sees none, as in AudioSep and DCASE."""

SILENT_SI_SDR_DB = -30.0
"""Silence rule: the SI-SDR of a silent estimate when the target is present."""

SUPPRESSION_CAP_DB = 100.0
"""`suppression` of an estimate this far below the mixture or further, such as an all-zero one."""

IMPROVEMENT_MARGIN_DB = 1e-6
"""A rescaled mixture ties with the mixture; rounding must not turn the tie into an improvement."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a batch, each a tensor ``[...]``: the waveforms' shape without its last axis.

    Attributes:
        sdr: plain SNR in dB, see `sdr`.
        sdr_improvement: in dB, see `sdr_improvement`.
        si_sdr: in dB, after the silence rule; NaN where the target is absent.
        si_sdr_improvement: that `si_sdr` minus the mixture's, in dB; NaN where it is NaN.
        is_present: whether the target has any energy.
        is_silent: whether the estimate is silent, see `is_silent`.
        improved: SI-SDR improvement above zero (by `IMPROVEMENT_MARGIN_DB`) and not silent.

    Example:
        >>> target = torch.tensor([[0.1, -0.1], [0.0, 0.0]])  # the second target is absent
        >>> scores = score(0.5 * target, target, target + 0.1)
        >>> scores.is_present.tolist(), scores.improved.tolist()
        ([True, False], [True, False])
    """

    sdr: Tensor
    sdr_improvement: Tensor
    si_sdr: Tensor
    si_sdr_improvement: Tensor
    is_present: Tensor
    is_silent: Tensor
    improved: Tensor


def sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """Signal-to-distortion ratio in dB: the plain SNR that AudioSep and DCASE report as SDR.

    10·log10(max(mean s², 1e-10) / max(mean (ŝ - s)², 1e-10)). Depends on the estimate's scale.
    A perfect estimate scores the level of the target above -100 dB re full scale.

    Example:
        >>> target = torch.tensor([0.1, -0.1])
        >>> round(float(sdr(0.9 * target, target)), 2)
        20.0
    """
    estimate, target = checked(estimate=estimate, target=target)
    signal, distortion = _power(target), _power(estimate - target)
    return _decibels(signal.clamp(min=POWER_FLOOR), distortion.clamp(min=POWER_FLOOR))


def sdr_improvement(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """SDRi in dB: `sdr` of the estimate minus `sdr` of the mixture.

    Example:
        >>> target = torch.tensor([0.1, -0.1])
        >>> round(float(sdr_improvement(0.9 * target, target, 2 * target)), 2)
        20.0
    """
    return sdr(estimate, target) - sdr(mixture, target)


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, no mean removal; NaN for an absent target.

    10·log10((ε + ‖as‖²)/(ε + ‖ŝ - as‖²)) with a = (ε + ⟨ŝ,s⟩)/(‖s‖² + ε): Le Roux et al., "SDR -
    half-baked or well done?" (2019), with ε where AudioSep has it. Here ε is float64's, AudioSep's
    is float32's: the two part only where an energy is as small as 1e-7. An all-zero estimate
    scores 0 dB, which is why `score` has a silence rule.

    Example:
        >>> target, noise = torch.tensor([0.1, -0.1]), torch.tensor([0.01, 0.01])
        >>> round(float(si_sdr(3 * (target + noise), target)), 2)
        20.0
    """
    estimate, target = checked(estimate=estimate, target=target)
    epsilon = torch.finfo(torch.float64).eps
    energy = target.square().sum(-1)
    scale = (epsilon + (estimate * target).sum(-1)) / (energy + epsilon)
    projection = scale.unsqueeze(-1) * target
    distortion = estimate - projection
    ratio = _decibels(epsilon + projection.square().sum(-1), epsilon + distortion.square().sum(-1))
    return ratio.masked_fill(energy == 0, torch.nan)


def si_sdr_improvement(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """SI-SDRi in dB: `si_sdr` of the estimate minus that of the mixture, without a silence rule.

    Example:
        >>> target, noise = torch.tensor([0.1, -0.1]), torch.tensor([0.1, 0.1])
        >>> mixture, estimate = target + noise, target + 0.1 * noise
        >>> round(float(si_sdr_improvement(estimate, target, mixture)), 2)
        20.0
    """
    return si_sdr(estimate, target) - si_sdr(mixture, target)


def sa_sdr(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """Source-aggregated SDR in dB of target and residual together: defined for silent targets.

    Energies are added over the sources before the ratio is taken (von Neumann et al., "SA-SDR: A
    novel loss function for separation of meeting style data", 2022), here over the two that text
    queries divide a mixture x into: s and x - s, estimated by ŝ and x - ŝ. Both have the same
    error, so it is 10·log10((‖s‖² + ‖x - s‖²)/(2·‖ŝ - s‖²)), with mean squares floored as in `sdr`.
    For an absent target it is `suppression` - 3.01 dB; the mixture as estimate then scores
    -3.01 dB. It depends on the estimate's scale.

    Example:
        >>> mixture = torch.tensor([0.1, -0.1])
        >>> round(float(sa_sdr(0.1 * mixture, torch.zeros(2), mixture)), 2)  # an absent target
        16.99
    """
    estimate, target, mixture = checked(estimate=estimate, target=target, mixture=mixture)
    signal = _power(target) + _power(mixture - target)
    distortion = 2 * _power(estimate - target)
    return _decibels(signal.clamp(min=POWER_FLOOR), distortion.clamp(min=POWER_FLOOR))


def suppression(estimate: Tensor, mixture: Tensor) -> Tensor:
    """How far the estimate is below the mixture, in dB: the score for absent targets.

    10·log10(mean x² / mean ŝ²), at most 100 dB (an all-zero estimate), negative when the estimate
    is louder; NaN for an all-zero mixture, of which nothing can be suppressed.

    Example:
        >>> mixture = torch.tensor([0.1, -0.1])
        >>> round(float(suppression(0.1 * mixture, mixture)), 2)
        20.0
    """
    estimate, mixture = checked(estimate=estimate, mixture=mixture)
    power = _power(mixture)
    floor = power * 10 ** (-SUPPRESSION_CAP_DB / 10)
    ratio = _decibels(power, torch.maximum(_power(estimate), floor))
    return ratio.masked_fill(power == 0, torch.nan)


def is_silent(estimate: Tensor, mixture: Tensor) -> Tensor:
    """Whether the estimate's energy is zero or more than 40 dB below the mixture's, ``[...]``.

    Example:
        >>> mixture = torch.tensor([0.1, -0.1])
        >>> bool(is_silent(0.1 * mixture, mixture)), bool(is_silent(0.001 * mixture, mixture))
        (False, True)
    """
    estimate, mixture = checked(estimate=estimate, mixture=mixture)
    threshold = _power(mixture) * 10 ** (-SILENT_BELOW_MIXTURE_DB / 10)
    return (_power(estimate) < threshold) | (_power(estimate) == 0)


def score(estimate: Tensor, target: Tensor, mixture: Tensor) -> Scores:
    """All scores of an estimate, with the silence rule applied to SI-SDR.

    The rule: a silent estimate of a present target has an SI-SDR of -30 dB and never counts as
    improved. Without it silence earns about 0 dB, more than a clean extraction of the wrong source
    (about -20 dB). SDR stays as published.

    Example:
        >>> target, noise = torch.tensor([0.1, -0.1]), torch.tensor([0.1, 0.1])
        >>> scores = score(target + 0.1 * noise, target, target + noise)
        >>> round(float(scores.si_sdr_improvement), 2), bool(scores.improved)
        (20.0, True)
    """
    estimate, target, mixture = checked(estimate=estimate, target=target, mixture=mixture)
    present = (target != 0).any(-1)
    silent = is_silent(estimate, mixture)
    ruled_si_sdr = si_sdr(estimate, target).masked_fill(silent & present, SILENT_SI_SDR_DB)
    improvement = ruled_si_sdr - si_sdr(mixture, target)
    return Scores(
        sdr=sdr(estimate, target),
        sdr_improvement=sdr_improvement(estimate, target, mixture),
        si_sdr=ruled_si_sdr,
        si_sdr_improvement=improvement,
        is_present=present,
        is_silent=silent,
        improved=(improvement > IMPROVEMENT_MARGIN_DB) & ~silent,
    )


def checked(**waveforms: Tensor) -> list[Tensor]:
    """The waveforms ``[..., samples]`` as float64, in order.

    Raises:
        InputError: they cannot be compared; see the module.

    Example:
        >>> estimate, target = checked(estimate=torch.zeros(3), target=torch.ones(3))
        >>> estimate.dtype
        torch.float64
    """
    shapes = {name: tuple(waveform.shape) for name, waveform in waveforms.items()}
    if len(set(shapes.values())) > 1:
        described = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InputError(f"waveforms must have the same shape [..., samples], got {described}")
    for name, waveform in waveforms.items():
        if not waveform.is_floating_point():
            raise InputError(f"{name} must be a floating-point waveform, got {waveform.dtype}")
        if waveform.ndim == 0 or waveform.shape[-1] == 0:
            raise InputError(f"{name} has no samples, its shape is {list(waveform.shape)}")
        if not waveform.isfinite().all():
            raise InputError(f"{name} holds NaN or infinite samples")
    return [waveform.double() for waveform in waveforms.values()]


def _power(waveform: Tensor) -> Tensor:
    return waveform.square().mean(-1)


def _decibels(numerator: Tensor, denominator: Tensor) -> Tensor:
    return 10 * torch.log10(numerator / denominator)
