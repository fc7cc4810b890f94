"""CLAP's log-mel features in torch and in batches, equal to those of transformers' processor.

The processor works in NumPy, clip by clip, and draws at random what it keeps of a clip that is
longer than the model's input (10 s), so that one sound has many embeddings. Here it is always the
same one, and one that the processor could have drawn: the middle.
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
"""Of the mel bands, before the logarithm; -100 dB."""


@dataclass(frozen=True)
class FeatureSettings:
    """What a checkpoint's ``ClapFeatureExtractor`` was saved with.

    Args:
        sample_rate: Hz.
        max_samples: length of the model's input.
        num_fft, hop: of the spectrogram, samples.
        num_mels: bands between ``min_hz`` and ``max_hz``.
        padding: of short clips: ``repeatpad`` tiles whole copies, then zeros; ``repeat`` tiles
            and cuts; anything else is zeros.
        fused: whether the model looks at long clips as a whole and at three parts (four channels
            on the HTK mel scale), or at one part (one channel on Slaney's).
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
        """Those of a ``ClapFeatureExtractor``.

        Raises:
            ModelError: it truncates in a way that no CLAP does.
        """
        if extractor.truncation not in ("fusion", "rand_trunc"):
            raise ModelError(
                f"CLAP preprocessing with truncation '{extractor.truncation}' is not known: "
                "'fusion' or 'rand_trunc' expected"
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
    """The processor's audio half for one checkpoint.

    Args:
        extractor: the checkpoint's ``ClapFeatureExtractor``; its settings and filters are used.
    """

    def __init__(self, extractor: Any) -> None:
        self.settings = FeatureSettings.of(extractor)
        filters = extractor.mel_filters if self.settings.fused else extractor.mel_filters_slaney
        self._filters = torch.from_numpy(np.ascontiguousarray(filters, np.float32))
        self._window = torch.hann_window(self.settings.num_fft, dtype=torch.float64)

    def __call__(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms [clips, samples] at the settings' rate to what a ``ClapModel`` takes.

        Returns:
            Features in dB, float32 [clips, 1 or 4, frames, mels], and whether each clip has parts
            to be fused, bool [clips, 1]. (The processor marks one short clip of a batch at
            random, which training in parallel needed; neither LAION's code nor this one does so
            at inference.)
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
        """First frames of the three parts of a long clip: the middles of the front, middle and
        back third of all possible ones. The processor draws one of each third."""
        num_starts = total_frames - self.settings.max_samples // self.settings.hop
        thirds = np.array_split(np.arange(num_starts), 3)
        return [int(third[len(third) // 2]) if len(third) else 0 for third in thirds]

    def padded(self, waveforms: Tensor) -> Tensor:
        """[clips, samples] brought to the model's input where they are shorter."""
        length, max_samples = waveforms.shape[-1], self.settings.max_samples
        if self.settings.padding == "repeatpad":
            waveforms = waveforms.repeat(1, max(1, max_samples // length))
        elif self.settings.padding == "repeat" and length < max_samples:
            waveforms = waveforms.repeat(1, max_samples // length + 1)[:, :max_samples]
        return F.pad(waveforms, (0, max(0, max_samples - waveforms.shape[-1])))

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """[clips, samples] to dB, float32 [clips, frames, mels]."""
        half = self.settings.num_fft // 2
        bands: list[Tensor] = []
        for waveform in waveforms:  # one by one: what one clip needs stays in the cache
            # Float64, as in the processor: rounding in float32 lifts bands that are silent beside
            # a loud tone by tenths of a dB.
            padded = F.pad(waveform.double()[None, None], (half, half), mode="reflect")[0, 0]
            frames = padded.unfold(0, self.settings.num_fft, self.settings.hop) * self._window
            spectrum = torch.fft.rfft(frames).to(torch.complex64)
            power = spectrum.real.square() + spectrum.imag.square()
            bands.append((power @ self._filters).clamp_min_(POWER_FLOOR))
        return 10 * torch.stack(bands).log10()

    @staticmethod
    def _longer(waveforms: Tensor, longer: bool) -> Tensor:
        return torch.full((len(waveforms), 1), longer)
