"""Noise and recordings of it, for tests of all rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from singleout.extract.stages import FadeEnds, RemoveInfrasound

RATE = 32_000
"""Sample rate of the tiny models, Hz."""
SHORT_RATE = 8_000
"""Sample rate of short recordings, Hz."""


def noise(num_samples: int = RATE, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """White noise [channels, samples] at -20 dB; no encoding has to clip it."""
    samples = np.random.default_rng(seed).normal(0, 0.1, (channels, num_samples))
    return samples.clip(-0.9, 0.9).astype(np.float32)


def write_recording(
    path: Path, audio: NDArray[Any], rate: int = RATE, subtype: str | None = None
) -> Path:
    """Write ``audio`` [channels, samples] to ``path``; its suffix chooses the container.

    Without a subtype the samples have the container's usual encoding: 16 bits in WAV and FLAC.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T, rate, subtype=subtype)
    return path


def read_samples(path: Path | None, dtype: str) -> NDArray[Any]:
    """Samples [channels, samples] as libsndfile reads them.

    ``int32`` is returned as int64, so that sums of two files do not overflow.
    """
    assert path is not None
    samples: NDArray[Any] = soundfile.read(path, dtype=dtype, always_2d=True)[0].T
    return samples.astype(np.int64) if dtype == "int32" else samples


def write_short_recording(path: Path, num_samples: int = 4_000, seed: int = 0) -> Path:
    """Write half a second of noise at 8 kHz, in one channel."""
    return write_recording(path, noise(num_samples, seed=seed), SHORT_RATE)


def file_names(folder: Path) -> list[str]:
    """Sorted names of all files and folders in ``folder``, hidden ones included."""
    return sorted(path.name for path in folder.iterdir())


def files_below(folder: Path) -> dict[str, bytes]:
    """Contents of all files below ``folder`` by their relative path, hidden ones included."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def without_infrasound(waveform: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """A waveform [..., samples] as the pipeline gives it to the separator."""
    stage = RemoveInfrasound(rate, waveform[..., 0].size)
    return np.concatenate([*stage.push(waveform), *stage.finish()], axis=-1)


def with_final_stages(targets: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Targets [queries, channels, samples] of a separator as the pipeline gives them."""
    fade = FadeEnds(rate)
    filtered = without_infrasound(targets, rate)
    return np.concatenate([*fade.push(filtered), *fade.finish()], axis=2)


def audible(mixture: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """A mixture [channels, samples] as far as it can be a target."""
    return with_final_stages(without_infrasound(mixture, rate)[None], rate)[0]
