"""Reference estimates, to which every table of results compares a model.

A reference maps a mixture and its target to an estimate. Both are floating-point waveforms
``[..., samples]`` of equal shape. The estimate has that shape and the dtype of the mixture, and
shares no memory with them. A reference raises `InputError` as `singleout.evaluate.metrics` does.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from singleout.evaluate.metrics import checked

Reference = Callable[[Tensor, Tensor], Tensor]

WINDOW_SAMPLES = 2048
HOP_SAMPLES = 512


def zeros(mixture: Tensor, target: Tensor) -> Tensor:
    """Silence: the estimate of a system that extracts nothing.

    Example:
        >>> zeros(torch.ones(3), torch.ones(3))
        tensor([0., 0., 0.])
    """
    checked(mixture=mixture, target=target)
    return torch.zeros_like(mixture)


def unprocessed(mixture: Tensor, target: Tensor) -> Tensor:
    """The mixture itself: every improvement is 0 dB.

    Example:
        >>> unprocessed(torch.ones(3), torch.zeros(3))
        tensor([1., 1., 1.])
    """
    checked(mixture=mixture, target=target)
    return mixture.clone()


def half_mixture(mixture: Tensor, target: Tensor) -> Tensor:
    """The mixture at half amplitude: extracts nothing, yet earns SDRi.

    For a target and an uncorrelated rest of powers S and N, SDRi = 10·log10(4N/(S + N)): 3.0 dB at
    an SNR of 0 dB, 2.8 dB on average over SNRs uniform in ±5 dB, 2.2 dB over ±10 dB. Its SI-SDRi
    is 0 dB.

    Example:
        >>> half_mixture(torch.ones(3), torch.zeros(3))
        tensor([0.5000, 0.5000, 0.5000])
    """
    checked(mixture=mixture, target=target)
    return mixture / 2


def oracle_mask(mixture: Tensor, target: Tensor) -> Tensor:
    """The ideal ratio mask |S|/(|S| + |N|) applied to the mixture, where N = mixture - target.

    Short-time Fourier transform of 2048 samples, hop 512, periodic square-root Hann at analysis
    and synthesis, zeros beyond both ends. The phase is that of the mixture, so this is a strong
    reference and not an upper bound.

    Example:
        >>> from singleout.evaluate.metrics import sdr_improvement
        >>> target = torch.sin(0.1 * torch.arange(8_000.0))
        >>> mixture = target + torch.randn(8_000, generator=torch.Generator().manual_seed(0))
        >>> bool(sdr_improvement(oracle_mask(mixture, target), target, mixture) > 10)
        True
    """
    waveforms = checked(mixture=mixture, target=target)
    if mixture.numel() == 0:  # a batch of no waveforms, which the transform refuses
        return mixture.clone()
    mixture_spectrum, target_spectrum = map(_spectrum, waveforms)
    target_magnitude = target_spectrum.abs()
    magnitudes = target_magnitude + (mixture_spectrum - target_spectrum).abs()
    mask = target_magnitude / magnitudes.clamp(min=torch.finfo(magnitudes.dtype).tiny)
    estimate = torch.istft(
        mask * mixture_spectrum,
        WINDOW_SAMPLES,
        HOP_SAMPLES,
        window=_window(mixture.device),
        length=mixture.shape[-1],
    )
    return estimate.reshape(mixture.shape).to(mixture.dtype)


def _spectrum(waveform: Tensor) -> Tensor:
    """``[..., samples]`` to ``[items, frequencies, frames]``, complex."""
    return torch.stft(
        waveform.reshape(-1, waveform.shape[-1]),
        WINDOW_SAMPLES,
        HOP_SAMPLES,
        window=_window(waveform.device),
        pad_mode="constant",
        return_complex=True,
    )


def _window(device: torch.device) -> Tensor:
    return torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64, device=device).sqrt()


REFERENCES: Mapping[str, Reference] = MappingProxyType(
    {
        "zeros": zeros,
        "mixture": unprocessed,
        "half_mixture": half_mixture,
        "oracle_mask": oracle_mask,
    }
)
"""The reference rows of a table, by name, in the order of the table."""
