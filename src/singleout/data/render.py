"""A planned mixture as samples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from singleout.audio import resample, sndfile_name
from singleout.data.manifest import Clip
from singleout.data.plan import BackgroundSpec, MixtureConfig, MixtureSpec, SourceSpec
from singleout.errors import AudioError

PEAK = 0.99
REFERENCE_RMS = 0.05
FADE_SECONDS = 0.01
SHORT_SECONDS = 0.1
"""By which a file may be shorter than a manifest says, whose figure may be rounded."""
DIRECT_TO_ROOM_DB = 3.0
"""Level of a sound over its echoes, which start a few milliseconds after it."""
BED_FLOOR_HZ = 40.0
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


@dataclass(frozen=True)
class Mixture:
    """Rendered samples.

    Attributes:
        mixture: float32 [samples], as it is heard: the sum of the sources and of the bed, coded
            and decoded where the plan says so; the peak of the sum is at most 0.99.
        sources: float32 [sources, samples], target first.
    """

    mixture: NDArray[np.float32]
    sources: NDArray[np.float32]


def read_crop(
    clip: Clip, crop: int, config: MixtureConfig, sample_rate: int
) -> NDArray[np.float32]:
    """Crop number ``crop`` of a clip as float32 [samples] at ``sample_rate`` Hz, channels averaged.

    Raises:
        AudioError: the file cannot be read, has no samples, ends before the crop begins, or has
            samples that are not finite.
    """
    try:
        with soundfile.SoundFile(sndfile_name(clip.path)) as file:
            if not file.frames:
                raise AudioError(f"{clip.path}: has no samples")
            start = round(crop * config.crop_hop_seconds * file.samplerate)
            seconds = file.frames / file.samplerate
            if start >= file.frames and clip.seconds > seconds + SHORT_SECONDS:
                raise AudioError(
                    f"{clip.path}: lasts {seconds:.2f} s, and not {clip.seconds:.2f} s as its "
                    "manifest says: mend its 'seconds'"
                )
            file.seek(min(start, file.frames - 1))
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


def gated(
    audio: NDArray[np.float32], silences_seconds: Sequence[tuple[float, float]], sample_rate: int
) -> NDArray[np.float32]:
    """Silent from where to where, with short fades; what would be silent as a whole stays."""
    gain = np.ones(len(audio) + 1, np.float32)
    for start, stop in silences_seconds:
        gain[round(start * sample_rate) : round(stop * sample_rate)] = 0
    width = max(1, round(FADE_SECONDS * sample_rate))
    total = np.cumsum(np.pad(gain[:-1], (width // 2 + 1, width - width // 2 - 1), mode="edge"))
    smooth = np.pad(total[width:] - total[:-width], (0, 1), mode="edge")[: len(audio)] / width
    cut = (audio * smooth).astype(np.float32)
    return cut if np.square(cut).mean() > 0.01 * np.square(audio).mean() else audio


def in_room(
    audio: NDArray[np.float32], rt60_seconds: float, number: int, sample_rate: int
) -> NDArray[np.float32]:
    """With the echoes of a room: noise that decays by 60 dB in ``rt60_seconds``, the earlier the
    higher it is, after the sound itself. Same length; the echoes beyond it are lost."""
    rng = np.random.default_rng([number])
    length = max(1, round(rt60_seconds * sample_rate))
    time = np.arange(length) / sample_rate
    tail = rng.normal(0, 1, length)
    bright = tail * 10 ** (-3 * time / (0.5 * rt60_seconds))
    dull = low_pass(tail.astype(np.float32), 2_000.0, sample_rate) * 10 ** (
        -3 * time / rt60_seconds
    )
    response = bright + 2 * dull
    response[: round(rng.uniform(0.002, 0.02) * sample_rate)] = 0
    level = 10 ** (-DIRECT_TO_ROOM_DB / 20) / max(float(np.sqrt(np.square(response).sum())), 1e-9)
    response *= level
    response[0] = 1
    padded = len(audio) + length
    spectrum = np.fft.rfft(audio, padded) * np.fft.rfft(response, padded)
    heard: NDArray[np.float32] = np.fft.irfft(spectrum, padded)[: len(audio)].astype(np.float32)
    return heard


def bed(spec: BackgroundSpec, num_samples: int, sample_rate: int) -> NDArray[np.float32]:
    """Noise [samples] of unit power with a straight spectrum, whose level slowly wanders."""
    rng = np.random.default_rng([spec.number])
    hz = np.fft.rfftfreq(num_samples, 1 / sample_rate)
    spectrum = np.fft.rfft(rng.normal(0, 1, num_samples))
    spectrum *= np.maximum(hz, BED_FLOOR_HZ) ** (spec.slope_db / (20 * np.log10(2)))
    noise = np.fft.irfft(spectrum, num_samples)
    points = rng.uniform(-4, 4, 8)
    wander_db = np.interp(np.linspace(0, 7, num_samples), np.arange(8), points)
    noise *= 10 ** (wander_db / 20)
    level: NDArray[np.float32] = (noise / np.sqrt(np.square(noise).mean())).astype(np.float32)
    return level


def coded(
    audio: NDArray[np.float32], kind: str, compression: float, sample_rate: int
) -> NDArray[np.float32]:
    """Through a lossy encoder (``MP3`` or ``OGG``) and back, sample on sample.

    MP3 knows few rates: at others, it is Ogg.
    """
    if sample_rate not in MP3_RATES:
        kind = "OGG"
    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, format=kind, compression_level=compression)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    padded: NDArray[np.float32] = np.pad(decoded, (0, max(0, len(audio) - len(decoded))))
    return padded[: len(audio)]


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
    mixture = sources.sum(0)
    total = np.sqrt(np.square(mixture, dtype=np.float64).mean())
    if spec.bed is not None:
        level = np.float32(total * 10 ** (-spec.bed.snr_db / 20))
        mixture = mixture + level * bed(spec.bed, num_samples, sample_rate)
        total = np.sqrt(np.square(mixture, dtype=np.float64).mean())
    gain = REFERENCE_RMS * 10 ** (spec.gain_db / 20) / max(total, 1e-9)
    peak = np.abs(mixture).max() * gain
    scale = np.float32(gain * min(1.0, PEAK / max(peak, 1e-9)))
    sources *= scale
    mixture = sources.sum(0) if spec.bed is None else mixture * scale
    if spec.lossy is not None:
        mixture = coded(mixture, *spec.lossy, sample_rate)
    return Mixture(mixture, sources)


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
    if spec.silences_seconds:
        placed = gated(placed, spec.silences_seconds, sample_rate)
    if spec.room is not None:
        placed = in_room(placed, *spec.room, sample_rate)
    if spec.band_hz is not None:
        placed = low_pass(placed, spec.band_hz, sample_rate)
    return placed
