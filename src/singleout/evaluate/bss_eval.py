"""The SDR of BSS eval, which allows any short filter of the target.

CLAPSep and many music and speech papers call it SDR. It is never below the scale-invariant SDR of
the same pair, except for rounding, and often far above it. Never compare it with
`singleout.evaluate.metrics.sdr`, the SDR of AudioSep and DCASE 2024 Task 9.
"""

from __future__ import annotations

import torch
from torch import Tensor

from singleout.evaluate.metrics import checked

NUM_TAPS = 512
"""Length of the filter, as in BSS eval 3 and everywhere since."""

DIAGONAL_LOAD = 1e-12
"""Added to the normalised autocorrelation: white noise 120 dB below the target. A target without
energy in some band, such as a tone, would otherwise make the equations singular."""

COHERENCE_MARGIN = 1e-10
"""Scores lie within ±100 dB; beyond, rounding decides."""


def bss_eval_sdr(estimate: Tensor, target: Tensor, num_taps: int = NUM_TAPS) -> Tensor:
    """BSS-eval SDR in dB of waveforms ``[..., samples]``, ``[...]``; NaN for an absent target.

    10·log10(‖Pŝ‖²/‖ŝ - Pŝ‖²), where P projects on the target delayed by 0 … 511 samples, with
    zeros beyond both ends and no mean removal: Vincent, Gribonval and Févotte, "Performance
    measurement in blind audio source separation" (2006), as computed by ``bss_eval_sources`` of
    BSS eval 3. Other sources do not enter the SDR, so they are not needed. With c = ⟨Pŝ,ŝ⟩/‖ŝ‖²
    it is 10·log10(c/(1 - c)); correlations by FFT, one system of 512 equations per item
    (Scheibler, "SDR - medium rare with fast computations", 2022). An all-zero estimate has
    nothing to project and scores -100 dB.

    Args:
        estimate, target: floating-point waveforms of equal shape.
        num_taps: length of the filter, samples.

    Raises:
        InputError: as in `singleout.evaluate.metrics`.

    Example:
        >>> target = torch.randn(4_000, generator=torch.Generator().manual_seed(0))
        >>> delayed = torch.cat([torch.zeros(5), target[:-5]])
        >>> bool(bss_eval_sdr(delayed, target) > 20)  # a filter of 6 taps is no distortion
        True
    """
    estimate, target = checked(estimate=estimate, target=target)
    shape = target.shape[:-1]
    if not estimate.numel():  # a batch of no waveforms, which the transform refuses
        return torch.zeros(shape, dtype=torch.float64)
    estimate, target = (w.reshape(-1, w.shape[-1]) for w in (estimate, target))
    # Scaled to unit energy, the load and the margin mean the same at any level.
    present = (target != 0).any(-1)
    estimate, target = _unit(estimate), _unit(target)
    # A power of two, because the transform is slow at lengths with large prime factors.
    num_points = 1 << (target.shape[-1] + num_taps - 2).bit_length()
    spectrum = torch.fft.rfft(target, num_points)
    auto = torch.fft.irfft(spectrum.abs().square(), num_points)[:, :num_taps]
    cross_spectrum = spectrum.conj() * torch.fft.rfft(estimate, num_points)
    cross = torch.fft.irfft(cross_spectrum, num_points)[:, :num_taps]
    auto[:, 0] = auto[:, 0] * (1 + DIAGONAL_LOAD) + (~present)  # no target: any regular matrix
    delays = torch.arange(num_taps, device=target.device)
    toeplitz = auto[:, (delays[:, None] - delays).abs()]
    # Positive definite by its load, so that no pivots are needed: in a process that has trained
    # with one thread, MKL's batched LU has been seen to return impossible ones.
    taps = torch.cholesky_solve(cross.unsqueeze(-1), torch.linalg.cholesky(toeplitz)).squeeze(-1)
    coherence = (taps * cross).sum(-1).clamp(COHERENCE_MARGIN, 1 - COHERENCE_MARGIN)
    ratio = 10 * torch.log10(coherence / (1 - coherence))
    return ratio.masked_fill(~present, torch.nan).reshape(shape)


def _unit(waveform: Tensor) -> Tensor:
    """Unit energy; zeros stay zeros. By the peak first, so that tiny samples do not underflow."""
    tiny = torch.finfo(torch.float64).tiny
    waveform = waveform / waveform.abs().amax(-1, keepdim=True).clamp(min=tiny)
    norm = waveform.square().sum(-1, keepdim=True).sqrt()
    return waveform / norm.clamp(min=tiny)
