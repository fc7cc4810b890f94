"""From an audio file to clips: mono, 32 kHz, no rumble, trimmed, 10 s at most, peak -1 dBFS."""

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 32_000
HIGH_PASS_HZ = 22.0
TRIM_DBFS, TRIM_UNDER_PEAK_DB, TRIM_PAD_S = -50.0, 40.0, 0.005
MIN_DBFS, MIN_SECONDS = -60.0, 0.15
SEGMENT_SECONDS = 10.0
MAX_DECODED_SECONDS = 600.0
PEAK_DBFS = -1.0
BAND_EDGE_DB = 60.0
CANCELLED_POWER_RATIO = 0.1

Signal = NDArray[np.float32]


class DecodeError(Exception):
    """No decoder could read the file."""


@dataclass(frozen=True)
class Clip:
    """A prepared piece of a sound; `gain_db` was applied to bring the peak to -1 dBFS."""

    samples: Signal
    segment: int
    gain_db: float
    bandwidth_hz: int

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return self.samples.size / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Prepared:
    """Clips of a file, the hash of its decoded audio, and the reason if there are no clips."""

    clips: list[Clip]
    audio_hash: str
    decoded_seconds: float
    dropped: str | None = None


def decode(path: Path) -> tuple[Signal, int]:
    """Samples [frames, channels] and sample rate of a file.

    libsndfile reads it, or FFmpeg if the format is unknown or MPEG: the MPEG decoder of libsndfile
    prints warnings.

    Raises:
        DecodeError: neither can read the file.
    """
    try:
        with soundfile.SoundFile(path) as file:
            if not file.subtype.startswith("MPEG"):
                rate_hz = file.samplerate
                frames = int(MAX_DECODED_SECONDS * rate_hz)
                return file.read(frames, dtype="float32", always_2d=True), rate_hz
    except (soundfile.LibsndfileError, ValueError):
        pass
    try:
        return _decode_with_av(path)
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(str(error).splitlines()[0]) from None


def _decode_with_av(path: Path) -> tuple[Signal, int]:
    with av.open(str(path)) as container:
        # A stream whose codec FFmpeg does not know has no codec context.
        streams = [stream for stream in container.streams.audio if stream.codec_context]
        if not streams:
            raise ValueError("no audio stream with a known codec")
        rate_hz = streams[0].codec_context.sample_rate
        resampler = av.AudioResampler(format="fltp", rate=rate_hz)
        blocks: list[Signal] = []
        frames = 0
        try:
            for frame in container.decode(streams[0]):
                for block in resampler.resample(frame):
                    blocks.append(block.to_ndarray().T.astype(np.float32))
                    frames += block.samples
                if frames > MAX_DECODED_SECONDS * rate_hz:
                    break
        except av.error.FFmpegError:
            if not blocks:  # otherwise only the end is broken
                raise
    if not blocks:
        raise ValueError("no audio frames")
    return np.concatenate(blocks), rate_hz


def to_mono(samples: Signal) -> Signal:
    """Mean of the channels, or the loudest channel where they cancel each other."""
    mono: Signal = samples.mean(axis=1, dtype=np.float32)
    powers = np.square(samples).mean(axis=0)
    if np.square(mono).mean() < CANCELLED_POWER_RATIO * powers.max():
        return np.ascontiguousarray(samples[:, powers.argmax()])
    return mono


def hash_audio(mono: Signal, rate_hz: int) -> str:
    """Hash of the audio at 16 bits without its silent ends; the container makes no difference."""
    pcm = np.round(np.clip(mono, -1, 1) * 32767).astype("<i2")
    sounding = np.flatnonzero(pcm)
    if sounding.size:
        pcm = pcm[sounding[0] : sounding[-1] + 1]
    return hashlib.sha256(rate_hz.to_bytes(4, "little") + pcm.tobytes()).hexdigest()[:24]


