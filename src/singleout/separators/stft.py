"""Spectra of mixtures. A chunk of a recording has the same frames as the whole recording."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MixtureStft(nn.Module):
    """Short-time Fourier transform of mixtures, and its inverse.

    Both apply the square root of a Hann window. The mixture is padded with zeros, so that every
    sample lies in as many frames as in an endless signal. So a chunk with enough context has the
    same result as the same part of the whole recording.

    Args:
        num_fft: length of a frame in samples, a multiple of two hops.
        hop: samples from one frame to the next.
        frames_multiple: the number of frames is a multiple of this.

    Example:
        >>> import torch
        >>> stft, mixture = MixtureStft(num_fft=256, hop=64), torch.randn(1, 2, 1_000)
        >>> spectrum = stft(mixture)
        >>> spectrum.shape
        torch.Size([1, 2, 129, 19])
        >>> torch.allclose(stft.inverse(spectrum, 1_000), mixture, atol=1e-5)
        True
    """

    window: Tensor

    def __init__(self, num_fft: int, hop: int, frames_multiple: int = 1) -> None:
        super().__init__()
        self.num_fft, self.hop, self.frames_multiple = num_fft, hop, frames_multiple
        # It is on the CPU even if the network is built on the meta device: no file holds it.
        window = torch.hann_window(num_fft, device="cpu").sqrt()
        self.register_buffer("window", window, persistent=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """Compute the spectra of mixtures.

        Args:
            mixture: float32 [batch, channels, samples].

        Returns:
            complex64 [batch, channels, bins, frames].
        """
        channels, num_samples = mixture.shape[1:]
        left = self.num_fft - self.hop
        num_frames = (num_samples - 1 + left) // self.hop + 1
        num_frames = -(-num_frames // self.frames_multiple) * self.frames_multiple
        right = (num_frames - 1) * self.hop + self.num_fft - left - num_samples
        padded = F.pad(mixture.flatten(0, 1), (left, right))
        spectra = torch.stft(
            padded, self.num_fft, self.hop, window=self.window, center=False, return_complex=True
        )
        return spectra.view(-1, channels, *spectra.shape[1:])

    def inverse(self, spectrum: Tensor, num_samples: int) -> Tensor:
        """Compute the waveforms of spectra by overlap-add.

        Shifted blocks of one hop are added, which is far cheaper than ``fold``.

        Args:
            spectrum: complex64 [batch, channels, bins, frames].
            num_samples: length of the waveforms.

        Returns:
            float32 [batch, channels, samples].
        """
        channels = spectrum.shape[1]
        spectrum = spectrum.flatten(0, 1)
        frames = torch.fft.irfft(spectrum, self.num_fft, dim=1) * self.window[:, None]
        overlap = self.num_fft // self.hop
        blocks = frames.transpose(1, 2).unflatten(-1, (overlap, self.hop))
        shifted = [F.pad(blocks[:, :, k], (0, 0, k, overlap - 1 - k)) for k in range(overlap)]
        signal = torch.stack(shifted).sum(0).flatten(1)
        start = self.num_fft - self.hop
        gain = self.window.square().sum() / self.hop
        return (signal[:, start : start + num_samples] / gain).view(-1, channels, num_samples)

    def masked(self, spectrum: Tensor, maps: Tensor, num_samples: int) -> Tensor:
        """Apply a complex mask to a spectrum, and compute the waveforms.

        The magnitude of the mask is below one. The mask is zero in the top bin.

        Args:
            spectrum: complex64 [batch, channels, bins, frames].
            maps: float32 [queries * batch, 2, bins - 1, frames], the real and the imaginary part of
                the mask before its magnitude is bounded.
            num_samples: length of the mixture.

        Returns:
            Targets, [queries * batch, channels, samples].
        """
        real, imaginary = maps[:, 0], maps[:, 1]
        norm = (real.square() + imaginary.square() + 1e-8).sqrt()
        gain = torch.tanh(norm) / norm
        mask = F.pad(torch.complex(real * gain, imaginary * gain), (0, 0, 0, 1))
        repeated = for_each_query(spectrum, len(maps) // len(spectrum))
        return self.inverse(repeated * mask.unsqueeze(1), num_samples)


def compressed(spectrum: Tensor) -> Tensor:
    """Compress a spectrum into three maps of about unit variance, the input of a network.

    The first two are the real and the imaginary part of the spectrum, with its magnitude raised to
    the power 0.3. The third is the logarithm of the magnitude.

    Args:
        spectrum: complex64 [batch, bins, frames].

    Returns:
        float32 [batch, 3, bins, frames].

    Example:
        >>> import torch
        >>> compressed(torch.ones(1, 1, 1, dtype=torch.complex64)).flatten()
        tensor([1.0000, 0.0000, 0.5000])
    """
    magnitude = spectrum.abs().clamp_min(1e-5)
    phase = spectrum / magnitude
    weak = magnitude.pow(0.3)
    return torch.stack([weak * phase.real, weak * phase.imag, magnitude.log() / 4 + 0.5], 1)


def for_each_query(x: Tensor, num_queries: int) -> Tensor:
    """Repeat features [batch, ...] along the batch, once for each query.

    Example:
        >>> import torch
        >>> for_each_query(torch.tensor([1, 2]), num_queries=2)
        tensor([1, 2, 1, 2])
    """
    # Unlike repeat, cat keeps the memory layout channels_last.
    return x if num_queries == 1 else torch.cat([x] * num_queries)
