"""The spectra that our separators mask: frames that chunks share with the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MixtureStft(nn.Module):
    """Short-time Fourier transform of mixtures, and back.

    The window is the root of a Hann, both ways. Every sample lies in as many frames as in an
    endless signal; zeros outside, so that a chunk with enough context equals the same stretch of
    the whole.

    Args:
        num_fft: length of a frame in samples, a multiple of two hops.
        hop: from one frame to the next.
        frames_multiple: the number of frames is one of this.
    """

    window: Tensor

    def __init__(self, num_fft: int, hop: int, frames_multiple: int = 1) -> None:
        super().__init__()
        self.num_fft, self.hop, self.frames_multiple = num_fft, hop, frames_multiple
        # On the CPU even where the weights are built on the meta device to be filled from a file.
        window = torch.hann_window(num_fft, device="cpu").sqrt()
        self.register_buffer("window", window, persistent=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """[batch, channels, samples] to complex [batch, channels, bins, frames]."""
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
        """[batch, channels, bins, frames] to [batch, channels, samples]: windowed overlap-add, as
        sums of shifted blocks of one hop (far cheaper than a fold)."""
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
        """A complex mask of magnitude below one, applied; the top bin is left to the residual.

        Args:
            spectrum: complex [batch, channels, bins, frames].
            maps: float32 [queries * batch, 2, bins - 1, frames], unbounded real and imaginary part.
            num_samples: length of the mixture.

        Returns:
            [queries * batch, channels, samples].
        """
        real, imaginary = maps[:, 0], maps[:, 1]
        norm = (real.square() + imaginary.square() + 1e-8).sqrt()
        gain = torch.tanh(norm) / norm
        mask = F.pad(torch.complex(real * gain, imaginary * gain), (0, 0, 0, 1))
        heard = for_each_query(spectrum, len(maps) // len(spectrum))
        return self.inverse(heard * mask.unsqueeze(1), num_samples)


def compressed(spectrum: Tensor) -> Tensor:
    """Complex [batch, bins, frames] to [batch, 3, bins, frames] of about unit variance: real and
    imaginary part at a magnitude to the power 0.3, and the log-magnitude."""
    magnitude = spectrum.abs().clamp_min(1e-5)
    phase = spectrum / magnitude
    weak = magnitude.pow(0.3)
    return torch.stack([weak * phase.real, weak * phase.imag, magnitude.log() / 4 + 0.5], 1)


def for_each_query(x: Tensor, num_queries: int) -> Tensor:
    """Repeated along the batch; ``cat`` keeps channels_last where ``repeat`` does not."""
    return x if num_queries == 1 else torch.cat([x] * num_queries)
