"""Small recordings of all formats that libsndfile and FFmpeg write here."""

from __future__ import annotations

import io
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16_000
ENCODERS = (
    ("mp4", "aac"), ("mov", "alac"), ("mov", "pcm_s16be"), ("matroska", "libopus"),
    ("matroska", "flac"), ("matroska", "ac3"), ("webm", "libvorbis"), ("ogg", "libopus"),
    ("ogg", "flac"), ("mp3", "libmp3lame"), ("adts", "aac"), ("avi", "pcm_s16le"), ("avi", "mp2"),
    ("asf", "wmav2"), ("wv", "wavpack"), ("tta", "tta"), ("ac3", "ac3"), ("eac3", "eac3"),
    ("mp2", "mp2"), ("mpegts", "aac"), ("flv", "aac"), ("wav", "adpcm_ima_wav"),
    ("wav", "adpcm_ms"), ("wav", "pcm_s16le"), ("aiff", "pcm_s16be"), ("caf", "alac"),
    ("au", "pcm_s16be"), ("w64", "pcm_s16le"), ("voc", "pcm_u8"), ("spdif", "ac3"),
    ("nut", "pcm_s16le"),
)  # fmt: skip
"""Containers and encoders of FFmpeg. Those that a build lacks are left out."""


def tone(num_samples: int, channels: int) -> NDArray[np.float32]:
    """A quiet tone with noise, float32 [samples, channels]."""
    noise = np.random.default_rng(0).normal(0, 0.02, (num_samples, channels))
    wave = 0.2 * np.sin(np.arange(num_samples) / 7)[:, None]
    return np.asarray(wave + noise, np.float32)


def sndfile_seeds() -> list[bytes]:
    """One file of every format and subtype of libsndfile."""
    seeds = []
    # SD2 has its header in a second file, which libsndfile would leave in the current folder.
    for container in sorted({*soundfile.available_formats()} - {"SD2"}):
        for subtype in sorted(soundfile.available_subtypes(container)):
            channels = 1 if subtype.startswith(("G7", "GSM", "VOX")) else 2
            output = io.BytesIO()
            with suppress(soundfile.LibsndfileError, ValueError, OSError):
                soundfile.write(output, tone(800, channels), 8_000, subtype, format=container)
                seeds.append(output.getvalue())
    return [seed for seed in seeds if seed]


def ffmpeg_seeds() -> list[bytes]:
    """One file of every container and encoder."""
    seeds = []
    for container, encoder in ENCODERS:
        with suppress(av.error.FFmpegError, ValueError):
            seeds.append(_encoded(container, encoder))
    return [seed for seed in seeds if seed]


def _encoded(container: str, encoder: str) -> bytes:
    output = io.BytesIO()
    with av.open(output, "w", container) as file:
        rate = 48_000 if "opus" in encoder or "ac3" in encoder else RATE
        stream: Any = file.add_stream(encoder, rate=rate)
        stream.layout = "stereo"
        samples = np.ascontiguousarray(tone(4_800, 2).reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(samples, "flt", "stereo")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        size = stream.codec_context.frame_size or None
        resampler = av.AudioResampler(stream.format.name, "stereo", rate, size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return output.getvalue()