def high_pass(mono: Signal, rate_hz: int) -> Signal:
    """Remove offset and rumble by FFT: fourth-order Butterworth magnitude, zero phase."""
    padded = _fast_length(mono.size + rate_hz // 4)  # silence, so that the end does not wrap around
    spectrum = np.fft.rfft(mono, padded)
    freqs_hz = np.fft.rfftfreq(padded, 1 / rate_hz).astype(np.float32)
    ratio = (freqs_hz / np.float32(HIGH_PASS_HZ)) ** 8
    spectrum *= np.sqrt(ratio / (1 + ratio))
    return np.fft.irfft(spectrum, padded)[: mono.size].astype(np.float32)


def _fast_length(length: int) -> int:
    """Next length that is quick to transform: 1, 1.25, 1.5 or 1.75 times a power of two."""
    quarter = max(1, 1 << max(0, length.bit_length() - 3))
    return -(-length // quarter) * quarter


def to_db(amplitude: float) -> float:
    """An amplitude relative to 1 in dB, at least -180."""
    return 20 * float(np.log10(max(amplitude, 1e-9)))


def trim(mono: Signal, rate_hz: int) -> Signal:
    """Cut ends below -50 dBFS, or below 40 dB under the peak where the file is quiet."""
    level = np.abs(mono)
    peak_dbfs = to_db(float(level.max(initial=0)))
    threshold = 10 ** (min(TRIM_DBFS, peak_dbfs - TRIM_UNDER_PEAK_DB) / 20)
    loud = np.flatnonzero(level >= threshold)
    if not loud.size:
        return mono[:0]
    pad = round(TRIM_PAD_S * rate_hz)
    return mono[max(0, loud[0] - pad) : loud[-1] + 1 + pad]


def segment_starts(length: int, segment_length: int, max_segments: int) -> list[int]:
    """Starts of whole segments, evenly spaced over a longer file, never overlapping."""
    count = min(max_segments, length // segment_length)
    if count < 2:
        return [0]
    return [round(i * (length - segment_length) / (count - 1)) for i in range(count)]


def bandwidth_hz(samples: Signal) -> int:
    """Highest frequency of the mean spectrum that is less than 60 dB below its maximum."""
    size = 1024
    blocks = np.pad(samples, (0, -samples.size % size)).reshape(-1, size)
    power = np.square(np.abs(np.fft.rfft(blocks * np.hanning(size), axis=1))).mean(axis=0)
    edge = int(np.flatnonzero(power >= power.max() * 10 ** (-BAND_EDGE_DB / 10))[-1])
    return round(edge * SAMPLE_RATE_HZ / size)


def prepare_samples(samples: Signal, rate_hz: int, max_segments: int) -> Prepared:
    """Clips of decoded audio; each segment is resampled by itself, as music may last minutes."""
    seconds = len(samples) / rate_hz
    if not len(samples) or not np.isfinite(samples).all():
        return Prepared([], hash_audio(np.zeros(0, np.float32), rate_hz), seconds, "empty")
    mono = to_mono(samples)
    audio_hash = hash_audio(mono, rate_hz)
    if to_db(float(np.abs(mono).max())) < MIN_DBFS:
        return Prepared([], audio_hash, seconds, "too quiet")
    mono = trim(high_pass(mono, rate_hz), rate_hz)
    if mono.size < MIN_SECONDS * rate_hz:
        return Prepared([], audio_hash, seconds, "too short")
    length = round(SEGMENT_SECONDS * rate_hz)
    clips = []
    for segment, start in enumerate(segment_starts(mono.size, length, max_segments)):
        piece = mono[start : start + length]
        if to_db(float(np.sqrt(np.square(piece).mean()))) < MIN_DBFS:
            continue
        piece = soxr.resample(piece, rate_hz, SAMPLE_RATE_HZ, quality="VHQ")
        gain_db = PEAK_DBFS - to_db(float(np.abs(piece).max()))
        piece = (piece * 10 ** (gain_db / 20)).astype(np.float32)
        clips.append(Clip(piece, segment, round(gain_db, 3), bandwidth_hz(piece)))
    return Prepared(clips, audio_hash, seconds, None if clips else "too quiet")


def prepare_file(path: Path, max_segments: int) -> Prepared:
    """Decode a file and prepare it."""
    return prepare_samples(*decode(path), max_segments)


def write_clip(path: Path, samples: Signal) -> None:
    """Write a 16-bit WAV file; an interrupted call leaves no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        soundfile.write(partial, samples, SAMPLE_RATE_HZ, subtype="PCM_16", format="WAV")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
