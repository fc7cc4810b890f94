"""Renders a planned mixture: reads its sounds, applies their effects and adds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import soxr
from numpy.typing import NDArray

from singleout.audio import resample
from singleout.data.clips import Clip
from singleout.data.effects import (
    apply_codec,
    apply_room,
    apply_silences,
    background_noise,
    low_pass,
)
from singleout.data.plan import MixtureConfig, MixtureSpec, SourceSpec
from singleout.data.sound_files import open_clip
from singleout.errors import AudioError

PEAK = 0.99
"""Largest absolute sample of a mixture."""
REFERENCE_RMS = 0.05
"""RMS of a mixture whose gain is 0 dB."""
SHORT_SECONDS = 0.1
"""By how much a file may be shorter than its manifest says: the length there may be rounded."""


@dataclass(frozen=True)
class Mixture:
    """Rendered samples.

    Attributes:
        mixture: float32 [samples], the input of a separator: the sum of the sources and the
            background, after the codec if the plan has one. The sum has a peak of at most 0.99.
        sources: float32 [sources, samples], target first.

    Example:
        >>> target, interference = np.float32([0.1, 0.2]), np.float32([0.2, 0.0])
        >>> Mixture(target + interference, np.stack([target, interference])).sources.shape
        (2, 2)
    """

    mixture: NDArray[np.float32]
    sources: NDArray[np.float32]


def read_crop(
    clip: Clip, crop: int, config: MixtureConfig, sample_rate: int
) -> NDArray[np.float32]:
    """Read one crop of a clip, with its channels averaged.

    Of a member of a shard, only the crop is read, or decoded if the member is compressed.

    Args:
        clip: the sound.
        crop: number of the crop, in units of ``crop_hop_seconds``.
        config: length and hop of the crops.
        sample_rate: of the result, Hz.

    Returns:
        float32 [samples]; shorter than a segment if the clip ends before.

    Raises:
        AudioError: the file cannot be read, has no samples, ends before the crop begins, or has
            samples that are not finite.

    Example:
        >>> import tempfile, numpy as np, soundfile
        >>> from pathlib import Path
        >>> from singleout.data.manifest import scan_folder
        >>> from singleout.data.plan import MixtureConfig
        >>> config = MixtureConfig(segment_seconds=0.5, crop_hop_seconds=0.25)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(8_000), 8_000)
        ...     (clip,) = scan_folder(Path(folder))
        ...     len(read_crop(clip, 1, config, 8_000))
        4000
    """
    with open_clip(clip) as file:
        if not file.frames:
            raise AudioError(f"{clip.path}: has no samples")
        rate = file.samplerate
        start = round(crop * config.crop_hop_seconds * rate)
        seconds = file.frames / rate
        if start >= file.frames and clip.seconds > seconds + SHORT_SECONDS:
            raise AudioError(
                f"{clip.path}: lasts {seconds:.2f} s, but its manifest says "
                f"{clip.seconds:.2f} s: correct its 'seconds' in the manifest"
            )
        file.seek(min(start, file.frames - 1))
        num_samples = round(config.segment_seconds * rate)
        audio = file.read(num_samples, dtype="float32", always_2d=True)
    if not len(audio):
        raise AudioError(f"{clip.path}: is truncated, it ends before {start / rate:.2f} s")
    if not np.isfinite(audio).all():
        raise AudioError(f"{clip.path}: has NaN or infinite samples")
    mono = audio[:, 0] if audio.shape[1] == 1 else audio.mean(1)
    return resample(np.ascontiguousarray(mono), rate, sample_rate)


def render(
    spec: MixtureSpec,
    clips: Sequence[Clip] | Mapping[int, Clip],
    config: MixtureConfig,
    sample_rate: int,
) -> Mixture:
    """Render a planned mixture.

    Levels are mean powers over the segment. If the peak of the mixture would exceed 0.99, the
    mixture and its sources are scaled down together.

    Args:
        spec: the plan.
        clips: the sounds that ``spec`` refers to by index.
        config: length of the segment and hop of the crops.
        sample_rate: of the result, Hz.

    Raises:
        AudioError: a sound cannot be read (see ``read_crop``).

    Example:
        >>> import tempfile, numpy as np, soundfile
        >>> from pathlib import Path
        >>> from singleout.data.manifest import scan_folder
        >>> from singleout.data.plan import MixtureConfig, Planner
        >>> config = MixtureConfig(segment_seconds=0.5, crop_hop_seconds=0.5, num_sources=(2, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(2):
        ...         noise = np.random.default_rng(i).normal(0, 0.1, 4_000)
        ...         soundfile.write(f"{folder}/{i}.wav", noise, 8_000)
        ...     clips = scan_folder(Path(folder))
        ...     spec = Planner(clips, config, seed=0).plan(epoch=0, index=0)
        ...     rendered = render(spec, clips, config, 8_000)
        >>> rendered.mixture.shape, rendered.sources.shape
        ((4000,), (2, 4000))
    """
    num_samples = round(config.segment_seconds * sample_rate)
    make = partial(_render_source, config=config, sample_rate=sample_rate, num_samples=num_samples)
    sources = np.stack([make(source, clips[source.clip]) for source in spec.sources])
    power = np.maximum(np.square(sources, dtype=np.float64).mean(1), 1e-12)
    for i, source in enumerate(spec.sources):
        sources[i] *= np.sqrt(power[0] / power[i]) * 10 ** (-source.snr_db / 20)
    mixture = sources.sum(0)
    rms = _rms(mixture)
    if spec.background is not None:
        level = np.float32(rms * 10 ** (-spec.background.snr_db / 20))
        noise = background_noise(spec.background, num_samples, sample_rate)
        mixture = mixture + level * noise
        rms = _rms(mixture)
    gain = REFERENCE_RMS * 10 ** (spec.gain_db / 20) / max(rms, 1e-9)
    peak = np.abs(mixture).max() * gain
    scale = np.float32(gain * min(1.0, PEAK / max(peak, 1e-9)))
    sources *= scale
    mixture = sources.sum(0) if spec.background is None else mixture * scale
    if spec.lossy is not None:
        mixture = apply_codec(mixture, *spec.lossy, sample_rate)
    return Mixture(mixture, sources)


def _rms(audio: NDArray[np.float32]) -> np.float64:
    """Root mean square, in double precision."""
    return np.float64(np.sqrt(np.square(audio, dtype=np.float64).mean()))


def _render_source(
    spec: SourceSpec, clip: Clip, config: MixtureConfig, sample_rate: int, num_samples: int
) -> NDArray[np.float32]:
    """One source [samples] with its effects, before its level is set."""
    audio = read_crop(clip, spec.crop, config, sample_rate)
    if spec.speed != 1.0:
        audio = soxr.resample(audio, sample_rate * spec.speed, sample_rate, quality="MQ")
    placed = np.zeros(num_samples, np.float32)
    for onset in spec.onset_seconds:
        start = round(onset * sample_rate)
        length = min(len(audio), num_samples - start)
        placed[start : start + length] += audio[:length]
    if spec.silences_seconds:
        placed = apply_silences(placed, spec.silences_seconds, sample_rate)
    if spec.room is not None:
        placed = apply_room(placed, *spec.room, sample_rate)
    if spec.band_hz is not None:
        placed = low_pass(placed, spec.band_hz, sample_rate)
    return placed
