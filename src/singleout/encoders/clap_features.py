"""CLAP's log-mel features in torch and in batches, equal to those of transformers' processor.

The processor works in NumPy, clip by clip. It takes a random part of a clip that is longer than
the model's input (10 s), so that one sound has many embeddings. Here the part is always the middle,
which the processor may take, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from singleout.errors import ModelError

POWER_FLOOR = 1e-10
"""Lowest power of a mel band before the logarithm: -100 dB."""


@dataclass(frozen=True)
class FeatureSettings:
    """Settings of a checkpoint's ``ClapFeatureExtractor``.

    Args:
        sample_rate: Hz.
        max_samples: length of the model's input.
        num_fft, hop: of the spectrogram, samples.
        num_mels: number of bands.
        min_hz, max_hz: range of the bands, Hz.
        padding: of short clips. ``repeatpad`` repeats whole copies and adds zeros, ``repeat``
            repeats and cuts, any other value adds zeros.
        fused: whether the model is fused. A fused model gets four channels on the HTK mel scale:
            the whole of a long clip and three parts of it. Other models get one part, on Slaney's
            mel scale.

    Example:
        >>> FeatureSettings(48_000, 480_000, 1_024, 480, 64, 50.0, 14_000.0, "repeatpad", False).hop
        480
    """

    sample_rate: int
    max_samples: int
    num_fft: int
    hop: int
    num_mels: int
    min_hz: float
    max_hz: float
    padding: str
    fused: bool

    @classmethod
    def of(cls, extractor: Any) -> FeatureSettings:
        """The settings of a ``ClapFeatureExtractor``.

        Raises:
            ModelError: it cuts clips in a way that no CLAP has.
        """
        if extractor.truncation not in ("fusion", "rand_trunc"):
            raise ModelError(
                f"CLAP preprocessing has the unknown truncation '{extractor.truncation}': it must "
                "be 'fusion' or 'rand_trunc'"
            )
        return cls(
            sample_rate=extractor.sampling_rate,
            max_samples=extractor.nb_max_samples,
            num_fft=extractor.fft_window_size,
            hop=extractor.hop_length,
            num_mels=extractor.feature_size,
            min_hz=float(extractor.frequency_min),
            max_hz=float(extractor.frequency_max),
            padding=extractor.padding,
            fused=extractor.truncation == "fusion",
        )


class ClapFeatures:
    """Computes the input of a ``ClapModel`` from waveforms.

    Args:
        extractor: the ``ClapFeatureExtractor`` of the checkpoint, with its settings and filters.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> filters = np.ones((513, 64))
        >>> features = ClapFeatures(SimpleNamespace(
        ...     truncation="rand_trunc", sampling_rate=48_000, nb_max_samples=9_600,
        ...     fft_window_size=1_024, hop_length=480, feature_size=64, frequency_min=50,
        ...     frequency_max=14_000, padding="repeatpad", mel_filters_slaney=filters,
        ... ))
        >>> log_mel, is_longer = features(torch.randn(2, 4_800))
        >>> log_mel.shape
        torch.Size([2, 1, 21, 64])
    """

    def __init__(self, extractor: Any) -> None:
        self.settings = FeatureSettings.of(extractor)
        filters = extractor.mel_filters if self.settings.fused else extractor.mel_filters_slaney
        self._filters = torch.from_numpy(np.ascontiguousarray(filters, np.float32))
        self._window = torch.hann_window(self.settings.num_fft, dtype=torch.float64)

    def __call__(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """The input of a ``ClapModel``.

        Args:
            waveforms: float32 [clips, samples] at the rate of the settings.

        Returns:
            The log-mel in dB, float32 [clips, 1 or 4, frames, mels], and whether each clip has
            parts to be fused, bool [clips, 1]. (The processor marks one short clip of a batch at
            random, for training on several devices. LAION's code does not at inference, nor do
            we.)
        """
        settings = self.settings
        length = waveforms.shape[-1]
        if not settings.fused:
            start = max(0, length - settings.max_samples) // 2
            kept = waveforms[:, start : start + settings.max_samples]
            return self.log_mel(self.padded(kept)).unsqueeze(1), self._longer(waveforms, False)
        mel = self.log_mel(self.padded(waveforms))
        num_frames = settings.max_samples // settings.hop + 1
        if mel.shape[1] <= num_frames:
            return mel.unsqueeze(1).repeat(1, 4, 1, 1), self._longer(waveforms, False)
        whole = F.interpolate(
            mel.unsqueeze(1), (num_frames, settings.num_mels), mode="bilinear", align_corners=False
        )
        parts = [mel[:, start : start + num_frames] for start in self.starts(mel.shape[1])]
        return torch.cat([whole, torch.stack(parts, 1)], 1), self._longer(waveforms, True)

    def starts(self, total_frames: int) -> list[int]:
        """First frames of the three parts of a long clip of ``total_frames``.

        All possible first frames are divided into thirds, and the middle of each third is taken.
        The processor draws one frame from each third.
        """
        num_starts = total_frames - self.settings.max_samples // self.settings.hop
        thirds = np.array_split(np.arange(num_starts), 3)
        return [int(third[len(third) // 2]) if len(third) else 0 for third in thirds]

    def padded(self, waveforms: Tensor) -> Tensor:
        """Bring short waveforms [clips, samples] to the length of the model's input."""
        length, max_samples = waveforms.shape[-1], self.settings.max_samples
        if self.settings.padding == "repeatpad":
            waveforms = waveforms.repeat(1, max(1, max_samples // length))
        elif self.settings.padding == "repeat" and length < max_samples:
            waveforms = waveforms.repeat(1, max_samples // length + 1)[:, :max_samples]
        return F.pad(waveforms, (0, max(0, max_samples - waveforms.shape[-1])))

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Log-mel in dB, float32 [clips, frames, mels], of waveforms [clips, samples]."""
        half = self.settings.num_fft // 2
        device = waveforms.device
        window, filters = self._window.to(device), self._filters.to(device)
        bands: list[Tensor] = []
        for waveform in waveforms:  # one by one: the numbers of a clip fit into the CPU's cache
            # Float64 as in the processor: float32 rounds by tenths of a dB in bands that are silent
            # while others are loud.
            padded = F.pad(waveform.double()[None, None], (half, half), mode="reflect")[0, 0]
            frames = padded.unfold(0, self.settings.num_fft, self.settings.hop) * window
            spectrum = torch.fft.rfft(frames).to(torch.complex64)
            power = spectrum.real.square() + spectrum.imag.square()
            bands.append((power @ filters).clamp_min_(POWER_FLOOR))
        return 10 * torch.stack(bands).log10()

    @staticmethod
    def _longer(waveforms: Tensor, longer: bool) -> Tensor:
        return torch.full((len(waveforms), 1), longer, device=waveforms.device)
