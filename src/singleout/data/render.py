"""A planned mixture as samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from singleout.audio import resample
from singleout.data.manifest import Clip
from singleout.data.plan import MixtureConfig, MixtureSpec, SourceSpec
from singleout.errors import AudioError

PEAK = 0.99
REFERENCE_RMS = 0.05


@dataclass(frozen=True)
class Mixture:
    """Rendered samples.

    Attributes:
        mixture: float32 [samples], the sum of the sources; its peak is at most 0.99.
        sources: float32 [sources, samples], target first.
    """

    mixture: NDArray[np.float32]
    sources: NDArray[np.float32]


def read_crop(
    clip: Clip, crop: int, config: MixtureConfig, sample_rate: int
) -> NDArray[np.float32]:
    """Crop number ``crop`` of a clip as float32 [samples] at ``sample_rate`` Hz, channels averaged.

    Raises:
        AudioError: the file cannot be read, or has samples that are not finite.
    """
    try:
        with soundfile.SoundFile(clip.path) as file:
            start = round(crop * config.crop_hop_seconds * file.samplerate)
            file.seek(min(start, max(0, file.frames - 1)))
            audio = file.read(
                round(config.segment_seconds * file.samplerate), dtype="float32", always_2d=True
            )
            rate = file.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{clip.path}: cannot be read as audio: {error}") from None
    if not np.isfinite(audio).all():
        raise AudioError(f"{clip.path}: has NaN or infinite samples")
    return resample(np.ascontiguousarray(audio.mean(1)), rate, sample_rate)


def low_pass(audio: NDArray[np.float32], cutoff_hz: float, sample_rate: int) -> NDArray[np.float32]:
    """Zero-phase low-pass with a raised-cosine slope of a third of an octave."""
    hz = np.fft.rfftfreq(len(audio), 1 / sample_rate)
    octaves = np.log2(np.maximum(hz, 1.0) / cutoff_hz)
    gain = 0.5 + 0.5 * np.cos(np.pi * np.clip(3 * octaves, 0, 1))
    return np.fft.irfft(np.fft.rfft(audio) * gain, len(audio)).astype(np.float32)


def render(
    spec: MixtureSpec, clips: Sequence[Clip], config: MixtureConfig, sample_rate: int
) -> Mixture:
    """Read, place, filter, scale and add.

    Levels: mean power over the segment; if the peak of the mixture exceeds 0.99, mixture and
    sources are scaled down together (declipping).
    """
    num_samples = round(config.segment_seconds * sample_rate)
    sources = np.stack([_source(s, clips, config, sample_rate, num_samples) for s in spec.sources])
    power = np.maximum(np.square(sources, dtype=np.float64).mean(1), 1e-12)
    for i, source in enumerate(spec.sources):
        sources[i] *= np.sqrt(power[0] / power[i]) * 10 ** (-source.snr_db / 20)
    total = np.sqrt(np.square(sources.sum(0), dtype=np.float64).mean())
    gain = REFERENCE_RMS * 10 ** (spec.gain_db / 20) / max(total, 1e-9)
    peak = np.abs(sources.sum(0)).max() * gain
    sources *= np.float32(gain * min(1.0, PEAK / max(peak, 1e-9)))
    return Mixture(sources.sum(0), sources)


def _source(
    spec: SourceSpec,
    clips: Sequence[Clip],
    config: MixtureConfig,
    sample_rate: int,
    num_samples: int,
) -> NDArray[np.float32]:
    audio = read_crop(clips[spec.clip], spec.crop, config, sample_rate)
    if spec.speed != 1.0:
        audio = soxr.resample(audio, sample_rate * spec.speed, sample_rate, quality="MQ")
    placed = np.zeros(num_samples, np.float32)
    for onset in spec.onset_seconds:
        start = round(onset * sample_rate)
        length = min(len(audio), num_samples - start)
        placed[start : start + length] += audio[:length]
    if spec.band_hz is not None:
        placed = low_pass(placed, spec.band_hz, sample_rate)
    return placed
